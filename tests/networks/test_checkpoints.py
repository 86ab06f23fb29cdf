"""Weights from files and from a hub into our networks."""

import hashlib
import http.server
import json
import re
import threading
import time

import huggingface_hub
import keras
import numpy as np
import pytest
from conftest import THREE_STEPS
from safetensors.numpy import save, save_file

from benchmarks import parity
from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.networks import checkpoints, classifier, pretrained
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.normalization import EUROSAT_ALL, EUROSAT_RGB, IMAGENET
from resnetd_tf.training.preparation import normalization


def test_names_are_pytorchs():
    names = set(checkpoints.state_dict_names(resnet(50, "d", classes=10)))
    assert len(names) == 55 * 5 + 2  # 55 convolutions, each with a batch normalisation of four, and the head
    assert {"conv1.0.weight", "conv1.4.running_var", "bn1.bias", "layer1.0.downsample.1.weight", "fc.bias"} <= names
    assert {"layer4.0.downsample.2.running_mean", "layer3.5.conv3.weight"} <= names
    plain = set(checkpoints.state_dict_names(resnet(18, "b", classes=10)))
    assert {"conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias"} <= plain
    assert "layer1.0.downsample.0.weight" not in plain


@pytest.fixture(scope="module")
def state_dict():
    """As timm's of a resnet18d of ten classes."""
    return parity.draw_state_dict(resnet(18, "d", classes=10)) | {"bn1.num_batches_tracked": np.array(7)}


