"""Reading weights from files and from a hub, and fitting them into our networks."""

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

import resnetd_tf
from benchmarks import parity
from resnetd_tf.data.splits import Dataset, Split
from resnetd_tf.errors import InputError
from resnetd_tf.networks import checkpoints, classifier, pretrained
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.normalization import CAFFE, EUROSAT_ALL, EUROSAT_RGB, IMAGENET
from resnetd_tf.sentinel2 import BANDS
from resnetd_tf.training import Settings, train
from resnetd_tf.training.run import choose_statistics


def test_weights_have_pytorchs_names():
    names = set(checkpoints.pytorch_names(resnet(50, "d", classes=10)))
    assert len(names) == 55 * 5 + 2  # 55 convolutions, each with a batch normalisation of four, and the head
    assert {"conv1.0.weight", "conv1.4.running_var", "bn1.bias", "layer1.0.downsample.1.weight", "fc.bias"} <= names
    assert {"layer4.0.downsample.2.running_mean", "layer3.5.conv3.weight"} <= names
    plain = set(checkpoints.pytorch_names(resnet(18, "b", classes=10)))
    assert {"conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias"} <= plain
    assert "layer1.0.downsample.0.weight" not in plain


@pytest.fixture(scope="module")
def state_dict():
    """The state dict of timm's resnet18d with ten classes."""
    return parity.draw_state_dict(resnet(18, "d", classes=10)) | {"bn1.num_batches_tracked": np.array(7)}


