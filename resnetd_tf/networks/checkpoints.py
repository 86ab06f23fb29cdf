"""Weights from files and from the web into our networks."""

import dataclasses
import hashlib
import pathlib
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import h5py
import keras
import numpy as np

from resnetd_tf.errors import InputError, NotOurs, first_line
from resnetd_tf.networks import keras_applications, keras_files, pretrained, safetensors_files, state_dicts
from resnetd_tf.normalization import IMAGENET, Statistics, of_classifier


@dataclass(frozen=True)
class Checkpoint:
    """Weights, read but not yet in a network.

    Attributes:
        source: Where they come from: a path, or a published checkpoint's name.
        tensors: By name: with dots and in PyTorch's layout ("layer1.0.conv1.weight"), or with a slash and in
            Keras's ("stage1_block1_1_conv/kernel").
        statistics: Those that their images were normalised with; `None` if the file does not tell.
        interpolation: The filter that their images were resized with.
        file: The file that they were read from. A .weights.h5 file Keras itself loads; there are no `tensors` then.
        image_size: Side in pixels of the images of a classifier of ours; `None` where the file does not tell.
    """

    source: str
    tensors: dict[str, np.ndarray]
    statistics: Statistics | None = None
    interpolation: str = "bilinear"
    file: pathlib.Path | None = None
    image_size: int | None = None

    @property
    def identity(self) -> dict:
        """What the weights are, for the metadata: their source, SHA-256 of the file, and its revision on the hub."""
        found = {"weights_source": self.source}
        if self.file and self.file.is_file():
            with self.file.open("rb") as file:
                found["weights_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            if re.fullmatch("[0-9a-f]{40}", self.file.parent.name):  # huggingface_hub's cache
                found["weights_revision"] = self.file.parent.name
        return found


def read(weights: str | pathlib.Path, depth: int, variant: str) -> Checkpoint:
    """Reads, and fetches if need be, weights for a network of this depth and variant.

    Args:
        weights: "imagenet" for the published checkpoint (`pretrained.PUBLISHED`), "eurosat" for the classifier that
            ships with this package, or the path of a .keras file of ours (a network or a classifier), a .weights.h5
            file of a network of ours, a .safetensors file of a classifier of ours, or a .safetensors state dict of
            timm's or torchvision's ResNet, whose RGB images are taken to be normalised as ImageNet's are.
        depth, variant: As for `resnetd_tf.resnet`.

    Raises:
        pretrained.Unavailable: The published weights are not cached and cannot be fetched.
        ValueError: The file is missing, cannot be read, or is of another network.
    """
    if weights == "imagenet":
        chosen = pretrained.find(depth, variant)
        if chosen.source == pretrained.KERAS_APPLICATIONS:
            network, file = pretrained.fetch_keras(depth)
            tensors = keras_applications.tensors(network)
        else:
            file = pretrained.fetch_safetensors(chosen)
            tensors = _read(file, safetensors_files.read)
        return Checkpoint(chosen.source, tensors, chosen.statistics, chosen.interpolation, file)
    path = pathlib.Path(weights)
    if weights == pretrained.EUROSAT or pretrained.is_shipped(path):
        path = pretrained.shipped()
    if not path.is_file():
        raise ValueError(_why_no_file(path))
    if path.suffix in (".pth", ".pt", ".bin"):
        raise ValueError(
            f"weights {path}: loading a pickle runs code in it; convert it where you trust it: "
            'safetensors.torch.save_file(torch.load(path, weights_only=True), "weights.safetensors")'
        )
    if path.suffix == ".safetensors":
        described = _read(path, safetensors_files.description)
        if described:
            _check_architecture(weights, (described["depth"], described["variant"]), depth, variant)
            statistics = dataclasses.replace(of_classifier(described), name=str(weights))
            tensors, interpolation = _read(path, safetensors_files.read), described["interpolation"]
            return Checkpoint(str(weights), tensors, statistics, interpolation, path, described["image_size"])
        reader = _state_dict
    elif path.suffix == ".keras":
        reader = _keras
    elif path.name.endswith(".weights.h5"):
        reader = _weights_h5
    else:
        raise ValueError(f"weights {path}: expected a .keras, .weights.h5 or .safetensors file")
    checkpoint, stored = _read(path, reader)
    _check_architecture(path, stored, depth, variant, "a state dict" if reader is _state_dict else None)
    return checkpoint


def statistics(weights: str | pathlib.Path, depth: int = 50, variant: str = "d") -> Statistics:
    """The mean and standard deviation that a checkpoint needs its images normalised with.

    Example:
        images = resnetd_tf.statistics("imagenet", depth=50, variant="base").normalize(pixels)

    Args:
        weights: As for `read`. Nothing is fetched for "imagenet".
        depth, variant: As for `resnetd_tf.resnet`.

    Raises:
        ValueError: The file cannot be read, is of another network, or does not tell.
    """
    known = pretrained.find(depth, variant) if weights == "imagenet" else read(weights, depth, variant)
    if known.statistics is None:
        raise ValueError(f"weights {weights}: the file does not tell what its images were normalised with")
    return known.statistics


def _why_no_file(path: pathlib.Path) -> str:
    if path.is_dir():
        files = [*path.glob("model.keras"), *path.glob("run-*/model.keras")]
        newest = max(files, key=lambda file: file.stat().st_mtime, default=path / "model.keras")
        return f"weights {path}: is a folder; give the file, such as {newest}"
    if str(path) in ("none", "auto"):
        return f'weights {path}: no such file; in Python None gives random weights, "imagenet" published ones'
    return f"weights {path}: no such file; give one, imagenet, eurosat or none"


def _read(path: pathlib.Path, reader):
    try:
        return reader(path)
    except (InputError, NotOurs) as error:
        raise ValueError(f"weights {path}: {error}") from error
    except Exception as error:  # zipfile, h5py, Keras and safetensors each have their own for a damaged file
        raise ValueError(f"weights {path}: cannot be read, damaged or truncated ({first_line(error)})") from error


def architecture(layer_names: Iterable[str]) -> tuple[int, str]:
    """Depth and variant of a network of ours, as the names of its layers tell them.

    For basic blocks, where the variants "base" and "b" are the same, it is "b".

    Args:
        layer_names: The names of all layers. Those without weights, padding and pooling, show where the strides are.

    Raises:
        NotOurs: The layers are not those of a network of ours.
    """
    names = set(layer_names)
    convolutions = sum(bool(re.fullmatch(r"stage\d_block\d+_\d_conv", name)) for name in names)
    if not convolutions:
        examples = ", ".join(sorted(names)[:3])
        raise NotOurs(f"no network of this package, which has a layer stage1_block1_1_conv; it has {examples}")
    bottleneck = "stage1_block1_3_conv" in names
    variant = "base" if bottleneck and "stage2_block1_2_conv_pad" not in names else "b"
    if "stem_3_conv" in names:
        variant = "d" if "stage2_block1_shortcut_pool" in names else "c"
    return 2 + convolutions, variant  # with the stem and the head


def _check_architecture(
    weights: str | pathlib.Path, stored: tuple[int, str], depth: int, variant: str, undecided: str | None = None
) -> None:
    """Raises ValueError unless weights of the stored depth and variant are those of this network.

    Args:
        undecided: The kind of file, if "b" stands for "base" too because the file tells them not apart.
    """
    same = {"base", "b"} if depth < 50 else set()  # of basic blocks
    if stored[0] == depth and (stored[1] == variant or {stored[1], variant} <= same):
        return
    note = ""
    if undecided and stored == (depth, "b") and variant == "base":
        note = f" ({undecided} of base has the same names and shapes; those of timm and torchvision are b)"
    raise ValueError(
        f"weights {weights}: of depth {stored[0]}, variant {stored[1]}, not {depth}, {variant}{note}; "
        f"give --depth={stored[0]} --variant={stored[1]}"
    )


def is_classifier(model: keras.Model) -> bool:
    """Whether a model has the preprocessing of `classifier.build`, and a network after it."""
    names = {layer.name for layer in model.layers}
    return {"normalization", "resizing"} <= names and isinstance(model.layers[-1], keras.Model)


def _keras(path: pathlib.Path) -> tuple[Checkpoint, tuple[int, str]]:
    """The weights in a .keras file, with their depth and variant."""
    model = keras_files.load(path)
    network = model.layers[-1] if is_classifier(model) else model
    stored = architecture(layer.name for layer in network.layers)
    tensors = {name: keras.ops.convert_to_numpy(weight) for name, weight in _keras_names(network).items()}
    if network is model:
        return Checkpoint(str(path), tensors, file=path), stored
    normalization, resizing = model.get_layer("normalization"), model.get_layer("resizing")
    mean, variance = (np.ravel(values) for values in (normalization.mean, normalization.variance))
    statistics = Statistics(str(path), tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()), model.inputs[0].dtype)
    return Checkpoint(str(path), tensors, statistics, resizing.interpolation, path, resizing.height), stored


