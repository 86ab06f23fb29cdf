"""Why an image has its label: where the network saw what speaks for it.

Grad-CAM (Selvaraju et al., arXiv 1610.02391, section 3).
"""

import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from resnetd_tf import figures, sentinel2
from resnetd_tf.errors import InputError

# Cells a side that a map has at least. The paper's, the last stage's at 224 pixels, has 7; at 64 it would have 2.
MIN_CELLS = 7
PAIRS_PER_ROW = 3  # in a row of the picture


class GradCam:
    """Grad-CAM of a classifier.

    The features are those of the last stage whose map has at least `FINEST` cells a side: the fourth of 224 x 224
    pixels, as in the paper, the second of 64 x 64.

    Args:
        network: A classifier as `saved.open_network` opens it.

    Raises:
        InputError: It is no ResNet of this package.
    """

    def __init__(self, network: keras.Model):
        self.preprocessing, body = network.layers[1:-1], network.layers[-1]
        try:
            outputs = [body.get_layer(f"stage{stage}").output for stage in (4, 3, 2, 1)]
            self.head = body.get_layer("predictions")
            pooled = body.get_layer("average_pool").output
        except (AttributeError, ValueError) as error:
            raise InputError("the model is no ResNet of this package, whose layers could be explained") from error
        features = next((output for output in outputs if output.shape[1] >= MIN_CELLS), outputs[-1])
        self.to_features = keras.Model(body.inputs, features)
        self.from_features = keras.Model(features, pooled)

    def __call__(self, image: np.ndarray, index: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Where an image has what speaks for a class.

        Args:
            image: (height, width, bands), as the classifier takes it.
            index: The class; `None` for the most probable one.

        Returns:
            (height, width) float32 from 0 to 1, the most that speaks for it anywhere; all 0 if nothing does. And the
            probabilities, (classes,) float32.
        """
        inputs = tf.constant(image[np.newaxis])
        for layer in self.preprocessing:
            inputs = layer(inputs)
        features = self.to_features(inputs, training=False)
        with tf.GradientTape() as tape:
            tape.watch(features)
            logits = self.from_features(features, training=False) @ self.head.kernel + self.head.bias
            score = tf.reduce_max(logits) if index is None else logits[0, index]
        weights = tf.reduce_mean(tape.gradient(score, features), (1, 2), keepdims=True)
        cells = tf.nn.relu(tf.reduce_sum(weights * features, -1, keepdims=True))
        found = tf.image.resize(cells / tf.maximum(tf.reduce_max(cells), 1e-12), image.shape[:2])
        return found[0, ..., 0].numpy(), tf.nn.softmax(logits)[0].numpy()


def draw_gradcam(
    path: str | pathlib.Path,
    cam: GradCam,
    classes: tuple[str, ...],
    images: list[tuple[str, np.ndarray]],
    chosen: Sequence[str | None] = (),
) -> None:
    """Draws images beside where they have what speaks for a class: bright, while the rest is dark.

    Args:
        path: The picture.
        cam: Of the classifier.
        classes: Class names.
        images: What each is called, and its pixels as the classifier takes them.
        chosen: For which class of each; by default the most probable one.

    Raises:
        InputError: The picture cannot be written.
    """
    figure, places = figures.picture_grid(2 * len(images), 2 * PAIRS_PER_ROW, 2.2, 2.4, title=0.3)
    for left, right, (name, pixels), kind in zip(places[::2], places[1::2], images, chosen or [None] * len(images)):
        found, probabilities = cam(pixels, None if kind is None else classes.index(kind))
        shown = pixels if pixels.shape[-1] == 3 else sentinel2.render_true_colour(pixels)
        left.imshow(shown)
        left.set_title(figures.escape_mathtext(name), fontsize=8)
        right.imshow(shown.mean(-1), cmap="gray", vmin=0, vmax=255)
        right.imshow(found, cmap="inferno", vmin=0, vmax=1, alpha=0.6)
        best = int(probabilities.argmax()) if kind is None else classes.index(kind)
        right.set_title(f"{figures.escape_mathtext(classes[best])} {100 * probabilities[best]:.0f} %", fontsize=8)
    figures.save_figure(figure, pathlib.Path(path), margins=None)
