"""Weights from files and from the web into our networks."""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass

import h5py
import keras
import numpy as np
import safetensors.numpy

from resnetd_tf import metadata
from resnetd_tf.errors import ForeignModelError, InputError, first_line
from resnetd_tf.networks import pretrained
from resnetd_tf.normalization import IMAGENET, Statistics, statistics_from_metadata
from resnetd_tf.sentinel2 import BANDS


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


def read_checkpoint(weights: str | pathlib.Path, depth: int, variant: str) -> Checkpoint:
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
        chosen = pretrained.find_published(depth, variant)
        if chosen.source == pretrained.KERAS_APPLICATIONS:
            network, file = pretrained.fetch_keras(depth)
            tensors = convert_keras_applications(network)
        else:
            file = pretrained.fetch_safetensors(chosen)
            tensors = _read_file(file, read_tensors)
        return Checkpoint(chosen.source, tensors, chosen.statistics, chosen.interpolation, file)
    path = pathlib.Path(weights)
    if weights == pretrained.EUROSAT_NAME or pretrained.is_packaged(path):
        path = pretrained.packaged_weights()
    if not path.is_file():
        raise ValueError(_missing_file_message(path))
    if path.suffix in (".pth", ".pt", ".bin"):
        raise ValueError(
            f"weights {path}: loading a pickle runs code in it; convert it where you trust it: "
            'safetensors.torch.save_file(torch.load(path, weights_only=True), "weights.safetensors")'
        )
    if path.suffix == ".safetensors":
        described = _read_file(path, read_classifier_metadata)
        if described:
            _check_architecture(weights, (described["depth"], described["variant"]), depth, variant)
            statistics = dataclasses.replace(statistics_from_metadata(described), name=str(weights))
            tensors, interpolation = _read_file(path, read_tensors), described["interpolation"]
            return Checkpoint(str(weights), tensors, statistics, interpolation, path, described["image_size"])
        reader = _read_state_dict
    elif path.suffix == ".keras":
        reader = _read_keras
    elif path.name.endswith(".weights.h5"):
        reader = _read_weights_h5
    else:
        raise ValueError(f"weights {path}: expected a .keras, .weights.h5 or .safetensors file")
    checkpoint, stored = _read_file(path, reader)
    _check_architecture(path, stored, depth, variant, "a state dict" if reader is _read_state_dict else None)
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
    known = (
        pretrained.find_published(depth, variant) if weights == "imagenet" else read_checkpoint(weights, depth, variant)
    )
    if known.statistics is None:
        raise ValueError(f"weights {weights}: the file does not tell what its images were normalised with")
    return known.statistics


def _missing_file_message(path: pathlib.Path) -> str:
    if path.is_dir():
        files = [*path.glob("model.keras"), *path.glob("run-*/model.keras")]
        newest = max(files, key=lambda file: file.stat().st_mtime, default=path / "model.keras")
        return f"weights {path}: is a folder; give the file, such as {newest}"
    if str(path) in ("none", "auto"):
        return f'weights {path}: no such file; in Python None gives random weights, "imagenet" published ones'
    return f"weights {path}: no such file; give one, imagenet, eurosat or none"


def _read_file(path: pathlib.Path, reader):
    try:
        return reader(path)
    except (InputError, ForeignModelError) as error:
        raise ValueError(f"weights {path}: {error}") from error
    except Exception as error:  # zipfile, h5py, Keras and safetensors each have their own for a damaged file
        raise ValueError(f"weights {path}: cannot be read, damaged or truncated ({first_line(error)})") from error


def architecture_from_layers(layer_names: Iterable[str]) -> tuple[int, str]:
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
        raise ForeignModelError(
            f"no network of this package, which has a layer stage1_block1_1_conv; it has {examples}"
        )
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


def _read_keras(path: pathlib.Path) -> tuple[Checkpoint, tuple[int, str]]:
    """The weights in a .keras file, with their depth and variant."""
    model = load_keras(path)
    network = model.layers[-1] if is_classifier(model) else model
    stored = architecture_from_layers(layer.name for layer in network.layers)
    tensors = {name: keras.ops.convert_to_numpy(weight) for name, weight in _weights_by_name(network).items()}
    if network is model:
        return Checkpoint(str(path), tensors, file=path), stored
    normalization, resizing = model.get_layer("normalization"), model.get_layer("resizing")
    mean, variance = (np.ravel(values) for values in (normalization.mean, normalization.variance))
    statistics = Statistics(str(path), tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()), model.inputs[0].dtype)
    return Checkpoint(str(path), tensors, statistics, resizing.interpolation, path, resizing.height), stored