def _weights_h5(path: pathlib.Path) -> tuple[Checkpoint, tuple[int, str]]:
    """A .weights.h5 file, whose weights Keras itself loads, with their depth and variant."""
    with h5py.File(path) as file:
        names = [group["vars"].attrs.get("name") for group in file["layers"].values()]
    if None in names:  # earlier Keras than ours wrote it
        raise NotOurs("does not name its layers, so that depth and variant cannot be told; give a .keras file")
    return Checkpoint(str(path), {}, file=path), architecture(names)


def _state_dict(path: pathlib.Path) -> tuple[Checkpoint, tuple[int, str]]:
    """The weights in a .safetensors file that is not of ours, with their depth and variant."""
    tensors, prefix = state_dicts.without_prefix(safetensors_files.read(path))
    tensors = state_dicts.in_eurosat_order(tensors, safetensors_files.band_names(path))
    statistics = IMAGENET if state_dicts.bands(tensors) == 3 else None
    source = f"{path} (tensors under {prefix!r})" if prefix else str(path)
    return Checkpoint(source, tensors, statistics, "bicubic", path), state_dicts.architecture(tensors)


def _keras_names(network: keras.Model) -> dict[str, keras.Variable]:
    return {f"{layer.name}/{weight.name}": weight for layer in network.layers for weight in layer.weights}


