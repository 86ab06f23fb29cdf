"""Our layers give the results of Keras's own, faster."""

import keras
import numpy as np
import pytest
from nets import build_in_bfloat16, randomize

from resnetd_tf.networks.layers import BatchNormalization, Conv2D, copy_with_keras_layers, portable_copy
from resnetd_tf.networks.resnet import resnet


def results_of_training(layer, images) -> list:
    """Returns outputs, gradients of inputs and weights, other weights, and outputs of inference, all in float32."""
    import tensorflow as tf

    x = tf.Variable(images)
    with tf.GradientTape() as tape:
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, "float32") ** 3)
    gradients = tape.gradient(loss, [x, *[weight.value for weight in layer.trainable_weights]])
    results = [y, *gradients, *layer.non_trainable_weights, layer(images, training=False)]
    return [np.asarray(result, "float32") for result in results]


def assert_close(ours, theirs, dtype):
    tolerance = 1e-4 if dtype == "float32" else 0.05
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_batch_norm_equals_keras(dtype):
    """Outputs, gradients and moving statistics of the fused layer equal those of Keras's layer."""
    images = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 7)).astype("float32")
    kinds = (BatchNormalization, keras.layers.BatchNormalization)
    assert_close(*(results_of_training(kind(momentum=0.9, epsilon=1e-5, dtype=dtype), images) for kind in kinds), dtype)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 4), (8, 6), (20, 20)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_convolution_equals_keras(kernel, stride, size, dtype):
    """Outputs and gradients of the matrix products equal those of Keras's convolution."""
    if stride == 2:  # the padded image that gives a map of that size
        size = tuple(2 * side + 2 for side in size)
    images = np.random.default_rng(0).normal(size=(3, *size, 5)).astype("float32")
    options = {"strides": stride, "padding": "same" if stride == 1 else "valid", "use_bias": False, "dtype": dtype}
    layers = [kind(4, kernel, **options) for kind in (Conv2D, keras.layers.Conv2D)]
    for layer in layers:
        layer.build(images.shape)
    layers[1].set_weights(layers[0].get_weights())
    assert_close(*(results_of_training(layer, images) for layer in layers), dtype)


def test_gradients_round_as_with_keras_layers():
    """In bfloat16 the gradients of our layers are as close to those in float32 as the gradients of Keras's layers."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(16, 64, 64, 3)).astype("float32"), rng.integers(0, 10, 16)
    original = resnet(18, "d", input_shape=(64, 64, 3), classes=10)
    randomize(original)

    def gradients(model):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True)))
        return [np.asarray(gradient) for gradient in tape.gradient(loss, model.trainable_variables)]

    expected = gradients(portable_copy(original))
    ours = build_in_bfloat16(64)
    ours.set_weights(original.get_weights())
    errors = [
        [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(gradients(model), expected)]
        for model in (ours, copy_with_keras_layers(ours))
    ]
    assert 0 < np.median(errors[0]) < 1.2 * np.median(errors[1])
    assert max(errors[0]) < 1.2 * max(errors[1])


def layers_by_algorithm(algorithm, **arguments) -> list[str]:
    layers = [layer for layer in resnet(50, "d", **arguments).layers if isinstance(layer, Conv2D)]
    return [layer.name for layer in layers if layer.choose_algorithm(layer.input.shape) == algorithm]


def test_matrix_products_convolve_small_maps():
    assert len(layers_by_algorithm("product", input_shape=(64, 64, 3))) == 36
    names = layers_by_algorithm("gradient products", input_shape=(64, 64, 3))
    assert len(names) == 13 and names[0] == "stage2_block1_2_conv"


def test_keras_convolves_maps_of_unknown_size():
    assert len(layers_by_algorithm("keras")) == 55


def test_a_network_of_a_fixed_size_trains_on_batches_of_unknown_size():
    """`tf.io.decode_jpeg` makes such batches: the static shape is (None, None, None, 3)."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(8, 64, 64, 3)).astype("float32"), np.arange(8) % 2
    losses = []
    for shape in ((None, 64, 64, 3), (None, None, None, 3)):
        keras.utils.set_random_seed(0)
        model = resnet(10, "d", input_shape=(64, 64, 3), classes=2)
        model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        types = (tf.TensorSpec(shape), tf.TensorSpec((None,), tf.int64))
        batches = tf.data.Dataset.from_generator(lambda: [(images, labels)], output_signature=types)
        losses.append(model.fit(batches.repeat(), steps_per_epoch=2, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_a_convolution_takes_other_sizes_than_it_was_built_for(kernel, stride):
    """Even sides, whose pixels are cut into pairs, become odd."""
    layers = [kind(4, kernel, strides=stride, use_bias=False) for kind in (Conv2D, keras.layers.Conv2D)]
    for layer in layers:
        layer.build((None, 6, 6, 5))
    layers[1].set_weights(layers[0].get_weights())
    images = np.random.default_rng(0).normal(size=(3, 7, 9, 5)).astype("float32")
    assert_close(*(results_of_training(layer, images) for layer in layers), "float32")


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "float64"])
def test_a_network_trains_under_a_pure_policy(policy):
    """TensorFlow's fused batch normalisation does not take weights and statistics of these types."""
    keras.config.set_dtype_policy(policy)
    try:
        model = resnet(10, "d", input_shape=(32, 32, 3), classes=2)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("stem_1_bn").moving_mean.dtype == policy
    model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype("float32")
    assert np.isfinite(model.fit(images, np.arange(4) % 2, verbose=0).history["loss"]).all()


def test_frozen_batch_norm_keeps_its_statistics():
    layer = BatchNormalization()
    layer.trainable = False
    layer(np.random.default_rng(0).normal(5, 1, (2, 4, 4, 3)).astype("float32"), training=True)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


def test_portable_copy_is_in_keras_layers():
    model = build_in_bfloat16(32)
    randomize(model)
    copy = portable_copy(model)
    assert {type(layer).__module__.split(".")[0] for layer in copy.layers} == {"keras"}
    assert {layer.compute_dtype for layer in copy.layers} == {"float32"}
    for ours, theirs in zip(model.weights, copy.weights):
        np.testing.assert_array_equal(ours, theirs)
