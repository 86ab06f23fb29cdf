"""Scenes as people have them: Sentinel-2 products, GeoTIFFs, one file for each band, true-colour pictures.

`find_sources` finds the scenes and patches at paths, and `classify_source` tells one from the other, for all programs.
`open_scene` opens a scene: the bands that a classifier takes, on one grid of pixels of 10 m.
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
from typing import Literal

import numpy as np
import rasterio

from resnetd_tf.data import digital_numbers, images, rasters
from resnetd_tf.data.rasters import AS_STORED, Band, BandSet, RasterOptions
from resnetd_tf.errors import InputError, damage_as_input_error
from resnetd_tf.imagery import clouds, rendering
from resnetd_tf.imagery.grid import Grid, common_grid, warp_to_grid
from resnetd_tf.imagery.scene import SAMPLE_PIXELS, Scene
from resnetd_tf.imagery.water import find_water_index
from resnetd_tf.sentinel2 import (
    AIR_DN,
    BRIGHTEST_DN,
    DARK_BLUE_DN,
    MIN_DARK_SLOPE_DN,
    MIN_EXCHANGED_SLOPE_DN,
    RENDERED_LEVELS,
    RGB_BANDS,
    parse_band_name,
    split_band_from_stem,
)

MIN_PICTURE_LEVEL = 40  # grey levels; the darkest patches of EuroSAT, of water, reach 63
COARSE_METRES = 25  # metres; larger pixels show too little of what patches of 10 m show
BAND_FILE_SUFFIXES = (".jp2", ".tif", ".tiff", ".img", ".vrt")  # suffixes of files that can be one band of a scene
# Names of the metadata of products, also as they were until December 2016.
METADATA_PATTERN = re.compile(r"(?:MTD_MSI|S2._OPER_MTD_SAF)(L1C|L2A)(?:_.*)?\.xml")
PRODUCT_FOLDER_PATTERN = re.compile(
    r".*\.SAFE|GRANULE|IMG_DATA|R[126]0m|L[12][AC]_T\d\d\w{3}_.*|S2._.*_TL_.*", re.IGNORECASE
)
RESOLUTION_PATTERN = re.compile(r"_?(?<![0-9A-Za-z])(10|20|60)m(?![0-9A-Za-z])")
# A date or a tile in a file's name.
ACQUISITION_PATTERN = re.compile(r"\d{8}|\d{4}-\d\d-\d\d|T?\d\d[A-Z]{3}(?![A-Za-z])")


@dataclass(frozen=True)
class Source:
    """The files of one scene or patch, or the metadata of a product.

    Attributes:
        name: The path by which users know it.
        files: Its file, or one file for each of its bands.
        metadata: The metadata file of a product, as GDAL names it; `None` for other files.
        zone: The UTM zone of the tiles that count, if a product has tiles in several: "EPSG_32633".
    """

    name: str
    files: tuple[pathlib.Path, ...] = ()
    metadata: str | None = None
    zone: str | None = None


def find_sources(paths: Sequence[str | pathlib.Path]) -> list[Source]:
    """Finds every product, scene, picture and patch at paths, each once.

    Args:
        paths: Products (.SAFE folders, their metadata, zips), image files, files of one band each, folders of them.

    Raises:
        InputError: A path leads to nothing, or files of one band each cannot be told apart.
    """
    sources: list[Source] = []
    band_files: list[pathlib.Path] = []
    for text in paths:
        path = pathlib.Path(text)
        if not path.exists():
            is_address = "://" in str(text)
            advice = (
                "only STAC items are read from addresses, by map.py and patches.py; download the file"
                if is_address
                else "give another"
            )
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
    unique_sources = {}
    for source in sources + _group_band_files(band_files):
        metadata = source.metadata and os.path.realpath(source.metadata)
        unique_sources[source.zone, metadata, *map(os.path.realpath, source.files)] = source
    return list(unique_sources.values())


def find_single_source(paths: Sequence[str | pathlib.Path] | str | pathlib.Path) -> Source:
    """Finds the only scene at paths.

    Raises:
        InputError: There are several scenes, or none.
    """
    sources = find_sources([paths] if isinstance(paths, str | pathlib.Path) else paths)
    if not sources:
        raise InputError("no scene given")
    if len(sources) > 1:
        raise InputError(f"{len(sources)} scenes are given, {sources[0].name} and {sources[1].name} first; give one")
    return sources[0]


def classify_source(source: Source, largest_patch: int) -> Literal["patch", "scene", "unreadable"]:
    """Tells a patch, which gets a label, from a scene, which becomes a map.

    Args:
        source: A scene or patch that `find_sources` returns.
        largest_patch: Side up to which an image is a patch, in pixels: pixels of 10 m if its place is known.
    """
    if source.metadata or len(source.files) > 1:
        return "scene"
    (file,) = source.files
    height = width = 0
    with contextlib.suppress(InputError):  # its bands are not known, if it is an image
        (height, width, _), _ = images.read_header(file, max_pixels=2**62)
    if not height or file.suffix.lower() in BAND_FILE_SUFFIXES:
        with contextlib.suppress(InputError):
            dataset = rasters.open_raster(str(file))
            height, width = max(height, dataset.height), max(width, dataset.width)
            if dataset.crs or dataset.gcps[0]:  # pixels of 20 m are no patch of half the side
                grid = common_grid([dataset])
                height, width = max(height, grid.height), max(width, grid.width)
    if not height:
        return "unreadable"
    return "patch" if max(height, width) <= largest_patch else "scene"


def _products_at(path: pathlib.Path) -> list[Source]:
    """Returns the product that a metadata file describes, or the products in a zip; none for other files."""
    if METADATA_PATTERN.fullmatch(path.name):
        return _split_by_zone(str(path), str(path.parent if path.parent.suffix == ".SAFE" else path))
    if not zipfile.is_zipfile(path):
        if path.suffix.lower() == ".zip":
            raise InputError(f"{path}: cannot be read as a zip, damaged or truncated; download it again")
        return []
    with damage_as_input_error(f"{path}: cannot be read as a zip"), zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if METADATA_PATTERN.fullmatch(name.rsplit("/", 1)[-1])]
    members = [name for name in members if name.count("/") <= 2]
    if members and str(path.absolute()).count("{") != str(path.absolute()).count("}"):
        raise InputError(f"{path}: GDAL cannot open a zip of that name; rename it, without braces")
    sources = []
    for member in members:
        folder = f"/{member.rsplit('/', 2)[-2]}" if len(members) > 1 and "/" in member else ""
        sources += _split_by_zone(f"/vsizip/{{{path.absolute()}}}/{member}", f"{path}{folder}")
    return sources


def _split_by_zone(metadata: str, name: str) -> list[Source]:
    """Returns a product as one scene for each UTM zone of its tiles; products until December 2016 can have several."""
    if "_OPER_" not in metadata.rsplit("/", 1)[-1]:
        return [Source(name, metadata=metadata)]
    zones = sorted({subdataset.rsplit(":", 1)[-1] for subdataset in rasters.open_raster(metadata).subdatasets})
    if len(zones) < 2:
        return [Source(name, metadata=metadata)]
    return [Source(f"{name}/{zone}", metadata=metadata, zone=zone) for zone in zones]


def _find_in_folder(folder: pathlib.Path) -> list[Source]:
    """Finds everything in a folder that can be mapped or labelled; prints which files beside bands are not used."""
    if PRODUCT_FOLDER_PATTERN.fullmatch(folder.name) and (product := _find_enclosing_product(folder)):
        return [product]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    metadata_files = [file for file in files if METADATA_PATTERN.fullmatch(file.name)]
    product_folders = [file.parent for file in metadata_files]
    files = [file for file in files if not any(file.is_relative_to(parent) for parent in product_folders)]
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    products = [source for file in metadata_files + zips for source in _products_at(file)]
    is_product_part = not products and any(
        PRODUCT_FOLDER_PATTERN.fullmatch(entry.name) for entry in (folder, *folder.iterdir())
    )
    band_files = [file for file in files if _is_band_file(file, folder)]
    if len({split_band_from_stem(file.stem)[1] for file in band_files}) < 2 and not is_product_part:
        band_files = []
    scenes = _group_band_files(band_files)
    if len(scenes) == 1 and not products:
        scenes = [dataclasses.replace(scenes[0], name=str(folder))]
    band_folders = {file.parent for file in band_files}
    pictures = sorted(set(list_images(folder)) & set(files) - set(band_files))
    unused_files = {file for file in pictures if file.parent in band_folders or is_product_part}
    if unused_files and scenes:
        names = ", ".join(sorted(file.name for file in unused_files)[:8]) + ", ..." * (len(unused_files) > 8)
        print(f"{folder}: {len(unused_files)} files beside the bands are not used: {names}", file=sys.stderr)
    if is_product_part and not scenes:
        raise InputError(f"{folder}: a part of a product without files of bands (..._B04.jp2); give the whole product")
    sources = products + scenes + [Source(str(file), (file,)) for file in pictures if file not in unused_files]
    if not sources:
        raise InputError(
            f"{folder}: holds no picture, no MTD_MSI*.xml of a product and no files of bands (..._B04.jp2)"
        )
    return sources


def _is_band_file(file: pathlib.Path, folder: pathlib.Path) -> bool:
    """Returns whether a file in a folder, or in a product's part of it, is one band by its name and its content."""
    inner_folders = file.relative_to(folder).parts[:-1]
    if file.suffix.lower() not in BAND_FILE_SUFFIXES or not split_band_from_stem(file.stem)[1]:
        return False
    if not all(map(PRODUCT_FOLDER_PATTERN.fullmatch, inner_folders)):  # a class's folder, or a product's QI_DATA
        return False
    with contextlib.suppress(InputError):
        return rasters.open_raster(str(file)).count == 1
    return True  # a damaged file; reading it says so