def state_dict_names(network: keras.Model) -> dict[str, keras.Variable]:
    """The weights of a network by the names that timm and torchvision give them."""
    layers = {layer.name: layer for layer in network.layers if layer.weights}
    pooled = any(layer.name.endswith("_shortcut_pool") for layer in network.layers)
    names = {"predictions": "fc"}
    if "stem_3_conv" in layers:
        names |= {"stem_1_conv": "conv1.0", "stem_1_bn": "conv1.1", "stem_2_conv": "conv1.3", "stem_2_bn": "conv1.4"}
        names |= {"stem_3_conv": "conv1.6", "stem_3_bn": "bn1"}
    else:
        names |= {"stem_1_conv": "conv1", "stem_1_bn": "bn1"}
    for name in layers.keys() - names.keys():
        match = re.fullmatch(r"stage(\d)_block(\d+)_(\w+)_(conv|bn)", name)
        assert match, name
        stage, block, part, kind = match.groups()
        # A shortcut is a sequence; D's has a pool, or nothing, before the convolution.
        place = f"downsample.{(kind == 'bn') + pooled}" if part == "shortcut" else kind + part
        names[name] = f"layer{stage}.{int(block) - 1}.{place}"
    attributes = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
    attributes |= {"kernel": "weight", "bias": "bias"}
    return {f"{names[n]}.{attributes[w.name]}": w for n, layer in layers.items() for w in layer.weights}


