"""State dicts in .pth files, written here as PyTorch writes them, and the published Sentinel-2 weights among them."""

import collections
import dataclasses
import hashlib
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
from conftest import THREE_STEPS
from safetensors.numpy import save, save_file

import resnetd_tf
from benchmarks import parity
from resnetd_tf.errors import ForeignModelError
from resnetd_tf.networks import checkpoints, pretrained
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.networks.torch_files import read_state_dict
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS


class Storage:
    """The numbers of a tensor, which lie in a file of their own."""

    def __init__(self, array: np.ndarray, key: str):
        self.array, self.key = array, key


class Tensor:
    """A tensor as PyTorch pickles it."""

    def __init__(self, storage: Storage, offset: int, shape: tuple, strides: tuple):
        self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


@pytest.fixture
def write_pth(monkeypatch, tmp_path):
    """Writes an object to a .pth file and returns its path.

    Modules with PyTorch's names stand in for PyTorch while the object is pickled.
    """
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError

    classes = [type(name, (), {}) for name in ("FloatStorage", "LongStorage")]
    for module, thing in ((utils, _rebuild_tensor_v2), *((torch, each) for each in classes)):
        thing.__module__, thing.__qualname__ = module.__name__, thing.__name__
        setattr(module, thing.__name__, thing)

    def write(content, name: str = "x.pth"):
        storages = {}

        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                if not isinstance(value, Storage):
                    return None
                storages[value.key] = value.array
                kind = torch.FloatStorage if value.array.dtype == "float32" else torch.LongStorage
                return ("storage", kind, value.key, "cpu", value.array.size)

        with monkeypatch.context() as patch, zipfile.ZipFile(tmp_path / name, "w") as archive:
            patch.setitem(sys.modules, "torch", torch)
            patch.setitem(sys.modules, "torch._utils", utils)
            with archive.open("archive/data.pkl", "w") as file:
                Pickler(file, protocol=2).dump(content)
            for key, array in storages.items():
                archive.writestr(f"archive/data/{key}", array.tobytes())
            archive.writestr("archive/version", "3\n")
        return tmp_path / name

    return write


