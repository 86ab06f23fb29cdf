"""Three Keras layers that run faster on TensorFlow, and copies of models in Keras's own layers."""

import itertools

import keras
import numpy as np

if keras.config.backend() == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable("resnetd_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` computed by TensorFlow's single kernel FusedBatchNormV3.

    The layer takes channels-last images (batch, height, width, channels). Keras computes instead what the kernel does
    not support: `mask`, `renorm`, `synchronized`, other shapes, and statistics in another type than float32. As in
    Keras, statistics are those of the replica's own batch, or those of all replicas if `synchronized`.
    """

    @property
    def is_fused(self) -> bool:
        """Whether the kernel supports this layer's configuration."""
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
        if not self.is_fused or mask is not None:
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
            # The kernel returns the unbiased variance, but Keras averages the biased variance.
            count = tf.cast(tf.size(inputs), variance.dtype) / inputs.shape[-1]
            variance *= 1.0 - 1.0 / count
            for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
                average.assign(average.value * self.momentum + value * (1.0 - self.momentum))
        return outputs


# Convolution as matrix products on processors.
#
# oneDNN's convolutions rearrange the kernel in every training step. On small feature maps the convolution itself is too
# little work to make up for that, and the gradient of the kernel is the slowest part. `benchmarks.train_step` shows the
# difference.


# The largest feature maps, in pixels, on which matrix products were faster at a batch of 32 (AVX512-BF16, two cores).
MAX_POINTWISE_PIXELS = 256
MAX_KERNEL_GRADIENT_PIXELS = 64
MAX_CONVOLUTION_PIXELS = 4
# The nine positions in a 3x3 kernel, as offsets of row and column from its centre.
KERNEL_OFFSETS = tuple(itertools.product((-1, 0, 1), repeat=2))


@keras.saving.register_keras_serializable("resnetd_tf")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` with the same weights, configuration and results.

    On TensorFlow without a GPU, small feature maps are convolved by matrix products. A 1x1 convolution is one product.
    The gradient of a 3x3 kernel is one product for each of its nine positions, and so is the 3x3 convolution itself on
    the smallest maps. Keras computes all convolutions with a dilation, bias or activation. It also computes strided
    ones, except 3x3 convolutions of images that are padded already.
    """

    def choose_algorithm(self, input_shape: tuple) -> str:
        """Says how images of a static shape (batch, height, width, bands) are convolved.

        Returns:
            "product": one matrix product for a 1x1 kernel; "gradient products": matrix products for the gradient of a
            3x3 kernel; or "keras".
        """
        if (
            keras.config.backend() != "tensorflow"
            or tf.config.list_physical_devices("GPU")
            or self.data_format != "channels_last"
            or self.dilation_rate != (1, 1)
            or self.groups != 1
            or self.use_bias
            or self.activation is not keras.activations.linear
            or None in input_shape[1:]  # for example images that `tf.data` decodes
        ):
            return "keras"
        _, height, width, _ = self.compute_output_shape(input_shape)
        is_unstrided = self.padding == "same" and self.strides == (1, 1)
        has_even_sides = all(side % 2 == 0 for side in input_shape[1:3])  # these are cut into pairs of pixels
        is_halving = self.padding == "valid" and self.strides == (2, 2) and has_even_sides
        if self.kernel_size == (1, 1) and is_unstrided and height * width <= MAX_POINTWISE_PIXELS:
            return "product"
        if self.kernel_size == (3, 3) and (is_unstrided or is_halving) and height * width <= MAX_KERNEL_GRADIENT_PIXELS:
            return "gradient products"
        return "keras"

    def call(self, inputs):
        algorithm = self.choose_algorithm(tuple(inputs.shape))
        if algorithm == "product":
            _, height, width, bands = inputs.shape
            kernel = tf.reshape(self.kernel, (bands, self.filters))
            outputs = tf.matmul(tf.reshape(inputs, (-1, bands)), kernel)
            return tf.reshape(outputs, (-1, height, width, self.filters))
        if algorithm == "gradient products":
            return _convolve(inputs, tf.convert_to_tensor(self.kernel), self.strides[0], self.padding.upper())
        return super().call(inputs)


def _convolve(inputs, kernel, stride: int, padding: str):
    """Convolves images with a 3x3 kernel, with gradients computed by matrix products."""
    uses_products = padding == "SAME" and inputs.shape[1] * inputs.shape[2] <= MAX_CONVOLUTION_PIXELS

    @tf.custom_gradient
    def convolve(inputs, kernel):
        def gradients(upstream):
            if uses_products:
                input_gradient = _convolve_by_products(upstream, matrices[::-1], transpose_b=True)
            else:
                input_gradient = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(inputs), stride, padding)
            pair_pixels = _pair_pixels if padding == "SAME" else _pair_strided_pixels
            products = []
            for pair in pair_pixels(inputs, upstream):
                pixels, gradient = (tf.reshape(images, (-1, images.shape[-1])) for images in pair)
                products.append(tf.matmul(pixels, gradient, transpose_a=True))
            return input_gradient, tf.reshape(tf.stack(products), kernel.shape)

        if not uses_products:
            return tf.nn.conv2d(inputs, kernel, stride, padding), gradients
        matrices = tf.unstack(tf.reshape(kernel, (9, *kernel.shape[2:])))
        return _convolve_by_products(inputs, matrices), gradients

    return convolve(inputs, kernel)


def _convolve_by_products(inputs, matrices, transpose_b: bool = False):
    """Convolves images, as if padded by zeros, with the nine matrices of a 3x3 kernel's positions.

    The products leave out the padding, which is five ninths of the work on maps of 2x2 pixels.
    """
    outputs = []
    for (y, x), matrix in zip(KERNEL_OFFSETS, matrices):
        pixels = _crop_edges(inputs, y, x)
        _, rows, columns, bands = pixels.shape
        if rows and columns:
            product = tf.matmul(tf.reshape(pixels, (-1, bands)), matrix, transpose_b=transpose_b)
            product = tf.reshape(product, (-1, rows, columns, product.shape[-1]))
            outputs.append(tf.pad(product, ((0, 0), (max(-y, 0), max(y, 0)), (max(-x, 0), max(x, 0)), (0, 0))))
    return tf.add_n(outputs)


def _pair_pixels(inputs, upstream):
    """Yields, for each position of a 3x3 kernel, the input pixels it multiplies and the gradients of their outputs.

    The pixels of the padding are left out, which are 31 % of all on maps of 4x4 pixels.
    """
    for y, x in KERNEL_OFFSETS:
        yield _crop_edges(inputs, y, x), _crop_edges(upstream, -y, -x)


def _crop_edges(images, y: int, x: int):
    """Removes y rows and x columns, from the start if the number is positive, from the end if it is negative."""
    _, height, width, _ = images.shape
    return images[:, max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)]


def _pair_strided_pixels(inputs, upstream):
    """Yields the same pairs for a stride of two, on padded inputs with even sides."""
    _, rows, columns, bands = inputs.shape
    _, height, width, _ = upstream.shape
    # Reshaping takes every second pixel, because TensorFlow's slices with a stride are slow.
    pixels = tf.reshape(inputs, (-1, rows // 2, 2, columns // 2, 2, bands))
    for (y, dy), (x, dx) in itertools.product([divmod(offset, 2) for offset in range(3)], repeat=2):
        yield pixels[:, y : y + height, dy, x : x + width, dx], upstream


# Resizing as two matrix products.


@keras.saving.register_keras_serializable("resnetd_tf")
class Resizing(keras.layers.Resizing):
    """`keras.layers.Resizing` with the same configuration and results.

    Resizing is linear in rows and in columns, so two matrices made from the image's size compute it. TensorFlow's own
    antialiased and bicubic resizing is missing on GPUs, in XLA and in TFLite. The matrices serve bilinear and bicubic
    resizing of channels-last float batches; Keras computes everything else.
    """

    @property
    def is_linear(self) -> bool:
        """Whether two matrices compute this configuration."""
        return (
            keras.config.backend() == "tensorflow"
            and self.interpolation in ("bilinear", "bicubic")
            and self.data_format == "channels_last"
            and not (self.crop_to_aspect_ratio or self.pad_to_aspect_ratio)
        )

    def call(self, data):
        if not self.is_linear or len(data.shape) != 4 or data.dtype != "float32":
            return super().call(data)
        if tuple(data.shape[1:3]) == (self.height, self.width):
            return data
        shape, bands = tf.shape(data), data.shape[3]
        height, width = (shape[i] if data.shape[i] is None else data.shape[i] for i in (1, 2))
        rows, columns = (self._make_matrix(old, new) for old, new in ((height, self.height), (width, self.width)))
        # One large product resizes the rows of all bands, another the columns. TFLite's int8 needs the constant on the
        # right.
        data = tf.matmul(tf.reshape(tf.transpose(data, (0, 3, 1, 2)), (-1, width)), columns, transpose_b=True)
        data = tf.transpose(tf.reshape(data, (-1, bands, height, self.width)), (0, 1, 3, 2))
        data = tf.matmul(tf.reshape(data, (-1, height)), rows, transpose_b=True)
        return tf.transpose(tf.reshape(data, (-1, bands, self.width, self.height)), (0, 3, 2, 1))

    def _make_matrix(self, old, new: int):
        if isinstance(old, int):
            with tf.init_scope():  # computed once, when the function is traced, as a constant of its graph
                return make_resizing_matrix(old, new, self.interpolation, self.antialias).numpy()
        return make_resizing_matrix(old, new, self.interpolation, self.antialias)


def make_resizing_matrix(old, new: int, interpolation: str, antialias: bool):
    """Makes the matrix that resizes a line of pixels as Pillow and `tf.image.resize` do.

    Args:
        old: Number of pixels before, an integer or an integer tensor.
        new: Number of pixels after.
        interpolation: "bilinear" or "bicubic".
        antialias: Whether the filter widens where the line shrinks.

    Returns:
        A float32 tensor (new, old).
    """
    scale = tf.cast(old, "float32") / new
    # The filter is as wide as the old pixels that a new pixel covers.
    width = tf.maximum(scale, 1.0) if antialias else 1.0
    centres = (tf.range(new, dtype="float32") + 0.5) * scale
    distances = tf.abs(tf.range(tf.cast(old, "float32")) + 0.5 - centres[:, tf.newaxis]) / width
    weights = {"bilinear": _triangle_filter, "bicubic": _cubic_filter}[interpolation](distances)
    return weights / tf.reduce_sum(weights, axis=1, keepdims=True)


def _triangle_filter(x):
    return tf.maximum(1.0 - x, 0.0)


def _cubic_filter(x):
    """Keys, "Cubic Convolution Interpolation for Digital Image Processing" (1981), with a = -0.5."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return tf.where(x < 1.0, near, tf.where(x < 2.0, far, 0.0))


# Copies of a model in Keras's own layers, which `keras.saving.load_model` opens without this package.


def keras_class(layer: keras.layers.Layer) -> type[keras.layers.Layer]:
    """Returns the Keras class of a layer, which for our three layers is the class that they derive from."""
    return next(base for base in type(layer).__mro__ if base.__module__.startswith("keras."))


def copy_with_keras_layers(model: keras.Model, **changes) -> keras.Model:
    """Copies a model into Keras's own layers, with the same weights, for a single device and not compiled.

    Args:
        model: A network, or a classifier.
        **changes: New values in every layer's configuration, such as its `dtype`.
    """

    def clone(layer):
        config = {**layer.get_config(), **changes}
        if "synchronized" in config:
            config["synchronized"] = False  # other backends than TensorFlow refuse a synchronized layer
        return keras_class(layer).from_config(config)

    uncompiled = keras.Model(model.input, model.output, name=model.name)  # the optimizer is not copied
    copy = keras.models.clone_model(uncompiled, clone_function=clone, recursive=True)
    copy.set_weights(model.get_weights())
    return copy


def portable_copy(model: keras.Model) -> keras.Model:
    """Copies a model for saving: in float32, in Keras's own layers and with the same weights, none of them frozen.

    `keras.saving.load_model` opens the saved copy without this package and on any backend. The copy runs on hardware
    that lacks the precision of the training. `checkpoints.save_keras` writes it for earlier versions of Keras too.
    """
    return copy_with_keras_layers(model, dtype="float32", trainable=True)


# Folding: the network that is deployed has no batch normalisation.


def fold_batch_norm(model: keras.Model, precision: str = "float32", pools_as_convolutions: bool = False) -> keras.Model:
    """Copies a model for inference, with every batch normalisation as part of the convolution before it.

    With g = gamma / sqrt(moving variance + epsilon), kernels become kernel * g, and biases beta - moving mean * g. In
    every network here the normalisation `X_bn` follows the convolution `X_conv`.

    Args:
        model: A network, or a classifier.
        precision: "float32" or "bfloat16", the type of the weights and activations of the network but for its head.
        pools_as_convolutions: Whether the average pools of ResNet-D's shortcuts become convolutions of each channel by
            itself. In int8 XNNPACK, which runs TFLite, has no average pool: the graph falls into parts, which takes 5 %
            more time for images of 224 pixels and 3 % for 64.

    Returns:
        A copy in Keras's own layers.
    """
    float32_layers = ("pixels", "normalization", "resizing", "predictions")

    def clone_layer(layer):
        if pools_as_convolutions and isinstance(layer, keras.layers.AveragePooling2D) and _halves_even_sides(layer):
            mean = keras.initializers.Constant(1 / 4)
            return keras.layers.DepthwiseConv2D(
                2, strides=2, use_bias=False, depthwise_initializer=mean, name=layer.name, dtype=precision
            )
        bias = {"use_bias": True} if isinstance(layer, keras.layers.Conv2D) else {}
        dtype = "float32" if layer.name in float32_layers else precision
        return keras_class(layer).from_config({**layer.get_config(), **bias, "dtype": dtype})

    def call_layer(layer, inputs, **kwargs):
        return inputs if isinstance(layer, keras.layers.BatchNormalization) else layer(inputs, **kwargs)

    def copy_weights(original, copy):
        for layer in original.layers:
            if isinstance(layer, keras.Model):
                copy_weights(layer, copy.get_layer(layer.name))
            elif isinstance(layer, keras.layers.Conv2D):
                norm = original.get_layer(layer.name.removesuffix("conv") + "bn")
                gamma, beta, mean, variance = (np.asarray(weight, "float64") for weight in norm.get_weights())
                scale = gamma / np.sqrt(variance + norm.epsilon)
                copy.get_layer(layer.name).set_weights([layer.get_weights()[0] * scale, beta - mean * scale])
            elif layer.get_weights() and not isinstance(layer, keras.layers.BatchNormalization):
                copy.get_layer(layer.name).set_weights(layer.get_weights())

    copy = keras.models.clone_model(model, clone_function=clone_layer, call_function=call_layer, recursive=True)
    copy_weights(model, copy)
    return copy


def _halves_even_sides(pool: keras.layers.AveragePooling2D) -> bool:
    """Whether each mean is one of 2 x 2 pixels. Where a side is odd, the means at the edge are of fewer pixels."""
    _, height, width, _ = pool.input.shape
    return pool.pool_size == pool.strides == (2, 2) and height % 2 == width % 2 == 0