@pytest.fixture
def safetensors(state_dict, tmp_path):
    save_file(state_dict, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def test_a_state_dict_is_put_into_the_network(state_dict, safetensors):
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
def test_a_first_convolution_is_adapted_to_other_bands(state_dict, safetensors, bands):
    """A picture that is repeated over the bands has the picture's response; fewer than three bands are grey."""
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


def test_a_missing_tensor_is_refused(state_dict):
    with pytest.raises(ValueError, match=r"do not fit resnet34d: layer\d\S* \(\d+,.*\) is missing; .* and \d+ more"):
        checkpoints.assign_weights(resnet(34, "d"), checkpoints.Checkpoint("small", state_dict))


def test_a_spare_tensor_is_refused(state_dict):
    spare = {**state_dict, "layer4.1.bn2.spare": np.ones(3)}
    with pytest.raises(ValueError, match=r"layer4\.1\.bn2\.\w+ is not in the network"):
        checkpoints.assign_weights(resnet(18, "d"), checkpoints.Checkpoint("spare", spare))


def test_a_tensor_of_another_shape_is_refused(state_dict):
    narrow = {**state_dict, "layer1.0.conv1.weight": state_dict["layer1.0.conv1.weight"][:1]}
    with pytest.raises(ValueError, match=r"layer1\.0\.conv1\.weight is \(1, 64, 3, 3\), expected \(64, 64, 3, 3\)"):
        checkpoints.assign_weights(resnet(18, "d"), checkpoints.Checkpoint("narrow", narrow))


def test_a_truncated_file_is_refused(safetensors):
    safetensors.write_bytes(safetensors.read_bytes()[:10_000_000])
    with pytest.raises(ValueError, match=r"weights\.safetensors: cannot be read, damaged or truncated"):
        resnet(18, "d", weights=safetensors)


def save_all_formats(network, folder):
    """Writes a network in the formats that training can start from, as users of Keras and PyTorch do."""
    network.save(folder / "network.keras")
    network.save_weights(folder / "network.weights.h5")
    save_file(parity.draw_state_dict(network), folder / "network.safetensors")
    return [folder / f"network{suffix}" for suffix in (".keras", ".weights.h5", ".safetensors")]


@pytest.mark.parametrize(
    ("depth", "variant", "requested"), [(50, "base", "b"), (50, "b", "base"), (10, "c", "d"), (10, "d", "c")]
)
def test_weights_of_another_variant_are_refused(depth, variant, requested, tmp_path):
    for path in save_all_formats(resnet(depth, variant, classes=4), tmp_path):
        if variant == "base" and path.suffix == ".safetensors":
            continue  # the names of a state dict do not tell base from b
        with pytest.raises(
            ValueError, match=f"of depth {depth}, variant {variant}, not {depth}, {requested}.*--variant={variant}"
        ):
            checkpoints.read_checkpoint(path, depth, requested)


def test_weights_of_another_depth_are_refused(tmp_path):
    for path in save_all_formats(resnet(10, "d", classes=4), tmp_path):
        checkpoints.read_checkpoint(path, 10, "d")
        with pytest.raises(ValueError, match="of depth 10, variant d, not 18, d; give --depth=10 --variant=d"):
            checkpoints.read_checkpoint(path, 18, "d")


@pytest.mark.parametrize("network", [(10, "d"), (34, "b"), (34, "c"), (50, "base"), (50, "b"), (101, "d")])
def test_layer_names_tell_depth_and_variant(network):
    layers = resnet(*network, output_stride=8 if network[0] == 50 else 32).layers
    assert checkpoints.architecture_from_layers(layer.name for layer in layers) == network


def test_basic_blocks_are_the_same_in_base_and_b(tmp_path):
    for path in save_all_formats(resnet(10, "base", classes=4), tmp_path):
        for variant in ("base", "b"):
            checkpoints.assign_weights(resnet(10, variant, classes=4), checkpoints.read_checkpoint(path, 10, variant))


def test_a_state_dict_does_not_tell_base_from_b(tmp_path):
    save_file(parity.draw_state_dict(resnet(50, "b")), tmp_path / "timm.safetensors")
    resnet(50, "b", weights=tmp_path / "timm.safetensors")
    with pytest.raises(ValueError, match=r"a state dict of base has the same names .* timm and torchvision are b"):
        resnet(50, "base", weights=tmp_path / "timm.safetensors")


def test_models_of_others_are_not_called_damaged(tmp_path):
    """The files hold a model without our layer "resizing", its weights, a classifier's weights and unknown tensors."""
    images = keras.Input((32, 32, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Normalization(name="normalization")(images))
    user_model = keras.Model(images, keras.layers.Dense(2)(pooled))
    user_model.save(tmp_path / "other.keras")
    user_model.save_weights(tmp_path / "other.weights.h5")
    model = classifier.build_classifier(18, "d", classes=2, statistics=EUROSAT_RGB, image_size=32)
    model.save_weights(tmp_path / "classifier.weights.h5")
    save_file({"stages.0.weight": np.ones(3)}, tmp_path / "other.safetensors")
    for name in ("other.keras", "other.weights.h5", "classifier.weights.h5"):
        with pytest.raises(ValueError, match=f"{name}: no network of this package.*it has "):
            checkpoints.read_checkpoint(tmp_path / name, 18, "d")
    with pytest.raises(ValueError, match=r"none of its 1 tensors is layer1\.0.*its first is stages\.0\.weight"):
        checkpoints.read_checkpoint(tmp_path / "other.safetensors", 18, "d")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value, state_dict, tmp_path):
    """This holds for every format, and nothing is assigned."""
    broken = {name: tensor.copy() for name, tensor in state_dict.items()}
    broken["layer3.0.bn1.bias"][7] = value
    save_file(broken, tmp_path / "broken.safetensors")
    network = resnet(18, "d", classes=10)
    beta = network.get_layer("stage3_block1_1_bn").beta
    beta.assign(np.where(np.arange(256) == 7, value, 0))
    network.save(tmp_path / "broken.keras")
    network.save_weights(tmp_path / "broken.weights.h5")
    beta.assign(np.zeros(256))
    before = network.get_weights()
    for suffix in (".safetensors", ".keras", ".weights.h5"):
        checkpoint = checkpoints.read_checkpoint(tmp_path / f"broken{suffix}", 18, "d")
        with pytest.raises(ValueError, match=r"1 of 256 numbers of \S+ are not finite"):
            checkpoints.assign_weights(network, checkpoint)
        for old, new in zip(before, network.get_weights()):
            np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bn1.running_var", lambda tensor: -tensor, "bn1.running_var holds negative variances"),
        ("layer1.0.conv1.weight", lambda tensor: tensor.astype("int8"), "holds int8, as quantised weights do"),
    ],
)
def test_impossible_weights_are_refused(name, change, message, state_dict):
    broken = {**state_dict, name: change(state_dict[name])}
    with pytest.raises(ValueError, match=message):
        checkpoints.assign_weights(resnet(18, "d", classes=10), checkpoints.Checkpoint("broken", broken))


