"""Sentinel-2 products as they are downloaded: .SAFE folders, or their .zip unopened."""

import pathlib
import re
import zipfile
from collections.abc import Collection

import rasterio.shutil

from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.imagery.layers import Layer, open_raster
from resnetd_tf.sentinel2 import BANDS

# Of L2A's scene classification: shadows of clouds, clouds (of medium and high probability, thin cirrus), snow.
HIDDEN = (3, 8, 9, 10, 11)
METADATA = re.compile(r"MTD_MSIL(1C|2A)\.xml")


def metadata_file(path: pathlib.Path) -> str | None:
    """The product's MTD_MSI*.xml as GDAL takes it; `None` where there is none.

    Args:
        path: A .SAFE folder or the folder it lies in, a .zip of one, or the file itself, whatever their names.
    """
    if path.is_file() and METADATA.fullmatch(path.name):
        return str(path)
    if path.is_dir():
        inside = (file for depth in ("*", "*/*") for file in sorted(path.glob(depth)))
        return next((str(file) for file in inside if METADATA.fullmatch(file.name)), None)
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with damage_told(f"{path}: cannot be read as a zip"), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if METADATA.fullmatch(name.rsplit("/", 1)[-1]) and name.count("/") <= 2:
                if str(path.absolute()).count("{") != str(path.absolute()).count("}"):
                    raise InputError(f"{path}: GDAL cannot open a zip of that name; rename it, without braces")
                return f"/vsizip/{{{path.absolute()}}}/{name}"
    return None


def band_name(name: str) -> str | None:
    """ "B4", "b04" or "B8A" as it is written here; `None` of what is no band."""
    match = re.fullmatch(r"[Bb]0?(\d{1,2}|8[Aa])", name.strip())
    band = f"B{match[1].upper().zfill(2)}" if match else None
    return band if band in BANDS else None


def layers(metadata: str, wanted: Collection[str]) -> tuple[dict[str, Layer], tuple[Layer, ...], str]:
    """All bands of a product by name, what tells its clouds, and what it is in words.

    Digital numbers are offset as the metadata says, and scaled to 10,000 times the reflectance.

    Args:
        metadata: As `metadata_file` returns it.
        wanted: Bands whose files must be there.

    Raises:
        InputError: It is damaged, or GDAL does not open it.
    """
    product = open_raster(metadata)
    tags = product.tags()
    level = "L2A" if "L2A" in pathlib.PurePath(metadata).name else "L1C"
    quantification = float(tags.get("QUANTIFICATION_VALUE") or tags.get("BOA_QUANTIFICATION_VALUE") or 10_000)
    found: dict[str, Layer] = {}
    offsets = set()
    chosen: dict[str, str] = {}
    for subdataset in product.subdatasets:  # of each resolution, in the first of its zones
        chosen.setdefault(subdataset.split(":")[-2], subdataset)
    for resolution in ("10m", "20m", "60m"):
        if resolution not in chosen:
            continue
        dataset = open_raster(chosen[resolution])
        for index in dataset.indexes:
            of_band = dataset.tags(index)
            name = band_name(of_band.get("BANDNAME", ""))
            if name and name not in found:
                offset = float(of_band.get("RADIO_ADD_OFFSET") or of_band.get("BOA_ADD_OFFSET") or 0)
                offsets.add(offset)
                found[name] = Layer(dataset, index, offset, 10_000 / quantification)
                if name in wanted and not any(re.search(rf"_{name}(_\d+m)?\.jp2$", file) for file in dataset.files):
                    # GDAL only warns, and reads zeros.
                    raise InputError(f"{metadata}: the file of its {name} is missing; download the product again")
    if not found:
        raise InputError(f"{metadata}: has no bands that GDAL finds; download the product again")
    words = f"Sentinel-2 {level}, baseline {tags.get('PROCESSING_BASELINE', 'unknown')}: "
    words += (
        " and ".join(f"{offset:+.0f}" for offset in sorted(offsets))
        + f" DN as its metadata says, of {quantification:.0f}"
    )
    if level == "L2A":
        words += "; EuroSAT is of L1C, as seen from above the atmosphere: expect less of L2A"
    return found, _clouds(metadata, chosen), words


def _clouds(metadata: str, subdatasets: dict[str, str]) -> tuple[Layer, ...]:
    """Of L2A the scene classification, of L1C the masks of opaque clouds, cirrus and snow, if there are any."""
    if "L2A" in pathlib.PurePath(metadata).name:
        if "20m" not in subdatasets:
            return ()
        dataset = open_raster(subdatasets["20m"])
        there = any(file.endswith("_SCL_20m.jp2") for file in dataset.files)
        return tuple(Layer(dataset, i) for i in dataset.indexes if there and dataset.tags(i).get("BANDNAME") == "SCL")
    for subdataset in subdatasets.values():
        for file in open_raster(subdataset).files:
            path = re.sub(r"MTD_TL\.xml$", "QI_DATA/MSK_CLASSI_B00.jp2", file)
            if path != file and rasterio.shutil.exists(path):
                dataset = open_raster(path)
                return tuple(Layer(dataset, index) for index in dataset.indexes)
    return ()
