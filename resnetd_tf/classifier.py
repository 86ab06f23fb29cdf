"""The land-cover classifier: preprocessing, network and head as one functional model.

What is trained is what is served: raw pixels of any size go in, probabilities come out.
"""

import keras
from keras import layers

from resnetd_tf import weights as checkpoints
from resnetd_tf.resnet import resnet
from resnetd_tf.sentinel2 import Statistics


def build(
    depth: int,
    variant: str,
    *,
    classes: int,
    statistics: Statistics,
    image_size: int = 224,
    weights: str | None = None,
) -> keras.Model:
    """Classifier from raw pixels to class probabilities.

    Args:
        depth, variant: As for `resnetd_tf.resnet`.
        classes: Number of classes.
        statistics: Mean and standard deviation of each band; their number is the number of bands.
        image_size: Side in pixels to which images are resized (bilinear) before the network; at least 32.
        weights: Path of weights for the whole classifier, or `None`.

    Returns:
        A functional model: (batch, height, width, bands) of `statistics.dtype` (uint8 for RGB, uint16 DN
        for 13 bands), any height and width, to (batch, classes) float32 probabilities. Its layers are
        "pixels", "normalization", "resizing" and the network.

    Raises:
        ValueError: An argument is outside its range, or `weights` do not fit.
    """
    bands = len(statistics.mean)
    pixels = keras.Input((None, None, bands), dtype=statistics.dtype, name="pixels")
    # In float32 under any policy: bfloat16 cannot tell neighbouring grey levels apart.
    x = layers.Normalization(
        mean=statistics.mean,
        variance=[std**2 for std in statistics.std],
        dtype="float32",
        name="normalization",
    )(pixels)
    x = layers.Resizing(image_size, image_size, dtype="float32", name="resizing")(x)
    network = resnet(depth, variant, input_shape=(image_size, image_size, bands), classes=classes)
    model = keras.Model(pixels, network(x), name=f"{network.name}_classifier")
    if weights is not None:
        checkpoints.load(model, weights)
    return model
