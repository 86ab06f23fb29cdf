"""Scenes as people have them: Sentinel-2 products, GeoTIFFs, one file per band, true-colour pictures.

`find_sources` decides what a path is, once for all programs. `open_scene` opens it: the bands that a classifier takes,
on one grid of pixels of 10 m.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import sys
import zipfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import rasterio

from resnetd_tf.data import images, rasters
from resnetd_tf.data.rasters import AS_STORED, Band, BandSet, RasterOptions
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.imagery import clouds
from resnetd_tf.imagery.grid import common_grid, warp_to_grid
from resnetd_tf.imagery.scene import SAMPLE_PIXELS, Scene
from resnetd_tf.sentinel2 import RGB_BANDS, parse_band_name, split_band_from_stem

MIN_PICTURE_LEVEL = 40  # grey levels: the darkest patches of EuroSAT, of water, reach 63
COARSE_METRES = 25  # metres: pixels that are larger show too little of what patches of 10 m show
BAND_FILE_SUFFIXES = (".jp2", ".tif", ".tiff", ".img", ".vrt")  # suffixes of files that can be one band of a scene
# Metadata of products, also as they were until December 2016.
METADATA_PATTERN = re.compile(r"(?:MTD_MSI|S2._OPER_MTD_SAF)(L1C|L2A)(?:_.*)?\.xml")
PRODUCT_PARTS = re.compile(r".*\.SAFE|GRANULE|IMG_DATA|R[126]0m|L[12][AC]_T\d\d\w{3}_.*|S2._.*_TL_.*", re.IGNORECASE)
RESOLUTION_PATTERN = re.compile(r"_?(?<![0-9A-Za-z])(10|20|60)m(?![0-9A-Za-z])")
ACQUISITION_PATTERN = re.compile(
    r"\d{8}|\d{4}-\d\d-\d\d|T?\d\d[A-Z]{3}(?![A-Za-z])"
)  # a date or a tile in a file's name


@dataclass(frozen=True)
class Source:
    """Where one scene or patch lies.

    Attributes:
        name: What it is called, a path.
        files: Its file, or one for each of its bands.
        metadata: Metadata of the product that it is, as GDAL names the file; `None` for other files.
        zone: UTM zone of the tiles that count, of a product that has several: "EPSG_32633".
    """

    name: str
    files: tuple[pathlib.Path, ...] = ()
    metadata: str | None = None
    zone: str | None = None


def find_sources(paths: Sequence[str | pathlib.Path]) -> list[Source]:
    """What lies at paths: every product, scene, picture and patch, each once.

    Args:
        paths: Products (.SAFE folders, their metadata, zips), files of images, files of bands, folders of them.

    Raises:
        InputError: A path leads to nothing, or files of bands cannot be told apart.
    """
    sources: list[Source] = []
    band_files: list[pathlib.Path] = []
    for text in paths:
        path = pathlib.Path(text)
        if not path.exists():
            advice = "addresses are not read; download the file" if "://" in str(text) else "give another"
            raise InputError(f"{text}: no such file or folder; {advice}")
        if path.is_dir():
            sources += _find_in_folder(path)
        elif products := _products_at(path):
            sources += products
        elif path.suffix.lower() == ".zip":
            raise InputError(f"{path}: holds no Sentinel-2 product (MTD_MSI*.xml); unzip it and give what is in it")
        elif path.suffix.lower() in BAND_FILE_SUFFIXES and split_band_from_stem(path.stem)[1] and len(paths) > 1:
            band_files.append(path)
        else:
            sources.append(Source(str(path), (path,)))
    unique = {}
    for source in sources + _group_band_files(band_files):
        unique[
            source.zone, source.metadata and _canonical_path(source.metadata), *map(_canonical_path, source.files)
        ] = source
    return list(unique.values())


def _canonical_path(path: str | pathlib.Path) -> str:
    """A path that is the same for all names of a file."""
    return os.path.realpath(path)


def _products_at(path: pathlib.Path) -> list[Source]:
    """The products that a metadata file or a zip is or holds; none for other files."""
    if METADATA_PATTERN.fullmatch(path.name):
        return _split_by_zone(str(path), str(path.parent if path.parent.suffix == ".SAFE" else path))
    if not zipfile.is_zipfile(path):
        if path.suffix.lower() == ".zip":
            raise InputError(f"{path}: cannot be read as a zip, damaged or truncated; download it again")
        return []
    with damage_as_input_error(f"{path}: cannot be read as a zip"), zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if METADATA_PATTERN.fullmatch(name.rsplit("/", 1)[-1])]
    names = [name for name in names if name.count("/") <= 2]
    if names and str(path.absolute()).count("{") != str(path.absolute()).count("}"):
        raise InputError(f"{path}: GDAL cannot open a zip of that name; rename it, without braces")
    sources = []
    for name in names:
        inner = f"/{name.rsplit('/', 2)[-2]}" if len(names) > 1 and "/" in name else ""
        sources += _split_by_zone(f"/vsizip/{{{path.absolute()}}}/{name}", f"{path}{inner}")
    return sources


def _split_by_zone(metadata: str, name: str) -> list[Source]:
    """A product as a scene for each UTM zone of its tiles: those of before December 2016 can have several."""
    if "_OPER_" not in metadata.rsplit("/", 1)[-1]:
        return [Source(name, metadata=metadata)]
    zones = sorted({subdataset.rsplit(":", 1)[-1] for subdataset in rasters.open_raster(metadata).subdatasets})
    if len(zones) < 2:
        return [Source(name, metadata=metadata)]
    return [Source(f"{name}/{zone}", metadata=metadata, zone=zone) for zone in zones]


def _find_in_folder(folder: pathlib.Path) -> list[Source]:
    """Everything in a folder that can be mapped or labelled; says which files beside bands are not used."""
    if PRODUCT_PARTS.fullmatch(folder.name) and (product := _find_enclosing_product(folder)):
        return [product]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    metadata = [file for file in files if METADATA_PATTERN.fullmatch(file.name)]
    products = [source for file in metadata for source in _products_at(file)]
    roots = [file.parent for file in metadata]
    files = [file for file in files if not any(file.is_relative_to(root) for root in roots)]
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    products += [source for file in zips for source in _products_at(file)]
    is_part = not products and any(PRODUCT_PARTS.fullmatch(part.name) for part in (folder, *folder.iterdir()))
    band_files = [file for file in files if _is_band_file(file, folder)]
    if len({split_band_from_stem(file.stem)[1] for file in band_files}) < 2 and not is_part:
        band_files = []
    scenes = _group_band_files(band_files)
    if len(scenes) == 1 and not products:
        scenes = [dataclasses.replace(scenes[0], name=str(folder))]
    around = {file.parent for file in band_files}
    pictures = sorted(set(list_images(folder)) & set(files) - set(band_files))
    unused = {file for file in pictures if file.parent in around or is_part}
    if unused and scenes:
        names = ", ".join(sorted(file.name for file in unused)[:8]) + ", ..." * (len(unused) > 8)
        print(f"Not used of {folder}: {len(unused)} files beside the bands, {names}", file=sys.stderr)
    if is_part and not scenes:
        raise InputError(f"{folder}: a part of a product without files of bands (..._B04.jp2); give the whole product")
    sources = products + scenes + [Source(str(file), (file,)) for file in pictures if file not in unused]
    if not sources:
        raise InputError(
            f"{folder}: holds no picture, no MTD_MSI*.xml of a product and no files of bands (..._B04.jp2)"
        )
    return sources


def _is_band_file(file: pathlib.Path, folder: pathlib.Path) -> bool:
    """Whether a file in a folder, or in the parts of a product in it, is one band by its name and its content."""
    inner = file.relative_to(folder).parts[:-1]
    if file.suffix.lower() not in BAND_FILE_SUFFIXES or not split_band_from_stem(file.stem)[1]:
        return False
    if not all(map(PRODUCT_PARTS.fullmatch, inner)):  # a class's folder, or a product's QI_DATA
        return False
    with contextlib.suppress(InputError):
        return rasters.open_raster(str(file)).count == 1
    return True  # damaged, which is told when it is read


def _find_enclosing_product(folder: pathlib.Path) -> Source | None:
    """The product whose only granule a folder is or lies in; `None` where there is none, or it has several."""
    for parent in folder.absolute().parents:
        metadata = [file for file in sorted(parent.glob("*.xml")) if METADATA_PATTERN.fullmatch(file.name)]
        if metadata and len([part for part in (parent / "GRANULE").glob("*") if part.is_dir()]) == 1:
            return _products_at(metadata[0])[0]
        if not PRODUCT_PARTS.fullmatch(parent.name):
            break
    return None


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images in a folder and those below it, by name; hidden ones are left out."""
    suffixes = images.IMAGE_SUFFIXES | {".img", ".vrt", ".nc"}
    files = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _group_band_files(files: Sequence[pathlib.Path]) -> list[Source]:
    """Files of one band each as scenes: those whose names are equal but for the band belong together.

    Raises:
        InputError: Two files tell the same band of a scene, or names do not tell which belong together.
    """
    groups: dict[tuple[str, str], dict[str, list[pathlib.Path]]] = {}
    for file in files:
        template, band = split_band_from_stem(file.stem)
        folder = file.parent.parent if re.fullmatch("R[126]0m", file.parent.name) else file.parent
        key = (str(folder), RESOLUTION_PATTERN.sub("", template))
        groups.setdefault(key, {}).setdefault(str(band), []).append(file)
    has_all = any(set(RGB_BANDS) <= bands.keys() for bands in groups.values())
    each_once = len(files) == len({band for bands in groups.values() for band in bands})
    marks = {tuple(ACQUISITION_PATTERN.findall(template)) for _, template in groups}
    if len(groups) > 1 and not has_all and each_once and len(marks) == 1:  # named in no common way
        merged = {band: names for bands in groups.values() for band, names in bands.items()}
        groups = {(str(files[0].parent), files[0].stem): merged}
    sources = []
    for (parent, template), bands in groups.items():
        chosen = tuple(_finest_file(band, alike) for band, alike in bands.items())
        name = re.sub(r"[-_ ,]*\{band\}", "", template).strip("-_ ,") or pathlib.Path(parent).absolute().name
        sources.append(Source(str(pathlib.Path(parent) / name), chosen))
    return sources