def _read_weights_h5(path: pathlib.Path) -> tuple[Checkpoint, tuple[int, str]]:
    """A .weights.h5 file, whose weights Keras itself loads, with their depth and variant."""
    with h5py.File(path) as file:
        names = [group["vars"].attrs.get("name") for group in file["layers"].values()]
    if None in names:  # earlier Keras than ours wrote it
        raise ForeignModelError(
            "does not name its layers, so that depth and variant cannot be told; give a .keras file"
        )
    return Checkpoint(str(path), {}, file=path), architecture_from_layers(names)


def _read_state_dict(path: pathlib.Path) -> tuple[Checkpoint, tuple[int, str]]:
    """The weights in a .safetensors file that is not of ours, with their depth and variant."""
    tensors, prefix = strip_prefix(read_tensors(path))
    tensors = reorder_bands(tensors, read_band_names(path))
    statistics = IMAGENET if input_bands(tensors) == 3 else None
    source = f"{path} (tensors under {prefix!r})" if prefix else str(path)
    return Checkpoint(source, tensors, statistics, "bicubic", path), architecture_from_tensors(tensors)


def _weights_by_name(network: keras.Model) -> dict[str, keras.Variable]:
    return {f"{layer.name}/{weight.name}": weight for layer in network.layers for weight in layer.weights}


def pytorch_names(network: keras.Model) -> dict[str, keras.Variable]:
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


def assign_weights(network: keras.Model, checkpoint: Checkpoint, *, exact: bool = False) -> None:
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
    expected = _weights_by_name(network) if of_keras else pytorch_names(network)
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
    problems += _find_impossible_values(values)
    _raise_problems(network, checkpoint, problems)
    if not head <= values.keys():  # all of the head or nothing
        values = {name: value for name, value in values.items() if name not in head}
    for name, value in values.items():
        expected[name].assign(value)


def _load_weights_h5(network: keras.Model, checkpoint: Checkpoint) -> None:
    before = network.get_weights()
    try:
        with warnings.catch_warnings(action="ignore"):  # Keras warns of every layer before it refuses
            network.load_weights(checkpoint.file)
        arrays = {name: keras.ops.convert_to_numpy(weight) for name, weight in _weights_by_name(network).items()}
        problems = _find_impossible_values(arrays)
    except Exception as error:  # h5py has its own for a damaged file
        problems = [first_line(error)]
    if problems:
        network.set_weights(before)
    _raise_problems(network, checkpoint, problems)


def _find_impossible_values(values: dict[str, np.ndarray]) -> list[str]:
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


def _raise_problems(network: keras.Model, checkpoint: Checkpoint, problems: list[str]) -> None:
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


# State dicts as timm, torchvision and those who train with them write them: what their names and shapes tell.


ANCHOR_TENSOR = "layer1.0.conv1.weight"  # every ResNet of timm's and torchvision's has a tensor of this name