def as_torch(tensors: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Returns contiguous tensors as PyTorch has them in a state dict."""
    state_dict = collections.OrderedDict()
    for index, (name, array) in enumerate(tensors.items()):
        strides = [stride // array.itemsize for stride in np.array(array, order="C").strides]
        state_dict[name] = Tensor(Storage(array.ravel(), str(index)), 0, array.shape, tuple(strides))
    return state_dict


@pytest.mark.parametrize("name", [None, "state_dict"])
def test_tensors_are_those_that_were_saved(write_pth, name):
    kernel = np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype("float32")
    expected = {"conv1.weight": kernel, "bn1.num_batches_tracked": np.array(7)}
    state_dict = as_torch(expected)
    state_dict["transposed"] = Tensor(Storage(kernel.ravel(), "0"), 12, (2, 2), (1, 2))
    expected["transposed"] = kernel.ravel()[12:16].reshape(2, 2).T
    tensors = read_state_dict(write_pth({name: state_dict, "epoch": 3} if name else state_dict))
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, expected[key])


def test_pytorchs_own_files_are_read(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = {"half": torch.ones(2, dtype=torch.float16), "transposed": torch.arange(6.0).reshape(2, 3).T}
    tensors |= {"steps": torch.tensor(7), "parameter": torch.nn.Linear(2, 1).state_dict()["weight"]}
    torch.save(tensors, tmp_path / "x.pth")
    read = read_state_dict(tmp_path / "x.pth")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor.numpy())


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def test_other_names_are_refused_and_not_called(write_pth, bad_input, capsys):
    path = write_pth({"conv1.weight": Harmful()})
    with pytest.raises(
        ForeignModelError, match=r"names (__builtin__|builtins)\.print, which is neither called nor read"
    ):
        read_state_dict(path)
    assert not capsys.readouterr().out
    assert ".print, which is neither called nor read" in bad_input(
        "train.py", "--dataset=synthetic", f"--weights={path}"
    )


# Files that nobody's PyTorch writes, made of the pickle's own operations.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def stored(kind: str, key: str, count: int) -> bytes:
    return (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"
    )


def tensor(storage: bytes, offset: bytes, shape: tuple[int, ...], strides: tuple[bytes, ...]) -> bytes:
    sizes = b"".join(map(number, shape))
    arguments = storage + offset + b"(" + sizes + b"t(" + b"".join(strides) + b"t\x89}t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"R"


ONE = stored("FloatStorage", "0", 4)
SCALAR = tensor(stored("LongStorage", "1", 1), number(0), (), ())
HOSTILE = {
    "a tensor beyond its storage": (tensor(ONE, number(2), (3,), (number(1),)), "lies beyond its storage of 4 numbers"),
    "a tensor of one repeated number": (tensor(ONE, number(0), (5,), (number(0),)), "lies beyond its storage"),
    "a negative stride": (tensor(ONE, number(3), (2,), (number(-1),)), "negative place"),
    "a stride that would wrap": (tensor(ONE, number(0), (3,), (SCALAR,)), "negative place"),
    "a changed tensor": (tensor(ONE, number(0), (4,), (number(1),)) + b"(" + number(1) + b"tb", "damaged|state"),
    "a changed function": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(N}" + text("__call__") + text("x") + b"stb",
        "attribute",
    ),
    "a large memo": (b"\x4er\x00\x00\x00\x7f", "counts 2130706432 objects"),
    "a storage of another size": (
        tensor(stored("FloatStorage", "0", 5), number(0), (4,), (number(1),)),
        "16 bytes for 5",
    ),
    "a storage elsewhere": (tensor(stored("FloatStorage", "../0", 4), number(0), (4,), (number(1),)), "has the key"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(tmp_path, kind):
    value, message = HOSTILE[kind]
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}" + text("a") + value + b"s.")
        archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())
        archive.writestr("archive/data/1", np.array([2**62 + 8], "<i8").tobytes())
    with pytest.raises(Exception, match=message):
        read_state_dict(tmp_path / "x.pth")


def test_tensors_share_the_memory_of_their_storage(write_pth):
    """PyTorch writes views of one buffer as one storage."""
    storage = Storage(np.arange(8, dtype="float32"), "0")
    halves = {name: Tensor(storage, offset, (4,), (1,)) for name, offset in (("a", 0), ("b", 4))}
    tensors = read_state_dict(write_pth(halves))
    addresses = [tensors[name].ctypes.data for name in halves]
    assert addresses[1] - addresses[0] == 16 and tensors["b"].tolist() == [4, 5, 6, 7]


def test_a_file_of_an_older_pytorch_is_refused(tmp_path):
    (tmp_path / "x.pth").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ForeignModelError, match=r"PyTorch before 1\.6"):
        read_state_dict(tmp_path / "x.pth")


def test_a_pth_file_equals_its_safetensors_file(write_pth, tmp_path):
    tensors = parity.draw_state_dict(resnet(18, "d", classes=10))
    save_file(tensors, tmp_path / "x.safetensors")
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    outputs = [
        resnet(18, "d", classes=10, weights=path)(images)
        for path in (write_pth(as_torch(tensors)), tmp_path / "x.safetensors")
    ]
    np.testing.assert_array_equal(*outputs)


# Published Sentinel-2 weights, here with numbers of our own.


@pytest.fixture
def publish(write_pth, monkeypatch):
    """Publishes random weights of ResNet-18 with a number of bands in place of ssl4eo-moco's; returns their tensors."""

    def publish(bands: int, prefix: str = "") -> dict[str, np.ndarray]:
        tensors = parity.draw_state_dict(resnet(18, "b", include_top=False, input_shape=(32, 32, bands)))
        path = write_pth(as_torch({prefix + name: tensor for name, tensor in tensors.items()}))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entries = tuple(
            dataclasses.replace(weights, sha256=digest)
            for weights in pretrained.SENTINEL2["ssl4eo-moco", 18]
            if len(weights.bands) == bands
        )
        monkeypatch.setitem(pretrained.SENTINEL2, ("ssl4eo-moco", 18), entries)
        monkeypatch.setattr(pretrained, "fetch_from_hub", lambda repository, file, revision, sha256: path)
        return {**tensors, "path": path}

    return publish


@pytest.mark.parametrize("by_path", [False, True])
def test_bands_are_put_into_eurosats_order(publish, by_path):
    """B8A is ninth in the published order and last in EuroSAT's."""
    tensors = publish(13, prefix="module.")
    weights = str(tensors["path"]) if by_path else "ssl4eo-moco"
    network = resnet(18, "b", weights=weights, include_top=False, input_shape=(None, None, 13))
    kernel, published = network.get_layer("stem_1_conv").kernel.numpy(), tensors["conv1.weight"].transpose(2, 3, 1, 0)
    for band, channel in (("B01", 0), ("B08", 7), ("B8A", 8), ("B09", 9), ("B12", 12)):
        np.testing.assert_array_equal(kernel[:, :, BANDS.index(band)], published[:, :, channel])
    statistics = checkpoints.read_checkpoint(weights, 18, "b", 13).statistics
    assert statistics.mean == (0.0,) * 13 and statistics.std == (10_000.0,) * 13 and statistics.dtype == "uint16"


def test_thirteen_bands_are_cut_to_the_colours_of_pictures(publish):
    tensors = publish(13)
    network = resnet(18, "base", weights="ssl4eo-moco", classes=7)
    kernel, published = network.get_layer("stem_1_conv").kernel.numpy(), tensors["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel, published[:, :, [3, 2, 1]])
    statistics = resnetd_tf.statistics("ssl4eo-moco", 18, "b")
    # A DN of 10,000 is 923.6 grey levels above that of 0, which is 1 (DESIGN of EuroSAT's pictures).
    np.testing.assert_allclose(statistics.mean, 1.0)
    np.testing.assert_allclose(statistics.std, 10_000 * 254 / 2750)


def test_a_picture_is_normalised_as_the_bands_that_it_shows():
    """The statistics for grey levels and for DN give the same numbers."""
    dn = np.random.default_rng(0).uniform(0, 2750, (4, 4, 13))
    levels = 1 + dn[..., [BANDS.index(band) for band in RGB_BANDS]] * 254 / 2750
    weights = pretrained.find_sentinel2("softcon", 50, "b", BANDS)
    expected = weights.statistics(BANDS).normalize(dn)[..., [BANDS.index(band) for band in RGB_BANDS]]
    np.testing.assert_allclose(weights.statistics(RGB_BANDS).normalize(levels), expected, rtol=1e-4, atol=1e-4)


def test_seco_is_stretched_and_normalised_as_its_authors_do():
    statistics = resnetd_tf.statistics("seco", 50, "b")
    dn = np.array([1500.0, 1200.0, 900.0])  # of red, green and blue
    stretched = (dn * 255 / 10_000 - [0, 2, 3]) / [129, 101, 85]
    expected = (stretched - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    levels = (1 + dn * 254 / 2750)[np.newaxis, np.newaxis]
    np.testing.assert_allclose(statistics.normalize(levels)[0, 0], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "depth", "variant", "bands", "message"),
    [
        ("bigearthnet", 50, "b", 13, "lack B01 B09 B10, which the images have"),
        ("seco", 50, "b", 13, "lack B01 B05 B06"),
        ("ssl4eo-moco", 50, "d", 3, "for depth 18 or 50, variant b; give --variant=b"),
        ("softcon", 18, "b", 3, "give --variant=b and --depth=50"),
        ("ssl4eo-dino", 50, "b", 5, "images of 5 bands have no names"),
    ],
)
def test_weights_that_fit_no_image_or_network_are_refused(name, depth, variant, bands, message):
    with pytest.raises(ValueError, match=message):
        checkpoints.read_checkpoint(name, depth, variant, bands)


def test_a_file_with_other_bands_than_published_is_refused(publish, monkeypatch):
    publish(13)
    (entry,) = pretrained.SENTINEL2["ssl4eo-moco", 18]
    monkeypatch.setitem(pretrained.SENTINEL2, ("ssl4eo-moco", 18), (dataclasses.replace(entry, bands=BANDS[:12]),))
    with pytest.raises(ValueError, match="takes 13 bands instead of 12"):
        checkpoints.read_checkpoint("ssl4eo-moco", 18, "b", 3)


def test_a_fetched_file_of_another_digest_is_deleted(bad_input, hub, tmp_path):
    arguments = ("--depth=18", "--variant=b", "--weights=ssl4eo-moco", *THREE_STEPS)
    line = bad_input("train.py", *arguments, f"--output_dir={tmp_path / 'model'}", environment=hub(b"anything"))
    assert "resnet18_sentinel2_rgb_moco-e3a335e3.pth came damaged" in line and "instead of e3a335e3" in line
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.read_bytes() == b"anything"]


@pytest.mark.long
def test_training_from_weights_of_ten_bands(program, hub, tmp_path):
    """Pictures take the kernels of red, green and blue; the head for 19 classes is left out."""
    tensors = parity.draw_state_dict(resnet(50, "b", classes=19, input_shape=(32, 32, 10)))
    content = save({f"model.vision_encoder.{name}": tensor for name, tensor in tensors.items()})
    arguments = ("--variant=b", "--weights=bigearthnet", "--freeze=backbone", *THREE_STEPS)
    result = program("train.py", *arguments, f"--output_dir={tmp_path / 'model'}", environment=hub(content))
    assert result.returncode == 0, result.stderr
    assert "Weights: BIFOLD-BigEarthNetv2-0/resnet50-s2-v0.2.0 (MIT)" in result.stdout
    trained = checkpoints.read_checkpoint(tmp_path / "model/run-1/model.keras", 50, "b")
    np.testing.assert_array_equal(trained.tensors["conv1.weight"], tensors["conv1.weight"][:, [2, 1, 0]])
    np.testing.assert_allclose(trained.statistics.mean[0], 1 + 588.41 * 254 / 2750, rtol=1e-5)