def _finest_file(band: str, files: list[pathlib.Path]) -> pathlib.Path:
    """Of files of one band and several resolutions the finest."""
    sizes: dict[float, pathlib.Path] = {}
    for file in files:
        size = abs(rasters.open_raster(str(file)).transform.determinant) if len(files) > 1 else 0.0
        if size in sizes:
            raise InputError(f"{sizes[size]} and {file} both are {band} of one scene; give one of them")
        sizes[size] = file
    return sizes[min(sizes)]


def open_scene(
    paths: Sequence[str | pathlib.Path] | str | pathlib.Path,
    wanted: Sequence[str] = RGB_BANDS,
    *,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    fill: Sequence[float] | None = None,
    keep_clouds: bool = False,
) -> Scene:
    """Opens a scene.

    Args:
        paths: A product, a folder or file, or a file for each band.
        wanted: The bands that a classifier takes.
        bands: Names of the bands of a file, in its order, where it does not say them.
        scale: Digital numbers, 10,000 times the reflectance, for each unit that is stored, after `offset`; default what
            the file says, else 1.
        offset: What is added to stored numbers first; default what a product's metadata or the file says, else 0.
        fill: What a wanted band that the scene lacks has everywhere; `None` to refuse such scenes.
        keep_clouds: Whether what lies under clouds, their shadows and snow is mapped, where a product tells of them.

    Raises:
        InputError: Something given cannot be used, and what to do about it.
    """
    raster_options = RasterOptions(
        tuple(bands) if bands else None, scale, offset, tuple(fill) if fill is not None else None
    )
    return open_source(find_single_source(paths), wanted, raster_options, keep_clouds)