@pytest.fixture
def safetensors(state_dict, tmp_path):
    save_file(state_dict, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_safetensors(state_dict, safetensors):
    model = resnet(18, "d", classes=10, weights=safetensors)
    np.testing.assert_array_equal(model.get_layer("stem_3_bn").moving_mean, state_dict["bn1.running_mean"])
    kernel = state_dict["layer1.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.get_layer("stage1_block1_1_conv").kernel, kernel)
    np.testing.assert_array_equal(model.get_layer("predictions").kernel, state_dict["fc.weight"].T)


def test_a_head_of_another_size_stays_random(state_dict, safetensors, tmp_path):
    keras.utils.set_random_seed(1)
    fresh = resnet(18, "d", classes=7)
    keras.utils.set_random_seed(1)
    model = resnet(18, "d", classes=7, weights=safetensors)
    np.testing.assert_array_equal(model.get_layer("predictions").kernel, fresh.get_layer("predictions").kernel)
    np.testing.assert_array_equal(model.get_layer("stem_3_bn").beta, state_dict["bn1.bias"])
    features = resnet(18, "d", include_top=False, weights=safetensors)
    np.testing.assert_array_equal(features.get_layer("stem_3_bn").beta, state_dict["bn1.bias"])
    features.save(tmp_path / "features.keras")
    resnet(18, "d", classes=7, weights=tmp_path / "features.keras")


@pytest.mark.parametrize("bands", [1, 2, 4, 6, 13])
def test_a_first_convolution_for_other_bands(state_dict, safetensors, bands):
    """A picture repeated over the bands (grey for fewer than three) has the picture's response."""
    model = resnet(18, "d", classes=10, weights=safetensors, input_shape=(None, None, bands))
    kernel = model.get_layer("stem_1_conv").kernel
    assert kernel.shape[2] == bands
    picture = np.random.default_rng(0).normal(size=(1, 9, 9, 3)).astype("float32")
    if bands < 3:
        picture[:] = picture[..., :1]
    colours = state_dict["conv1.0.weight"].transpose(2, 3, 1, 0)
    expected = keras.ops.conv(picture, colours, padding="same")
    response = keras.ops.conv(picture[..., np.arange(bands) % 3], kernel, padding="same")
    np.testing.assert_allclose(response, expected, atol=1e-5)


def test_checkpoints_that_do_not_fit(state_dict, safetensors, tmp_path):
    with pytest.raises(ValueError, match=r"do not fit resnet34d: layer\d\S* \(\d+,.*\) is missing; .* and \d+ more"):
        resnet(34, "d", weights=safetensors)
    spare = {**state_dict, "layer4.1.bn2.spare": np.ones(3)}
    with pytest.raises(ValueError, match=r"layer4\.1\.bn2\.\w+ is not in the network"):
        checkpoints.assign(resnet(18, "d"), checkpoints.Checkpoint("spare", spare))
    narrow = {**state_dict, "layer1.0.conv1.weight": state_dict["layer1.0.conv1.weight"][:1]}
    with pytest.raises(ValueError, match=r"layer1\.0\.conv1\.weight is \(1, 64, 3, 3\), expected \(64, 64, 3, 3\)"):
        checkpoints.assign(resnet(18, "d"), checkpoints.Checkpoint("narrow", narrow))
    safetensors.write_bytes(safetensors.read_bytes()[:10_000_000])
    with pytest.raises(ValueError, match=r"weights\.safetensors: cannot be read, damaged or truncated"):
        resnet(18, "d", weights=safetensors)
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="loading a pickle runs code"):
        resnet(18, "d", weights=tmp_path / "weights.pth")


def test_nothing_is_assigned_where_something_does_not_fit(state_dict):
    model = resnet(18, "d", classes=10)
    before = model.get_weights()
    with pytest.raises(ValueError, match="is missing"):
        broken = {name: t for name, t in state_dict.items() if name != "layer4.1.bn2.bias"}
        checkpoints.assign(model, checkpoints.Checkpoint("broken", broken))
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_a_resnet50_loads_in_two_seconds(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(parity.draw_state_dict(resnet(50, "d")), path)
    model = resnet(50, "d")
    start = time.perf_counter()
    checkpoint = checkpoints.read(path, 50, "d")
    read = time.perf_counter()
    checkpoints.assign(model, checkpoint)
    assert time.perf_counter() - read < 2 and read - start < 2


def test_weights_bring_their_preprocessing(safetensors, tmp_path):
    """timm's files ImageNet's, a classifier's own .keras file what it was trained with."""
    checkpoint = checkpoints.read(safetensors, 18, "d")
    assert checkpoint.statistics == IMAGENET and checkpoint.interpolation == "bicubic"
    rgb = classifier.build(18, "d", classes=5, statistics=EUROSAT_RGB, image_size=32, checkpoint=checkpoint)
    assert rgb.get_layer("resizing").interpolation == "bicubic"
    rgb.save(tmp_path / "rgb.keras")
    again = checkpoints.read(tmp_path / "rgb.keras", 18, "d")
    np.testing.assert_allclose(again.statistics.mean, EUROSAT_RGB.mean)
    np.testing.assert_allclose(again.statistics.std, EUROSAT_RGB.std)
    assert again.interpolation == "bicubic"


def test_what_images_are_normalised_with(capsys):
    """What the weights bring, where it is for the same bands; EuroSAT's own; or the training split's."""
    rng = np.random.default_rng(0)

    def dataset(name, bands, dtype):
        images = rng.integers(0, 200, (40, 8, 8, bands)).astype(dtype)
        images[..., -1] = 7
        return Dataset(name, ("a", "b"), {"train": Split(images, np.zeros(40, int), ("",) * 40, "train[:70%]")})

    weights = checkpoints.Checkpoint("w", {}, IMAGENET)
    rgb, bands = dataset("folder:x", 3, "uint8"), dataset("folder:x", 13, "uint16")
    assert normalization(rgb, weights) is IMAGENET
    for chosen, images in ((normalization(bands, weights), bands), (normalization(rgb, None), rgb)):
        pixels = images.splits["train"].images.reshape(-1, images.bands).astype(float)
        assert chosen.name == "the training split of folder:x" and chosen.dtype == images.splits["train"].images.dtype
        np.testing.assert_allclose(chosen.mean, pixels.mean(0))
        np.testing.assert_allclose(chosen.std, [*pixels.std(0)[:-1], 1.0])  # a band of one value
    assert normalization(dataset("eurosat", 3, "uint8"), None) is EUROSAT_RGB
    assert normalization(dataset("eurosat/all:2.0.0", 13, "uint16"), None) is EUROSAT_ALL
    assert "Normalisation: the training split of folder:x, mean" in capsys.readouterr().out


SMALL = ("--depth=18", "--variant=d", *THREE_STEPS)


@pytest.mark.long
def test_training_from_published_weights(program, hub, tmp_path):
    """From a local hub: the backbone stays as published, head and preprocessing are the classifier's."""
    tensors = parity.draw_state_dict(resnet(18, "d"))
    environment = hub(save(tensors))
    arguments = ("--weights=imagenet", "--freeze=backbone", f"--output_dir={tmp_path / 'model'}")
    result = program("train.py", *SMALL, *arguments, environment=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Weights: timm/resnet18d.ra2_in1k (ImageNet top-1 73.8 %, Apache-2.0)\n")
    metadata = json.loads((tmp_path / "model/run-1/metadata.json").read_text())
    assert metadata["weights_source"] == "timm/resnet18d.ra2_in1k" and metadata["interpolation"] == "bicubic"
    assert metadata["learning_rate"] == 0.08
    assert metadata["weights_sha256"] == hashlib.sha256(save(tensors)).hexdigest()
    assert metadata["weights_revision"] == "0123456789abcdef0123456789abcdef01234567"
    trained = checkpoints.read(tmp_path / "model/run-1/model.keras", 18, "d")
    ours = resnet(18, "d")
    checkpoints.assign(ours, checkpoints.Checkpoint("published", tensors))
    for layer in ours.layers:
        for weight in layer.weights if layer.name != "predictions" else ():
            np.testing.assert_array_equal(trained.tensors[f"{layer.name}/{weight.name}"], weight)
    assert trained.tensors["predictions/kernel"].shape == (512, 10)

    # TFLite has no bicubic resizing of its own.
    result = program("export.py", f"--model={tmp_path / 'model'}", "--format=tflite", "--precision=float32")
    assert result.returncode == 0, result.stderr

    # The second time the weights come from the cache, as `auto` finds them.
    offline = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    result = program("train.py", *SMALL, "--batch_size=10000", environment=offline)
    assert result.stdout.startswith("Weights: timm/resnet18d.ra2_in1k")
    assert result.returncode == 2 and "larger than the training split" in result.stderr


def test_downloads_that_fail(bad_input, hub, tmp_path):
    content = save(parity.draw_state_dict(resnet(18, "d")))
    arguments = (*SMALL, "--weights=imagenet", f"--output_dir={tmp_path / 'model'}")
    line = bad_input("train.py", *arguments, environment=hub(content, arriving=1_000_000))
    assert "cannot fetch http://127.0.0.1" in line and "model.safetensors" in line
    assert re.search(r"consistency|incomplete|closed|bytes", line), line  # its own cause
    assert not list((tmp_path / "hub").rglob("*.safetensors"))  # huggingface_hub may keep a part to go on from
    line = bad_input("train.py", *SMALL, "--freeze=stem", f"--output_dir={tmp_path / 'model'}")
    assert "random weights would stay as they are" in line
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("host", "cause"),
    [("127.0.0.1:9", "refused"), ("no-such-host.invalid", "[Nn]ame|resol"), ("forbidden", "403 Forbidden")],
)
def test_downloads_that_fail_say_why(monkeypatch, host, cause):
    class Forbidden(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Forbidden) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}" if host == "forbidden" else host
        monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda *arguments: f"http://{place}/model.safetensors")
        with pytest.raises(
            pretrained.Unavailable, match=rf"cannot fetch http://{place}/.*\(.*({cause}).*--weights=model.safetensors"
        ):
            pretrained.fetch_safetensors(pretrained.find(50, "d"))
        server.shutdown()


def test_keras_applications_weights(monkeypatch):
    peer = keras.applications.ResNet50(weights=None)
    monkeypatch.setattr(pretrained, "_probe", lambda url: None)
    monkeypatch.setattr(keras.applications, "ResNet50", lambda weights: peer)  # not fetched: no file in Keras's cache
    model = resnet(50, "base", weights="imagenet", classes=10)
    kernel = peer.get_layer("conv4_block2_3_conv").kernel
    np.testing.assert_array_equal(model.get_layer("stage3_block2_3_conv").kernel, kernel)


def test_every_published_checkpoint_has_what_belongs_to_it():
    for depth in (18, 34, 50, 101, 152):
        for variant in ("base", "b", "c", "d"):
            if depth in (18, 34) and variant == "c":
                with pytest.raises(pretrained.Unavailable, match="depth"):
                    pretrained.find(depth, variant)
                continue
            chosen = pretrained.find(depth, variant)
            assert chosen.licence and 70 < chosen.top1 < 81 and chosen.size >= 224
