"""Resizing as two matrix products."""

import keras

if keras.config.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable("resnetd_tf")
class Resizing(keras.layers.Resizing):
    """`keras.layers.Resizing`, with its configuration and results.

    Resizing is linear in rows and in columns. On TensorFlow two matrices are made from the image's size and multiplied,
    because its own antialiased resizing is lacking on GPUs, in XLA and in TFLite, as bicubic resizing is. Whatever is
    not a bilinear or bicubic resizing of whole channels-last batches of floats takes Keras's path.
    """

    @property
    def linear(self) -> bool:
        """Whether matrices compute what is asked for."""
        return (
            keras.config.backend() == "tensorflow"
            and self.interpolation in ("bilinear", "bicubic")
            and self.data_format == "channels_last"
            and not (self.crop_to_aspect_ratio or self.pad_to_aspect_ratio)
        )

    def call(self, data):
        if not self.linear or len(data.shape) != 4 or data.dtype != "float32":
            return super().call(data)
        if tuple(data.shape[1:3]) == (self.height, self.width):
            return data
        shape, bands = tf.shape(data), data.shape[3]
        height, width = (shape[i] if data.shape[i] is None else data.shape[i] for i in (1, 2))
        rows, columns = (self._matrix(old, new) for old, new in ((height, self.height), (width, self.width)))
        # Lines of all bands in one large product, then those across; TFLite's int8 needs the constant on the right.
        data = tf.matmul(tf.reshape(tf.transpose(data, (0, 3, 1, 2)), (-1, width)), columns, transpose_b=True)
        data = tf.transpose(tf.reshape(data, (-1, bands, height, self.width)), (0, 1, 3, 2))
        data = tf.matmul(tf.reshape(data, (-1, height)), rows, transpose_b=True)
        return tf.transpose(tf.reshape(data, (-1, bands, self.width, self.height)), (0, 3, 2, 1))

    def _matrix(self, old, new: int):
        if isinstance(old, int):
            with tf.init_scope():  # once, when the function is traced: a constant of its graph
                return matrix(old, new, self.interpolation, self.antialias).numpy()
        return matrix(old, new, self.interpolation, self.antialias)


def matrix(old, new: int, interpolation: str, antialias: bool):
    """The matrix (new, old) that resizes `old` pixels in a line to `new`, as Pillow and `tf.image.resize` do."""
    scale = tf.cast(old, "float32") / new
    # The filter is as wide as the old pixels that a new one covers.
    width = tf.maximum(scale, 1.0) if antialias else 1.0
    centres = (tf.range(new, dtype="float32") + 0.5) * scale
    distances = tf.abs(tf.range(tf.cast(old, "float32")) + 0.5 - centres[:, tf.newaxis]) / width
    weights = {"bilinear": _triangle, "bicubic": _cubic}[interpolation](distances)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def _triangle(x):
    return tf.maximum(1.0 - x, 0.0)


def _cubic(x):
    """Keys' cubic convolution with a = -0.5 ("Cubic Convolution Interpolation for Digital Image Processing", 1981)."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return tf.where(x < 1.0, near, tf.where(x < 2.0, far, 0.0))
