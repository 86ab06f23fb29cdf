"""Convolution as matrix products on CPUs, where those are faster.

oneDNN's convolutions rearrange the kernel on every call of a training step, and on small feature maps there is little
work to make up for it; its gradients of kernels are the slowest part. `benchmarks.train_step` shows the difference.
"""

import math

import keras

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

# The largest feature maps, in pixels, on which matrix products were faster at a batch of 32 (AVX512-BF16, two cores).
POINTWISE = 256
KERNEL_GRADIENT = {"bfloat16": 49, "float32": 4}


@keras.saving.register_keras_serializable("resnetd_tf")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, with its weights, configuration and results.

    On TensorFlow without a GPU, where the feature map is small: a 1x1 convolution is a matrix product, and the
    gradient of a 3x3 kernel is one for each of its nine places. Convolutions with a stride, dilation, bias or
    activation are Keras's own.
    """

    def build(self, input_shape):
        super().build(input_shape)
        simple = (
            keras.config.backend() == "tensorflow"
            and not tf.config.list_physical_devices("GPU")
            and self.data_format == "channels_last"
            and self.padding == "same"
            and self.strides == self.dilation_rate == (1, 1)
            and self.groups == 1
            and not self.use_bias
            and self.activation is keras.activations.linear
            and None not in input_shape[1:]
        )
        pixels = math.prod(input_shape[1:3]) if simple else math.inf
        self.pointwise = self.kernel_size == (1, 1) and pixels <= POINTWISE
        self.differentiated_by_products = self.kernel_size == (3, 3) and pixels <= KERNEL_GRADIENT.get(
            self.compute_dtype, 0
        )

    def call(self, inputs):
        if self.pointwise:
            _, height, width, bands = inputs.shape
            kernel = tf.reshape(self.kernel, (bands, self.filters))
            outputs = tf.matmul(tf.reshape(inputs, (-1, bands)), kernel)
            return tf.reshape(outputs, (-1, height, width, self.filters))
        if self.differentiated_by_products:
            return _convolve(inputs, tf.convert_to_tensor(self.kernel))
        return super().call(inputs)


def _convolve(inputs, kernel):
    """Convolution with a 3x3 kernel, and its gradients."""

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradients(upstream):
            _, height, width, bands = inputs.shape
            of_inputs = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(inputs), 1)
            padded = tf.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
            shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
            upstream = tf.reshape(upstream, (-1, kernel.shape[-1]))
            places = [tf.matmul(tf.reshape(image, (-1, bands)), upstream, transpose_a=True) for image in shifted]
            return of_inputs, tf.reshape(tf.stack(places), kernel.shape)

        return tf.nn.conv2d(inputs, kernel, 1, "SAME"), gradients

    return convolve(inputs, kernel)