def strip_prefix(tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Takes off what stands before every name, such as "module." or "model.vision_encoder.".

    Returns:
        The tensors by the names that timm gives them, and the prefix.

    Raises:
        NotOurs: There is no ResNet, there are several, or tensors outside of it.
    """
    prefixes = sorted(name.removesuffix(ANCHOR_TENSOR) for name in tensors if name.endswith(ANCHOR_TENSOR))
    if not prefixes:
        example = f"; its first is {min(tensors)}" if tensors else ""
        raise ForeignModelError(
            f"none of its {len(tensors)} tensors is {ANCHOR_TENSOR}, which timm's and torchvision's have{example}"
        )
    if len(prefixes) > 1:
        named = " and ".join(map(repr, prefixes))
        raise ForeignModelError(
            f"holds {len(prefixes)} networks, under the prefixes {named}; save the tensors of one alone"
        )
    prefix = prefixes[0]
    if outside := [name for name in tensors if not name.startswith(prefix)]:
        raise ForeignModelError(
            f"its network is under the prefix {prefix!r}, {len(outside)} tensors such as {outside[0]} are not; save "
            f"{{name: tensor for name, tensor in tensors.items() if name.startswith({prefix!r})}}"
        )
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, prefix


def architecture_from_tensors(tensors: dict[str, np.ndarray]) -> tuple[int, str]:
    """Depth and variant; "b" stands for "base" too, whose tensors have the same names and shapes."""
    convolutions = sum(bool(re.fullmatch(r"layer\d\.\d+\.conv\d\.weight", name)) for name in tensors)
    # The shortcut of D is a pool, a convolution and a normalisation; others lack the pool.
    second = tensors.get("layer2.0.downsample.1.weight")
    pooled = second is not None and second.ndim == 4
    return 2 + convolutions, "d" if pooled else "c" if "conv1.0.weight" in tensors else "b"


def input_bands(tensors: dict[str, np.ndarray]) -> int:
    """The number of bands that the first convolution takes."""
    return tensors[_stem_name(tensors)].shape[1]


def reorder_bands(tensors: dict[str, np.ndarray], names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    """Puts the 13 bands of the first convolution into the order of EuroSAT's files, where B8A is last.

    Args:
        tensors: The state dict. One band and three, which are red, green and blue, stay as they are.
        names: Names of the bands in the order of the channels; `None` if the file does not tell. Fewer than 13 named
            bands stay in that order.

    Raises:
        NotOurs: Several bands are without names, or the names are not those of so many bands.
    """
    count = input_bands(tensors)
    if count in (1, 3):
        return tensors
    if names is None:
        raise ForeignModelError(
            f"its first convolution takes {count} bands, in an order that the file does not tell (B8A is last in "
            "EuroSAT, after B08 in TorchGeo); save it with their names in the order of the channels: "
            "safetensors.torch.save_file(tensors, path, {'bands': 'B01 B02 B03 ...'})"
        )
    padded = tuple(re.sub(r"^B(\d)$", r"B0\1", name) for name in names)
    if len(padded) != count or len(set(padded)) != count or not set(padded) <= set(BANDS):
        raise ForeignModelError(
            f"its first convolution takes {count} bands, its header names {len(names)}: {' '.join(names)}; "
            f"name each once, as {' '.join(BANDS)}"
        )
    if count < len(BANDS):
        return tensors
    order = [padded.index(band) for band in BANDS]
    return {**tensors, _stem_name(tensors): tensors[_stem_name(tensors)][:, order]}


def _stem_name(tensors: dict[str, np.ndarray]) -> str:
    names = [name for name in ("conv1.weight", "conv1.0.weight") if name in tensors and tensors[name].ndim == 4]
    if not names:
        raise ForeignModelError("has no first convolution, conv1.weight or conv1.0.weight of four dimensions")
    return names[0]


# Weights of `keras.applications` in our layout.


def convert_keras_applications(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights of a `keras.applications` ResNet by the names of our network of the same depth, variant base.

    Its convolutions have biases, which batch normalisation takes away again: they go into the moving means.
    Its epsilon is 1.001e-5 where ours is 1e-5: the rest goes into the moving variances. It takes BGR: the
    first convolution is turned around.
    """
    found: dict[str, np.ndarray] = {}
    array = keras.ops.convert_to_numpy
    for layer in model.layers:
        match = re.fullmatch(r"conv(\d)_(?:block(\d+)_(\d)_)?(conv|bn)", layer.name)
        if not layer.weights:
            continue
        if match is None:
            found |= {f"{layer.name}/{weight.name}": array(weight) for weight in layer.weights}
            continue
        group, block, part, kind = match.groups()
        name = f"stage{int(group) - 1}_block{block}_{'shortcut' if part == '0' else part}" if block else "stem_1"
        if kind == "conv":
            kernel = array(layer.kernel)
            found[f"{name}_conv/kernel"] = kernel if block else kernel[:, :, ::-1]
        else:
            bias = array(model.get_layer(layer.name.removesuffix("bn") + "conv").bias)
            found[f"{name}_bn/gamma"] = array(layer.gamma)
            found[f"{name}_bn/beta"] = array(layer.beta)
            found[f"{name}_bn/moving_mean"] = array(layer.moving_mean) - bias
            found[f"{name}_bn/moving_variance"] = array(layer.moving_variance) + (layer.epsilon - 1e-5)
    return found


# Writing .keras files, and opening ours and those from elsewhere.
#
# A .keras file can name any function or layer that is installed, and Keras calls them: its safe mode lets through
# `TFSMLayer`, which runs a graph. So its configuration is read first, and holds only what our networks contain.


# Expanded size in bytes; ResNet-152-D has 240 MB of weights and 600 kB of configuration.
LARGEST_MEMBERS = {"metadata.json": 2**20, "config.json": 2**26, "model.weights.h5": 2**31}
KERAS_CLASSES = {
    "keras": {"DTypePolicy"},
    "keras.initializers": {"GlorotUniform", "Ones", "VarianceScaling", "Zeros"},
    "keras.layers": {
        "Add",
        "AveragePooling2D",
        "BatchNormalization",
        "Conv2D",
        "Dense",
        "GlobalAveragePooling2D",
        "GlobalMaxPooling2D",
        "InputLayer",
        "MaxPooling2D",
        "Normalization",
        "ReLU",
        "Resizing",
        "ZeroPadding2D",
    },
    "keras.src.models.functional": {"Functional"},
}
OWN_LAYERS = {
    "BatchNormalization",
    "Conv2D",
    "Resizing",
}  # registered as resnetd_tf>NAME, in modules that were moved about

# Arguments that Keras 3.10 to 3.14 do not all know, with the values that leave out what they stand for.
NEWER_DEFAULTS = {
    "input_axes": None,
    "output_axes": None,
    "quantization_config": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
}


def save_keras(model: keras.Model, path: pathlib.Path) -> None:
    """Writes a .keras file that Keras 3.10 and later open.

    Earlier versions refuse every argument that they do not know, even at its default: those are left out.

    Args:
        model: A model in Keras's own layers, as `copies.portable` makes it.
        path: The file; one that exists is replaced.
    """
    complete = path.with_name(f"{path.stem}.complete.keras")
    try:
        model.save(complete)
        with zipfile.ZipFile(complete) as source, zipfile.ZipFile(path, "w") as target:
            for member in source.infolist():
                with source.open(member) as content, target.open(member.filename, "w", force_zip64=True) as copy:
                    if member.filename == "config.json":
                        copy.write(json.dumps(_without_newer_defaults(json.load(content))).encode())
                    else:
                        shutil.copyfileobj(content, copy, 2**20)
    finally:
        complete.unlink(missing_ok=True)


def _without_newer_defaults(config):
    if isinstance(config, list):
        return [_without_newer_defaults(value) for value in config]
    if isinstance(config, dict):
        return {
            key: _without_newer_defaults(value)
            for key, value in config.items()
            if key not in NEWER_DEFAULTS or value != NEWER_DEFAULTS[key]
        }
    return config


def load_keras(path: pathlib.Path, trust: bool = False) -> keras.Model:
    """The model in a .keras file, not compiled.

    Args:
        path: The file.
        trust: Whether it may hold layers and functions that our networks do not contain.

    Raises:
        NotOurs: It holds others, or is larger than any network of ours.
        Exception: What zipfile, h5py or Keras raises for a damaged file.
    """
    if not trust:
        check_keras_file(path)
    return keras.saving.load_model(path, compile=False, safe_mode=not trust)


def check_keras_file(path: pathlib.Path) -> None:
    """Raises NotOurs if a .keras file holds what our networks do not contain."""
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if member.filename not in LARGEST_MEMBERS:
                raise ForeignModelError(f"holds {member.filename!r}, which no file of a network has")
            if member.file_size > LARGEST_MEMBERS[member.filename]:
                raise ForeignModelError(
                    f"its {member.filename} is of {member.file_size} bytes, more than any network's"
                )
        config = json.loads(file.read("config.json"))
    config.pop("compile_config", None)  # which is not used
    unknown = sorted(set(_unknown_classes(config)))
    if unknown:
        raise ForeignModelError(f"holds {', '.join(unknown)}, which no network of ours does")


def _unknown_classes(config):
    """Yields the names of all that a configuration has Keras look up and that is not ours."""
    if isinstance(config, list):
        for value in config:
            yield from _unknown_classes(value)
    elif isinstance(config, dict):
        if "class_name" in config or "module" in config or "registered_name" in config:
            module, name, registered = (config.get(key) for key in ("module", "class_name", "registered_name"))
            known = (
                (module is None and registered is None and name == "__keras_tensor__")
                or (registered in (None, name) and name in KERAS_CLASSES.get(str(module), ()))
                or (str(module).startswith("resnetd_tf.") and name in OWN_LAYERS and registered == f"resnetd_tf>{name}")
            )
            if not known:
                yield str(registered or ".".join(filter(None, (module, str(name)))))
        for value in config.values():
            yield from _unknown_classes(value)


# Weights in .safetensors files, timm's, torchvision's and ours.
#
# Ours have in their header what a classifier is beside its weights, so that the file alone is one.


HEADER_KEY = "resnetd_tf"  # of the header; its value is JSON, as in metadata.json
NEEDED_METADATA = ("classes", "depth", "image_size", "interpolation", "normalization", "variant")


def read_tensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors by name.

    Raises:
        Exception: What safetensors raises for a damaged file.
    """
    return safetensors.numpy.load_file(path)


def read_classifier_metadata(path: pathlib.Path) -> dict | None:
    """What the header of a classifier's file says of it; `None` for other files.

    Raises:
        InputError: It lacks what a classifier needs, or says what cannot be.
        Exception: What safetensors and json raise for a damaged file.
    """
    text = _read_header(path).get(HEADER_KEY)
    return None if text is None else metadata.check_metadata(json.loads(text), path, NEEDED_METADATA)


def read_band_names(path: pathlib.Path) -> tuple[str, ...] | None:
    """The names of the bands that whoever wrote a state dict put under "bands"; `None` where nobody did."""
    text = _read_header(path).get("bands")
    return None if text is None else tuple(text.replace(",", " ").split())


def _read_header(path: pathlib.Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}


def write_tensors(tensors: dict[str, np.ndarray], described: dict, path: pathlib.Path) -> None:
    """Writes a classifier's file.

    Args:
        tensors: Its weights, as timm names them.
        described: What metadata.json of its run says, with `NEEDED`.
        path: The file.
    """
    content = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    path.write_bytes(safetensors.numpy.save(content, {HEADER_KEY: json.dumps(described)}))
