"""From image files to pixels."""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator

import numpy as np
import PIL.Image
import tensorflow as tf
import tifffile

from resnetd_tf.errors import InputError, first_line

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}
TIFF = (".tif", ".tiff")


def read(path: str | pathlib.Path) -> np.ndarray:
    """Pixels (height, width, bands) of a JPEG or PNG file (uint8 RGB) or of a TIFF (its own bands).

    Raises:
        InputError: The file is missing or is not a readable image.
    """
    path = pathlib.Path(path)
    header(path)
    return pixels(path)


def pixels(path: pathlib.Path) -> np.ndarray:
    """What `read` returns of a file whose header was looked at already; errors are the same."""
    with _readable(path):
        return tifffile.imread(path) if path.suffix.lower() in TIFF else decode(path.read_bytes()).numpy()


def header(path: str | pathlib.Path) -> tuple[tuple[int, int, int], str]:
    """Shape (height, width, bands) and type of what `read` returns, without decoding it; errors are the same."""
    path = pathlib.Path(path)
    with _readable(path), path.open("rb") as file:
        if path.suffix.lower() not in TIFF:
            start = file.read(32)
            if start.startswith(b"\x89PNG") and start[24:25] == b"\x10":
                raise InputError(f"{path}: 16 bits a colour, of unknown scale; convert it to 8 bits")
            return shape_of_encoded(file), "uint8"
        image = tifffile.TiffFile(file).series[0]
    if len(image.shape) != 3 or (image.shape[-1], image.dtype.name) not in ((3, "uint8"), (13, "uint16")):
        raise InputError(
            f"{path}: {image.dtype} of shape {image.shape}; expected uint8 of (height, width, 3) or uint16 of "
            "(height, width, 13)"
        )
    return image.shape, image.dtype.name


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever the parsers stumble on in a damaged file into an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: {error.strerror}") from error
        kind = "TIFF" if path.suffix.lower() in TIFF else "JPEG or PNG"
        raise InputError(f"{path}: not a readable {kind} image ({first_line(error)}); remove or replace it") from error


def shape_of_encoded(file) -> tuple[int, int, int]:
    """Shape (height, width, 3) of what `decode` makes of a file object of a JPEG or PNG; reads no pixels."""
    with warnings.catch_warnings(action="ignore"), PIL.Image.open(file) as image:  # of a picture that is large
        if image.format not in ("JPEG", "MPO", "PNG"):  # MPO: several JPEGs, of which the first counts
            raise PIL.UnidentifiedImageError(f"is {image.format}, whatever its name says")
        return image.height, image.width, 3


def decode(encoded, bands: int = 3):
    """Pixels (height, width, bands) uint8 of an encoded JPEG or PNG, as Pillow, OpenCV and browsers decode it.

    TensorFlow's default takes a faster cosine transform: on EuroSAT it is off by 3 grey levels or
    more somewhere in every patch, which is enough to change what a network sees.
    """
    return tf.io.decode_jpeg(encoded, channels=bands, dct_method="INTEGER_ACCURATE")


def resize(image: np.ndarray, height: int, width: int, interpolation: str = "bilinear") -> np.ndarray:
    """An image resized as classifiers resize, antialiased, but rounded to whole pixel values of its own dtype."""
    if image.shape[:2] == (height, width):
        return image
    pixels = tf.image.resize(image, (height, width), interpolation, antialias=True)
    return tf.saturate_cast(tf.round(pixels), image.dtype).numpy()
