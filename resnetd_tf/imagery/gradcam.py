"""Grad-CAM: where in an image a network sees the features that speak for a class.

Selvaraju et al., arXiv 1610.02391, section 3.
"""

import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from resnetd_tf import figures, sentinel2
from resnetd_tf.errors import InputError
from resnetd_tf.saved import SavedClassifier, open_keras_model

# Cells a side that a heat map has at least. In the paper the last stage at 224 pixels has 7 cells a side.
# At 64 pixels the last stage has 2.
MIN_CELLS = 7
PAIRS_PER_ROW = 3  # pairs of image and heat map in a row of the picture


class GradCam:
    """Grad-CAM of a classifier.

    The features are those of the last stage whose map has at least `MIN_CELLS` cells a side: the fourth stage at
    224 x 224 pixels, as in the paper, the second at 64 x 64.

    Args:
        network: A classifier as `saved.open_keras_model` opens it.

    Raises:
        InputError: The classifier is no ResNet of this package.
    """

    def __init__(self, network: keras.Model):
        self.preprocessing, body = network.layers[1:-1], network.layers[-1]
        try:
            stage_outputs = [body.get_layer(f"stage{stage}").output for stage in (4, 3, 2, 1)]
            self.head = body.get_layer("predictions")
            pooled = body.get_layer("average_pool").output
        except (AttributeError, ValueError) as error:
            raise InputError("the model is no ResNet of this package, whose layers could be explained") from error
        features = next((output for output in stage_outputs if output.shape[1] >= MIN_CELLS), stage_outputs[-1])
        self.to_features = keras.Model(body.inputs, features)
        self.from_features = keras.Model(features, pooled)

    def __call__(self, image: np.ndarray, index: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Computes the heat map of an image for a class.

        Args:
            image: (height, width, bands), as the classifier takes it.
            index: The class; `None` for the most probable one.

        Returns:
            heat_map: (height, width) float32, from 0 to 1, the highest value anywhere; all 0 if nothing speaks for the
                class.
            probabilities: (classes,) float32, from 0 to 1.
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
        heat_map = tf.image.resize(cells / tf.maximum(tf.reduce_max(cells), 1e-12), image.shape[:2])
        return heat_map[0, ..., 0].numpy(), tf.nn.softmax(logits)[0].numpy()


def open_gradcam(classifier: SavedClassifier, trust: bool = False) -> GradCam:
    """Opens Grad-CAM of a classifier, which needs its Keras model.

    Args:
        classifier: The classifier.
        trust: Whether the model may hold what no classifier of this package does.

    Raises:
        InputError: There is no Keras model, or it is no ResNet of this package.
    """
    return GradCam(open_keras_model(classifier.path, trust)[1])


def draw_gradcam(
    path: str | pathlib.Path,
    cam: GradCam,
    classes: Sequence[str],
    examples: Sequence[tuple[str, np.ndarray]],
    class_names: Sequence[str] = (),
) -> None:
    """Draws images beside their heat maps, which are bright where an image speaks for a class.

    Args:
        path: The picture.
        cam: Grad-CAM of the classifier.
        classes: Class names in the order of the probabilities.
        examples: The title of each image, and its pixels as the classifier takes them.
        class_names: The class of each heat map; by default the most probable class of each image.

    Raises:
        InputError: The picture cannot be written.
    """
    figure, axes = figures.picture_grid(2 * len(examples), 2 * PAIRS_PER_ROW, 2.2, 2.4, title=0.3)
    names: Sequence[str | None] = class_names or [None] * len(examples)
    for image_axes, map_axes, (title, pixels), name in zip(axes[::2], axes[1::2], examples, names):
        index = None if name is None else classes.index(name)
        heat_map, probabilities = cam(pixels, index)
        picture = pixels if pixels.shape[-1] == 3 else sentinel2.render_true_colour(pixels)
        image_axes.imshow(picture)
        image_axes.set_title(figures.escape_mathtext(title), fontsize=8)
        map_axes.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=255)
        map_axes.imshow(heat_map, cmap="inferno", vmin=0, vmax=1, alpha=0.6)
        best = int(probabilities.argmax()) if index is None else index
        map_axes.set_title(f"{figures.escape_mathtext(classes[best])} {100 * probabilities[best]:.0f} %", fontsize=8)
    figures.save_figure(figure, pathlib.Path(path), margins=None)
