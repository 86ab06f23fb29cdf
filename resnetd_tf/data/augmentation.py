"""How training images are varied.

Everything is drawn from a seed alone, a pair of integers, and works on a whole batch at once.
"""

import math

import numpy as np
import tensorflow as tf

# Quantisation tables of luminance and of chrominance: ITU-T T.81, annex K.1, which libjpeg scales by the quality.
LUMINANCE_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
# From RGB to luminance and the differences of blue and red from it: ITU-T T.871.
RGB_TO_YCBCR = np.array(((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)), "float32")


def flip_and_turn(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Flips and quarter turns, each image its own: seen from above, a scene has no upright.

    Args:
        images: (batch, height, width, bands). Those not square are only flipped.
        seed: Two integers.
    """
    chosen = tf.random.stateless_uniform((3, tf.shape(images)[0], 1, 1, 1), seed) < 0.5
    images = tf.where(chosen[0], tf.reverse(images, [1]), images)
    images = tf.where(chosen[1], tf.reverse(images, [2]), images)
    if images.shape[1] == images.shape[2]:  # with a transposition the flips make all eight
        images = tf.where(chosen[2], tf.transpose(images, (0, 2, 1, 3)), images)
    return images


def apply_cutmix(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, share: float) -> tuple[tf.Tensor, tf.Tensor]:
    """CutMix (arXiv 1905.04899): a rectangle of one image put into another, and labels mixed by area.

    As a patch where two kinds of land meet, it belongs to both.

    Args:
        images: (batch, height, width, bands). Each gets its part from the one as far from the batch's other end, the
            middle one of an odd number none.
        labels: (batch, classes) float32, probabilities.
        seed: Two integers.
        share: Share of the images that get a part of another.

    Returns:
        Images and labels, as given.
    """
    count, height, width, _ = images.shape
    row, column, area, chance = tf.unstack(tf.random.stateless_uniform((4, count, 1), seed))
    half = tf.where(chance < share, tf.sqrt(area) / 2, 0.0)  # of its side, over the image's
    inside = [
        tf.abs((tf.range(pixels, dtype="float32") + 0.5) / pixels - middle) < half
        for pixels, middle in ((height, row), (width, column))
    ]
    mask = inside[0][:, :, tf.newaxis] & inside[1][:, tf.newaxis, :]
    part = tf.reduce_mean(tf.cast(mask, "float32"), (1, 2))[:, tf.newaxis]
    mixed = labels * (1 - part) + tf.reverse(labels, [0]) * part
    return tf.where(mask[..., tf.newaxis], tf.reverse(images, [0]), images), mixed


def vary_pixels(images: tf.Tensor, seed: tf.Tensor, share: float, strength: tf.Tensor | float = 1.0) -> tf.Tensor:
    """What can happen to an image between the sensor and the file: atmosphere, optics, noise, JPEG.

    It happens to a share of the images, in places of chance: in the mean over batches where that is no whole number of
    them. To each of those every change comes by a chance of its own and in a strength of its own.

    Args:
        images: (batch, height, width, 3) uint8, RGB.
        seed: Two integers.
        share: From 0, none of the images, to 1, all.
        strength: From 0, where nothing changes but what is stored as JPEG, by its rounding at quality 100 and, in every
            second of these, by colours at half size; to 1.

    Returns:
        The same shape and type.
    """
    count = images.shape[0]
    varied = max(1, math.ceil(count * share))
    seeds = tf.unstack(tf.random.split(seed, 6))
    places = tf.argsort(tf.random.stateless_uniform((count,), seeds[0]))[:varied]
    before = tf.gather(images, places)
    pixels = _vary_light(tf.cast(before, "float32"), seeds[1], strength)
    pixels = _vary_optics(pixels, seeds[2], strength)
    pixels = _add_noise(pixels, seeds[3], strength)
    pixels = _compress(pixels, seeds[4], strength)
    happens = tf.random.stateless_uniform((varied, 1, 1, 1), seeds[5]) < count * share / varied
    after = tf.where(happens, tf.saturate_cast(tf.round(pixels), images.dtype), before)
    return tf.tensor_scatter_nd_update(images, places[:, tf.newaxis], after)


def _strengths(count: int, seed: tf.Tensor, strength, *chances: float) -> list[tf.Tensor]:
    """For each chance and image a number up to `strength`, which is 0 but for that share of the images.

    Each is (count, 1, 1, 1).
    """
    drawn = tf.random.stateless_uniform((len(chances), count, 1, 1, 1), seed)
    return [strength * tf.maximum(0.0, 1 - one / chance) for one, chance in zip(tf.unstack(drawn), chances)]


def _vary_light(images: tf.Tensor, seed: tf.Tensor, strength) -> tf.Tensor:
    """Brightness and contrast up to 15 % higher or lower, each channel's gain up to 6 %; half of the images."""
    count = images.shape[0]
    drawn = strength * tf.random.stateless_uniform((count, 1, 1, 5), seed, -1.0, 1.0)
    drawn = tf.where(tf.random.stateless_uniform((count, 1, 1, 1), seed + 1) < 0.5, drawn, 0.0)
    gain = (1 + 0.06 * drawn[..., :3]) * (1 + 0.15 * drawn[..., 3:4])
    contrast = 1 + 0.15 * drawn[..., 4:]
    mean = tf.reduce_mean(images, (1, 2, 3), keepdims=True)
    return images * (gain * contrast) + gain * (1 - contrast) * mean


def _add_noise(images: tf.Tensor, seed: tf.Tensor, strength) -> tf.Tensor:
    """Gaussian noise of up to seven grey levels, most of it below two."""
    (noise,) = _strengths(images.shape[0], seed, strength, 0.5)
    return images + 7 * noise**2 * tf.random.stateless_normal(images.shape, seed + 1)


def _vary_optics(images: tf.Tensor, seed: tf.Tensor, strength) -> tf.Tensor:
    """Blur, sharpening, larger pixels, and a shift by whole pixels, up to a sixteenth of the side.

    All of them are linear in the rows, and in the columns: together one matrix for each.
    """
    count, height, width, _ = images.shape
    blur, sharper, coarser = (one[..., 0] for one in _strengths(count, seed, strength, 0.4, 0.15, 0.2))
    shift = strength * tf.random.stateless_uniform((2, count, 1), seed + 1, -1.0, 1.0)
    matrices = []
    for pixels, share in zip((height, width), tf.unstack(shift)):
        identity = tf.eye(pixels)
        blurred = _blur_matrix(pixels, 1.3 * blur)
        sharpened = identity + 0.5 * sharper * (identity - _blur_matrix(pixels, 1.0))
        larger = 1 + 1.3 * coarser
        matrix = _enlarge_matrix(pixels, larger) @ _shrink_matrix(pixels, larger) @ sharpened @ blurred
        by = tf.cast(tf.round(share * (pixels // 16)), "int32")
        places = pixels - 1 - tf.abs(pixels - 1 - tf.abs(tf.range(pixels) + by))  # mirrored at the edge
        matrices.append(tf.gather(matrix, places, axis=1, batch_dims=1))
    return _transform_sides(images, *matrices)


def _compress(images: tf.Tensor, seed: tf.Tensor, strength) -> tf.Tensor:
    """JPEG of quality 35 and more for half of the images, of every second of them with colours at half size.

    The images are in an order of chance: those that it can happen to are the first.
    """
    count = images.shape[0]
    first = -(-count // 2)
    quality = 100 - 65 * strength * tf.random.stateless_uniform((first,), seed)
    chance = tf.random.stateless_uniform((2, first, 1, 1, 1), seed + 1)
    stored = simulate_jpeg(images[:first], quality, halves_colours=chance[0] < 0.5)
    return tf.concat((tf.where(chance[1] < count / 2 / first, stored, images[:first]), images[first:]), axis=0)


def _transform_sides(images: tf.Tensor, of_rows: tf.Tensor, of_columns: tf.Tensor) -> tf.Tensor:
    """Images with a matrix, or one for each of them, applied to their rows, and another to their columns."""
    each = "n" if len(of_rows.shape) == 3 else ""
    return tf.einsum(f"{each}ij,nkjc->nkic", of_columns, tf.einsum(f"{each}ij,njkc->nikc", of_rows, images))


def _blur_matrix(pixels: int, sigma) -> tf.Tensor:
    """The matrix (..., pixels, pixels) of a Gaussian blur of rows, for sigma (..., 1, 1)."""
    place = tf.range(pixels, dtype="float32")
    weights = tf.exp(-0.5 * ((place[:, tf.newaxis] - place) / tf.maximum(sigma, 0.1)) ** 2)
    return weights / tf.reduce_sum(weights, -1, keepdims=True)


def _shrink_matrix(pixels: int, factor) -> tf.Tensor:
    """The matrix (..., pixels, pixels) that averages rows into larger pixels; what is too much is zero."""
    place = tf.range(pixels, dtype="float32")
    first = place[:, tf.newaxis] * factor  # where a large pixel begins
    common = tf.maximum(0.0, tf.minimum(place + 1, first + factor) - tf.maximum(place, first))
    return tf.math.divide_no_nan(common, tf.reduce_sum(common, -1, keepdims=True))


def _enlarge_matrix(pixels: int, factor) -> tf.Tensor:
    """The matrix (..., pixels, pixels) that interpolates linearly between the rows that `_shrinking` makes."""
    place = tf.range(pixels, dtype="float32")
    distance = tf.abs((place[:, tf.newaxis] + 0.5) / factor - 0.5 - place)
    weights = tf.where(place * factor < pixels, tf.maximum(0.0, 1 - distance), 0.0)
    return weights / tf.reduce_sum(weights, -1, keepdims=True)


def simulate_jpeg(images: tf.Tensor, quality: tf.Tensor, *, halves_colours: tf.Tensor) -> tf.Tensor:
    """Images as JPEG gives them back: cosine transform of blocks of eight pixels, its coefficients rounded.

    Args:
        images: (batch, height, width, 3) grey levels from 0 to 255, red, green and blue.
        quality: (batch,) as libjpeg's, from 1 to 100.
        halves_colours: (batch, 1, 1, 1), whether colours are stored at half the size (4:2:0).
    """
    planes = tf.round(tf.tensordot(tf.clip_by_value(images, 0.0, 255.0), RGB_TO_YCBCR.T, 1))
    light, colours = planes[..., :1] - 128, planes[..., 1:]
    halved, full = (_quantise(colours, quality, CHROMINANCE_TABLE, halves) for halves in (True, False))
    parts = (_quantise(light, quality, LUMINANCE_TABLE, False), tf.where(halves_colours, halved, full))
    planes = tf.round(tf.clip_by_value(tf.concat(parts, axis=3), -128.0, 127.0)) + tf.constant((128.0, 0.0, 0.0))
    return tf.tensordot(planes, np.linalg.inv(RGB_TO_YCBCR).T, 1)


def _quantise(planes: tf.Tensor, quality: tf.Tensor, table, halves: bool) -> tf.Tensor:
    """Planes (batch, height, width, n) after the rounding of their cosine transform, at half the size with `halves`."""
    scale = tf.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    (there, back), (there_too, back_too) = (_cosine_matrices(side, halves) for side in planes.shape[1:3])
    found = _transform_sides(planes, there, there_too)
    step = tf.floor((tf.constant(table, "float32")[..., tf.newaxis] * scale + 50) / 100)
    step = tf.tile(tf.clip_by_value(step, 1.0, 255.0), (1, there.shape[0] // 8, there_too.shape[0] // 8, 1))
    return _transform_sides(tf.round(found / step) * step, back, back_too)


def _cosine_matrices(pixels: int, halves: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """The matrix from rows to the cosine transform of blocks of eight, and the one back, (pixels, ...).

    With `halves` rows are averaged in pairs before, and interpolated after.
    """
    block = 16 if halves else 8
    blocks = -(-pixels // block)
    number = np.arange(8)
    cosine = np.sqrt(np.where(number, 2, 1) / 8)[:, None] * np.cos(np.pi * number[:, None] * (2 * number + 1) / 16)
    transform = tf.constant(np.kron(np.eye(blocks), cosine), "float32")
    padding = tf.constant(
        np.eye(pixels)[np.minimum(np.arange(blocks * block), pixels - 1)], "float32"
    )  # the last again
    if not halves:
        return transform @ padding, tf.transpose(transform)[:pixels]
    half = blocks * 8
    shrinking, enlarging = (matrix(2 * half, 2.0) for matrix in (_shrink_matrix, _enlarge_matrix))
    return transform @ shrinking[:half] @ padding, tf.matmul(enlarging[:pixels, :half], transform, transpose_b=True)