def _find_enclosing_product(folder: pathlib.Path) -> Source | None:
    """Finds the product of which a folder is the only granule or a part of it; `None` if there is none."""
    for parent in folder.absolute().parents:
        metadata_files = [file for file in sorted(parent.glob("*.xml")) if METADATA_PATTERN.fullmatch(file.name)]
        if metadata_files and len([granule for granule in (parent / "GRANULE").glob("*") if granule.is_dir()]) == 1:
            return _products_at(metadata_files[0])[0]
        if not PRODUCT_FOLDER_PATTERN.fullmatch(parent.name):
            break
    return None


def list_images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Lists the images in a folder and those below it, by name, without hidden ones."""
    suffixes = images.IMAGE_SUFFIXES | {".img", ".vrt", ".nc"}
    files = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _group_band_files(files: Sequence[pathlib.Path]) -> list[Source]:
    """Groups files of one band each into scenes: files whose names differ only in the band belong together.

    Raises:
        InputError: Two files hold the same band of a scene, or their names do not say which belong together.
    """
    groups: dict[tuple[str, str], dict[str, list[pathlib.Path]]] = {}
    for file in files:
        template, band = split_band_from_stem(file.stem)
        folder = file.parent.parent if re.fullmatch("R[126]0m", file.parent.name) else file.parent
        key = (str(folder), RESOLUTION_PATTERN.sub("", template))
        groups.setdefault(key, {}).setdefault(str(band), []).append(file)
    has_colours = any(set(RGB_BANDS) <= bands.keys() for bands in groups.values())
    has_each_once = len(files) == len({band for bands in groups.values() for band in bands})
    acquisitions = {tuple(ACQUISITION_PATTERN.findall(template)) for _, template in groups}
    if len(groups) > 1 and not has_colours and has_each_once and len(acquisitions) == 1:  # names have no pattern
        merged_bands = {band: band_files for bands in groups.values() for band, band_files in bands.items()}
        groups = {(str(files[0].parent), files[0].stem): merged_bands}
    sources = []
    for (parent, template), bands in groups.items():
        finest_files = tuple(_finest_file(band, band_files) for band, band_files in bands.items())
        name = re.sub(r"[-_ ,]*\{band\}", "", template).strip("-_ ,") or pathlib.Path(parent).absolute().name
        sources.append(Source(str(pathlib.Path(parent) / name), finest_files))
    return sources


def _finest_file(band: str, files: list[pathlib.Path]) -> pathlib.Path:
    """Returns the file with the smallest pixels among files of one band in several resolutions."""
    by_pixel_area: dict[float, pathlib.Path] = {}
    for file in files:
        pixel_area = abs(rasters.open_raster(str(file)).transform.determinant) if len(files) > 1 else 0.0
        if pixel_area in by_pixel_area:
            raise InputError(f"{by_pixel_area[pixel_area]} and {file} both are {band} of one scene; give one of them")
        by_pixel_area[pixel_area] = file
    return by_pixel_area[min(by_pixel_area)]


# A scene is opened: its bands are found, brought on one grid, and their numbers are checked.


def open_scene(
    paths: Sequence[str | pathlib.Path] | str | pathlib.Path,
    required_bands: Sequence[str] = RGB_BANDS,
    *,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    fill: Sequence[float] | None = None,
    keep_clouds: bool = False,
    rendering: str | None = None,
) -> Scene:
    """Opens a scene.

    Args:
        paths: A product, a folder or file, or one file for each band.
        required_bands: Names of the bands that a classifier takes.
        bands: Names of the bands of a file, in its order, where the file does not say them.
        scale: Digital numbers, 10,000 times the reflectance, for each stored unit, after the offset; `None` for what
            the file says, else 1.
        offset: What is added to stored numbers first; `None` for what the metadata or the file says, else 0.
        fill: For each required band the digital number that fills it if it is missing; `None` refuses such scenes.
        keep_clouds: Whether clouds, their shadows and snow are data, where a product has a mask of them.
        rendering: How the producer stores reflectances, one of `sentinel2.RENDERINGS`, in place of scale and offset;
            `None` for what the file tells.

    Raises:
        InputError: The scene cannot be opened, or an argument cannot be used.
    """
    raster_options = RasterOptions(
        tuple(bands) if bands else None, scale, offset, tuple(fill) if fill is not None else None, rendering
    )
    return open_source(find_single_source(paths), required_bands, raster_options, keep_clouds)


def open_source(
    source: Source,
    required_bands: Sequence[str] = RGB_BANDS,
    raster_options: RasterOptions = AS_STORED,
    keep_clouds: bool = False,
    *,
    keep_levels: bool = False,
    use_water_index: bool = False,
    adds_air: bool = False,
) -> Scene:
    """Opens one of the scenes that `find_sources` returns.

    Args:
        source: The scene.
        required_bands: Names of the bands that a classifier takes.
        raster_options: What the user says of the bands and their numbers.
        keep_clouds: Whether clouds, their shadows and snow are data, where a product has a mask of them.
        use_water_index: Whether an index of two bands tells water from land, if the scene has bands for it.
        adds_air: Whether the light of the air is added to colours of L2A, for a classifier that knows L1C.
        keep_levels: Whether a picture keeps its grey levels, though it may tell another rendering than EuroSAT's: for
            classifiers that were not trained on EuroSAT.

    Raises:
        InputError: The scene cannot be opened.
    """
    band_set, mask_files = _open_band_set(source, required_bands, raster_options)
    if band_set.is_picture and len(required_bands) != 3:
        raise InputError(
            f"{source.name} is a picture of three colours, the classifier takes {len(required_bands)} bands"
        )
    if band_set.is_picture:
        band_set = _read_picture(source, band_set, raster_options, keep_levels=keep_levels, checks_air=adds_air)
    missing_names = rasters.missing_bands(source.name, band_set, required_bands, raster_options)
    bands = {name: band_set.bands[name] for name in required_bands if name in band_set.bands}
    datasets = rasters.unique_datasets(list(bands.values()))
    for dataset in datasets:
        if dataset.driver == "PNG":  # GDAL reads what is there of a truncated file, and makes up the rest
            with damage_as_input_error(f"{dataset.name}: cannot be read, damaged or truncated"):
                images.verify_picture(dataset.name)
    grid = common_grid(datasets)
    warped_datasets = {id(dataset): warp_to_grid(dataset, grid) for dataset in datasets}
    description = band_set.description
    if missing_names:
        description += f"; no {', '.join(missing_names)}: the training's mean instead"
    if any(warped_datasets[id(dataset)] is not dataset for dataset in datasets):
        description += _describe_resampling(datasets, grid)
    if not band_set.is_picture:
        bands, text = _check_bands(source, band_set, bands, raster_options, adds_air)
        description += text
    aligned_bands = {
        name: dataclasses.replace(band, dataset=warped_datasets[id(band.dataset)]) for name, band in bands.items()
    }
    water_index = find_water_index(band_set.bands, grid) if use_water_index else None
    if water_index:
        description += f"; {water_index.summary}"
    elif use_water_index:
        description += "; no index tells water from land"
    outside_mask = rendering.find_outside(list(aligned_bands.values()))
    if outside_mask:
        description += f"; {100 * outside_mask.share:.1f} % of the pixels, white around a polygon, are no data"
    return Scene(
        name=source.name,
        grid=grid,
        bands=tuple(aligned_bands.get(name) for name in required_bands),
        is_picture=band_set.is_picture,
        missing_values=tuple(raster_options.fill or (0,) * len(required_bands)),
        description=description,
        cloud_mask=None if keep_clouds else clouds.open_mask(mask_files, grid),
        water_index=water_index,
        files=rasters.file_fingerprints(datasets, *mask_files),
        outside_mask=outside_mask,
        cloud_note=datasets[0].tags().get(clouds.CLOUDS_TAG, ""),
    )


def _read_picture(
    source: Source, picture: BandSet, raster_options: RasterOptions, *, keep_levels: bool, checks_air: bool
) -> BandSet:
    """Checks a picture of true colour, and returns it as digital numbers if it tells another rendering than EuroSAT's.

    Args:
        source: The scene.
        picture: Its colours.
        raster_options: What the user says of the bands and their numbers.
        keep_levels: Whether the picture keeps its grey levels.
        checks_air: Whether its darkest pixels must show the light of the air.

    Raises:
        InputError: The picture is no true colour as EuroSAT has it.
    """
    _check_brightness(source, list(picture.bands.values()))
    if not keep_levels:
        if raster_options.bands is None:
            rendering.check_colour_order(source.files[0], picture)
        if raster_options.rendering is None:
            picture = rendering.convert_to_digital_numbers(source.files[0], picture)
            if picture.is_picture and checks_air:
                _check_dark_levels(source, picture)
    if picture.is_picture and raster_options.level:
        raise InputError(
            f"--level={raster_options.level}: {source.name} has grey levels as EuroSAT's, to which no light of the air "
            "is added; leave it out, or give its --rendering"
        )
    return picture


def _check_bands(
    source: Source, band_set: BandSet, bands: dict[str, Band], raster_options: RasterOptions, adds_air: bool
) -> tuple[dict[str, Band], str]:
    """Checks the numbers of bands, and adds the light of the air to L2A if that is wanted.

    Returns:
        The bands by name, with what stands for missing data and with the air; and what to say of it.

    Raises:
        InputError: There is no data, or numbers cannot be digital numbers.
    """
    fill, text, sample = _check_numbers(source, band_set, list(bands), raster_options)
    bands = {name: dataclasses.replace(band, fill=fill) for name, band in bands.items()}
    dark_dn = _dark_colours(sample)
    if adds_air and dark_dn and (reason := _find_missing_air(source, dark_dn, float(sample.gain[0]), raster_options)):
        bands = {name: _add_air(name, band) for name, band in bands.items()}
        added = ", ".join(f"{AIR_DN[name]} DN to {name}" for name in bands)
        text += f"; L2A ({reason}): added {added}, the light of the air in EuroSAT's L1C; --level=L1C does not"
    return bands, text


def _dark_colours(sample: digital_numbers.Sample) -> tuple[float, float, float] | None:
    """Returns the first percentile of red, green and blue in DN; `None` if one of them is missing."""
    if not set(RGB_BANDS) <= set(sample.names):
        return None
    red, green, blue = (float(np.percentile(sample.dn[:, sample.names.index(band)], 1)) for band in RGB_BANDS)
    return red, green, blue


def _check_dark_levels(source: Source, picture: BandSet) -> None:
    """Raises InputError if the darkest pixels of a picture cannot have their grey levels in EuroSAT's rendering."""
    levels = rendering.read_dark_levels([picture.bands[name] for name in RGB_BANDS])
    if levels is not None:
        gain = BRIGHTEST_DN / RENDERED_LEVELS
        red, green, blue = ((levels - (255 - RENDERED_LEVELS)) * gain).tolist()
        shown = "grey levels {:.0f}, {:.0f} and {:.0f}".format(*levels)
        override = "--rendering=eurosat takes the grey levels as they are"
        _check_dark_colours(source, (red, green, blue), gain, shown, {"L1C": override, "L2A": override})


