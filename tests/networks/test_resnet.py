import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import resnetd_tf
from resnetd_tf.networks.batchnorm import BatchNormalization
from resnetd_tf.networks.convolution import Conv2D
from resnetd_tf.networks.copies import of_kerass_layers, portable
from resnetd_tf.networks.resnet import DEPTHS, VARIANTS


def randomize(model, seed=0):
    """Weights of unit scale everywhere, batch normalisation's included, so that every layer counts."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))


def in_bfloat16(size):
    """A network for images of that side, built under Keras's policy for training in bfloat16."""
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        return resnetd_tf.resnet(18, "d", input_shape=(size, size, 3), classes=10)
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    ("builder", "millions"),
    [
        (resnetd_tf.ResNet50, 25.557032),
        (resnetd_tf.ResNet50B, 25.557032),
        (resnetd_tf.ResNet50C, 25.576264),
        (resnetd_tf.ResNet50D, 25.576264),
    ],
)
def test_parameter_counts(builder, millions):
    model = builder()
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == round(millions * 1e6)
    assert model.output_shape == (None, 1000)


def strided(model):
    return {layer.name for layer in model.layers if getattr(layer, "strides", (1, 1)) == (2, 2)}


def test_where_the_variants_differ():
    models = {variant: resnetd_tf.resnet(50, variant) for variant in VARIANTS}
    assert "stage2_block1_1_conv" in strided(models["base"])
    for variant in "bcd":
        assert "stage2_block1_2_conv" in strided(models[variant])
        assert "stage2_block1_1_conv" not in strided(models[variant])
    stems = {v: [m.get_layer(f"stem_{i}_conv").filters for i in (1, 2, 3)] for v, m in models.items() if v in "cd"}
    assert stems == {"c": [32, 32, 64], "d": [32, 32, 64]}
    assert models["b"].get_layer("stem_1_conv").kernel_size == (7, 7)
    assert {n for n in strided(models["d"]) if "shortcut" in n} == {f"stage{s}_block1_shortcut_pool" for s in (2, 3, 4)}
    assert {n for n in strided(models["c"]) if "shortcut" in n} == {f"stage{s}_block1_shortcut_conv" for s in (2, 3, 4)}


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_stage_outputs(output_stride):
    model = resnetd_tf.resnet(18, "d", include_top=False, input_shape=(96, 96, 13), output_stride=output_stride)
    sizes = [model.get_layer(f"stage{stage}").output.shape[1] for stage in (1, 2, 3, 4)]
    assert sizes == [96 // min(stride, output_stride) for stride in (4, 8, 16, 32)]


def test_open_input_size_and_pooling():
    model = resnetd_tf.resnet(18, "b", include_top=False, pooling="avg")
    for size in (32, 47):
        assert model(np.zeros((1, size, size, 3))).shape == (1, 512)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 49}, "depth 49"),
        ({"variant": "e"}, "variant 'e'"),
        ({"input_shape": (31, 64, 3)}, "31x64"),
        ({"output_stride": 4}, "output stride 4"),
        ({"pooling": "sum"}, "pooling 'sum'"),
        ({"weights": "no/such.weights.h5"}, "no such file"),
        ({"weights": __file__}, "expected a .keras, .weights.h5 or .safetensors"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnetd_tf.resnet(**{"depth": 18, "variant": "d", **arguments})


def test_weights_of_another_architecture(tmp_path):
    path = tmp_path / "r18.weights.h5"
    model = resnetd_tf.resnet(18, "d", classes=10)
    randomize(model)
    model.save_weights(path)
    same = resnetd_tf.resnet(18, "d", classes=10, weights=path)
    for ours, loaded in zip(model.weights, same.weights):
        np.testing.assert_array_equal(ours, loaded)
    with pytest.raises(ValueError, match="do not fit"):
        resnetd_tf.resnet(34, "d", classes=10, weights=path)


def test_blocks_begin_as_identities():
    model = resnetd_tf.resnet(50, "d", include_top=False, input_shape=(64, 64, 3))
    features = keras.Model(model.inputs, [model.get_layer(f"stage3_block{block}_out").output for block in (1, 5)])
    first, fifth = features(np.random.default_rng(0).normal(size=(1, 64, 64, 3)))
    np.testing.assert_array_equal(first, fifth)


def results_of_training(layer, images) -> list:
    """Outputs, gradients of inputs and weights, then other weights and outputs of inference, in float32."""
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
    """The fused layer against Keras's own: outputs, gradients and moving statistics."""
    images = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 7)).astype("float32")
    kinds = (BatchNormalization, keras.layers.BatchNormalization)
    assert_close(*(results_of_training(kind(momentum=0.9, epsilon=1e-5, dtype=dtype), images) for kind in kinds), dtype)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 4), (8, 6), (20, 20)])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_convolution_equals_keras(kernel, stride, size, dtype):
    """Outputs and gradients of the matrix products against Keras's convolution."""
    if stride == 2:  # to that size, from an image that is padded already
        size = tuple(2 * side + 2 for side in size)
    images = np.random.default_rng(0).normal(size=(3, *size, 5)).astype("float32")
    options = {"strides": stride, "padding": "same" if stride == 1 else "valid", "use_bias": False, "dtype": dtype}
    layers = [kind(4, kernel, **options) for kind in (Conv2D, keras.layers.Conv2D)]
    for layer in layers:
        layer.build(images.shape)
    layers[1].set_weights(layers[0].get_weights())
    assert_close(*(results_of_training(layer, images) for layer in layers), dtype)