def find_single_source(paths: Sequence[str | pathlib.Path] | str | pathlib.Path) -> Source:
    """The only scene at paths; InputError if there are several, or none."""
    sources = find_sources([paths] if isinstance(paths, str | pathlib.Path) else paths)
    if not sources:
        raise InputError("no scene given")
    if len(sources) > 1:
        raise InputError(f"{len(sources)} scenes are given, {sources[0].name} and {sources[1].name} first; give one")
    return sources[0]


def open_source(
    source: Source,
    wanted: Sequence[str] = RGB_BANDS,
    raster_options: RasterOptions = AS_STORED,
    keep_clouds: bool = False,
) -> Scene:
    """Opens a scene that was found; arguments and errors are those of `open_scene`."""
    band_set, mask_files = _open_band_set(source, wanted, raster_options)
    if band_set.is_picture and len(wanted) != 3:
        raise InputError(f"{source.name} is a picture of three colours, the classifier takes {len(wanted)} bands")
    if band_set.is_picture and (raster_options.scale is not None or raster_options.offset is not None):
        raise InputError(
            f"{source.name} is a picture of 8 bits, whose colours are taken as they are: no --scale, no --offset"
        )
    missing = rasters.missing_bands(source.name, band_set, wanted, raster_options)
    chosen = {name: band_set.bands[name] for name in wanted if name in band_set.bands}
    datasets = rasters.unique_datasets(list(chosen.values()))
    for dataset in datasets:
        if dataset.driver == "PNG":  # of which GDAL reads what is there, and makes up the rest
            with damage_as_input_error(f"{dataset.name}: cannot be read, damaged or truncated"):
                images.verify_picture(dataset.name)
    grid = common_grid(datasets)
    warped = {id(dataset): warp_to_grid(dataset, grid) for dataset in datasets}
    description = band_set.description
    if missing:
        description += f"; no {', '.join(missing)}: the training's mean instead"
    if any(warped[id(dataset)] is not dataset for dataset in datasets):
        description += f"; resampled to {grid.width} x {grid.height} pixels of 10 m"
        pixels = max(dataset.width * dataset.height for dataset in datasets)
        if grid.hectares and (metres := 10 * (grid.width * grid.height / pixels) ** 0.5) > COARSE_METRES:
            description += f" from pixels of {metres:.0f} m: the classifier knows ground of 10 m, expect little"
    if band_set.is_picture:
        _check_picture(source, list(chosen.values()))
    else:
        fill, text = _check_numbers(source, band_set, list(chosen), raster_options)
        description += text
        chosen = {name: dataclasses.replace(band, fill=fill) for name, band in chosen.items()}
    on_one_grid = {name: dataclasses.replace(band, dataset=warped[id(band.dataset)]) for name, band in chosen.items()}
    return Scene(
        name=source.name,
        grid=grid,
        layers=tuple(on_one_grid.get(name) for name in wanted),
        picture=band_set.is_picture,
        fill=tuple(raster_options.fill or (0,) * len(wanted)),
        words=description,
        clouds=None if keep_clouds else clouds.open_mask(mask_files, grid),
        files=rasters.file_fingerprints(datasets, *mask_files),
    )