def _find_missing_air(
    source: Source, dark_dn: tuple[float, float, float], gain: float, raster_options: RasterOptions
) -> str | None:
    """Returns by what a scene shows that the light of the air has been taken away, as in L2A; `None` if it has not.

    Args:
        source: The scene.
        dark_dn: The first percentile of its red, green and blue in DN.
        gain: Digital numbers for a stored 1.
        raster_options: What the user says of its numbers.

    Raises:
        InputError: The darkest pixels of L1C cannot have such numbers.
    """
    if stated_level := _stated_level(source, raster_options):
        level, evidence = stated_level
        return evidence if level == "L2A" else None
    shown = "{:.0f}, {:.0f} and {:.0f} DN".format(*dark_dn)
    overrides = {level: f"--level={level} takes them as they are" for level in ("L1C", "L2A")}
    _check_dark_colours(source, dark_dn, gain, shown, overrides, scale_is_given=raster_options.scale is not None)
    red, _, blue = dark_dn
    is_l2a = blue - red < MIN_DARK_SLOPE_DN and blue < DARK_BLUE_DN[0]
    return f"1 % of its blue is below {blue:.0f} DN" if is_l2a else None


def _stated_level(source: Source, raster_options: RasterOptions) -> tuple[str, str] | None:
    """Returns the level that the user or a scene's name states, and who states it; `None` if none does."""
    if raster_options.level is not None:
        return raster_options.level, "--level"
    name = pathlib.PurePath(source.metadata or source.files[0]).name
    level = re.search(r"(?:MSI|(?<![0-9A-Za-z]))(L1C|L2A)(?![0-9A-Za-z])", f"{name} {source.name}")
    return (level[1], "by its name") if level else None


