"""Three Keras layers that run faster on TensorFlow, and copies of models in Keras's own layers."""

import keras

if keras.config.backend() == "tensorflow":
    import tensorflow as tf
import itertools
import math


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


# Convolution as matrix products on CPUs, where those are faster.
#
# oneDNN's convolutions rearrange the kernel on every call of a training step, and on small feature maps there is little
# work to make up for it; computing the gradients of kernels is the slowest part. `benchmarks.train_step` shows the
# difference.


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


# Resizing as two matrix products.


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
                return resizing_matrix(old, new, self.interpolation, self.antialias).numpy()
        return resizing_matrix(old, new, self.interpolation, self.antialias)


def resizing_matrix(old, new: int, interpolation: str, antialias: bool):
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


# Copies of a model in Keras's own layers, which `keras.saving.load_model` opens without this package.


def keras_class(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """The layer's class, or the one of Keras's that it speeds up."""
    return next(kind for kind in type(layer).__mro__ if kind.__module__.startswith("keras."))


def copy_with_keras_layers(model: keras.Model, **changes) -> keras.Model:
    """Copies a model, uncompiled, into Keras's own layers with the same weights, for a single device.

    Args:
        model: A network, or a classifier.
        **changes: New values in every layer's configuration, such as its `dtype`.
    """

    def clone(layer):
        config = {**layer.get_config(), **changes}
        if "synchronized" in config:
            config["synchronized"] = False  # on TensorFlow alone can a layer be synchronized
        return keras_class(layer).from_config(config)

    uncompiled = keras.Model(model.input, model.output, name=model.name)  # the optimizer is not copied
    copy = keras.models.clone_model(uncompiled, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def portable_copy(model: keras.Model) -> keras.Model:
    """A copy in float32, in Keras's own layers only and none of them frozen, with the same weights.

    This is what is saved: `keras.saving.load_model` opens it without this package, on any backend, and it runs on
    hardware that lacks the precision the model was trained in. `keras_files.save` writes it for earlier Keras too.
    """
    return copy_with_keras_layers(model, dtype="float32", trainable=True)
