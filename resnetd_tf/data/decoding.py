"""From encoded pictures to pixels in TensorFlow's graphs, where datasets and served models decode them."""

import tensorflow as tf

from resnetd_tf.data.images import MAX_PIXELS

# In EXIF, of either byte order and of JPEG or PNG, or in XMP: the tag Orientation with another value than 1, also where
# only a thumbnail in the EXIF is to be turned: refused once too often rather than classified lying on its side.
TURNED = r"\C*(?:(?:Exif\x00\x00|eXIf)(?:II\*\x00\C*\x12\x01[\x01\x03\x04]\x00\x01\x00\x00\x00[\x02-\x08]"
TURNED += r"|MM\x00\*\C*\x01\x12\x00[\x01\x03\x04]\x00\x00\x00\x01\x00*[\x02-\x08])|tiff:Orientation(?:=\"|>)[2-8])\C*"


def decode(encoded, bands: int = 3, max_pixels: int = MAX_PIXELS):
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
    wrong = problem(encoded, max_pixels)
    with tf.control_dependencies([tf.debugging.Assert(wrong == "", [wrong])]):
        return tf.io.decode_jpeg(encoded, channels=bands, dct_method="INTEGER_ACCURATE")


def problem(encoded, max_pixels: int = MAX_PIXELS):
    """Why `decode` does not take an encoded picture, by its header: a scalar string, empty if it does.

    Raises:
        tf.errors.InvalidArgumentError: The header of a JPEG is damaged.
    """
    png = tf.strings.substr(encoded, 0, 8) == b"\x89PNG\r\n\x1a\n"
    jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"

    def by_header():
        height, width, depth = tf.cond(png, lambda: _header_of_png(encoded), lambda: _header_of_jpeg(encoded))
        # Width times height could be more than an int64 holds
        fits = (height > 0) & (width > 0) & (height <= max_pixels // tf.maximum(width, 1))
        size = tf.strings.join([tf.strings.as_string(width), tf.strings.as_string(height)], " x ")
        large = tf.strings.join(["picture of ", size, f" pixels: more than {max_pixels}, or none"])
        return tf.where(
            depth > 8, "16 bits a colour, of unknown scale; convert it to 8 bits", tf.where(fits, "", large)
        )

    known = (png | jpeg) & (tf.strings.length(encoded) > 32)
    return tf.cond(known, by_header, lambda: tf.constant("not a JPEG or PNG file"))


def is_turned(encoded):
    """Whether an encoded picture says that it is to be turned or mirrored, in EXIF or XMP; a scalar bool."""
    return tf.strings.regex_full_match(encoded, TURNED)


def _header_of_png(encoded):
    """Height, width and bits a colour (int64) of an encoded PNG."""
    place = [256**3, 256**2, 256, 1]
    start = tf.cast(tf.io.decode_raw(tf.strings.substr(encoded, 16, 9), tf.uint8), tf.int64)
    return tf.reduce_sum(start[4:8] * place), tf.reduce_sum(start[:4] * place), start[8]


def _header_of_jpeg(encoded):
    """The same of a JPEG; those of 12 bits, TensorFlow refuses."""
    shape = tf.cast(tf.io.extract_jpeg_shape(encoded), tf.int64)
    return shape[0], shape[1], tf.constant(8, tf.int64)