def test_every_format_is_read_into_the_same_tensors(tmp_path):
    network = resnet(18, "d", classes=4)
    network.save(tmp_path / "network.keras")
    network.save_weights(tmp_path / "network.weights.h5")
    save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in checkpoints.pytorch_state_dict(network).items()},
        tmp_path / "network.safetensors",
    )
    expected = checkpoints.pytorch_state_dict(network)
    for suffix in (".keras", ".weights.h5", ".safetensors"):
        tensors = checkpoints.read_checkpoint(tmp_path / f"network{suffix}", 18, "d").tensors
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, expected[name])


def test_weights_h5_in_bfloat16_are_read(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    try:
        network = resnet(10, "d", classes=4)
    finally:
        keras.config.set_dtype_policy("float32")
    network.save_weights(tmp_path / "network.weights.h5")
    tensor = checkpoints.read_checkpoint(tmp_path / "network.weights.h5", 10, "d").tensors["conv1.3.weight"]
    expected = keras.ops.cast(network.get_layer("stem_2_conv").kernel, "float32")
    np.testing.assert_array_equal(tensor, np.transpose(expected, (3, 2, 0, 1)))


@pytest.mark.parametrize("prefix", ["module.", "model.vision_encoder.", "backbone."])
def test_a_prefix_of_all_tensors_is_removed_and_reported(prefix, state_dict, tmp_path):
    save_file({prefix + name: tensor for name, tensor in state_dict.items()}, tmp_path / "wrapped.safetensors")
    checkpoint = checkpoints.read_checkpoint(tmp_path / "wrapped.safetensors", 18, "d")
    assert checkpoint.source.endswith(f"wrapped.safetensors (tensors under '{prefix}')")
    network = resnet(18, "d", classes=10)
    checkpoints.assign_weights(network, checkpoint)
    np.testing.assert_array_equal(network.get_layer("predictions").bias, state_dict["fc.bias"])


def test_two_networks_in_a_file_are_refused(state_dict, tmp_path):
    query, key = ({f"encoder_{kind}.{name}": t for name, t in state_dict.items()} for kind in "qk")
    save_file(query | key, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"holds 2 networks, under the prefixes 'encoder_k\.' and 'encoder_q\.'"):
        checkpoints.read_checkpoint(tmp_path / "two.safetensors", 18, "d")


def test_tensors_outside_the_network_are_refused(state_dict, tmp_path):
    encoder = {f"encoder_q.{name}": tensor for name, tensor in state_dict.items()}
    save_file(encoder | {"projector.weight": np.ones(3)}, tmp_path / "more.safetensors")
    with pytest.raises(
        ValueError, match=r"under the prefix 'encoder_q\.', 1 tensors such as projector\.weight are not"
    ):
        checkpoints.read_checkpoint(tmp_path / "more.safetensors", 18, "d")


TORCHGEO = "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12"


@pytest.fixture(scope="module")
def thirteen_bands():
    """The state dict of TorchGeo's resnet18 for 13 bands, without a head."""
    return parity.draw_state_dict(resnet(18, "b", input_shape=(None, None, 13), include_top=False))


def test_thirteen_bands_of_unknown_order_are_refused(thirteen_bands, tmp_path):
    save_file(thirteen_bands, tmp_path / "unknown.safetensors")
    with pytest.raises(ValueError, match=r"takes 13 bands, in an order that the file does not tell.*'bands': 'B01 B02"):
        checkpoints.read_checkpoint(tmp_path / "unknown.safetensors", 18, "b")


def test_thirteen_named_bands_are_put_into_eurosats_order(thirteen_bands, tmp_path):
    save_file(thirteen_bands, tmp_path / "named.safetensors", {"bands": TORCHGEO})
    checkpoint = checkpoints.read_checkpoint(tmp_path / "named.safetensors", 18, "b")
    network = resnet(18, "b", input_shape=(None, None, 13), include_top=False)
    checkpoints.assign_weights(network, checkpoint)
    theirs = [f"B{name[1:]:0>2}" for name in TORCHGEO.split()]
    kernel = thirteen_bands["conv1.weight"].transpose(2, 3, 1, 0)
    for place, band in enumerate(BANDS):
        ours = network.get_layer("stem_1_conv").kernel[:, :, place]
        np.testing.assert_array_equal(ours, kernel[:, :, theirs.index(band)])
    assert checkpoint.statistics is None  # the file does not say, and ImageNet has three bands


@pytest.mark.parametrize("bands", ["B01 B02", TORCHGEO.replace("B12", "B11"), TORCHGEO.replace("B12", "VV")])
def test_wrong_names_of_thirteen_bands_are_refused(bands, thirteen_bands, tmp_path):
    save_file(thirteen_bands, tmp_path / "named.safetensors", {"bands": bands})
    with pytest.raises(ValueError, match=r"takes 13 bands, its header names \d+: .*; name each once, as B01 B02"):
        checkpoints.read_checkpoint(tmp_path / "named.safetensors", 18, "b")


def test_a_missing_file_of_weights_says_what_to_give(tmp_path):
    with pytest.raises(ValueError, match=r"weights none: .*in Python None gives random weights"):
        resnet(18, "d", weights="none")
    (tmp_path / "run-1").mkdir()
    (tmp_path / "run-1/model.keras").touch()
    with pytest.raises(ValueError, match=r"is a folder; give the file, such as .*run-1.model\.keras"):
        resnet(18, "d", weights=tmp_path)


def test_each_checkpoint_has_its_statistics(safetensors, tmp_path):
    assert resnetd_tf.statistics("imagenet", 50, "base") == CAFFE
    assert resnetd_tf.statistics("imagenet", 50, "d") == resnetd_tf.statistics(safetensors, 18, "d") == IMAGENET
    np.testing.assert_allclose(resnetd_tf.statistics("eurosat").mean, EUROSAT_RGB.mean)
    resnet(18, "d").save(tmp_path / "network.keras")
    with pytest.raises(ValueError, match="does not tell what its images were normalised with"):
        resnetd_tf.statistics(tmp_path / "network.keras", 18, "d")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [(np.full((2, 2, 3), 0.5), "scaled to 0..1"), (np.ones((2, 2, 1)), "expected"), (np.ones(3), "expected")],
)
def test_statistics_refuse_other_pixels(pixels, message):
    with pytest.raises(ValueError, match=message):
        IMAGENET.normalize(pixels)


