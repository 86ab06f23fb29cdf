"""Image files as pixels: pictures through Pillow, Sentinel-2 bands through GDAL, decoding in TensorFlow's graphs."""

import contextlib
import dataclasses
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
from resnetd_tf.data.rasters import AS_STORED, BandSet, RasterOptions
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS, parse_band_name

MAX_PIXELS = 2**26  # pixels of an image that becomes one patch: 8192 x 8192
MIN_VALID_SHARE = 0.5  # share of a patch's pixels that must be data
CHECKED_PIXELS = 512  # pixels of a patch whose numbers are checked
MAX_POOLED_PATCHES = 100  # faulty patches whose numbers are checked together
# Share of patches whose numbers may be doubtful: EuroSAT's own are in 11 % of the cases, with three bands.
MAX_SUSPICIOUS_SHARE = 0.2

PIL.Image.init()
# Pillow's formats without EPS, for which Pillow would run Ghostscript, without those that Pillow knows only by name,
# and without those that may hold a picture of any other format or of 16 bits, which their headers do not say.
PILLOW_FORMATS = tuple(
    sorted(
        PIL.Image.OPEN.keys()
        - {"BUFR", "DDS", "EPS", "FITS", "GRIB", "HDF5", "ICNS", "ICO", "IPTC", "MPEG", "SGI", "WMF"}
    )
)
IMAGE_SUFFIXES = {suffix for suffix, name in PIL.Image.registered_extensions().items() if name in PILLOW_FORMATS}
# Pillow's modes with at most 8 bits a colour.
PILLOW_MODES = {"1", "CMYK", "HSV", "L", "LA", "LAB", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr"}
PILLOW_LOCK = threading.Lock()  # Pillow's limit of pixels is a variable of the process

# First bytes of files that may hold bands of Sentinel-2 and that Pillow reads too: TIFF, BigTIFF and JPEG 2000.
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG2000_SIGNATURES = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
# First colours of TIFFs that are pictures, which Pillow converts to RGB.
PICTURE_COLOUR_NAMES = {"red", "palette", "cyan", "Y"}


@dataclass(frozen=True)
class Patch:
    """The content of an image file.

    Attributes:
        pixels: (height, width, 3) uint8 RGB, or (height, width, 13) uint16 digital numbers in the order of
            `sentinel2.BANDS`.
        description: How stored numbers became digital numbers; empty for a picture whose colours are as they are.
        fault: Why the numbers can hardly be digital numbers, and what to do; `None` if nothing is doubtful.
        sample: Some of the stored numbers; `None` for a picture.
    """

    pixels: np.ndarray
    description: str = ""
    fault: Fault | None = None
    sample: Sample | None = None


@dataclass(frozen=True)
class OpenImage:
    """An image file whose header has been read, but not its pixels.

    Attributes:
        path: The file.
        shape: Shape (height, width, bands) of the pixels that `read` returns.
        band_set: The bands of a raster file; `None` for a picture.
        band_names: Names of the bands that `read` returns; empty for a picture.
        raster_options: The user's names of bands, scale and offset.
    """

    path: pathlib.Path
    shape: tuple[int, int, int]
    band_set: BandSet | None
    band_names: Sequence[str]
    raster_options: RasterOptions

    @property
    def dtype(self) -> str:
        """Type of the pixels that `read` returns."""
        return "uint8" if self.shape[-1] == 3 else "uint16"

    def read(self) -> Patch:
        """Reads the pixels.

        Raises:
            InputError: The file is damaged, or most of its pixels have no data.
        """
        with _name_parser_errors(self.path):
            if self.band_set:
                return _read_bands(self.path, self.band_set, self.band_names, self.raster_options)
            pixels, conversion = _read_picture(self.path), rasters.picture_conversion(self.path, self.raster_options)
            if conversion is None:
                return Patch(pixels)
            text = rasters.describe_stated_picture(self.raster_options)
            return Patch(sentinel2.render_levels(pixels, *conversion), f"{rasters.TRUE_COLOUR}, {text}")


def open_image(
    path: str | pathlib.Path,
    max_pixels: int = MAX_PIXELS,
    required_bands: Sequence[str] | None = None,
    raster_options: RasterOptions = AS_STORED,
) -> OpenImage:
    """Opens an image file and reads its header.

    The content of the file, not its name, decides how it is read. Bands in a TIFF or another raster file become digital
    numbers as `rasters.open_bands` says. All 13 bands stay digital numbers; three colours are rendered as EuroSAT's
    JPEG files show them. Pictures may be of any kind that Pillow reads, with at most 8 bits a colour.

    Args:
        path: The file.
        max_pixels: The largest permitted number of pixels.
        required_bands: The bands to read from raster files, `sentinel2.RGB_BANDS` or `sentinel2.BANDS`; `None` for all
            13 in files that have them, and the colours in others.
        raster_options: Names of bands, scale and offset of raster files that do not state them.

    Raises:
        InputError: The file is missing, is not a readable image, lacks a band or has too many pixels.
    """
    path = pathlib.Path(path)
    with _name_parser_errors(path):
        band_set = _open_raster_bands(path, raster_options)
        band_names: Sequence[str] = ()
        if band_set:
            band_names = _select_bands(path, band_set, required_bands, raster_options)
            height, width = next(iter(band_set.bands.values())).dataset.shape
            shape = (height, width, len(band_names))
        else:
            with path.open("rb") as file:
                shape = encoded_shape(file, upright=True)
    if shape[0] * shape[1] > max_pixels:
        raise InputError(
            f"{path}: {shape[1]} x {shape[0]} pixels, more than the {max_pixels} that may become one patch; cut it "
            "into patches or make it smaller"
        )
    return OpenImage(path, shape, band_set, band_names, raster_options)


def read_image(path: str | pathlib.Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads the pixels of an image file.

    Pictures are turned upright as their EXIF says, and converted to RGB: grey levels are repeated, colours of a palette
    looked up, CMYK converted by Pillow, transparency dropped. A file of several pictures gives its first.

    Args:
        path: The file.
        max_pixels: The largest permitted number of pixels.

    Returns:
        (height, width, 3) uint8 RGB, or (height, width, 13) uint16 digital numbers in the order of `sentinel2.BANDS`.

    Raises:
        InputError: The file is missing, is not a readable image or has too many pixels, or its numbers can hardly be
            digital numbers.
    """
    patch = open_image(path, max_pixels).read()
    if patch.fault:
        raise InputError(f"{path}: {patch.fault.text}")
    return patch.pixels


def read_patch(
    path: str | pathlib.Path, required_bands: Sequence[str] | None = None, raster_options: RasterOptions = AS_STORED
) -> Patch:
    """Reads an image file, with a check of its numbers.

    Args:
        path: The file.
        required_bands: The bands to read, as in `open_image`.
        raster_options: Names of bands, scale and offset of raster files that do not state them.

    Raises:
        InputError: `open_image` or `OpenImage.read` refuses the file.
    """
    return open_image(path, required_bands=required_bands, raster_options=raster_options).read()


def read_header(
    path: str | pathlib.Path,
    max_pixels: int = MAX_PIXELS,
    required_bands: Sequence[str] | None = None,
    raster_options: RasterOptions = AS_STORED,
) -> tuple[tuple[int, int, int], str]:
    """Returns shape (height, width, bands) and type of the pixels of an image file, without decoding them.

    The arguments and errors are those of `open_image`.
    """
    image = open_image(path, max_pixels, required_bands, raster_options)
    return image.shape, image.dtype


class PatchChecks:
    """Collects the checks of many patches and decides which patches are refused.

    A single patch of bright ground can look as if an offset was left in. Patches that are read alike are refused for
    that only together, if the share of doubtful ones exceeds EuroSAT's own. Any other fault refuses its patch alone.
    """

    def __init__(self) -> None:
        self.paths: dict[str, list[pathlib.Path]] = {}  # all patches, by description
        self.faulty: dict[str, dict[pathlib.Path, Patch]] = {}  # patches with a fault, by description

    def add(self, path: pathlib.Path, patch: Patch) -> None:
        """Records a patch, without keeping its pixels."""
        if not patch.description:
            return
        self.paths.setdefault(patch.description, []).append(path)
        if patch.fault:
            without_pixels = dataclasses.replace(patch, pixels=np.empty(0))
            self.faulty.setdefault(patch.description, {})[path] = without_pixels

    def refusals(self) -> dict[str, list[pathlib.Path]]:
        """Returns the refused patches by the reason why."""
        refused: dict[str, list[pathlib.Path]] = {}
        for description, faulty in self.faulty.items():
            paths = self.paths[description]
            first_path, first_patch = next(iter(faulty.items()))
            if len(faulty) > MAX_SUSPICIOUS_SHARE * len(paths):
                samples = [patch.sample for patch in faulty.values() if patch.sample][:MAX_POOLED_PATCHES]
                fault = digital_numbers.find_fault(digital_numbers.pool_samples(samples)) or first_patch.fault
                count = f" (so for {len(faulty)} of {len(paths)} images)" if len(paths) > 1 else ""
                refused[f"{first_path}: {fault.text if fault else ''}{count}"] = paths
                continue
            for path, patch in faulty.items():
                if patch.fault and not patch.fault.can_be_bright_ground:
                    refused[f"{path}: {patch.fault.text}"] = [path]
        return refused

    def note(self) -> str:
        """Returns a sentence on bright patches that are not refused; empty if there are none."""
        refused = {path for paths in self.refusals().values() for path in paths}
        bright = [path for faulty in self.faulty.values() for path in faulty if path not in refused]
        count = sum(map(len, self.paths.values()))
        return f"{len(bright)} of {count} images are as bright as if an offset was in them" if bright else ""


@contextlib.contextmanager
def _name_parser_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns any exception of a parser of a damaged file into an InputError that names the file."""
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


# Pictures, which Pillow reads.


def encoded_shape(file, upright: bool = False) -> tuple[int, int, int]:
    """Returns the shape (height, width, 3) of the picture in a file object, without decoding its pixels.

    Args:
        file: The file object.
        upright: Whether to return the shape after turning as EXIF says, which `decode_picture` does not.
    """
    with _open_picture(file) as image:
        is_turned = upright and _exif_orientation(image) >= 5
        return (image.width, image.height, 3) if is_turned else (image.height, image.width, 3)


def verify_picture(path: str) -> None:
    """Raises Pillow's exception if a picture is cut off or a checksum in it is wrong; decodes no pixels."""
    with pathlib.Path(path).open("rb") as file, _open_with_pillow(file) as image:
        image.verify()


def _read_picture(path: pathlib.Path) -> np.ndarray:
    """Reads a picture upright as (height, width, 3) uint8 RGB."""
    with path.open("rb") as file, _open_picture(file) as image:
        upright = image if _exif_orientation(image) == 1 else PIL.ImageOps.exif_transpose(image)
        return np.asarray(upright.convert("RGB"))


@contextlib.contextmanager
def _open_picture(file) -> Iterator[PIL.Image.Image]:
    """Opens a picture with Pillow, which reads only its header.

    Raises:
        InputError: The picture has more than 8 bits a colour, which Pillow cuts off or clips, depending on the format.
    """
    with _open_with_pillow(file) as image, warnings.catch_warnings(action="ignore"):
        if _exceeds_8_bits(image, file):
            name = getattr(file, "name", f"a {image.format} picture")
            raise InputError(f"{name}: 16 bits a colour or more, of unknown scale; convert it to 8 bits")
        yield image


def _open_with_pillow(file) -> PIL.ImageFile.ImageFile:
    with PILLOW_LOCK, warnings.catch_warnings(action="ignore"):
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None  # `open_image` has its own limit
        try:
            return PIL.Image.open(file, formats=PILLOW_FORMATS)
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def _can_pillow_decode(path: pathlib.Path) -> bool:
    """Returns whether Pillow decodes a whole picture, which it does not for some JPEG 2000 files written by GDAL."""
    try:
        with path.open("rb") as file, _open_with_pillow(file) as image:
            image.load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


def _exceeds_8_bits(image: PIL.ImageFile.ImageFile, file) -> bool:
    """Returns whether a picture has more than 8 bits a colour."""
    if image.mode not in PILLOW_MODES:
        return True
    if image.format == "JPEG2000":
        position = file.tell()
        file.seek(0)
        start = file.read(2**20)
        file.seek(position)
        codestream = start.find(b"\xff\x4f\xff\x51")  # begins with the markers SOC and SIZ
        depth_less_one = int.from_bytes(start[codestream + 42 : codestream + 43]) & 127
        return codestream >= 0 and depth_less_one >= 8
    layouts = [tile[3] for tile in image.tile]
    if image.format == "PPM":
        return any(isinstance(layout, tuple) and layout[1] > 255 for layout in layouts)
    return any(";16" in str(layout).replace("BGR;16", "") for layout in layouts)  # BGR;16: a BMP of 5, 6 and 5 bits


def _exif_orientation(image: PIL.Image.Image) -> int:
    """Returns EXIF's number, from 1 for upright to 8, for how a picture is to be turned; no pixels may be read yet."""
    # Pillow turns a TIFF itself, and would read a PNG to its end for the EXIF behind the pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    orientation = image.getexif().get(PIL.ExifTags.Base.Orientation, 1)
    return orientation if orientation in range(1, 9) else 1


# Bands of Sentinel-2, which GDAL reads.


def _open_raster_bands(path: pathlib.Path, raster_options: RasterOptions) -> BandSet | None:
    """Opens the bands of a file that GDAL reads; returns `None` for a picture, which Pillow reads.

    Raises:
        InputError: The file's bands are unknown, or the user states numbers for a picture.
    """
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        if start.startswith((*TIFF_SIGNATURES, *JPEG2000_SIGNATURES)):
            band_set = _open_tiff_bands(path, raster_options)
            if band_set:
                return band_set
        try:
            with _open_picture(file):
                pass
        except PIL.UnidentifiedImageError:
            with contextlib.suppress(rasters.NotARaster):  # a VRT, an ENVI file and so on
                return rasters.open_bands(path, raster_options)
            raise
    rasters.picture_conversion(path, raster_options)
    if raster_options.bands:
        raise InputError(
            f"{path} is a picture of 8 bits, whose colours are red, green and blue: no "
            f"--bands={','.join(raster_options.bands)}"
        )
    return None


def _open_tiff_bands(path: pathlib.Path, raster_options: RasterOptions) -> BandSet | None:
    """Opens the bands of a TIFF or JPEG 2000; returns `None` for a picture, and for files that GDAL does not open."""
    try:
        dataset = rasters.open_raster(str(path))
    except rasters.NotARaster:
        return None
    has_names = any(map(parse_band_name, dataset.descriptions)) or raster_options.bands is not None
    has_8_bits = set(dataset.dtypes) == {"uint8"} and dataset.count <= 4 and len(dataset.subdatasets) < 2
    colours = [colour.name for colour in dataset.colorinterp]
    is_picture = len(colours) == 1 or colours[0] in PICTURE_COLOUR_NAMES or colours[1:] == ["alpha"]
    if dataset.driver != "GTiff":
        is_picture = _can_pillow_decode(path)
    if has_8_bits and not has_names and is_picture:
        return None
    accepts_picture = raster_options.scale is None and raster_options.offset is None
    return rasters.open_bands(path, raster_options, accepts_picture, dataset)


def _select_bands(
    path: pathlib.Path, band_set: BandSet, required_bands: Sequence[str] | None, raster_options: RasterOptions
) -> Sequence[str]:
    """Returns the names of the bands to read from a file.

    Raises:
        InputError: The file lacks one that nothing fills in.
    """
    if required_bands is None:
        required_bands = BANDS if set(BANDS) <= band_set.bands.keys() else RGB_BANDS
    rasters.missing_bands(str(path), band_set, required_bands, raster_options)
    return required_bands


def _read_bands(
    path: pathlib.Path, band_set: BandSet, band_names: Sequence[str], raster_options: RasterOptions
) -> Patch:
    """Reads a patch of bands; missing pixels get the mean of the others.

    Args:
        path: The file, for messages.
        band_set: Its bands, whose numbers are all checked.
        band_names: The bands to return.
        raster_options: The user's options, whose `fill` replaces missing bands.

    Raises:
        InputError: The file is damaged, or most of its pixels have no data.
    """
    names, bands = list(band_set.bands), list(band_set.bands.values())
    stored = rasters.read_bands(bands)
    valid = rasters.valid_mask(bands, stored)
    step = max(1, int((valid.size / CHECKED_PIXELS) ** 0.5))
    checked_stored, declared_valid = stored[::step, ::step], valid[::step, ::step].copy()
    numbers = stored if band_set.is_picture else rasters.to_digital_numbers(bands, stored, valid)
    fault = sample = None
    if not band_set.is_picture and declared_valid.any():
        checked_valid = valid[::step, ::step]
        if checked_valid.sum() <= declared_valid.sum() // 2:  # a wrong scale made most numbers impossible
            checked_valid = declared_valid
        sample = rasters.make_sample(band_set.bands, checked_stored, checked_valid)
        fault = rasters.find_number_fault(band_set, sample, raster_options)
    if valid.mean() < MIN_VALID_SHARE and not fault:
        raise InputError(f"{path}: {100 * (1 - valid.mean()):.0f} % of its pixels have no data")
    if not valid.all() and valid.any():
        numbers[~valid] = np.rint(numbers[valid].mean(axis=0))
    pixels = np.empty((*numbers.shape[:2], len(band_names)), numbers.dtype)
    if raster_options.fill is not None:
        pixels[:] = np.rint(raster_options.fill)
    for index, name in enumerate(band_names):
        if name in names:
            pixels[..., index] = numbers[..., names.index(name)]
    if len(band_names) == 3 and not band_set.is_picture:
        pixels = sentinel2.compress_as_eurosat(sentinel2.render_colours(pixels))
    return Patch(pixels, "" if band_set.is_picture else band_set.description, fault, sample)


# Arrays of pixels as a model takes them.


def resize_all(images: np.ndarray | list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Returns images as an array (n, height, width, bands), resized where they have another size.

    Args:
        images: (n, rows, columns, bands), or a list of images (rows, columns, bands) of any sizes.
        height: Number of rows of the result.
        width: Number of columns of the result.
    """
    return np.stack([resize_image(image, height, width) for image in images])


def resize_image(image: np.ndarray, height: int, width: int, interpolation: str = "bilinear") -> np.ndarray:
    """Resizes an image as classifiers do, with antialiasing, but rounded to values of its own dtype.

    Args:
        image: (rows, columns, bands).
        height: New number of rows.
        width: New number of columns.
        interpolation: "bilinear" or "bicubic".

    Returns:
        (height, width, bands) of the same dtype.
    """
    if image.shape[:2] == (height, width):
        return image
    pixels = tf.image.resize(image, (height, width), interpolation, antialias=True)
    return tf.saturate_cast(tf.round(pixels), image.dtype).numpy()


def convert_dtype(images: np.ndarray, bands: int, dtype: np.dtype) -> np.ndarray:
    """Converts images to the type that a model takes, if that changes no value.

    Args:
        images: (n, height, width, bands).
        bands: Number of bands that the model takes.
        dtype: Type that the model takes.

    Raises:
        InputError: The images have another shape, or values that the type cannot hold.
    """
    if images.ndim != 4 or images.shape[-1] != bands:
        raise InputError(
            f"images of shape {images.shape[1:]}: expected (height, width, {bands}) each, in a batch: "
            "predict(image[np.newaxis]) for one"
        )
    with np.errstate(invalid="ignore"):  # the comparison below finds them
        pixels = images.astype(dtype, copy=False)
    if pixels is not images and dtype.kind in "iu" and not np.array_equal(pixels, images):
        limits = np.iinfo(dtype)
        raise InputError(
            f"a pixel has the value {images[pixels != images][0]}: expected whole numbers from {limits.min} to "
            f"{limits.max}, as image files have them; scaling and normalising them is the model's work"
        )
    return pixels


# Decoding in TensorFlow's graphs, as datasets and served models do.

# The tag Orientation with another value than 1: in EXIF of either byte order, in JPEG or PNG, or in XMP. The pattern
# also matches a thumbnail that is to be turned: a needless refusal is better than classifying a picture on its side.
ROTATION_PATTERN = r"\C*(?:(?:Exif\x00\x00|eXIf)(?:II\*\x00\C*\x12\x01[\x01\x03\x04]\x00\x01\x00\x00\x00[\x02-\x08]"
ROTATION_PATTERN += (
    r"|MM\x00\*\C*\x01\x12\x00[\x01\x03\x04]\x00\x00\x00\x01\x00*[\x02-\x08])|tiff:Orientation(?:=\"|>)[2-8])\C*"
)


def decode_picture(encoded, bands: int = 3, max_pixels: int = MAX_PIXELS):
    """Decodes a JPEG or PNG as Pillow, OpenCV and browsers do.

    TensorFlow's default is a faster cosine transform. On EuroSAT it is off by 3 grey levels or more somewhere in every
    patch, which is enough to change a network's answer.

    Args:
        encoded: Scalar string, the content of the file.
        bands: Number of bands.
        max_pixels: The largest permitted number of pixels by the header, because a small file can hold a huge picture.

    Returns:
        Pixels (height, width, bands) uint8.

    Raises:
        tf.errors.InvalidArgumentError: The picture has a `picture_problem`, or is damaged.
    """
    problem = picture_problem(encoded, max_pixels)
    with tf.control_dependencies([tf.debugging.Assert(problem == "", [problem])]):
        return tf.io.decode_jpeg(encoded, channels=bands, dct_method="INTEGER_ACCURATE")


def picture_problem(encoded, max_pixels: int = MAX_PIXELS):
    """Returns why `decode_picture` refuses an encoded picture, judged by its header.

    Args:
        encoded: Scalar string, the content of the file.
        max_pixels: The largest permitted number of pixels.

    Returns:
        Scalar string, empty if nothing is wrong.

    Raises:
        tf.errors.InvalidArgumentError: The header of a JPEG is damaged.
    """
    png = tf.strings.substr(encoded, 0, 8) == b"\x89PNG\r\n\x1a\n"
    jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"

    def check_header():
        height, width, depth = tf.cond(png, lambda: _png_header(encoded), lambda: _jpeg_header(encoded))
        # Width times height could overflow an int64
        fits = (height > 0) & (width > 0) & (height <= max_pixels // tf.maximum(width, 1))
        size = tf.strings.join([tf.strings.as_string(width), tf.strings.as_string(height)], " x ")
        too_large = tf.strings.join(["picture of ", size, f" pixels: more than {max_pixels}, or none"])
        return tf.where(
            depth > 8, "16 bits a colour, of unknown scale; convert it to 8 bits", tf.where(fits, "", too_large)
        )

    is_known = (png | jpeg) & (tf.strings.length(encoded) > 32)
    return tf.cond(is_known, check_header, lambda: tf.constant("not a JPEG or PNG file"))


def has_rotation(encoded):
    """Returns whether EXIF or XMP in an encoded picture says to turn or mirror it, as a scalar bool."""
    return tf.strings.regex_full_match(encoded, ROTATION_PATTERN)


def _png_header(encoded):
    """Returns height, width and bits a colour (int64) of an encoded PNG."""
    weights = [256**3, 256**2, 256, 1]  # big-endian
    start = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 16, 9), tf.uint8), tf.int64)
    return tf.reduce_sum(start[4:8] * weights), tf.reduce_sum(start[:4] * weights), start[8]


def _jpeg_header(encoded):
    """Returns height, width and bits a colour (int64) of an encoded JPEG; TensorFlow refuses those of 12 bits."""
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    return shape[0], shape[1], tf.constant(8, tf.int64)