def _check_picture(source: Source, bands: list[Band]) -> None:
    """Raises InputError if a picture is so dark that its numbers can hardly be grey levels."""
    height, width = bands[0].dataset.shape
    levels = rasters.read_bands(bands, shape=(min(SAMPLE_PIXELS, height), min(SAMPLE_PIXELS, width)))
    brightest = float(np.percentile(levels.reshape(-1, len(bands)), 99, axis=0).max())
    if 0 < brightest < MIN_PICTURE_LEVEL:
        raise InputError(
            f"{source.name}: 99 % of its grey levels are at most {brightest:.0f} of 255, too dark for a picture; if "
            "they are reflectances in per cent, --scale=100 with --bands makes digital numbers of them"
        )


def _check_numbers(
    source: Source, band_set: BandSet, names: list[str], raster_options: RasterOptions
) -> tuple[float | None, str]:
    """Looks at numbers all over a scene: which one stands for missing data without being declared, and says so.

    Bands that tell more than those that are read are looked at too: the near infrared, cirrus, all of 13 without names.

    Raises:
        InputError: There is no data, or numbers cannot be digital numbers.
    """
    if len(source.files) == 1:
        names = names + [name for name in ("B08", "B10") if name in band_set.bands and name not in names]
    if band_set.is_unnamed:
        names = list(band_set.bands)  # in the order of the file
    bands = {name: band_set.bands[name] for name in names}
    chosen = list(bands.values())
    height, width = chosen[0].dataset.shape
    shape = (min(SAMPLE_PIXELS, height), min(SAMPLE_PIXELS, width))
    dtypes = {str(band.dtype): name for name, band in bands.items()}
    if len(dtypes) > 1:
        kinds = " and ".join(f"{name} is {dtype}" for dtype, name in dtypes.items())
        raise InputError(f"{source.name}: {kinds}, which do not mean the same; give bands of one kind")
    stored = rasters.read_bands(chosen, shape=shape)
    valid = rasters.valid_mask(chosen, stored, shape=shape)
    fill = None if band_set.is_calibrated else rasters.find_common_fill(stored, valid)
    if fill is not None:
        chosen = [dataclasses.replace(band, fill=fill) for band in chosen]
        valid = rasters.valid_mask(chosen, stored, shape=shape)
    looked_at = valid.copy()
    rasters.to_digital_numbers(chosen, stored, valid)
    if not looked_at.any():
        raise InputError(f"{source.name} has no data, or none that was seen; nothing to map")
    if valid.sum() > looked_at.sum() // 2:  # else it is the scale that makes numbers impossible
        looked_at = valid
    if fault := rasters.find_number_fault(band_set, rasters.make_sample(bands, stored, looked_at), raster_options):
        raise InputError(f"{source.name}: {fault.text}")
    shares = rasters.undeclared_fill_shares(chosen, stored, valid)
    return fill, "".join(
        f"; {100 * share:.1f} % of the pixels are {value:g} in every band: no data, though the file does not say so"
        for value, share in shares.items()
    )