def test_nothing_is_assigned_where_something_does_not_fit(state_dict):
    model = resnet(18, "d", classes=10)
    before = model.get_weights()
    with pytest.raises(ValueError, match="is missing"):
        broken = {name: t for name, t in state_dict.items() if name != "layer4.1.bn2.bias"}
        checkpoints.assign_weights(model, checkpoints.Checkpoint("broken", broken))
    for old, new in zip(before, model.get_weights()):
        np.testing.assert_array_equal(old, new)


def test_a_resnet50_loads_in_two_seconds(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(parity.draw_state_dict(resnet(50, "d")), path)
    model = resnet(50, "d")
    start = time.perf_counter()
    checkpoint = checkpoints.read_checkpoint(path, 50, "d")
    read = time.perf_counter()
    checkpoints.assign_weights(model, checkpoint)
    assert time.perf_counter() - read < 2 and read - start < 2


def test_weights_bring_their_preprocessing(safetensors, tmp_path):
    """timm's files bring ImageNet's preprocessing, a classifier's .keras file that of its training."""
    checkpoint = checkpoints.read_checkpoint(safetensors, 18, "d")
    assert checkpoint.statistics == IMAGENET and checkpoint.interpolation == "bicubic"
    rgb = classifier.build_classifier(18, "d", classes=5, statistics=EUROSAT_RGB, image_size=32, checkpoint=checkpoint)
    assert rgb.get_layer("resizing").interpolation == "bicubic"
    rgb.save(tmp_path / "rgb.keras")
    saved = checkpoints.read_checkpoint(tmp_path / "rgb.keras", 18, "d")
    np.testing.assert_allclose(saved.statistics.mean, EUROSAT_RGB.mean)
    np.testing.assert_allclose(saved.statistics.std, EUROSAT_RGB.std)
    assert saved.interpolation == "bicubic"


def test_statistics_are_chosen_for_the_images(capsys):
    """They are those of the weights for the same bands, those of EuroSAT, or those of the training split."""
    rng = np.random.default_rng(0)

    def dataset(name, bands, dtype):
        images = rng.integers(0, 200, (40, 8, 8, bands)).astype(dtype)
        images[..., -1] = 7
        return Dataset(name, ("a", "b"), {"train": Split(images, np.zeros(40, int), ("",) * 40, "train[:70%]")})

    weights = checkpoints.Checkpoint("w", {}, IMAGENET)
    rgb, bands = dataset("folder:x", 3, "uint8"), dataset("folder:x", 13, "uint16")
    assert choose_statistics(rgb, weights) is IMAGENET
    for chosen, images in ((choose_statistics(bands, weights), bands), (choose_statistics(rgb, None), rgb)):
        pixels = images.splits["train"].images.reshape(-1, images.bands).astype(float)
        assert chosen.name == "the training split of folder:x" and chosen.dtype == images.splits["train"].images.dtype
        np.testing.assert_allclose(chosen.mean, pixels.mean(0))
        np.testing.assert_allclose(chosen.std, [*pixels.std(0)[:-1], 1.0])  # a band of one value
    assert choose_statistics(dataset("eurosat", 3, "uint8"), None) is EUROSAT_RGB
    assert choose_statistics(dataset("eurosat/all:2.0.0", 13, "uint16"), None) is EUROSAT_ALL
    assert "Normalisation: the training split of folder:x, mean" in capsys.readouterr().out


SMALL = ("--depth=18", "--variant=d", *THREE_STEPS)


@pytest.mark.long
def test_training_from_published_weights(program, hub, tmp_path):
    """With --freeze=backbone the backbone stays as published; head and preprocessing are the classifier's."""
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
    trained = checkpoints.read_checkpoint(tmp_path / "model/run-1/model.keras", 18, "d")
    for name in tensors.keys() - {"fc.weight", "fc.bias"}:
        np.testing.assert_array_equal(trained.tensors[name], tensors[name])
    assert trained.tensors["fc.weight"].shape == (10, 512)

    # The classifier resizes with bicubic interpolation, which TFLite lacks.
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
    assert re.search(r"consistency|incomplete|closed|bytes", line), line  # the cause
    assert not list((tmp_path / "hub").rglob("*.safetensors"))  # huggingface_hub may keep an incomplete file
    assert not (tmp_path / "model").exists()


def test_random_weights_in_place_of_a_failed_download_cannot_be_frozen(monkeypatch, tmp_path):
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_url", lambda *arguments, **options: "http://127.0.0.1:9/model.safetensors"
    )
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *arguments, **options: None)
    settings = Settings(depth=18, dataset="synthetic", image_size=32, freeze="stem", output_dir=str(tmp_path / "model"))
    with pytest.raises(InputError, match="random weights would stay as they are"):
        train(settings)
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
        monkeypatch.setattr(
            huggingface_hub, "hf_hub_url", lambda *arguments, **options: f"http://{place}/model.safetensors"
        )
        with pytest.raises(
            pretrained.WeightsUnavailable,
            match=rf"cannot fetch http://{place}/.*\(.*({cause}).*--weights=model.safetensors",
        ):
            pretrained.fetch_from_hub(pretrained.find_published(50, "d").source)
        server.shutdown()


def test_weights_of_keras_applications_are_put_into_the_network(monkeypatch):
    peer = keras.applications.ResNet50(weights=None)
    monkeypatch.setattr(pretrained, "_probe", lambda url: None)
    monkeypatch.setattr(keras.applications, "ResNet50", lambda weights: peer)  # not fetched: no file in Keras's cache
    model = resnet(50, "base", weights="imagenet", classes=10)
    kernel = peer.get_layer("conv4_block2_3_conv").kernel
    np.testing.assert_array_equal(model.get_layer("stage3_block2_3_conv").kernel, kernel)


def test_every_published_checkpoint_has_licence_accuracy_and_size():
    for depth in (18, 34, 50, 101, 152):
        for variant in ("base", "b", "c", "d"):
            if depth in (18, 34) and variant == "c":
                with pytest.raises(pretrained.WeightsUnavailable, match="depth"):
                    pretrained.find_published(depth, variant)
                continue
            published = pretrained.find_published(depth, variant)
            assert published.licence and 70 < published.top1 < 81 and published.size >= 224
