"""Batch normalisation that runs as one fused kernel where TensorFlow is the backend.

Keras computes it from elementary operations in float32: about a third of a training step of ResNet-50. The
layer here has the weights, the configuration and the results of Keras's own.
"""

import keras

if keras.config.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable("resnetd_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` as one kernel, FusedBatchNormV3, on TensorFlow.

    Takes channels-last images (batch, height, width, channels). Statistics are those of the replica's own
    batch, or of all replicas' if `synchronized`, as in Keras. `mask`, `renorm`, `synchronized`, other shapes and
    statistics in another type than float32, which the kernel does not take, take Keras's path.
    """

    @property
    def fused(self) -> bool:
        """Whether the kernel computes what is asked for."""
        return (
            keras.config.backend() == "tensorflow"
            and self.input_spec.ndim == 4
            and self.axis in (-1, 3)
            and self.scale
            and self.center
            and not (self.renorm or self.synchronized)
            and self.compute_dtype != "float64"
            and self.variable_dtype == "float32"
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
            count = tf.cast(tf.size(inputs), variance.dtype) / inputs.shape[-1]
            variance *= 1.0 - 1.0 / count
            for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(average.value * self.momentum + value * (1.0 - self.momentum))
        return outputs
