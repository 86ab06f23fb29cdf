"""From image files to pixels."""

import io
import pathlib

import numpy as np
import tensorflow as tf

from resnetd_tf.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}


def read(path: str | pathlib.Path) -> np.ndarray:
    """Pixels (height, width, bands) of a JPEG or PNG file (uint8 RGB) or of a TIFF (its own bands).

    Raises:
        InputError: The file is missing or is not a readable image.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if path.suffix.lower() in (".tif", ".tiff"):
        return _decode_tiff(content, path)
    if content.startswith(b"\x89PNG") and content[24:25] == b"\x10":
        raise InputError(f"{path}: 16 bits a colour, of unknown scale; convert it to 8 bits")
    try:
        return decode(content).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise InputError(f"{path}: not a readable JPEG or PNG image; remove or replace it") from error


def decode(encoded, bands: int = 3):
    """Pixels (height, width, bands) uint8 of an encoded JPEG or PNG, as Pillow, OpenCV and browsers decode it.

    TensorFlow's default takes a faster cosine transform: on EuroSAT it is off by 3 grey levels or
    more somewhere in every patch, which is enough to change what a network sees.
    """
    return tf.io.decode_jpeg(encoded, channels=bands, dct_method="INTEGER_ACCURATE")


def _decode_tiff(content: bytes, path: pathlib.Path) -> np.ndarray:
    import tifffile

    try:
        image = tifffile.imread(io.BytesIO(content))
    except Exception as error:  # tifffile raises whatever the damage makes its parser stumble on
        raise InputError(f"{path}: not a readable TIFF image; remove or replace it") from error
    if image.ndim != 3 or (image.shape[-1], image.dtype.name) not in ((3, "uint8"), (13, "uint16")):
        raise InputError(
            f"{path}: {image.dtype} of shape {image.shape}; expected 3 bands of uint8 or 13 bands of uint16"
        )
    return image


def resize(image, size: int) -> np.ndarray:
    """An image resized to (size, size, bands), antialiased, in its own dtype."""
    resized = tf.image.resize(image, (size, size), antialias=True)
    return tf.saturate_cast(tf.round(resized), image.dtype).numpy()
