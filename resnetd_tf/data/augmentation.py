"""Augmentation of training images: flips and turns, CutMix, and changes that imagery undergoes before it is stored.

Each function works on a whole batch and draws all random numbers from a seed, a pair of integers.
"""

import math

import numpy as np
import tensorflow as tf

from resnetd_tf.sentinel2 import AIR_DN, BRIGHTEST_DN, RENDERED_LEVELS, RGB_BANDS

# Quantisation tables of luminance and chrominance (ITU-T T.81, annex K.1), which libjpeg scales by the quality.
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
# From RGB to luminance and the differences of blue and red from luminance (ITU-T T.871).
RGB_TO_YCBCR = np.array(((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)), "float32")


def flip_and_turn(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Flips each image at random and turns it by a random quarter, since a scene seen from above has no upright.

    Args:
        images: (batch, height, width, bands). Images that are not square are only flipped.
        seed: Two integers.

    Returns:
        Images of the same shape and dtype.
    """
    is_drawn = tf.random.stateless_uniform((3, tf.shape(images)[0], 1, 1, 1), seed) < 0.5
    images = tf.where(is_drawn[0], tf.reverse(images, [1]), images)
    images = tf.where(is_drawn[1], tf.reverse(images, [2]), images)
    if images.shape[1] == images.shape[2]:  # two flips and a transposition make all eight symmetries
        images = tf.where(is_drawn[2], tf.transpose(images, (0, 2, 1, 3)), images)
    return images


def apply_cutmix(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, share: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Applies CutMix (arXiv 1905.04899): a part of an image is replaced by another's, labels are mixed by area.

    The result is like a patch where two land covers meet, which belongs to both classes. The n-th image of the batch
    gets its part from the n-th last. In half of the images the part is a rectangle, in half it has a soft, curved
    border, such as a shore.

    Args:
        images: (batch, height, width, bands).
        labels: (batch, classes) float32, probabilities.
        seed: Two integers.
        share: Share of the images that get a part of another, from 0 to 1.

    Returns:
        Images and labels of the same shapes and dtypes.
    """
    count, height, width, _ = images.shape
    row, column, area, chance = tf.unstack(tf.random.stateless_uniform((4, count, 1), seed))
    half_side = tf.where(chance < share, tf.sqrt(area) / 2, 0.0)  # as a fraction of the image's side
    is_inside = [
        tf.abs((tf.range(pixels, dtype="float32") + 0.5) / pixels - centre) < half_side
        for pixels, centre in ((height, row), (width, column))
    ]
    rectangle = tf.cast(is_inside[0][:, :, tf.newaxis] & is_inside[1][:, tf.newaxis, :], "float32")
    curved = _draw_curved_parts(images, seed + 2) * tf.cast(chance < share, "float32")[..., tf.newaxis]
    mask = tf.where(chance[..., tf.newaxis] < share / 2, rectangle, curved)
    mixed_share = tf.reduce_mean(mask, (1, 2))[:, tf.newaxis]
    mixed_labels = labels * (1 - mixed_share) + tf.reverse(labels, [0]) * mixed_share
    pixels = tf.cast(images, "float32")
    pixels += mask[..., tf.newaxis] * (tf.reverse(pixels, [0]) - pixels)
    return tf.saturate_cast(tf.round(pixels), images.dtype), mixed_labels


def _draw_curved_parts(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws parts of images that end at waves on circles of any size, softly over one to five pixels.

    Returns:
        (batch, height, width) float32, from 1 in the part to 0 outside of it.
    """
    count, height, width, _ = images.shape
    numbers = tf.random.stateless_uniform((8, count, 1, 1), seed)
    point_row, point_column, angle, size, waves, phase, amplitude, softness = tf.unstack(numbers)
    rows = tf.range(height, dtype="float32")[:, tf.newaxis]
    columns = tf.range(width, dtype="float32")
    # The border passes through a point of the image; the radius of its circle is a quarter to eight times the side.
    radius = height * 0.25 * 32**size
    rows = rows - point_row * height + radius * tf.sin(2 * np.pi * angle)
    columns = columns - point_column * width + radius * tf.cos(2 * np.pi * angle)
    distance = tf.sqrt(rows**2 + columns**2) - radius
    turn = tf.atan2(rows, columns) * radius * (0.05 + 0.35 * waves) + 2 * np.pi * phase
    wave = height * 0.08 * amplitude * tf.sin(turn)
    return tf.sigmoid(4 * (distance + wave) / (1 + 4 * softness))


# What the air adds to red, green and blue of EuroSAT's pictures, in grey levels. Atmospheric correction takes it away.
AIR_LEVELS = [AIR_DN[band] * RENDERED_LEVELS / BRIGHTEST_DN for band in RGB_BANDS]


def vary_light(images: tf.Tensor, seed: tf.Tensor, share: float) -> tf.Tensor:
    """Varies light as it differs between products and renderings of the same ground.

    The air over the ground becomes clearer, down to none as in L2A, or hazier. Sun and rendering scale what the ground
    reflects by 0.54 to 1.86, each channel by some 4 % more or less, and bend the scale by a gamma of 0.8 to 1.25.

    Args:
        images: (batch, height, width, 3) uint8, RGB, rendered as EuroSAT.
        seed: Two integers.
        share: Share of the images whose light is varied, from 0 to 1.

    Returns:
        (batch, height, width, 3) uint8.
    """
    count = images.shape[0]
    seeds = tf.unstack(tf.random.split(seed, 3))
    has_air, has_gain, has_gamma, is_varied = tf.unstack(tf.random.stateless_uniform((4, count, 1, 1, 1), seeds[0]))
    air, gain, gamma = tf.unstack(tf.random.stateless_uniform((3, count, 1, 1, 1), seeds[1], -1.0, 1.0))
    channels = tf.random.stateless_normal((2, count, 1, 1, 3), seeds[2])
    air = tf.where(has_air < 0.7, tf.where(air < 0, 1.05 * air, 0.8 * air), 0.0)
    air_change = tf.constant(AIR_LEVELS) * air * (1 + 0.15 * channels[0])
    gain = tf.where(has_gain < 0.7, tf.exp(0.62 * gain + 0.04 * channels[1]), 1.0)
    exponent = tf.where(has_gamma < 0.3, tf.exp(0.223 * gamma), 1.0)
    pixels = tf.cast(images, "float32")
    pixels = (pixels - AIR_LEVELS) * gain + AIR_LEVELS + air_change
    pixels = 255 * (tf.clip_by_value(pixels, 0.0, 255.0) / 255) ** exponent
    return tf.where(is_varied < share, tf.saturate_cast(tf.round(pixels), images.dtype), images)


# Grey levels of red, green and blue that sun glint, sediment and bright ground each add to open water at most.
WATER_TINTS = ((60.0, 60.0, 60.0), (70.0, 60.0, 30.0), (5.0, 50.0, 40.0))
MAX_CALM_DEVIATION = 15.0  # grey levels; 95 % of EuroSAT's SeaLake patches have less in every colour


def vary_open_water(images: tf.Tensor, is_water: tf.Tensor, seed: tf.Tensor, share: float) -> tf.Tensor:
    """Varies the colour of open water and the waves on it.

    Glint of the sun, sediment and bright ground under shallow water brighten it, by up to 1.7 times `WATER_TINTS` at
    one side. Waves have a standard deviation of up to 6 grey levels; the highest ones may break and are white.
    Images that are uneven by more than `MAX_CALM_DEVIATION` show a shore or ships and stay as they are.

    Args:
        images: (batch, height, width, 3) uint8, RGB, rendered as EuroSAT.
        is_water: (batch,) bool, which images show open water.
        seed: Two integers.
        share: Share of these images that are varied, from 0 to 1.

    Returns:
        (batch, height, width, 3) uint8.
    """
    seeds = tf.unstack(tf.random.split(seed, 4))
    deviation = tf.reduce_max(tf.math.reduce_std(tf.cast(images, "float32"), (1, 2)), -1)
    is_water &= deviation < MAX_CALM_DEVIATION
    is_varied = is_water & (tf.random.stateless_uniform(is_water.shape, seeds[0]) < share)
    indices = tf.where(is_varied)
    originals = tf.gather_nd(images, indices)
    count, (height, width) = tf.shape(originals)[0], originals.shape[1:3]
    has_tint, strength = tf.unstack(tf.random.stateless_uniform((2, count, 1, 1, len(WATER_TINTS)), seeds[1]))
    tint = tf.where(has_tint < 0.5, strength**1.5, 0.0) @ tf.constant(WATER_TINTS)
    numbers = tf.random.stateless_uniform((5, count, 1, 1, 1), seeds[2])
    slope, angle, has_waves, wave_height, breaking = tf.unstack(numbers)
    rows = tf.linspace(-0.5, 0.5, height)[:, tf.newaxis, tf.newaxis]
    columns = tf.linspace(-0.5, 0.5, width)[tf.newaxis, :, tf.newaxis]
    ramp = 1 + slope * (rows * tf.sin(2 * np.pi * angle) + columns * tf.cos(2 * np.pi * angle))
    waves = _draw_waves(originals, seeds[3])
    white = tf.where(has_waves < 0.3, 12 * breaking, 0.0) * tf.nn.relu(waves - 1.8)
    waves = tf.where(has_waves < 0.8, 6 * wave_height, 0.3) * waves
    pixels = tf.round(tf.cast(originals, "float32") + tint * ramp + waves + white)
    return tf.tensor_scatter_nd_update(images, indices, tf.saturate_cast(pixels, images.dtype))


def _draw_waves(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws the texture of a water surface, mostly of one direction in each image.

    Some images have waves of one length, 2.5 to 16 pixels. Most have waves of all lengths, as an open ocean: from more
    energy in short waves to about as much in each octave.

    Returns:
        (batch, height, width, 3) float32 of mean 0 and standard deviation 1; its channels differ a little.
    """
    count, (height, width, channels) = tf.shape(images)[0], images.shape[1:]
    seeds = tf.unstack(tf.random.split(seed, 3))
    numbers = tf.random.stateless_uniform((5, count, 1, 1, 1), seeds[0])
    length, direction, order, slope, has_all_lengths = tf.unstack(numbers)
    rows, columns = np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)
    frequency = tf.constant(np.maximum(np.hypot(rows, columns), 1 / height), "float32")
    angle = tf.constant(np.arctan2(rows, columns), "float32")
    octaves = tf.math.log(frequency * 2.5 * 6.4**length) / np.log(2)
    response = tf.where(has_all_lengths < 0.65, frequency ** -(0.4 + 0.8 * slope), tf.exp(-2 * octaves**2))
    response *= 0.1 + order * tf.cos(angle - 2 * np.pi * direction) ** 4
    noise = tf.random.stateless_normal((count, 1, height, width), seeds[1])
    noise += 0.35 * tf.random.stateless_normal((count, channels, height, width), seeds[2])
    return _filter_noise(noise, response)


def _filter_noise(noise: tf.Tensor, response: tf.Tensor) -> tf.Tensor:
    """Filters noise by frequencies.

    Args:
        noise: (batch, channels, height, width) float32.
        response: (batch, 1, height, width // 2 + 1) float32, the gain at each frequency.

    Returns:
        (batch, height, width, channels) float32 of mean 0 and standard deviation 1 in each image.
    """
    spectrum = tf.signal.rfft2d(noise - tf.reduce_mean(noise, (2, 3), keepdims=True)) * tf.cast(response, "complex64")
    filtered = tf.transpose(tf.signal.irfft2d(spectrum, noise.shape[2:]), (0, 2, 3, 1))
    return filtered / tf.math.reduce_std(filtered, (1, 2, 3), keepdims=True)


# What makes an image unlike the classes, with the largest uniform random number that draws it.
CLOUDS, SATURATION, EXCHANGED_CHANNELS = 0.6, 0.75, 0.9  # above, stretched channels
CHANNEL_ORDERS = ((2, 1, 0), (1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1))


def make_unlike(images: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor, share: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes a random selection of the images unlike all classes, and their labels even (arXiv 1812.04606).

    Clouds with their shadows cover an image in part, or it is saturated, or its channels are exchanged, as in false
    colours, or each is stretched by itself. The labels of covered images are even in so far as the clouds cover them.

    Args:
        images: (batch, height, width, 3) uint8, RGB, rendered as EuroSAT.
        labels: (batch, classes) float32, probabilities.
        seed: Two integers.
        share: Share of the images that are changed, from 0 to 1.

    Returns:
        Images and labels of the same shapes and dtypes.
    """
    seeds = tf.unstack(tf.random.split(seed, 3))
    indices = tf.where(tf.random.stateless_uniform(images.shape[:1], seeds[0]) < share)
    pixels = tf.cast(tf.gather_nd(images, indices), "float32")
    kind, gain, order = tf.unstack(tf.random.stateless_uniform((3, tf.shape(pixels)[0], 1, 1, 1), seeds[1]))
    covered, opacity = _cover_with_clouds(pixels, seeds[2])
    orders = tf.gather(tf.constant(CHANNEL_ORDERS), tf.cast(order[:, 0, 0, 0] * len(CHANNEL_ORDERS), "int32"))
    exchanged = tf.transpose(tf.gather(tf.transpose(pixels, (0, 3, 1, 2)), orders, batch_dims=1), (0, 2, 3, 1))
    mean, deviation = (reduce(pixels, (1, 2), keepdims=True) for reduce in (tf.reduce_mean, tf.math.reduce_std))
    changed = 128 + 64 * (pixels - mean) / (deviation + 0.5)
    for limit, version in (
        (EXCHANGED_CHANNELS, exchanged),
        (SATURATION, pixels * (3 + 5 * gain)),
        (CLOUDS, covered),
    ):
        changed = tf.where(kind < limit, version, changed)
    evenness = tf.where(kind < CLOUDS, tf.clip_by_value((opacity - 0.15) / 0.35, 0, 1), 1.0)[:, :, 0, 0]
    old_labels = tf.gather_nd(labels, indices)
    new_labels = old_labels * (1 - evenness) + evenness / labels.shape[1]
    new_pixels = tf.saturate_cast(tf.round(changed), images.dtype)
    return (
        tf.tensor_scatter_nd_update(images, indices, new_pixels),
        tf.tensor_scatter_nd_update(labels, indices, new_labels),
    )


def _cover_with_clouds(pixels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Covers images with clouds, thin or thick, and with their shadows.

    Returns:
        Pixels (batch, height, width, 3) and the mean opacity of the clouds (batch, 1, 1, 1), from 0 to 1.
    """
    count, (height, width) = tf.shape(pixels)[0], pixels.shape[1:3]
    seeds = tf.unstack(tf.random.split(seed, 2))
    numbers = tf.random.stateless_uniform((6, count, 1, 1, 1), seeds[0])
    smoothness, cover, sharpness, opacity, brightness, darkness = tf.unstack(numbers)
    frequency = np.maximum(np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.rfftfreq(width)), 1 / height)
    response = tf.constant(frequency, "float32") ** -(1 + 1.5 * smoothness)
    shapes = _filter_noise(tf.random.stateless_normal((count, 1, height, width), seeds[1]), response)
    opacities = (0.25 + 0.75 * opacity) * tf.sigmoid((2 + 6 * sharpness) * (shapes - 1.5 + 3.5 * cover))
    shadows = tf.roll(opacities, (height // 6, width // 10), (1, 2))
    pixels = pixels * (1 - 0.6 * darkness * shadows)
    white = (80 + 175 * brightness) * (1 + 0.06 * shapes)
    return pixels * (1 - opacities) + white * opacities, tf.reduce_mean(opacities, (1, 2, 3), keepdims=True)


def vary_pixels(images: tf.Tensor, seed: tf.Tensor, share: float, strength: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Varies pixels as atmosphere, optics, sensor noise and JPEG compression do between ground and file.

    A random selection of the images is varied. Each of them undergoes each change with a probability and a strength of
    its own. Where batch * share is no whole number, its mean over many batches is right.

    Args:
        images: (batch, height, width, 3) uint8, RGB.
        seed: Two integers.
        share: Share of the images that are varied, from 0 to 1.
        strength: From 0 to 1. At 0 some images are still stored as JPEG of quality 100, half of these with colours at
            half the size; nothing else changes.

    Returns:
        (batch, height, width, 3) uint8.
    """
    count = images.shape[0]
    varied_count = max(1, math.ceil(count * share))
    seeds = tf.unstack(tf.random.split(seed, 6))
    indices = tf.argsort(tf.random.stateless_uniform((count,), seeds[0]))[:varied_count]
    originals = tf.gather(images, indices)
    pixels = _vary_light(tf.cast(originals, "float32"), seeds[1], strength)
    pixels = _vary_optics(pixels, seeds[2], strength)
    pixels = _add_noise(pixels, seeds[3], strength)
    pixels = _compress(pixels, seeds[4], strength)
    is_varied = tf.random.stateless_uniform((varied_count, 1, 1, 1), seeds[5]) < count * share / varied_count
    results = tf.where(is_varied, tf.saturate_cast(tf.round(pixels), images.dtype), originals)
    return tf.tensor_scatter_nd_update(images, indices[:, tf.newaxis], results)


def _draw_strengths(count: int, seed: tf.Tensor, strength, *probabilities: float) -> list[tf.Tensor]:
    """Draws the strength of each change for each image.

    Args:
        count: Number of images.
        seed: Two integers.
        strength: The largest strength.
        probabilities: For each change the probability that an image undergoes it.

    Returns:
        For each change (count, 1, 1, 1) float32, uniform between 0 and `strength`, or 0 without the change.
    """
    uniform_numbers = tf.random.stateless_uniform((len(probabilities), count, 1, 1, 1), seed)
    return [
        strength * tf.maximum(0.0, 1 - numbers / probability)
        for numbers, probability in zip(tf.unstack(uniform_numbers), probabilities)
    ]


def _vary_light(images: tf.Tensor, seed: tf.Tensor, strength) -> tf.Tensor:
    """Varies brightness and contrast by up to 15 % and each channel's gain by up to 6 %, in half of the images."""
    count = images.shape[0]
    factors = strength * tf.random.stateless_uniform((count, 1, 1, 5), seed, -1.0, 1.0)
    factors = tf.where(tf.random.stateless_uniform((count, 1, 1, 1), seed + 1) < 0.5, factors, 0.0)
    gain = (1 + 0.06 * factors[..., :3]) * (1 + 0.15 * factors[..., 3:4])
    contrast = 1 + 0.15 * factors[..., 4:]
    mean = tf.reduce_mean(images, (1, 2, 3), keepdims=True)
    return images * (gain * contrast) + gain * (1 - contrast) * mean


def _vary_optics(images: tf.Tensor, seed: tf.Tensor, strength) -> tf.Tensor:
    """Blurs, sharpens, enlarges pixels, and shifts by whole pixels up to a sixteenth of the side.

    Each change is linear in rows and in columns, so that one matrix for each of the two does all of them.
    """
    count, height, width, _ = images.shape
    blur, sharpening, coarsening = (
        strengths[..., 0] for strengths in _draw_strengths(count, seed, strength, 0.4, 0.15, 0.2)
    )
    shift = strength * tf.random.stateless_uniform((2, count, 1), seed + 1, -1.0, 1.0)
    matrices = []
    for pixels, shift_share in zip((height, width), tf.unstack(shift)):
        identity = tf.eye(pixels)
        blurred = _blur_matrix(pixels, 1.3 * blur)
        sharpened = identity + 0.5 * sharpening * (identity - _blur_matrix(pixels, 1.0))
        pixel_size = 1 + 1.3 * coarsening
        matrix = _enlarge_matrix(pixels, pixel_size) @ _shrink_matrix(pixels, pixel_size) @ sharpened @ blurred
        shift_pixels = tf.cast(tf.round(shift_share * (pixels // 16)), "int32")
        sources = pixels - 1 - tf.abs(pixels - 1 - tf.abs(tf.range(pixels) + shift_pixels))  # mirrored at the edge
        matrices.append(tf.gather(matrix, sources, axis=1, batch_dims=1))
    return _transform_sides(images, *matrices)


def _add_noise(images: tf.Tensor, seed: tf.Tensor, strength) -> tf.Tensor:
    """Adds Gaussian noise of up to seven grey levels, mostly below two, to half of the images."""
    (noise,) = _draw_strengths(images.shape[0], seed, strength, 0.5)
    return images + 7 * noise**2 * tf.random.stateless_normal(images.shape, seed + 1)


def _compress(images: tf.Tensor, seed: tf.Tensor, strength) -> tf.Tensor:
    """Compresses half of the images as JPEG of quality 35 to 100, half of these with colours at half the size.

    The caller has shuffled the images, so that only the first half has to be considered.
    """
    count = images.shape[0]
    candidates = -(-count // 2)
    quality = 100 - 65 * strength * tf.random.stateless_uniform((candidates,), seed)
    chance = tf.random.stateless_uniform((2, candidates, 1, 1, 1), seed + 1)
    compressed = simulate_jpeg(images[:candidates], quality, halves_colours=chance[0] < 0.5)
    is_compressed = chance[1] < count / 2 / candidates
    return tf.concat((tf.where(is_compressed, compressed, images[:candidates]), images[candidates:]), axis=0)


# Optics as matrices that are applied to rows and columns.


def _transform_sides(images: tf.Tensor, row_matrix: tf.Tensor, column_matrix: tf.Tensor) -> tf.Tensor:
    """Applies a matrix to the rows of images and another to their columns.

    Args:
        images: (n, rows, columns, channels).
        row_matrix: (new_rows, rows), or one for each image (n, new_rows, rows).
        column_matrix: (new_columns, columns), or one for each image.

    Returns:
        (n, new_rows, new_columns, channels).
    """
    batch = "n" if len(row_matrix.shape) == 3 else ""
    return tf.einsum(f"{batch}ij,nkjc->nkic", column_matrix, tf.einsum(f"{batch}ij,njkc->nikc", row_matrix, images))


def _blur_matrix(pixels: int, sigma) -> tf.Tensor:
    """Returns the matrix (..., pixels, pixels) of a Gaussian blur whose sigma is (..., 1, 1) pixels."""
    position = tf.range(pixels, dtype="float32")
    weights = tf.exp(-0.5 * ((position[:, tf.newaxis] - position) / tf.maximum(sigma, 0.1)) ** 2)
    return weights / tf.reduce_sum(weights, -1, keepdims=True)


def _shrink_matrix(pixels: int, factor) -> tf.Tensor:
    """Returns the matrix (..., pixels, pixels) that averages pixels into larger ones.

    The larger pixels are fewer: the last rows of the matrix are zero.

    Args:
        pixels: Number of pixels along the side.
        factor: Size of the larger pixels, a number or (..., 1, 1).
    """
    position = tf.range(pixels, dtype="float32")
    start = position[:, tf.newaxis] * factor  # where each larger pixel starts
    overlap = tf.maximum(0.0, tf.minimum(position + 1, start + factor) - tf.maximum(position, start))
    return tf.math.divide_no_nan(overlap, tf.reduce_sum(overlap, -1, keepdims=True))


def _enlarge_matrix(pixels: int, factor) -> tf.Tensor:
    """Returns the matrix (..., pixels, pixels) that interpolates linearly between the pixels of `_shrink_matrix`."""
    position = tf.range(pixels, dtype="float32")
    distance = tf.abs((position[:, tf.newaxis] + 0.5) / factor - 0.5 - position)
    weights = tf.where(position * factor < pixels, tf.maximum(0.0, 1 - distance), 0.0)
    return weights / tf.reduce_sum(weights, -1, keepdims=True)


# JPEG as matrices: the cosine transform of blocks of eight pixels, whose coefficients are rounded.


def simulate_jpeg(images: tf.Tensor, quality: tf.Tensor, *, halves_colours: tf.Tensor) -> tf.Tensor:
    """Returns images as they are after JPEG compression, in floating point.

    Args:
        images: (batch, height, width, 3) float32 grey levels from 0 to 255, RGB.
        quality: (batch,) float32, libjpeg's quality from 1 to 100.
        halves_colours: (batch, 1, 1, 1) bool, whether colours are stored at half the size (4:2:0).

    Returns:
        (batch, height, width, 3) float32, which may lie slightly outside 0 to 255.
    """
    # tf.image.adjust_jpeg_quality needs 1.7 ms in place of 7.4 (batch of 32, half varied), but always halves colours.
    planes = tf.round(tf.tensordot(tf.clip_by_value(images, 0.0, 255.0), RGB_TO_YCBCR.T, 1))
    luminance, chrominance = planes[..., :1] - 128, planes[..., 1:]
    luminance = _quantise(luminance, quality, LUMINANCE_TABLE, halves=False)
    half_size, full_size = (_quantise(chrominance, quality, CHROMINANCE_TABLE, halves) for halves in (True, False))
    planes = tf.concat((luminance, tf.where(halves_colours, half_size, full_size)), axis=3)
    planes = tf.round(tf.clip_by_value(planes, -128.0, 127.0)) + tf.constant((128.0, 0.0, 0.0))
    return tf.tensordot(planes, np.linalg.inv(RGB_TO_YCBCR).T, 1)


def _quantise(planes: tf.Tensor, quality: tf.Tensor, table, halves: bool) -> tf.Tensor:
    """Rounds the cosine transform of planes.

    Args:
        planes: (batch, height, width, n) float32, centred on 0.
        quality: (batch,) float32, libjpeg's quality.
        table: Quantisation steps (8, 8) at quality 50.
        halves: Whether planes are stored at half the size.

    Returns:
        (batch, height, width, n) float32.
    """
    scale = tf.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, tf.newaxis, tf.newaxis, tf.newaxis]
    (rows_forward, rows_inverse), (columns_forward, columns_inverse) = (
        _cosine_matrices(pixels, halves) for pixels in planes.shape[1:3]
    )
    coefficients = _transform_sides(planes, rows_forward, columns_forward)
    step = tf.floor((tf.constant(table, "float32")[..., tf.newaxis] * scale + 50) / 100)
    step = tf.clip_by_value(step, 1.0, 255.0)
    step = tf.tile(step, (1, rows_forward.shape[0] // 8, columns_forward.shape[0] // 8, 1))
    return _transform_sides(tf.round(coefficients / step) * step, rows_inverse, columns_inverse)


def _cosine_matrices(pixels: int, halves: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the matrix to the cosine transform of blocks of eight pixels, and the matrix back.

    Args:
        pixels: Number of pixels along the side; the last pixel is repeated up to a whole block.
        halves: Whether pixels are averaged in pairs before the transform, and interpolated after it.

    Returns:
        Matrices (coefficients, pixels) and (pixels, coefficients).
    """
    block = 16 if halves else 8
    blocks = -(-pixels // block)
    number = np.arange(8)
    cosine = np.sqrt(np.where(number, 2, 1) / 8)[:, None] * np.cos(np.pi * number[:, None] * (2 * number + 1) / 16)
    transform = tf.constant(np.kron(np.eye(blocks), cosine), "float32")
    padding = tf.constant(np.eye(pixels)[np.minimum(np.arange(blocks * block), pixels - 1)], "float32")
    if not halves:
        return transform @ padding, tf.transpose(transform)[:pixels]
    half = blocks * 8
    shrinking, enlarging = (make_matrix(2 * half, 2.0) for make_matrix in (_shrink_matrix, _enlarge_matrix))
    return transform @ shrinking[:half] @ padding, tf.matmul(enlarging[:pixels, :half], transform, transpose_b=True)