def _open_band_set(
    source: Source, wanted: Collection[str], raster_options: RasterOptions
) -> tuple[BandSet, tuple[str, ...]]:
    """The bands of a scene, and the files of its cloud masks."""
    if source.metadata or len(source.files) > 1:
        if raster_options.bands:
            raise InputError(
                f"--bands={','.join(raster_options.bands)} is of one file that does not say what its bands are; "
                f"{source.name} says it"
            )
        return (
            _open_product(source, wanted, raster_options)
            if source.metadata
            else (_open_band_files(source, raster_options), ())
        )
    (file,) = source.files
    accepts_picture = len(wanted) == 3 and raster_options.scale is None and raster_options.offset is None
    return rasters.open_bands(file, raster_options, accepts_picture), ()


def _open_band_files(source: Source, raster_options: RasterOptions) -> BandSet:
    """The bands of files of one band each, whose names tell which."""
    bands: dict[str, Band] = {}
    texts = set()
    for file in source.files:
        name = split_band_from_stem(file.stem)[1]
        dataset = rasters.open_raster(str(file))
        if dataset.count != 1:
            raise InputError(f"{file} has {dataset.count} bands, its name tells one; rename it")
        of_file = rasters.open_bands(
            file, dataclasses.replace(raster_options, bands=(str(name),)), accepts_picture=False
        )
        bands |= of_file.bands
        texts.add(of_file.description.partition(": ")[2])
    return BandSet(bands, False, f"one file per band: {' and '.join(sorted(texts))}")


def _open_product(
    source: Source, wanted: Collection[str], raster_options: RasterOptions
) -> tuple[BandSet, tuple[str, ...]]:
    """The bands of a product, and the cloud masks of its granules.

    Digital numbers are offset as the metadata says, and scaled to 10,000 times the reflectance.

    Raises:
        InputError: It is damaged, or GDAL does not open it.
    """
    metadata = str(source.metadata)
    product = rasters.open_raster(metadata)
    tags = product.tags()
    level = "L2A" if "L2A" in pathlib.PurePath(metadata).name else "L1C"
    of_zone = [name for name in product.subdatasets if source.zone in (None, name.rsplit(":", 1)[-1])]
    by_resolution = {name.split(":")[-2]: name for name in reversed(of_zone)}
    bands: dict[str, Band] = {}
    datasets: list[rasterio.DatasetReader] = []
    for resolution in ("10m", "20m", "60m"):
        if resolution not in by_resolution:
            continue
        dataset = rasters.open_raster(by_resolution[resolution])
        datasets.append(dataset)
        for index in dataset.indexes:
            name = parse_band_name(dataset.tags(index).get("BANDNAME", ""))
            if name and name not in bands:
                bands[name] = rasters.calibrate_band(dataset, index, metadata, tags, raster_options)
                if name in wanted and not any(re.search(rf"_{name}(_\d+m)?\.jp2$", file) for file in dataset.files):
                    # GDAL only warns, and reads zeros.
                    raise InputError(f"{metadata}: the file of its {name} is missing; download the product again")
    if not bands:
        raise InputError(f"{metadata}: has no bands that GDAL finds; download the product again")
    description = f"Sentinel-2 {level}, baseline {tags.get('PROCESSING_BASELINE', 'unknown')}: "
    description += rasters.describe_conversion(list(bands.values()), "as its metadata say", raster_options)
    if level == "L2A":
        description += "; EuroSAT is of L1C, as seen from above the atmosphere: expect less of L2A"
    mask_files = clouds.find_mask_files(file for dataset in datasets for file in dataset.files)
    return BandSet(bands, False, description, is_calibrated=True), mask_files