def test_gradients_round_as_with_kerass_layers():
    """In bfloat16 the gradients of our layers are as near to those of float32 as Keras's are."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(16, 64, 64, 3)).astype("float32"), rng.integers(0, 10, 16)
    original = resnetd_tf.resnet(18, "d", input_shape=(64, 64, 3), classes=10)
    randomize(original)

    def gradients(model):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True)))
        return [np.asarray(gradient) for gradient in tape.gradient(loss, model.trainable_variables)]

    expected = gradients(portable(original))
    ours = in_bfloat16(64)
    ours.set_weights(original.get_weights())
    errors = [
        [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(gradients(model), expected)]
        for model in (ours, of_kerass_layers(ours))
    ]
    assert 0 < np.median(errors[0]) < 1.2 * np.median(errors[1])
    assert max(errors[0]) < 1.2 * max(errors[1])


def test_convolutions_that_are_matrix_products():
    """Those of small maps; none where the size is open."""

    def found(**arguments):
        layers = resnetd_tf.resnet(50, "d", **arguments).layers
        return [
            [layer.name for layer in layers if getattr(layer, attribute, False)]
            for attribute in ("pointwise", "differentiated_by_products")
        ]

    pointwise, differentiated = found(input_shape=(64, 64, 3))
    assert len(pointwise) == 36 and len(differentiated) == 13 and differentiated[0] == "stage2_block1_2_conv"
    assert found() == [[], []]


def test_frozen_batch_norm_keeps_its_statistics():
    layer = BatchNormalization()
    layer.trainable = False
    layer(np.random.default_rng(0).normal(5, 1, (2, 4, 4, 3)).astype("float32"), training=True)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(3))


def test_portable_copy_is_kerass_own():
    model = in_bfloat16(32)
    randomize(model)
    copy = portable(model)
    assert {type(layer).__module__.split(".")[0] for layer in copy.layers} == {"keras"}
    assert {layer.compute_dtype for layer in copy.layers} == {"float32"}
    for ours, theirs in zip(model.weights, copy.weights):
        np.testing.assert_array_equal(ours, theirs)


def test_networks_need_no_tensorflow():
    """`resnet.py` builds where TensorFlow cannot even be imported."""
    pytest.importorskip("jax")
    script = "import sys; sys.modules['tensorflow'] = None; import resnetd_tf; resnetd_tf.ResNet50D(classes=10)"
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "KERAS_BACKEND": "jax"}, check=True)


def test_every_depth_builds():
    for depth in DEPTHS:
        resnetd_tf.resnet(depth, "d", input_shape=(32, 32, 3))