def _check_dark_colours(
    source: Source,
    dark_dn: tuple[float, float, float],
    gain: float,
    shown: str,
    overrides: dict[str, str],
    *,
    scale_is_given: bool = False,
) -> None:
    """Checks the darkest pixels of a scene. In L1C they have the light of the air alone: most in blue, least in red.

    Args:
        source: The scene.
        dark_dn: The first percentile of its red, green and blue in DN.
        gain: Digital numbers for a stored 1.
        shown: The first percentiles as the user knows them.
        overrides: By level, how the user states that the numbers are right.
        scale_is_given: Whether the user has stated the scale already.

    Raises:
        InputError: The darkest pixels of neither L1C nor L2A can have such numbers.
    """
    red, green, blue = dark_dn
    text = f"{source.name}: the darkest 1 % of its red, green and blue ends at {shown}"
    if max(red, green, blue) <= 0:
        raise InputError(f"{text}, as after a stretch between percentiles; give it as it was, or {overrides['L2A']}")
    if red - blue > MIN_EXCHANGED_SLOPE_DN and red > green > blue:
        raise InputError(
            f"{text}, and the air adds most to blue: red and blue seem to be exchanged; --bands names them in their "
            f"order, {overrides['L1C']}"
        )
    shows_air = red < green < blue and blue - red >= MIN_DARK_SLOPE_DN
    if not scale_is_given and shows_air and not DARK_BLUE_DN[0] <= blue <= DARK_BLUE_DN[1]:
        scale = gain * np.mean(DARK_BLUE_DN) / blue
        raise InputError(
            f"{text}; the air of L1C lets blue end between {DARK_BLUE_DN[0]} and {DARK_BLUE_DN[1]} DN, as with "
            f"--scale={scale:.2g}; {overrides['L1C']}"
        )


