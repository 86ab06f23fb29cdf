"""Sentinel-2 products as they are downloaded: .SAFE folders, or their .zip unopened."""

import math
import pathlib
import re
import zipfile
from collections.abc import Collection

import rasterio

from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.imagery import clouds, names
from resnetd_tf.imagery.layers import Layer, open_raster


def metadata_file(path: pathlib.Path) -> str | None:
    """The product's MTD_MSI*.xml as GDAL takes it; `None` where there is none.

    Args:
        path: A .SAFE folder or the folder it lies in, a .zip of one, or the file itself, whatever their names.
    """
    if path.is_file() and names.METADATA.fullmatch(path.name):
        return str(path)
    if path.is_dir():
        return next(map(str, names.metadata_files(path)), None)
    if not path.is_file() or not zipfile.is_zipfile(path):
        return None
    with damage_told(f"{path}: cannot be read as a zip"), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if names.METADATA.fullmatch(name.rsplit("/", 1)[-1]) and name.count("/") <= 2:
                if str(path.absolute()).count("{") != str(path.absolute()).count("}"):
                    raise InputError(f"{path}: GDAL cannot open a zip of that name; rename it, without braces")
                return f"/vsizip/{{{path.absolute()}}}/{name}"
    return None


def layers(metadata: str, wanted: Collection[str]) -> tuple[dict[str, Layer], str | None, str]:
    """All bands of a product by name, its cloud mask as `clouds.mask_file` names it, and what it is in words.

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
    quantification = _number(metadata, tags, ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE"), 10_000)
    if quantification <= 0:
        raise InputError(
            f"{metadata}: its quantification is {quantification:g}, not above 0; download the product again"
        )
    found: dict[str, Layer] = {}
    offsets = set()
    chosen: dict[str, str] = {}
    for subdataset in product.subdatasets:  # of each resolution, in the first of its zones
        chosen.setdefault(subdataset.split(":")[-2], subdataset)
    datasets: dict[str, rasterio.DatasetReader] = {}
    for resolution in ("10m", "20m", "60m"):
        if resolution in chosen:
            datasets[resolution] = open_raster(chosen[resolution])
    for dataset in datasets.values():
        for index in dataset.indexes:
            of_band = dataset.tags(index)
            name = names.band_name(of_band.get("BANDNAME", ""))
            if name and name not in found:
                offset = _number(metadata, of_band, ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET"), 0)
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
    return found, clouds.mask_file(file for dataset in datasets.values() for file in dataset.files), words


def _number(metadata: str, tags: dict[str, str], keys: tuple[str, ...], default: float) -> float:
    """The number that a product's metadata gives under one of some keys, else the default; InputError for no number."""
    key, text = next(((key, tags[key]) for key in keys if tags.get(key)), ("", str(default)))
    with damage_told(f"{metadata}: its {key} cannot be used", "; download the product again"):
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"it is {text}")
    return number
