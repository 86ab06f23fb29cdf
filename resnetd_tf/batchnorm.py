"""Batch normalisation that runs as one fused kernel where TensorFlow is the backend.

Keras computes it from elementary operations in float32: about a third of a training step of ResNet-50. The
layer here has the weights, the configuration and the results of Keras's own. Models are saved with Keras's
layer in its place (see `portable`), so a saved file never refers to this package.
"""

import keras
import numpy as np

if keras.config.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable("resnetd_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` as one kernel, FusedBatchNormV3, on TensorFlow.

    Takes channels-last images (batch, height, width, channels). Statistics are those of the replica's own
    batch, as in Keras. `mask`, `renorm`, `synchronized` and other shapes take Keras's path.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.fused = (
            keras.config.backend() == "tensorflow"
            and len(input_shape) == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not (self.renorm or self.synchronized)
            and self.compute_dtype != "float64"
        )

    def call(self, inputs, training=None, mask=None):
        if not self.fused or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        training = bool(training) and self.trainable
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma.value,
            offset=self.beta.value,
            mean=tf.zeros([0]) if training else self.moving_mean.value,
            variance=tf.zeros([0]) if training else self.moving_variance.value,
            epsilon=self.epsilon,
            exponential_avg_factor=1.0,
            data_format="NHWC",
            is_training=training,
        )
        if training:
            # The kernel returns the unbiased variance; Keras averages the biased one.
            count = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], variance.dtype)
            variance *= (count - 1.0) / count
            for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(average.value * self.momentum + value * (1.0 - self.momentum))
        return outputs


def portable(model: keras.Model) -> keras.Model:
    """A copy of `model` in float32 and of Keras's own layers only, with the same weights.

    This is what is saved and exported: `keras.saving.load_model` opens it without this package, and it
    runs on hardware that lacks the precision the model was trained in.
    """

    def clone(layer):
        kind = type(layer)
        if kind is BatchNormalization:
            kind = keras.layers.BatchNormalization
        return kind.from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def folded(model: keras.Model, precision: str = "float32") -> keras.Model:
    """A copy of `model` for inference: every batch normalisation is part of the convolution before it.

    With g = gamma / sqrt(moving variance + epsilon), kernels become kernel * g and biases
    beta - moving mean * g. In every network here a normalisation `X_bn` follows the convolution `X_conv`.

    Args:
        model: A network, or a classifier.
        precision: Of the network's weights and activations, its head's excepted: "float32" or "bfloat16".
    """
    float32 = ("pixels", "normalization", "resizing", "predictions")

    def clone(layer):
        biased = {"use_bias": True} if isinstance(layer, keras.layers.Conv2D) else {}
        dtype = "float32" if layer.name in float32 else precision
        return type(layer).from_config({**layer.get_config(), **biased, "dtype": dtype})

    def call(layer, inputs, **kwargs):
        return inputs if isinstance(layer, keras.layers.BatchNormalization) else layer(inputs, **kwargs)

    def fill(copy, original):
        for layer in original.layers:
            if isinstance(layer, keras.Model):
                fill(copy.get_layer(layer.name), layer)
            elif isinstance(layer, keras.layers.Conv2D):
                norm = original.get_layer(layer.name.removesuffix("conv") + "bn")
                gamma, beta, mean, variance = (np.asarray(weight, "float64") for weight in norm.get_weights())
                scale = gamma / np.sqrt(variance + norm.epsilon)
                copy.get_layer(layer.name).set_weights([layer.get_weights()[0] * scale, beta - mean * scale])
            elif layer.get_weights() and not isinstance(layer, keras.layers.BatchNormalization):
                copy.get_layer(layer.name).set_weights(layer.get_weights())

    copy = keras.models.clone_model(model, clone_function=clone, call_function=call, recursive=True)
    fill(copy, model)
    return copy