def _add_air(name: str, band: Band) -> Band:
    """Returns a band with the light of the air in its digital numbers."""
    return dataclasses.replace(band, offset=band.offset + AIR_DN[name] / band.gain)


def _open_band_set(
    source: Source, required_bands: Collection[str], raster_options: RasterOptions
) -> tuple[BandSet, tuple[str, ...]]:
    """Opens the bands of a scene; returns them with the files of its cloud masks."""
    if source.metadata or len(source.files) > 1:
        if raster_options.bands:
            names = ",".join(raster_options.bands)
            raise InputError(f"--bands={names} names the bands of a file without names; {source.name} names them")
        if source.metadata and raster_options.rendering:
            raise InputError(
                f"--rendering={raster_options.rendering} is of no use for {source.name}, whose metadata say what its "
                "numbers mean; leave it out"
            )
        if source.metadata:
            return _open_product(source, required_bands, raster_options)
        return _open_band_files(source, raster_options), ()
    (file,) = source.files
    accepts_picture = len(required_bands) == 3 and raster_options.scale is None and raster_options.offset is None
    return rasters.open_bands(file, raster_options, accepts_picture), ()


def _open_band_files(source: Source, raster_options: RasterOptions) -> BandSet:
    """Opens files of one band each, whose names say which band."""
    bands: dict[str, Band] = {}
    descriptions = set()
    for file in source.files:
        name = split_band_from_stem(file.stem)[1]
        dataset = rasters.open_raster(str(file))
        if dataset.count != 1:
            raise InputError(f"{file} has {dataset.count} bands, its name tells one; rename it")
        band_set = rasters.open_bands(
            file, dataclasses.replace(raster_options, bands=(str(name),)), accepts_picture=False
        )
        bands |= band_set.bands
        descriptions.add(band_set.description.partition(": ")[2])
    return BandSet(bands, False, f"one file per band: {' and '.join(sorted(descriptions))}")


