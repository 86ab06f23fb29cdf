"""What the names of files tell of them."""

import pathlib
import re

from resnetd_tf.sentinel2 import BANDS

RASTERS = (".jp2", ".tif", ".tiff")  # suffixes of files that can be a band, or several
COLOURS = {"red": "B04", "green": "B03", "blue": "B02"}
METADATA = re.compile(r"MTD_MSIL(1C|2A)\.xml")  # of a Sentinel-2 product


def band_name(name: str) -> str | None:
    """ "B4", "b04" or "B8A" as it is written here; `None` of what is no band."""
    match = re.fullmatch(r"[Bb]0?(\d{1,2}|8[Aa])", name.strip())
    band = f"B{match[1].upper().zfill(2)}" if match else None
    return band if band in BANDS else None


def band_described(text: str | None) -> str | None:
    """The band of a description as "B04, central wavelength 665 nm", "b4" or "Red"; `None` of what is no band."""
    first = (text or "").split(",")[0].strip()
    return COLOURS.get(first.lower()) or band_name(first.partition(" ")[0])


def band_of(path: pathlib.Path) -> str | None:
    """The band that a file's name tells, as in T33UUP_20210101_B04_10m.jp2."""
    parts = re.split(r"[^0-9A-Za-z]+", path.stem)
    return next((name for part in reversed(parts) if (name := band_name(part))), None)


def band_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The rasters in a folder whose names tell a band."""
    rasters = (file for file in sorted(folder.iterdir()) if file.suffix.lower() in RASTERS)
    return [file for file in rasters if file.is_file() and band_of(file)]


def metadata_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Those of the product that a folder is, or else of the products in it."""
    for pattern in ("*", "*/*"):
        if found := sorted(file for file in folder.glob(pattern) if METADATA.fullmatch(file.name)):
            return found
    return []
