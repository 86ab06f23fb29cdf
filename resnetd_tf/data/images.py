"""From image files to pixels."""

import contextlib
import logging
import pathlib
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
import tensorflow as tf
import tifffile

from resnetd_tf.errors import InputError, first_line

MAX_PIXELS = 2**26  # of a picture that becomes one patch: 8192 x 8192
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what cannot be read, an InputError tells
OPENING = threading.Lock()  # Pillow's limit is the whole process's
PIL.Image.init()
# But those that Pillow only knows by name, EPS, for which it would run Ghostscript, and those that hold pictures of any
# other format or of 16 bits, which their headers do not tell.
FORMATS = tuple(
    sorted(
        PIL.Image.OPEN.keys()
        - {"BUFR", "DDS", "EPS", "FITS", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MPEG", "SGI", "WMF"}
    )
)
SUFFIXES = {suffix for suffix, name in PIL.Image.registered_extensions().items() if name in FORMATS}
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MODES = {"1", "CMYK", "HSV", "L", "LA", "LAB", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"}


def read(path: str | pathlib.Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Pixels (height, width, bands) of an image file: uint8 RGB, or uint16 of a TIFF of 13 bands.

    Pictures may be of any kind that Pillow reads with at most 8 bits a colour, told by their content. They are turned
    upright as their EXIF says, and made RGB: grey levels three times, colours of a palette looked up, CMYK as Pillow
    converts it; transparency is dropped. Of several pictures in a file the first counts.

    Args:
        path: The file.
        max_pixels: The most that it may have.

    Raises:
        InputError: The file is missing or not a readable image, has more than 8 bits a colour or too many pixels.
    """
    path = pathlib.Path(path)
    header(path, max_pixels)
    return pixels(path)


def pixels(path: pathlib.Path) -> np.ndarray:
    """What `read` returns of a file whose header was looked at already; errors are the same."""
    with _readable(path), path.open("rb") as file:
        if series := _bands(file):
            return series.asarray()
        with _picture(file) as image:
            upright = image if _orientation(image) == 1 else PIL.ImageOps.exif_transpose(image)
            return np.asarray(upright.convert("RGB"))


def header(path: str | pathlib.Path, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int, int], str]:
    """Shape (height, width, bands) and type of what `read` returns, without decoding it; errors are the same."""
    path = pathlib.Path(path)
    with _readable(path), path.open("rb") as file:
        series = _bands(file)
        shape, dtype = (series.shape, "uint16") if series else (shape_of_encoded(file, upright=True), "uint8")
    height, width, bands = shape
    if height * width > max_pixels:
        raise InputError(
            f"{path}: {width} x {height} pixels, more than the {max_pixels} that may become one patch; cut it into "
            "patches or make it smaller"
        )
    return (height, width, bands), dtype


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever the parsers stumble on in a damaged file into an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise InputError(
            f"{path}: not a readable image of a kind that is read, such as JPEG; remove or replace it"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise InputError(f"{path}: {error.strerror}; give another file") from error
        raise InputError(f"{path}: not a readable image ({first_line(error)}); remove or replace it") from error


def _bands(file) -> tifffile.TiffPageSeries | None:
    """What a TIFF of Sentinel-2's 13 bands holds, none of it read yet; `None` of a picture, which is Pillow's."""
    start = file.read(4)
    file.seek(0)
    if start not in TIFF:
        return None
    image = tifffile.TiffFile(file, is_ome=False).series[0]  # OME can name other files
    file.seek(0)
    if image.dtype in ("bool", "uint8"):
        return None
    if len(image.shape) == 3 and image.shape[-1] == 13 and image.dtype == "uint16":
        return image
    raise InputError(
        f"{pathlib.Path(file.name)}: {image.dtype} of shape {image.shape}; convert it to 8 bits a colour, or to "
        "uint16 of (height, width, 13)"
    )


@contextlib.contextmanager
def _picture(file) -> Iterator[PIL.Image.Image]:
    """A picture, opened by Pillow; nothing but its header is read.

    Raises:
        InputError: It has more than 8 bits a colour: Pillow cuts them off in some formats and clips in others.
    """
    with _opened(file) as image, warnings.catch_warnings(action="ignore"):
        if _is_deep(image, file):
            name = getattr(file, "name", f"a {image.format} picture")
            raise InputError(f"{name}: 16 bits a colour or more, of unknown scale; convert it to 8 bits")
        yield image


def _opened(file) -> PIL.ImageFile.ImageFile:
    with OPENING, warnings.catch_warnings(action="ignore"):
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None  # ours is another
        try:
            return PIL.Image.open(file, formats=FORMATS)
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def verify(path: str) -> None:
    """Raises what Pillow does for a picture that is cut off or whose checksums are wrong; decodes no pixels."""
    with pathlib.Path(path).open("rb") as file, _opened(file) as image:
        image.verify()


def _is_deep(image: PIL.ImageFile.ImageFile, file) -> bool:
    """Whether a picture has more than 8 bits a colour."""
    if image.mode not in MODES:
        return True
    if image.format == "JPEG2000":
        place = file.tell()
        file.seek(0)
        start = file.read(2**20)
        file.seek(place)
        size = start.find(b"\xff\x4f\xff\x51")  # where a codestream begins: its markers SOC and SIZ
        return size >= 0 and int.from_bytes(start[size + 42 : size + 43]) & 127 >= 8  # which is the depth less one
    layouts = [tile[3] for tile in image.tile]
    if image.format == "PPM":
        return any(isinstance(layout, tuple) and layout[1] > 255 for layout in layouts)
    return any(";16" in str(layout).replace("BGR;16", "") for layout in layouts)  # which is a BMP of 5, 6 and 5 bits


def _orientation(image: PIL.Image.Image) -> int:
    """EXIF's number for how a picture, none of whose pixels are read yet, is to be turned: 1 for not at all."""
    # Pillow turns a TIFF itself, and would read a PNG to its end to find out.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    found = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def shape_of_encoded(file, upright: bool = False) -> tuple[int, int, int]:
    """Shape (height, width, 3) of the picture in a file object; reads no pixels.

    Args:
        file: The file object.
        upright: Whether the picture will be turned as its EXIF says. `decode` does not.
    """
    with _picture(file) as image:
        turned = upright and _orientation(image) >= 5
        return (image.width, image.height, 3) if turned else (image.height, image.width, 3)


def of_one_size(images: np.ndarray | list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Images (n, height, width, bands), resized where they have other sizes."""
    return np.stack([resize(image, height, width) for image in images])


def of_type(images: np.ndarray, bands: int, dtype: np.dtype) -> np.ndarray:
    """Images (n, height, width, bands) of one size in the type that a model takes.

    Raises:
        InputError: They are no such images, or the type would make other pixels of theirs.
    """
    if images.ndim != 4 or images.shape[-1] != bands:
        raise InputError(
            f"images of shape {images.shape[1:]}: expected (height, width, {bands}) each, in a batch: "
            "predict(image[np.newaxis]) for one"
        )
    with np.errstate(invalid="ignore"):  # told below
        pixels = images.astype(dtype, copy=False)
    if pixels is not images and dtype.kind in "iu" and not np.array_equal(pixels, images):
        limits = np.iinfo(dtype)
        raise InputError(
            f"a pixel has the value {images[pixels != images][0]}: expected whole numbers from {limits.min} to "
            f"{limits.max}, as image files have them; scaling and normalising them is the model's work"
        )
    return pixels


def resize(image: np.ndarray, height: int, width: int, interpolation: str = "bilinear") -> np.ndarray:
    """An image resized as classifiers resize, antialiased, but rounded to whole pixel values of its own dtype."""
    if image.shape[:2] == (height, width):
        return image
    pixels = tf.image.resize(image, (height, width), interpolation, antialias=True)
    return tf.saturate_cast(tf.round(pixels), image.dtype).numpy()
