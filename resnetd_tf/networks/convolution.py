"""Convolution as matrix products on CPUs, where those are faster.

oneDNN's convolutions rearrange the kernel on every call of a training step, and on small feature maps there is little
work to make up for it; computing the gradients of kernels is the slowest part. `benchmarks.train_step` shows the
difference.
"""

import itertools
import math

import keras

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

# The largest feature maps, in pixels, on which matrix products were faster at a batch of 32 (AVX512-BF16, two cores).
POINTWISE_PIXELS = 256
KERNEL_GRADIENT_PIXELS = 64
CONVOLUTION_PIXELS = 4
# The nine places of a 3x3 kernel: rows and columns from its middle.
PLACES = tuple(itertools.product((-1, 0, 1), repeat=2))


@keras.saving.register_keras_serializable("resnetd_tf")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D`, with its weights, configuration and results.

    On TensorFlow without a GPU, where the feature map is small: a 1x1 convolution is a matrix product, and the
    gradient of a 3x3 kernel is one for each of its nine places; so is the 3x3 convolution itself on the smallest maps.
    Convolutions with a dilation, bias or activation are Keras's own, and so are strided ones, but for a 3x3 kernel on
    images that are padded already.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.decided_shape = tuple(input_shape[1:])  # (height, width, bands) that the choices below are for
        simple = (
            keras.config.backend() == "tensorflow"
            and not tf.config.list_physical_devices("GPU")
            and self.data_format == "channels_last"
            and self.dilation_rate == (1, 1)
            and self.groups == 1
            and not self.use_bias
            and self.activation is keras.activations.linear
            and None not in input_shape[1:]
        )
        _, height, width, _ = self.compute_output_shape(input_shape)
        pixels = height * width if simple else math.inf
        unstrided = self.padding == "same" and self.strides == (1, 1)
        even = simple and not (input_shape[1] % 2 or input_shape[2] % 2)  # cut into pairs of pixels
        halved = self.padding == "valid" and self.strides == (2, 2) and even
        self.as_matrix_product = self.kernel_size == (1, 1) and unstrided and pixels <= POINTWISE_PIXELS
        self.kernel_gradient_as_matrix_products = (
            self.kernel_size == (3, 3) and (unstrided or halved) and pixels <= KERNEL_GRADIENT_PIXELS
        )

    def call(self, inputs):
        # Images decoded in `tf.data` have no static size, whatever size the layer was built for.
        if tuple(inputs.shape[1:]) != self.decided_shape:
            return super().call(inputs)
        if self.as_matrix_product:
            _, height, width, bands = inputs.shape
            kernel = tf.reshape(self.kernel, (bands, self.filters))
            outputs = tf.matmul(tf.reshape(inputs, (-1, bands)), kernel)
            return tf.reshape(outputs, (-1, height, width, self.filters))
        if self.kernel_gradient_as_matrix_products:
            return _convolve(inputs, tf.convert_to_tensor(self.kernel), self.strides[0], self.padding.upper())
        return super().call(inputs)


def _convolve(inputs, kernel, stride: int, padding: str):
    """Convolution with a 3x3 kernel, and its gradients."""
    as_products = padding == "SAME" and inputs.shape[1] * inputs.shape[2] <= CONVOLUTION_PIXELS

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradients(upstream):
            if as_products:
                input_gradient = _sum_of_products(upstream, matrices[::-1], transpose_b=True)
            else:
                input_gradient = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(inputs), stride, padding)
            pairs = _pixel_pairs(inputs, upstream) if padding == "SAME" else _strided_pixel_pairs(inputs, upstream)
            products = []
            for pair in pairs:
                pixels, gradient = (tf.reshape(part, (-1, part.shape[-1])) for part in pair)
                products.append(tf.matmul(pixels, gradient, transpose_a=True))
            return input_gradient, tf.reshape(tf.stack(products), kernel.shape)

        if not as_products:
            return tf.nn.conv2d(inputs, kernel, stride, padding), gradients
        matrices = tf.unstack(tf.reshape(kernel, (9, *kernel.shape[2:])))
        return _sum_of_products(inputs, matrices), gradients

    return convolve(inputs, kernel)


def _sum_of_products(inputs, matrices, transpose_b: bool = False):
    """Convolution with a 3x3 kernel, given as the matrices of its places, of images with a border of zeros.

    The border is left out of the products: five ninths of the work on maps of 2x2 pixels.
    """
    outputs = []
    for (y, x), matrix in zip(PLACES, matrices):
        pixels = _shifted(inputs, y, x)
        _, rows, columns, bands = pixels.shape
        if rows and columns:
            product = tf.matmul(tf.reshape(pixels, (-1, bands)), matrix, transpose_b=transpose_b)
            product = tf.reshape(product, (-1, rows, columns, product.shape[-1]))
            outputs.append(tf.pad(product, ((0, 0), (max(-y, 0), max(y, 0)), (max(-x, 0), max(x, 0)), (0, 0))))
    return tf.add_n(outputs)


def _pixel_pairs(inputs, upstream):
    """For each place of a 3x3 kernel: the input pixels it is multiplied with, and the gradients of their outputs.

    Without the pixels of the padding, 31 % of all on maps of 4x4 pixels.
    """
    for y, x in PLACES:
        yield _shifted(inputs, y, x), _shifted(upstream, -y, -x)


def _shifted(images, y: int, x: int):
    """The images without their outermost y rows and x columns: from the start if positive, from the end if negative."""
    _, height, width, _ = images.shape
    return images[:, max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]


def _strided_pixel_pairs(inputs, upstream):
    """The same with a stride of two, on inputs that are padded already and of even sides."""
    _, rows, columns, bands = inputs.shape
    _, height, width, _ = upstream.shape
    # Every second pixel by reshaping: TensorFlow's slices with a stride are slow.
    pixels = tf.reshape(inputs, (-1, rows // 2, 2, columns // 2, 2, bands))
    for (y, dy), (x, dx) in itertools.product([divmod(place, 2) for place in range(3)], repeat=2):
        yield pixels[:, y : y + height, dy, x : x + width, dx], upstream
