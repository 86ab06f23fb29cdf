"""The architecture: variants, shapes, names and bad arguments."""

import inspect
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import ROOT
from nets import randomize

import resnetd_tf
from benchmarks import cost
from resnetd_tf.networks.resnet import DEPTHS, VARIANTS, resnet
from resnetd_tf.training import settings


@pytest.mark.parametrize(
    ("builder", "millions"),
    [
        (resnetd_tf.ResNet50, 25.557032),
        (resnetd_tf.ResNet50B, 25.557032),
        (resnetd_tf.ResNet50C, 25.576264),
        (resnetd_tf.ResNet50D, 25.576264),
    ],
)
def test_networks_have_the_known_number_of_parameters(builder, millions):
    model = builder()
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == round(millions * 1e6)
    assert model.output_shape == (None, 1000)


def strided_layers(model):
    return {layer.name for layer in model.layers if getattr(layer, "strides", (1, 1)) == (2, 2)}


def test_variants_differ_in_strides_stem_and_shortcuts():
    models = {variant: resnet(50, variant) for variant in VARIANTS}
    assert "stage2_block1_1_conv" in strided_layers(models["base"])
    for variant in "bcd":
        assert "stage2_block1_2_conv" in strided_layers(models[variant])
        assert "stage2_block1_1_conv" not in strided_layers(models[variant])
    stems = {v: [m.get_layer(f"stem_{i}_conv").filters for i in (1, 2, 3)] for v, m in models.items() if v in "cd"}
    assert stems == {"c": [32, 32, 64], "d": [32, 32, 64]}
    assert models["b"].get_layer("stem_1_conv").kernel_size == (7, 7)
    assert {n for n in strided_layers(models["d"]) if "shortcut" in n} == {
        f"stage{s}_block1_shortcut_pool" for s in (2, 3, 4)
    }
    assert {n for n in strided_layers(models["c"]) if "shortcut" in n} == {
        f"stage{s}_block1_shortcut_conv" for s in (2, 3, 4)
    }


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_output_stride_sets_the_sides_of_stages(output_stride):
    model = resnet(18, "d", include_top=False, input_shape=(96, 96, 13), output_stride=output_stride)
    sizes = [model.get_layer(f"stage{stage}").output.shape[1] for stage in (1, 2, 3, 4)]
    assert sizes == [96 // min(stride, output_stride) for stride in (4, 8, 16, 32)]


def test_a_network_of_open_size_takes_any_size():
    model = resnet(18, "b", include_top=False, pooling="avg")
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
        ({"weights": __file__}, "expected a .keras, .weights.h5, .safetensors or .pth"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        resnet(**{"depth": 18, "variant": "d", **arguments})


def test_weights_h5_must_fit_exactly(tmp_path):
    path = tmp_path / "r18.weights.h5"
    model = resnet(18, "d", classes=10)
    randomize(model)
    model.save_weights(path)
    same = resnet(18, "d", classes=10, weights=path)
    for ours, loaded in zip(model.weights, same.weights):
        np.testing.assert_array_equal(ours, loaded)
    with pytest.raises(ValueError, match=r"do not fit resnet18d: fc\.weight is \(10, 512\), expected \(7, 512\)"):
        resnet(18, "d", classes=7, weights=path)


def test_blocks_begin_as_identities():
    model = resnet(50, "d", include_top=False, input_shape=(64, 64, 3))
    features = keras.Model(model.input, [model.get_layer(f"stage3_block{block}_out").output for block in (1, 5)])
    first, fifth = features(np.random.default_rng(0).normal(size=(1, 64, 64, 3)))
    np.testing.assert_array_equal(first, fifth)


def test_networks_need_no_tensorflow():
    """The networks build where TensorFlow cannot be imported."""
    pytest.importorskip("jax")
    script = "import sys; sys.modules['tensorflow'] = None; import resnetd_tf; resnetd_tf.resnet(10, 'd', classes=10)"
    compile_quickly = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT), **compile_quickly}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_every_depth_builds():
    for depth in DEPTHS:
        resnet(depth, "d", input_shape=(32, 32, 3))


