"""From image files to pixels: pictures through Pillow, bands of Sentinel-2 through GDAL."""

import contextlib
import dataclasses
import logging
import pathlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps
import tensorflow as tf

from resnetd_tf import sentinel2
from resnetd_tf.data import digital_numbers, rasters
from resnetd_tf.data.digital_numbers import Fault, Sample
from resnetd_tf.data.rasters import AS_STORED, BandSet, Reading
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS, parse_band_name

MAX_PIXELS = 2**26  # of a picture that becomes one patch: 8192 x 8192
logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what cannot be read, an InputError tells
PILLOW_LOCK = threading.Lock()  # Pillow's limit is the whole process's
PIL.Image.init()
# But those that Pillow only knows by name, EPS, for which it would run Ghostscript, and those that hold pictures of any
# other format or of 16 bits, which their headers do not tell.
PILLOW_FORMATS = tuple(
    sorted(
        PIL.Image.OPEN.keys()
        - {"BUFR", "DDS", "EPS", "FITS", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MPEG", "SGI", "WMF"}
    )
)
IMAGE_SUFFIXES = {suffix for suffix, name in PIL.Image.registered_extensions().items() if name in PILLOW_FORMATS}
# How files begin that may hold bands of Sentinel-2: TIFF, BigTIFF and JPEG 2000, whose pictures Pillow reads too.
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG2000_SIGNATURES = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
MIN_VALID_SHARE = 0.5  # share of the pixels of a patch that must be data
CHECKED_PIXELS = 512  # of a patch, whose numbers are looked at
MAX_POOLED_PATCHES = 100  # faulty patches whose numbers are looked at together
PICTURE_COLOUR_NAMES = {"red", "palette", "cyan", "Y"}  # first ones of TIFFs that are pictures, which Pillow makes RGB
MAX_SUSPICIOUS_SHARE = (
    0.2  # share of patches whose numbers are doubtful: of EuroSAT's own, alone in three bands, 11 % are
)
PILLOW_MODES = {"1", "CMYK", "HSV", "L", "LA", "LAB", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"}


@dataclass(frozen=True)
class Patch:
    """An image file, read.

    Attributes:
        pixels: (height, width, 3) uint8 RGB, or (height, width, 13) uint16 digital numbers in `sentinel2.BANDS`' order.
        description: How stored numbers were read; empty of a picture.
        fault: Why they can hardly be digital numbers, and what to do; `None` if nothing is doubtful.
        sample: Some of the stored numbers; `None` of a picture.
    """

    pixels: np.ndarray
    description: str = ""
    fault: Fault | None = None
    sample: Sample | None = None


def read_image(path: str | pathlib.Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Pixels (height, width, bands) of an image file: uint8 RGB, or uint16 digital numbers of 13 bands.

    Pictures may be of any kind that Pillow reads with at most 8 bits a colour, told by their content. They are turned
    upright as their EXIF says, and made RGB: grey levels three times, colours of a palette looked up, CMYK as Pillow
    converts it; transparency is dropped. Of several pictures in a file the first counts. Other files are read as
    `read_patch` reads them.

    Args:
        path: The file.
        max_pixels: The most that it may have.

    Raises:
        InputError: The file is missing or not a readable image, has too many pixels, or its numbers cannot be right.
    """
    path = pathlib.Path(path)
    read_header(path, max_pixels)
    patch = read_patch(path)
    if patch.fault:
        raise InputError(f"{path}: {patch.fault.text}")
    return patch.pixels


def read_patch(path: str | pathlib.Path, wanted: Sequence[str] | None = None, reading: Reading = AS_STORED) -> Patch:
    """An image file with what is known of its numbers; `header` looks at its size before.

    Bands of Sentinel-2 in a TIFF or another raster file become digital numbers as `rasters.open_bands` reads them. All
    13 stay as they are. Of other bands the colours are shown as EuroSAT's JPEGs show them.

    Args:
        path: The file.
        wanted: Bands that are needed, `sentinel2.RGB_BANDS` or `BANDS`; `None` for all 13 where they are there, else
            the colours.
        reading: What the user says of files that do not say it themselves.

    Raises:
        InputError: The file is missing, not a readable image, or lacks a band.
    """
    path = pathlib.Path(path)
    with _parser_errors_named(path):
        band_set = _open_raster_bands(path, reading)
        if band_set:
            return _read_bands(path, band_set, _bands_to_read(path, band_set, wanted, reading), reading)
        with path.open("rb") as file, _open_picture(file) as image:
            upright = image if _exif_orientation(image) == 1 else PIL.ImageOps.exif_transpose(image)
            return Patch(np.asarray(upright.convert("RGB")))


def read_header(
    path: str | pathlib.Path,
    max_pixels: int = MAX_PIXELS,
    wanted: Sequence[str] | None = None,
    reading: Reading = AS_STORED,
) -> tuple[tuple[int, int, int], str]:
    """Shape (height, width, bands) and type of what `read_patch` returns, without decoding it; errors are the same."""
    path = pathlib.Path(path)
    with _parser_errors_named(path):
        band_set = _open_raster_bands(path, reading)
        if band_set:
            height, width = next(iter(band_set.bands.values())).dataset.shape
            bands = len(_bands_to_read(path, band_set, wanted, reading))
        else:
            with path.open("rb") as file:
                height, width, bands = encoded_shape(file, upright=True)
    if height * width > max_pixels:
        raise InputError(
            f"{path}: {width} x {height} pixels, more than the {max_pixels} that may become one patch; cut it into "
            "patches or make it smaller"
        )
    return (height, width, bands), "uint8" if bands == 3 else "uint16"


class PatchChecks:
    """Which patches of a list have numbers that cannot be right.

    A patch alone can be so bright that it looks as if an offset was left in. Only where more of those that are read
    alike are doubtful than of EuroSAT's own, all of them are refused; any other fault refuses its patch at once.
    """

    def __init__(self) -> None:
        self.paths: dict[str, list[pathlib.Path]] = {}
        self.faulty: dict[str, dict[pathlib.Path, Patch]] = {}

    def add(self, path: pathlib.Path, patch: Patch) -> None:
        """Takes note of a patch; its pixels are not kept."""
        if not patch.description:
            return
        self.paths.setdefault(patch.description, []).append(path)
        if patch.fault:
            numbers = dataclasses.replace(patch, pixels=np.empty(0))
            self.faulty.setdefault(patch.description, {})[path] = numbers

    def note(self) -> str:
        """What to say of bright patches that are not refused; empty where there are none."""
        refused = {path for paths in self.refusals().values() for path in paths}
        bright = [path for faulty in self.faulty.values() for path in faulty if path not in refused]
        count = sum(map(len, self.paths.values()))
        return f"{len(bright)} of {count} images are as bright as if an offset was in them" if bright else ""

    def refusals(self) -> dict[str, list[pathlib.Path]]:
        """Patches that are refused, by the reason why."""
        refused: dict[str, list[pathlib.Path]] = {}
        for description, faulty in self.faulty.items():
            paths = self.paths[description]
            first = next(iter(faulty.values()))
            if len(faulty) > MAX_SUSPICIOUS_SHARE * len(paths):
                samples = [patch.sample for patch in faulty.values() if patch.sample][:MAX_POOLED_PATCHES]
                together = digital_numbers.find_fault(digital_numbers.pool_samples(samples)) or first.fault
                also = f" (so for {len(faulty)} of {len(paths)} images)" if len(paths) > 1 else ""
                refused[f"{next(iter(faulty))}: {together.text if together else ''}{also}"] = paths
                continue
            for path, patch in faulty.items():
                if patch.fault and not patch.fault.can_be_bright_ground:
                    refused[f"{path}: {patch.fault.text}"] = [path]
        return refused


def _open_raster_bands(path: pathlib.Path, reading: Reading) -> BandSet | None:
    """The bands of a file that GDAL reads; `None` of a picture, which is Pillow's.

    Raises:
        InputError: It has bands that cannot be told, or is a picture for which numbers are explained.
    """
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        if start.startswith((*TIFF_SIGNATURES, *JPEG2000_SIGNATURES)):
            band_set = _open_tiff_bands(path, reading)
            if band_set:
                return band_set
        try:
            with _open_picture(file):
                pass
        except PIL.UnidentifiedImageError:
            with contextlib.suppress(rasters.NotARaster):  # else such as a VRT or an ENVI file
                return rasters.open_bands(path, reading)
            raise
    if reading.flags:
        raise InputError(f"{path} is a picture of 8 bits, whose colours are taken as they are: no {reading.flags}")
    return None


def _open_tiff_bands(path: pathlib.Path, reading: Reading) -> BandSet | None:
    """The bands of a TIFF or JPEG 2000; `None` of a picture, or of what GDAL does not open."""
    try:
        dataset = rasters.open_raster(str(path))
    except rasters.NotARaster:
        return None
    has_names = any(map(parse_band_name, dataset.descriptions)) or reading.bands is not None
    is_small = set(dataset.dtypes) == {"uint8"} and dataset.count <= 4 and len(dataset.subdatasets) < 2
    colours = [colour.name for colour in dataset.colorinterp]
    is_picture = len(colours) == 1 or colours[0] in PICTURE_COLOUR_NAMES or colours[1:] == ["alpha"]
    if dataset.driver != "GTiff":
        is_picture = _pillow_decodes(path)
    if is_small and not has_names and is_picture:
        return None
    takes_picture = reading.scale is None and reading.offset is None
    return rasters.open_bands(path, reading, takes_picture, dataset)


def _pillow_decodes(path: pathlib.Path) -> bool:
    """Whether Pillow reads all of a picture: of the JPEG 2000 that GDAL writes it reads some not."""
    try:
        with path.open("rb") as file, _open_with_pillow(file) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def _bands_to_read(
    path: pathlib.Path, band_set: BandSet, wanted: Sequence[str] | None, reading: Reading
) -> Sequence[str]:
    """The bands that are read of a file."""
    if wanted is None:
        wanted = BANDS if set(BANDS) <= band_set.bands.keys() else RGB_BANDS
    rasters.missing_bands(str(path), band_set, wanted, reading)
    return wanted


def _read_bands(path: pathlib.Path, band_set: BandSet, wanted: Sequence[str], reading: Reading) -> Patch:
    """A patch of bands, missing pixels filled with the mean of the others; all of its bands are checked."""
    names, bands = list(band_set.bands), list(band_set.bands.values())
    stored = rasters.read_bands(bands)
    valid = rasters.valid_mask(bands, stored)
    step = max(1, int((valid.size / CHECKED_PIXELS) ** 0.5))
    is_declared = valid[::step, ::step].copy()
    numbers = stored if band_set.is_picture else rasters.to_digital_numbers(bands, stored, valid)
    fault = sample = None
    if not band_set.is_picture and is_declared.any():
        some = valid[::step, ::step]
        looked_at = some if some.sum() > is_declared.sum() // 2 else is_declared  # else the scale makes them impossible
        sample = rasters.make_sample(band_set.bands, stored[::step, ::step], looked_at)
        fault = rasters.find_number_fault(band_set, sample, reading)
    if valid.mean() < MIN_VALID_SHARE and not fault:
        raise InputError(f"{path}: {100 * (1 - valid.mean()):.0f} % of its pixels have no data")
    if not valid.all() and valid.any():
        numbers[~valid] = np.rint(numbers[valid].mean(axis=0))
    pixels = np.empty((*numbers.shape[:2], len(wanted)), numbers.dtype)
    if reading.fill is not None:
        pixels[:] = np.rint(reading.fill)
    for place, name in enumerate(wanted):
        if name in names:
            pixels[..., place] = numbers[..., names.index(name)]
    if len(wanted) == 3 and not band_set.is_picture:
        pixels = sentinel2.compress_as_eurosat(sentinel2.render_colours(pixels))
    return Patch(pixels, "" if band_set.is_picture else band_set.description, fault, sample)


@contextlib.contextmanager
def _parser_errors_named(path: pathlib.Path) -> Iterator[None]:
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


@contextlib.contextmanager
def _open_picture(file) -> Iterator[PIL.Image.Image]:
    """A picture, opened by Pillow; nothing but its header is read.

    Raises:
        InputError: It has more than 8 bits a colour: Pillow cuts them off in some formats and clips in others.
    """
    with _open_with_pillow(file) as image, warnings.catch_warnings(action="ignore"):
        if _exceeds_8_bits(image, file):
            name = getattr(file, "name", f"a {image.format} picture")
            raise InputError(f"{name}: 16 bits a colour or more, of unknown scale; convert it to 8 bits")
        yield image


def _open_with_pillow(file) -> PIL.ImageFile.ImageFile:
    with PILLOW_LOCK, warnings.catch_warnings(action="ignore"):
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None  # ours is another
        try:
            return PIL.Image.open(file, formats=PILLOW_FORMATS)
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def verify_picture(path: str) -> None:
    """Raises what Pillow does for a picture that is cut off or whose checksums are wrong; decodes no pixels."""
    with pathlib.Path(path).open("rb") as file, _open_with_pillow(file) as image:
        image.verify()


def _exceeds_8_bits(image: PIL.ImageFile.ImageFile, file) -> bool:
    """Whether a picture has more than 8 bits a colour."""
    if image.mode not in PILLOW_MODES:
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


def _exif_orientation(image: PIL.Image.Image) -> int:
    """EXIF's number for how a picture, none of whose pixels are read yet, is to be turned: 1 for not at all."""
    # Pillow turns a TIFF itself, and would read a PNG to its end to find out.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    found = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    return found if found in range(1, 9) else 1


def encoded_shape(file, upright: bool = False) -> tuple[int, int, int]:
    """Shape (height, width, 3) of the picture in a file object; reads no pixels.

    Args:
        file: The file object.
        upright: Whether the picture will be turned as its EXIF says. `decode` does not.
    """
    with _open_picture(file) as image:
        turned = upright and _exif_orientation(image) >= 5
        return (image.width, image.height, 3) if turned else (image.height, image.width, 3)


def resize_all(images: np.ndarray | list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Images (n, height, width, bands), resized where they have other sizes."""
    return np.stack([resize_image(image, height, width) for image in images])


def convert_dtype(images: np.ndarray, bands: int, dtype: np.dtype) -> np.ndarray:
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


def resize_image(image: np.ndarray, height: int, width: int, interpolation: str = "bilinear") -> np.ndarray:
    """An image resized as classifiers resize, antialiased, but rounded to whole pixel values of its own dtype."""
    if image.shape[:2] == (height, width):
        return image
    pixels = tf.image.resize(image, (height, width), interpolation, antialias=True)
    return tf.saturate_cast(tf.round(pixels), image.dtype).numpy()


# From encoded pictures to pixels in TensorFlow's graphs, where datasets and served models decode them.


# In EXIF, of either byte order and of JPEG or PNG, or in XMP: the tag Orientation with another value than 1, also where
# only a thumbnail in the EXIF is to be turned: refused once too often rather than classified lying on its side.
ROTATION_PATTERN = r"\C*(?:(?:Exif\x00\x00|eXIf)(?:II\*\x00\C*\x12\x01[\x01\x03\x04]\x00\x01\x00\x00\x00[\x02-\x08]"
ROTATION_PATTERN += (
    r"|MM\x00\*\C*\x01\x12\x00[\x01\x03\x04]\x00\x00\x00\x01\x00*[\x02-\x08])|tiff:Orientation(?:=\"|>)[2-8])\C*"
)


def decode_picture(encoded, bands: int = 3, max_pixels: int = MAX_PIXELS):
    """Pixels (height, width, bands) uint8 of an encoded JPEG or PNG, as Pillow, OpenCV and browsers decode it.

    TensorFlow's default takes a faster cosine transform: on EuroSAT it is off by 3 grey levels or
    more somewhere in every patch, which is enough to change what a network sees.

    Args:
        encoded: Scalar string, the content of the file.
        bands: Number of bands.
        max_pixels: The most that it may have, by its header: a small file can be of a picture that fills the memory.

    Raises:
        tf.errors.InvalidArgumentError: It has a `problem`, or is damaged.
    """
    wrong = picture_problem(encoded, max_pixels)
    with tf.control_dependencies([tf.debugging.Assert(wrong == "", [wrong])]):
        return tf.io.decode_jpeg(encoded, channels=bands, dct_method="INTEGER_ACCURATE")


def picture_problem(encoded, max_pixels: int = MAX_PIXELS):
    """Why `decode` does not take an encoded picture, by its header: a scalar string, empty if it does.

    Raises:
        tf.errors.InvalidArgumentError: The header of a JPEG is damaged.
    """
    png = tf.strings.substr(encoded, 0, 8) == b"\x89PNG\r\n\x1a\n"
    jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"

    def by_header():
        height, width, depth = tf.cond(png, lambda: _png_header(encoded), lambda: _jpeg_header(encoded))
        # Width times height could be more than an int64 holds
        fits = (height > 0) & (width > 0) & (height <= max_pixels // tf.maximum(width, 1))
        size = tf.strings.join([tf.strings.as_string(width), tf.strings.as_string(height)], " x ")
        large = tf.strings.join(["picture of ", size, f" pixels: more than {max_pixels}, or none"])
        return tf.where(
            depth > 8, "16 bits a colour, of unknown scale; convert it to 8 bits", tf.where(fits, "", large)
        )

    known = (png | jpeg) & (tf.strings.length(encoded) > 32)
    return tf.cond(known, by_header, lambda: tf.constant("not a JPEG or PNG file"))


def has_rotation(encoded):
    """Whether an encoded picture says that it is to be turned or mirrored, in EXIF or XMP; a scalar bool."""
    return tf.strings.regex_full_match(encoded, ROTATION_PATTERN)


def _png_header(encoded):
    """Height, width and bits a colour (int64) of an encoded PNG."""
    place = [256**3, 256**2, 256, 1]
    start = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 16, 9), tf.uint8), tf.int64)
    return tf.reduce_sum(start[4:8] * place), tf.reduce_sum(start[:4] * place), start[8]


def _jpeg_header(encoded):
    """The same of a JPEG; those of 12 bits, TensorFlow refuses."""
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    return shape[0], shape[1], tf.constant(8, tf.int64)