def assign(network: keras.Model, checkpoint: Checkpoint, *, exact: bool = False) -> None:
    """Puts a checkpoint into a network of the same architecture.

    A head of another number of classes stays as it is, as does one that the checkpoint lacks; a first
    convolution of three bands is adapted to the network's (`adapt_bands`). A .weights.h5 file must fit exactly.

    Args:
        network: A network as `resnetd_tf.resnet` builds it.
        exact: Whether head and first convolution must fit too.

    Raises:
        ValueError: Tensors are missing, left over, of another shape or no finite numbers; nothing is assigned then.
    """
    if checkpoint.file and checkpoint.file.name.endswith(".weights.h5"):
        return _load_weights_h5(network, checkpoint)
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.endswith("num_batches_tracked")}
    of_keras = all("/" in name for name in tensors)
    expected = _keras_names(network) if of_keras else state_dict_names(network)
    named = expected.keys() | tensors.keys()
    head = set() if exact else {name for name in named if name.startswith(("predictions/", "fc."))}
    values, problems = {}, []
    for name, weight in expected.items():
        shape = tuple(weight.shape)
        if not of_keras:
            shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        if name not in tensors:
            if name not in head:
                problems.append(f"{name} {shape} is missing")
            continue
        tensor = tensors[name]
        value = tensor if of_keras else tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        first = weight is network.get_layer("stem_1_conv").kernel and not exact
        if first and value.shape[2:3] == (3,) != weight.shape[2:3]:
            value = adapt_bands(value, weight.shape[2])
        if value.shape == tuple(weight.shape):
            values[name] = value
        elif name not in head:
            problems.append(f"{name} is {tensor.shape}, expected {shape}")
    problems += [f"{name} is not in the network" for name in tensors if name not in expected and name not in head]
    problems += _impossible_values(values)
    _refuse(network, checkpoint, problems)
    if not head <= values.keys():  # all of the head or nothing
        values = {name: value for name, value in values.items() if name not in head}
    for name, value in values.items():
        expected[name].assign(value)


def _load_weights_h5(network: keras.Model, checkpoint: Checkpoint) -> None:
    before = network.get_weights()
    try:
        with warnings.catch_warnings(action="ignore"):  # Keras warns of every layer before it refuses
            network.load_weights(checkpoint.file)
        arrays = {name: keras.ops.convert_to_numpy(weight) for name, weight in _keras_names(network).items()}
        problems = _impossible_values(arrays)
    except Exception as error:  # h5py has its own for a damaged file
        problems = [first_line(error)]
    if problems:
        network.set_weights(before)
    _refuse(network, checkpoint, problems)


def _impossible_values(values: dict[str, np.ndarray]) -> list[str]:
    """What is wrong with the numbers of weights, whatever their shapes."""
    problems = []
    for name, value in values.items():
        if value.dtype.kind in "biu":
            problems.append(f"{name} holds {value.dtype}, as quantised weights do, not floats")
        elif infinite := int(value.size - np.isfinite(value).sum()):
            problems.append(f"{infinite} of {value.size} numbers of {name} are not finite: its training diverged")
        elif name.endswith(("running_var", "moving_variance")) and (value < 0).any():
            problems.append(f"{name} holds negative variances")
    return problems


def _refuse(network: keras.Model, checkpoint: Checkpoint, problems: list[str]) -> None:
    """Raises ValueError with the first three problems, if there are any."""
    if problems:
        rest = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"weights {checkpoint.source} do not fit {network.name}: {'; '.join(problems[:3])}{rest}")


def adapt_bands(kernel: np.ndarray, bands: int) -> np.ndarray:
    """A first convolution of three colours for another number of bands.

    Band i takes the place of colour i modulo 3, and the bands in one place share its weights evenly: an image
    whose bands repeat the colours of a picture gives the response of the picture. One or two bands share the
    sum of the three: a grey image keeps its response.

    Args:
        kernel: (height, width, 3, filters).

    Returns:
        (height, width, bands, filters).
    """
    if bands < 3:
        return np.repeat(kernel.sum(axis=2, keepdims=True) / bands, bands, axis=2)
    place = np.arange(bands) % 3
    return kernel[:, :, place] / np.bincount(place)[place][:, np.newaxis].astype(kernel.dtype)