@pytest.mark.parametrize("network", cost.PAPER)
def test_cost_is_that_in_the_paper(network):
    model = resnet(*network, input_shape=(224, 224, 3))
    billions, millions = cost.PAPER[network]
    assert abs(cost.multiply_adds(model) / 1e9 - billions) < 0.1
    assert abs(cost.parameters(model) / 1e6 - millions) < 1


@pytest.mark.parametrize("name", ["ResNet50", "ResNet50B", "ResNet50C", "ResNet50D"])
def test_builders_are_as_in_keras_applications(name):
    builder = getattr(resnetd_tf, name)
    assert builder.__name__ == name
    theirs = inspect.signature(keras.applications.ResNet50).parameters
    ours = inspect.signature(builder).parameters
    assert list(theirs) == list(ours)[:-1]  # the order matters too, because all can be positional
    assert f"resnetd_tf.{name}(classes=10, input_shape=(64, 64, 3))" in builder.__doc__
    model = builder(classes=10, input_shape=(64, 64, 3))
    assert model.output_shape == (None, 10) and model.name == name.lower().removesuffix("-")
    assert builder(False, None, None, (64, 64, 3), "avg", name="features").output_shape == (None, 2048)


def test_an_input_tensor_brings_the_layers_before_it():
    """As in keras.applications, the network then contains them."""
    pixels = keras.Input((64, 64, 3))
    images = keras.layers.Normalization(mean=(1, 2, 3), variance=(4, 4, 4))(pixels)
    model = resnet(10, "d", input_tensor=images, classes=4)
    alone = resnet(10, "d", classes=4)
    randomize(alone)
    for layer in alone.layers[1:]:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    values = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype("float32")
    np.testing.assert_allclose(model(values), alone((values - (1, 2, 3)) / 2), atol=1e-5)
    assert model.input is pixels and model.get_layer("stage3").output.shape == (None, 4, 4, 256)


def test_an_input_tensor_takes_weights(tmp_path):
    alone = resnet(10, "d", classes=4)
    randomize(alone)
    alone.save_weights(tmp_path / "alone.weights.h5")
    alone.save(tmp_path / "alone.keras")
    for path in tmp_path.iterdir():
        pixels = keras.Input((64, 64, 3))
        model = resnet(10, "d", input_tensor=keras.layers.Normalization()(pixels), classes=4, weights=path)
        np.testing.assert_array_equal(model.get_layer("stem_2_bn").gamma, alone.get_layer("stem_2_bn").gamma)


@pytest.mark.parametrize(
    ("tensor", "shape", "message"),
    [
        (np.zeros((1, 64, 64, 3)), None, "of type ndarray; give the output of keras.Input"),
        (keras.Input((64, 64, 3), dtype="uint8"), None, "holds uint8, raw pixels"),
        (keras.Input((64, 64, None)), None, "with known bands"),
        (keras.Input((64, 3)), None, "expected .batch, height, width, bands."),
        (keras.Input((31, 64, 3)), None, "31x64 is below the smallest"),
        (keras.Input((64, 64, 3)), (64, 64, 13), r"input_shape \(64, 64, 13\) contradicts input_tensor"),
    ],
)
def test_input_tensors_that_are_no_images_are_refused(tensor, shape, message):
    with pytest.raises(ValueError, match=message):
        resnet(10, "d", input_tensor=tensor, input_shape=shape)


def test_settings_offer_all_networks():
    assert set(settings.VARIANTS) == VARIANTS.keys()
    assert {*settings.DEPTHS, settings.SMALLEST_DEPTH} == DEPTHS.keys()


def test_channels_first_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(ValueError, match="channels last"):
        resnet(18, "d")