def _open_product(
    source: Source, required_bands: Collection[str], raster_options: RasterOptions
) -> tuple[BandSet, tuple[str, ...]]:
    """Opens the bands of a product, with offset and scale as its metadata say.

    Returns:
        The bands, and the cloud masks of the product's granules.

    Raises:
        InputError: The product is damaged, or GDAL does not open it.
    """
    metadata = str(source.metadata)
    product = rasters.open_raster(metadata)
    tags = product.tags()
    level = "L2A" if "L2A" in pathlib.PurePath(metadata).name else "L1C"
    zone_subdatasets = [name for name in product.subdatasets if source.zone in (None, name.rsplit(":", 1)[-1])]
    subdatasets_by_resolution = {name.split(":")[-2]: name for name in reversed(zone_subdatasets)}
    bands: dict[str, Band] = {}
    datasets: list[rasterio.DatasetReader] = []
    for resolution in ("10m", "20m", "60m"):
        if resolution not in subdatasets_by_resolution:
            continue
        dataset = rasters.open_raster(subdatasets_by_resolution[resolution])
        datasets.append(dataset)
        for index in dataset.indexes:
            name = parse_band_name(dataset.tags(index).get("BANDNAME", ""))
            if name and name not in bands:
                bands[name] = rasters.calibrate_band(dataset, index, metadata, tags, raster_options)
                if name in required_bands and not any(
                    re.search(rf"_{name}(_\d+m)?\.jp2$", file) for file in dataset.files
                ):
                    # GDAL only warns, and reads zeros.
                    raise InputError(f"{metadata}: the file of its {name} is missing; download the product again")
    if not bands:
        raise InputError(f"{metadata}: has no bands that GDAL finds; download the product again")
    description = f"Sentinel-2 {level}, baseline {tags.get('PROCESSING_BASELINE', 'unknown')}: "
    description += rasters.describe_conversion(list(bands.values()), "as its metadata say", raster_options)
    if level == "L2A" and tuple(required_bands) != RGB_BANDS:
        description += f"; {rasters.LOWER_ACCURACY}"
    mask_files = clouds.find_mask_files(file for dataset in datasets for file in dataset.files)
    return BandSet(bands, False, description, is_calibrated=True), mask_files


def _describe_resampling(datasets: Sequence[rasterio.DatasetReader], grid: Grid) -> str:
    """Says to how many pixels files are resampled, and warns if theirs are too large for the classifier."""
    description = f"; resampled to {grid.width} x {grid.height} pixels of 10 m"
    stored_pixels = max(dataset.width * dataset.height for dataset in datasets)
    metres = 10 * (grid.width * grid.height / stored_pixels) ** 0.5
    if grid.pixel_hectares and metres > COARSE_METRES:
        description += f" from pixels of {metres:.0f} m: the classifier knows ground of 10 m, expect little"
    return description


def _check_brightness(source: Source, bands: list[Band]) -> None:
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
) -> tuple[float | None, str, digital_numbers.Sample]:
    """Checks that numbers all over a scene can be digital numbers, and finds undeclared numbers for missing data.

    Bands that tell more than the required ones are checked too: the near infrared, cirrus, and all of 13 without names.

    Args:
        source: The scene.
        band_set: Its bands.
        names: Names of the bands that are read.
        raster_options: What the user says of the numbers.

    Returns:
        The number that stands for missing data though no file declares it, or `None`; what to say of it; and the
        numbers.

    Raises:
        InputError: There is no data, or numbers cannot be digital numbers.
    """
    if len(source.files) == 1:
        names = names + [name for name in ("B08", "B10") if name in band_set.bands and name not in names]
    if band_set.is_unnamed:
        names = list(band_set.bands)  # in the order of the file
    bands_by_name = {name: band_set.bands[name] for name in names}
    bands = list(bands_by_name.values())
    height, width = bands[0].dataset.shape
    shape = (min(SAMPLE_PIXELS, height), min(SAMPLE_PIXELS, width))
    dtypes = {str(band.dtype): name for name, band in bands_by_name.items()}
    if len(dtypes) > 1:
        kinds = " and ".join(f"{name} is {dtype}" for dtype, name in dtypes.items())
        raise InputError(f"{source.name}: {kinds}, which do not mean the same; give bands of one kind")
    stored = rasters.read_bands(bands, shape=shape)
    valid = rasters.valid_mask(bands, stored, shape=shape)
    outside_mask = rendering.find_outside(bands)
    if outside_mask:
        valid &= ~((stored == rendering.WHITE).all(axis=-1) & outside_mask.mask)
    fill = None if band_set.is_calibrated or outside_mask else rasters.find_common_fill(stored, valid)
    if fill is not None:
        bands = [dataclasses.replace(band, fill=fill) for band in bands]
        valid = rasters.valid_mask(bands, stored, shape=shape)
    checked_mask = valid.copy()
    rasters.to_digital_numbers(bands, stored, valid)  # takes impossible numbers out of `valid`
    if not checked_mask.any():
        raise InputError(f"{source.name} has no data, or none that was seen; nothing to map")
    if valid.sum() > checked_mask.sum() // 2:  # else the scale makes numbers impossible
        checked_mask = valid
    sample = rasters.make_sample(bands_by_name, stored, checked_mask)
    if fault := rasters.find_number_fault(band_set, sample, raster_options):
        raise InputError(f"{source.name}: {fault.text}")
    shares = {} if outside_mask else rasters.undeclared_fill_shares(bands, stored, valid)
    text = "".join(
        f"; {100 * share:.1f} % of the pixels are {value:g} in every band: no data, though the file does not say so"
        for value, share in shares.items()
    )
    return fill, text, sample
