"""Weights: read from every format into one layout, fitted into a network, and written.

Tensors have the names and the layout of PyTorch's ResNets, those of timm and torchvision: "layer1.0.conv1.weight" is an
array (filters, bands, height, width).
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import h5py
import keras
import numpy as np
import safetensors.numpy

from resnetd_tf.errors import ForeignModelError, InputError, first_line
from resnetd_tf.metadata import check_metadata
from resnetd_tf.networks import pretrained
from resnetd_tf.networks.torch_files import read_state_dict
from resnetd_tf.normalization import IMAGENET, Statistics, statistics_from_metadata
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS


@dataclass(frozen=True)
class Checkpoint:
    """Weights that are read, but not yet in a network.

    Attributes:
        source: The origin of the weights: a path, or a published checkpoint's name.
        tensors: Arrays by name, in PyTorch's layout.
        statistics: The statistics that the training images were normalised with; `None` if the file does not say.
        interpolation: The filter that the training images were resized with, "bilinear" or "bicubic".
        file: The file that the weights were read from.
        image_size: Side in pixels of a classifier's images; `None` if the file does not say.
        depth: Depth of the network; 0 if it is not known.
        variant: Variant of the network, or "b" for "base" too where the names of the tensors are the same.
        metadata: The metadata in the header of a classifier's .safetensors file; `None` for other files.
        exact: Whether the head and the first convolution must fit a network too.
        licence: Licence of published weights.
    """

    source: str
    tensors: dict[str, np.ndarray]
    statistics: Statistics | None = None
    interpolation: str = "bilinear"
    file: pathlib.Path | None = None
    image_size: int | None = None
    depth: int = 0
    variant: str = ""
    metadata: dict | None = None
    exact: bool = False
    licence: str = ""

    @property
    def identity(self) -> dict:
        """The source, its licence, the SHA-256 of the file and its revision on the hub, as entries of metadata.json."""
        identity = {"weights_source": self.source}
        if self.licence:
            identity["weights_licence"] = self.licence
        if self.file and self.file.is_file():
            with self.file.open("rb") as file:
                identity["weights_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
            if re.fullmatch("[0-9a-f]{40}", self.file.parent.name):  # huggingface_hub's cache
                identity["weights_revision"] = self.file.parent.name
        return identity


def read_checkpoint(weights: str | pathlib.Path, depth: int, variant: str, bands: int = 3) -> Checkpoint:
    """Reads weights for a network of this depth and variant, and fetches them if need be.

    Args:
        weights: "imagenet" for the published checkpoint (`pretrained.PUBLISHED`), a name of published Sentinel-2
            weights (`pretrained.SENTINEL2_NAMES`), "eurosat" for the classifier that ships with this package, or the
            path of a file. Files of ours are .keras (a network or a classifier), .weights.h5 (a network) and
            .safetensors (a classifier). A .safetensors or .pth file may also be a state dict of timm's or torchvision's
            ResNet; RGB images are then taken to be normalised as ImageNet's are, unless the file is one of the
            published Sentinel-2 weights.
        depth: Depth of the network, as in `resnetd_tf.resnet`.
        variant: Variant of the network, as in `resnetd_tf.resnet`.
        bands: Number of bands of the images, 3 or 13. Published Sentinel-2 weights are cut to them.

    Raises:
        pretrained.WeightsUnavailable: The published weights are not cached and cannot be fetched.
        ValueError: The file is missing, cannot be read, or is of another network.
    """
    if weights == "imagenet":
        return _read_published(depth, variant)
    if weights in pretrained.SENTINEL2_NAMES:
        return _read_sentinel2(str(weights), depth, variant, _names_of_bands(str(weights), bands))
    path = pathlib.Path(weights)
    if weights == pretrained.EUROSAT_NAME or pretrained.is_packaged(path):
        path = pretrained.packaged_weights()
    if not path.is_file():
        raise ValueError(_missing_file_message(path))
    if path.suffix in (".pt", ".bin"):
        raise ValueError(f"weights {path}: expected the ending .pth of a file that torch.save wrote; rename it")
    readers: dict[str, Callable[[pathlib.Path, str], Checkpoint]] = {
        ".keras": _read_keras,
        ".weights.h5": _read_weights_h5,
        ".safetensors": _read_safetensors,
        ".pth": functools.partial(_read_pth, bands=bands),
    }
    reader = next((reader for ending, reader in readers.items() if path.name.endswith(ending)), None)
    if reader is None:
        raise ValueError(f"weights {path}: expected a .keras, .weights.h5, .safetensors or .pth file")
    checkpoint = _read_file(path, lambda path: reader(path, str(weights)))
    _check_architecture(weights, checkpoint, depth, variant)
    return checkpoint


def statistics(weights: str | pathlib.Path, depth: int = 50, variant: str = "d", bands: int = 3) -> Statistics:
    """Returns the mean and standard deviation that a checkpoint needs its images normalised with.

    Example:
        images = resnetd_tf.statistics("imagenet", depth=50, variant="base").normalize(pixels)

    Args:
        weights: A name or a path, as in `read_checkpoint`. Nothing is fetched for names of published weights.
        depth: Depth of the network, as in `resnetd_tf.resnet`.
        variant: Variant of the network, as in `resnetd_tf.resnet`.
        bands: Number of bands of the images, 3 or 13, for published Sentinel-2 weights.

    Raises:
        ValueError: The file cannot be read, is of another network, or does not name its statistics.
    """
    if weights == "imagenet":
        return pretrained.find_published(depth, variant).statistics
    if weights in pretrained.SENTINEL2_NAMES:
        names = _names_of_bands(str(weights), bands)
        return pretrained.find_sentinel2(str(weights), depth, variant, names).statistics(names)
    checkpoint = read_checkpoint(weights, depth, variant, bands)
    if checkpoint.statistics is None:
        raise ValueError(f"weights {weights}: the file does not tell what its images were normalised with")
    return checkpoint.statistics


def _missing_file_message(path: pathlib.Path) -> str:
    """Returns the message for a path that is no file of weights."""
    if path.is_dir():
        files = [*path.glob("model.keras"), *path.glob("run-*/model.keras")]
        newest = max(files, key=lambda file: file.stat().st_mtime, default=path / "model.keras")
        return f"weights {path}: is a folder; give the file, such as {newest}"
    if str(path) in ("none", "auto"):
        return f'weights {path}: no such file; in Python None gives random weights, "imagenet" published ones'
    return (
        f"weights {path}: no such file; give one, or imagenet, eurosat, {', '.join(pretrained.SENTINEL2_NAMES)} or none"
    )


def _read_file(path: pathlib.Path, reader: Callable):
    """Returns what `reader` returns for a path, and turns its exceptions into a ValueError that names the file."""
    try:
        return reader(path)
    except (InputError, ForeignModelError) as error:
        raise ValueError(f"weights {path}: {error}") from error
    except Exception as error:  # zipfile, h5py, Keras and safetensors each raise their own error for a damaged file
        raise ValueError(f"weights {path}: cannot be read, damaged or truncated ({first_line(error)})") from error


def _check_architecture(weights: str | pathlib.Path, checkpoint: Checkpoint, depth: int, variant: str) -> None:
    """Raises ValueError unless a checkpoint fits a network of this depth and variant."""
    interchangeable = {"base", "b"} if depth < 50 else set()  # basic blocks have one stride either way
    is_same_variant = checkpoint.variant == variant or {checkpoint.variant, variant} <= interchangeable
    if checkpoint.depth == depth and is_same_variant:
        return
    note = ""
    is_state_dict = checkpoint.metadata is None and str(checkpoint.file).endswith((".safetensors", ".pth"))
    if is_state_dict and (checkpoint.depth, checkpoint.variant, variant) == (depth, "b", "base"):
        note = " (a state dict of base has the same names and shapes; those of timm and torchvision are b)"
    raise ValueError(
        f"weights {weights}: of depth {checkpoint.depth}, variant {checkpoint.variant}, not {depth}, {variant}{note}; "
        f"give --depth={checkpoint.depth} --variant={checkpoint.variant}"
    )


# Names: our Keras layers, PyTorch's tensors, and the depth and variant that either names show.

WEIGHT_NAMES = {  # Keras's names by the last part of a layer's name, in the order of the layer's weights
    "conv": ("kernel",),
    "bn": ("gamma", "beta", "moving_mean", "moving_variance"),
    "predictions": ("kernel", "bias"),
}
PYTORCH_WEIGHT_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
PYTORCH_STEM = {"stem_1_conv": "conv1", "stem_1_bn": "bn1"}
PYTORCH_DEEP_STEM = {
    "stem_1_conv": "conv1.0",
    "stem_1_bn": "conv1.1",
    "stem_2_conv": "conv1.3",
    "stem_2_bn": "conv1.4",
    "stem_3_conv": "conv1.6",
    "stem_3_bn": "bn1",
}


def pytorch_names(network: keras.Model) -> dict[str, keras.Variable]:
    """Returns the weights of a network by the names that timm and torchvision give them."""
    modules = _pytorch_modules(layer.name for layer in network.layers)
    return {
        _pytorch_tensor_name(modules, layer.name, weight.name): weight
        for layer in network.layers
        for weight in layer.weights
    }


def pytorch_state_dict(network: keras.Model) -> dict[str, np.ndarray]:
    """Returns the weights of a network as arrays with PyTorch's names and in its layout."""
    return {
        name: _to_pytorch_layout(keras.ops.convert_to_numpy(weight)) for name, weight in pytorch_names(network).items()
    }


def _pytorch_modules(layer_names: Iterable[str]) -> dict[str, str]:
    """Maps the names of a network's layers to the names of PyTorch's modules.

    Args:
        layer_names: The names of all layers. Layers without weights show whether shortcuts have a pool.
    """
    names = set(layer_names)
    has_pooled_shortcuts = any(name.endswith("_shortcut_pool") for name in names)
    modules = {"predictions": "fc"} | (PYTORCH_DEEP_STEM if "stem_3_conv" in names else PYTORCH_STEM)
    for name in names:
        if match := re.fullmatch(r"stage(\d)_block(\d+)_(\w+)_(conv|bn)", name):
            stage, block, part, kind = match.groups()
            # A shortcut is a sequence. In D it begins with a pool, or with an empty module.
            module = f"downsample.{(kind == 'bn') + has_pooled_shortcuts}" if part == "shortcut" else kind + part
            modules[name] = f"layer{stage}.{int(block) - 1}.{module}"
    return modules


def _pytorch_tensor_name(modules: dict[str, str], layer: str, weight: str) -> str:
    """Returns the name of a tensor in PyTorch; a layer or weight that no network of ours has keeps its own."""
    return f"{modules.get(layer, layer)}.{PYTORCH_WEIGHT_NAMES.get(weight, weight)}"


def _to_pytorch_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def _to_keras_layout(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def architecture_from_layers(layer_names: Iterable[str]) -> tuple[int, str]:
    """Finds the depth and variant of a network of ours from the names of its layers.

    The variant is "b" for basic blocks, where "base" and "b" are the same.

    Args:
        layer_names: The names of all layers. Layers without weights, paddings and pools, show where the strides are.

    Raises:
        ForeignModelError: The layers are not those of a network of ours.
    """
    names = set(layer_names)
    convolutions = sum(bool(re.fullmatch(r"stage\d_block\d+_\d_conv", name)) for name in names)
    if not convolutions:
        examples = ", ".join(sorted(names)[:3])
        raise ForeignModelError(
            f"no network of this package, which has a layer stage1_block1_1_conv; it has {examples}"
        )
    is_bottleneck = "stage1_block1_3_conv" in names
    variant = "base" if is_bottleneck and "stage2_block1_2_conv_pad" not in names else "b"
    if "stem_3_conv" in names:
        variant = "d" if "stage2_block1_shortcut_pool" in names else "c"
    return 2 + convolutions, variant  # the stem and the head count as one layer each


def architecture_from_tensors(tensors: dict[str, np.ndarray]) -> tuple[int, str]:
    """Finds the depth and variant of a network from the names of its tensors.

    The variant is "b" for "base" too, which has the same names.
    """
    convolutions = sum(bool(re.fullmatch(r"layer\d\.\d+\.conv\d\.weight", name)) for name in tensors)
    # The second module of D's shortcut is a convolution, which follows a pool. In other variants it is a normalisation.
    second_module = tensors.get("layer2.0.downsample.1.weight")
    has_pooled_shortcuts = second_module is not None and second_module.ndim == 4
    return 2 + convolutions, "d" if has_pooled_shortcuts else "c" if "conv1.0.weight" in tensors else "b"


# Published ImageNet weights.


def _read_published(depth: int, variant: str) -> Checkpoint:
    """Reads the published ImageNet weights of a network, which are fetched if they are not cached."""
    published = pretrained.find_published(depth, variant)
    if published.source == pretrained.KERAS_APPLICATIONS:
        network, file = pretrained.fetch_keras(depth)
        tensors = convert_keras_applications(network)
    else:
        file = pretrained.fetch_from_hub(published.source)
        tensors = _read_file(file, safetensors.numpy.load_file)
    return Checkpoint(
        published.source,
        tensors,
        published.statistics,
        published.interpolation,
        file,
        depth=depth,
        variant=variant,
        licence=published.licence,
    )


def convert_keras_applications(model: keras.Model) -> dict[str, np.ndarray]:
    """Converts the weights of a `keras.applications` ResNet to those of our network of variant base.

    Three details differ. Its convolutions have biases, which batch normalisation subtracts again: they go into the
    moving means. Its epsilon is 1.001e-5 where ours is 1e-5: the rest goes into the moving variances. It takes BGR
    images: the bands of the first convolution are reversed.

    Args:
        model: A model of `keras.applications`, with or without its head.

    Returns:
        Arrays by name, in PyTorch's layout.
    """
    tensors: dict[str, np.ndarray] = {}
    array = keras.ops.convert_to_numpy
    for layer in model.layers:
        match = re.fullmatch(r"conv(\d)_(?:block(\d+)_(\d)_)?(conv|bn)", layer.name)
        if not layer.weights:
            continue
        if match is None:
            tensors |= {f"{layer.name}/{weight.name}": array(weight) for weight in layer.weights}
            continue
        group, block, part, kind = match.groups()
        name = f"stage{int(group) - 1}_block{block}_{'shortcut' if part == '0' else part}" if block else "stem_1"
        if kind == "conv":
            kernel = array(layer.kernel)
            tensors[f"{name}_conv/kernel"] = kernel if block else kernel[:, :, ::-1]
        else:
            bias = array(model.get_layer(layer.name.removesuffix("bn") + "conv").bias)
            tensors[f"{name}_bn/gamma"] = array(layer.gamma)
            tensors[f"{name}_bn/beta"] = array(layer.beta)
            tensors[f"{name}_bn/moving_mean"] = array(layer.moving_mean) - bias
            tensors[f"{name}_bn/moving_variance"] = array(layer.moving_variance) + (layer.epsilon - 1e-5)
    modules = _pytorch_modules(name.split("/")[0] for name in tensors)
    return {
        _pytorch_tensor_name(modules, *name.split("/")): _to_pytorch_layout(value) for name, value in tensors.items()
    }


# Published Sentinel-2 weights.


def _names_of_bands(weights: str, count: int) -> tuple[str, ...]:
    """Returns the names of the bands of images with 3 or 13 bands."""
    names = {len(RGB_BANDS): RGB_BANDS, len(BANDS): BANDS}
    if count not in names:
        raise ValueError(f"weights {weights} were trained on Sentinel-2's bands; images of {count} bands have no names")
    return names[count]


def _read_sentinel2(name: str, depth: int, variant: str, bands: tuple[str, ...]) -> Checkpoint:
    """Reads published Sentinel-2 weights without their head, for images with these bands."""
    published = pretrained.find_sentinel2(name, depth, variant, bands)
    file = pretrained.fetch_from_hub(published.repository, published.file, published.revision, published.sha256)
    reader = read_state_dict if file.suffix == ".pth" else safetensors.numpy.load_file
    return _read_file(file, lambda file: _make_sentinel2_checkpoint(file, reader(file), published, bands))


def _make_sentinel2_checkpoint(
    file: pathlib.Path,
    tensors: dict[str, np.ndarray],
    published: pretrained.Sentinel2Weights,
    bands: tuple[str, ...],
) -> Checkpoint:
    """Makes a checkpoint of published Sentinel-2 weights whose input channels are the given bands."""
    tensors, _ = strip_prefix(tensors)
    if input_bands(tensors) != len(published.bands):
        raise ForeignModelError(
            f"its first convolution takes {input_bands(tensors)} bands instead of {len(published.bands)}"
        )
    stem_name = _find_stem_name(tensors)
    stem_kernel = tensors[stem_name][:, [published.bands.index(band) for band in bands]]
    depth, variant = architecture_from_tensors(tensors)
    return Checkpoint(
        published.repository,
        {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")} | {stem_name: stem_kernel},
        published.statistics(bands),
        file=file,
        depth=depth,
        variant=variant,
        licence=published.licence,
    )


# Keras's files: .keras with a network or a classifier of ours, and .weights.h5 with the weights of a network.


def _read_keras(path: pathlib.Path, source: str) -> Checkpoint:
    """Reads a .keras file. A classifier brings its statistics, interpolation and image size."""
    model = load_keras(path)
    network = model.layers[-1] if is_classifier(model) else model
    depth, variant = architecture_from_layers(layer.name for layer in network.layers)
    checkpoint = Checkpoint(source, pytorch_state_dict(network), file=path, depth=depth, variant=variant)
    if network is model:
        return checkpoint
    normalization, resizing = model.get_layer("normalization"), model.get_layer("resizing")
    mean, variance = (np.ravel(values) for values in (normalization.mean, normalization.variance))
    return dataclasses.replace(
        checkpoint,
        statistics=Statistics(source, tuple(mean.tolist()), tuple(np.sqrt(variance).tolist()), model.inputs[0].dtype),
        interpolation=resizing.interpolation,
        image_size=resizing.height,
    )


def is_classifier(model: keras.Model | None) -> bool:
    """Returns whether a model is a network behind the preprocessing of `classifier.build_classifier`."""
    if model is None:
        return False
    names = {layer.name for layer in model.layers}
    return {"normalization", "resizing"} <= names and isinstance(model.layers[-1], keras.Model)


def _read_weights_h5(path: pathlib.Path, source: str) -> Checkpoint:
    """Reads a .weights.h5 file. A layer's weights are numbered there, in the order of `WEIGHT_NAMES`."""
    with h5py.File(path) as file:
        groups = [group["vars"] for group in file["layers"].values()]
        names = [group.attrs.get("name") for group in groups]
        if None in names:  # an older version of Keras wrote it
            raise ForeignModelError(
                "does not name its layers, so that depth and variant cannot be told; give a .keras file"
            )
        depth, variant = architecture_from_layers(names)
        modules = _pytorch_modules(names)
        tensors = {}
        for name, group in zip(names, groups):
            arrays = [_read_h5_array(group[str(index)]) for index in range(len(group))]
            weight_names = WEIGHT_NAMES.get(name.split("_")[-1], [str(index) for index in range(len(group))])
            for weight_name, array in zip(weight_names if arrays else (), arrays, strict=True):
                tensors[_pytorch_tensor_name(modules, name, weight_name)] = _to_pytorch_layout(array)
    return Checkpoint(source, tensors, file=path, depth=depth, variant=variant, exact=True)


def _read_h5_array(dataset: h5py.Dataset) -> np.ndarray:
    """Reads a weight. HDF5 knows no bfloat16, so that Keras stores its bytes and names the type in an attribute."""
    array = dataset[()]
    if dataset.attrs.get("dtype") == "bfloat16":  # a type that NumPy knows once Keras is imported
        array = array.view("bfloat16").astype("float32")
    return array


# .safetensors files: classifiers of ours, whose header has their metadata, and state dicts of others. .pth files: state
# dicts.

HEADER_KEY = "resnetd_tf"  # entry of the header with a classifier's metadata as JSON
NEEDED_METADATA = ("classes", "depth", "image_size", "interpolation", "normalization", "variant")


def _read_safetensors(path: pathlib.Path, source: str) -> Checkpoint:
    """Reads a .safetensors file, whose header tells a classifier of ours from a state dict."""
    tensors, header = _read_tensors(path)
    if HEADER_KEY in header:
        return _make_classifier_checkpoint(path, source, tensors, header)
    return _make_state_dict_checkpoint(path, source, tensors, header)


def _read_pth(path: pathlib.Path, source: str, bands: int) -> Checkpoint:
    """Reads a state dict that `torch.save` wrote.

    Published Sentinel-2 weights are known by their SHA-256, and cut to the bands of the images.
    """
    with path.open("rb") as file:
        published = pretrained.identify_sentinel2(hashlib.file_digest(file, "sha256").hexdigest())
    tensors = read_state_dict(path)
    if published is None:
        return _make_state_dict_checkpoint(path, source, tensors, {})
    names = _names_of_bands(source, bands)
    if missing := [band for band in names if band not in published.bands]:
        raise ForeignModelError(f"it lacks {' '.join(missing)}, which the images have")
    return _make_sentinel2_checkpoint(path, tensors, published, names)


def read_classifier(path: pathlib.Path) -> Checkpoint:
    """Reads the .safetensors file of a classifier, with its metadata.

    Raises:
        InputError: The metadata lack an entry that a classifier needs, or have an invalid one.
        ValueError: The file has weights alone, or contradictory metadata.
        Exception: safetensors or json finds the file damaged.
    """
    tensors, header = _read_tensors(path)
    if HEADER_KEY not in header:
        raise ValueError("it has weights alone, no classifier; `train.py --weights` can start from it")
    try:
        return _make_classifier_checkpoint(path, str(path), tensors, header)
    except ForeignModelError as error:  # not a foreign model, which could be trusted
        raise ValueError(str(error)) from error


def read_classifier_metadata(path: pathlib.Path) -> dict | None:
    """Reads the metadata in the header of a classifier's .safetensors file, or `None` for other files.

    Raises:
        InputError: The metadata lack an entry that a classifier needs, or have an invalid one.
        Exception: safetensors or json finds the file damaged.
    """
    with safetensors.safe_open(path, framework="numpy") as file:
        header = file.metadata() or {}
    return _metadata_from_header(path, header) if HEADER_KEY in header else None


def _read_tensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the tensors and the header of a .safetensors file."""
    with safetensors.safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        return tensors, file.metadata() or {}


def _metadata_from_header(path: pathlib.Path, header: dict[str, str]) -> dict:
    return check_metadata(json.loads(header[HEADER_KEY]), path, NEEDED_METADATA)


def _make_classifier_checkpoint(
    path: pathlib.Path, source: str, tensors: dict[str, np.ndarray], header: dict[str, str]
) -> Checkpoint:
    """Makes the checkpoint of a classifier, whose metadata are in the header."""
    metadata = _metadata_from_header(path, header)
    return Checkpoint(
        source,
        tensors,
        dataclasses.replace(statistics_from_metadata(metadata), name=source),
        metadata["interpolation"],
        path,
        metadata["image_size"],
        metadata["depth"],
        metadata["variant"],
        metadata,
    )


def _make_state_dict_checkpoint(
    path: pathlib.Path, source: str, tensors: dict[str, np.ndarray], header: dict[str, str]
) -> Checkpoint:
    """Makes the checkpoint of a state dict as timm, torchvision and those who train with them write it."""
    tensors, prefix = strip_prefix(tensors)
    band_names = tuple(header["bands"].replace(",", " ").split()) if "bands" in header else None
    tensors = reorder_bands(tensors, band_names)
    depth, variant = architecture_from_tensors(tensors)
    return Checkpoint(
        f"{source} (tensors under {prefix!r})" if prefix else source,
        tensors,
        IMAGENET if input_bands(tensors) == 3 else None,
        "bicubic",
        path,
        depth=depth,
        variant=variant,
    )


ANCHOR_TENSOR = "layer1.0.conv1.weight"  # every ResNet of timm and torchvision has a tensor of this name


def strip_prefix(tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Removes the prefix of all names, such as "module." or "model.vision_encoder.".

    Returns:
        The tensors by the names that timm gives them, and the prefix.

    Raises:
        ForeignModelError: There is no ResNet, there are several, or tensors outside of it.
    """
    prefixes = sorted(name.removesuffix(ANCHOR_TENSOR) for name in tensors if name.endswith(ANCHOR_TENSOR))
    if not prefixes:
        example = f"; its first is {min(tensors)}" if tensors else ""
        raise ForeignModelError(
            f"none of its {len(tensors)} tensors is {ANCHOR_TENSOR}, which timm's and torchvision's have{example}"
        )
    if len(prefixes) > 1:
        quoted = " and ".join(map(repr, prefixes))
        raise ForeignModelError(
            f"holds {len(prefixes)} networks, under the prefixes {quoted}; save the tensors of one alone"
        )
    prefix = prefixes[0]
    if outside := [name for name in tensors if not name.startswith(prefix)]:
        raise ForeignModelError(
            f"its network is under the prefix {prefix!r}, {len(outside)} tensors such as {outside[0]} are not; save "
            f"{{name: tensor for name, tensor in tensors.items() if name.startswith({prefix!r})}}"
        )
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, prefix


def input_bands(tensors: dict[str, np.ndarray]) -> int:
    """Returns the number of bands that the first convolution takes."""
    return tensors[_find_stem_name(tensors)].shape[1]


def reorder_bands(tensors: dict[str, np.ndarray], names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    """Puts the 13 bands of the first convolution into the order of EuroSAT's files, where B8A is last.

    Args:
        tensors: The state dict. One band, or three, which are red, green and blue, keep their order.
        names: Names of the bands in the order of the channels; `None` if the file does not name them. Fewer than 13
            named bands keep their order.

    Raises:
        ForeignModelError: Several bands have no names, or the names do not fit the bands.
    """
    count = input_bands(tensors)
    if count in (1, 3):
        return tensors
    if names is None:
        raise ForeignModelError(
            f"its first convolution takes {count} bands, in an order that the file does not tell (B8A is last in "
            "EuroSAT, after B08 in TorchGeo); give published weights by name, such as --weights=softcon, or save it "
            "with the names of the bands in the order of the channels: "
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
    stem_name = _find_stem_name(tensors)
    return {**tensors, stem_name: tensors[stem_name][:, order]}


def _find_stem_name(tensors: dict[str, np.ndarray]) -> str:
    """Returns the name of the first convolution's weights."""
    names = [name for name in ("conv1.weight", "conv1.0.weight") if name in tensors and tensors[name].ndim == 4]
    if not names:
        raise ForeignModelError("has no first convolution, conv1.weight or conv1.0.weight of four dimensions")
    return names[0]


# From a checkpoint into a network.


def assign_weights(network: keras.Model, checkpoint: Checkpoint, *, exact: bool = False) -> None:
    """Puts a checkpoint into a network of the same architecture.

    A head of another number of classes, or one that the checkpoint lacks, keeps its weights. A first convolution of
    three bands is adapted to the network's number of bands (`adapt_bands`). Weights of a .weights.h5 file must fit
    exactly.

    Args:
        network: A network that `resnetd_tf.resnet` built.
        checkpoint: The weights.
        exact: Whether the head and the first convolution must fit too.

    Raises:
        ValueError: Tensors are missing, left over, of another shape or not finite; nothing is assigned then.
    """
    exact = exact or checkpoint.exact
    tensors = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.endswith("num_batches_tracked")}
    variables = pytorch_names(network)
    head = set() if exact else {name for name in variables.keys() | tensors.keys() if name.startswith("fc.")}
    stem_kernel = network.get_layer("stem_1_conv").kernel
    values, problems = {}, []
    for name, variable in variables.items():
        shape = _to_pytorch_layout(np.empty(variable.shape)).shape
        if name not in tensors:
            if name not in head:
                problems.append(f"{name} {shape} is missing")
            continue
        value = _to_keras_layout(tensors[name])
        if not exact and variable is stem_kernel and value.shape[2:3] == (3,) != variable.shape[2:3]:
            value = adapt_bands(value, variable.shape[2])
        if value.shape == tuple(variable.shape):
            values[name] = value
        elif name not in head:
            problems.append(f"{name} is {tensors[name].shape}, expected {shape}")
    problems += [f"{name} is not in the network" for name in tensors if name not in variables and name not in head]
    problems += _find_impossible_values(values)
    _raise_problems(network, checkpoint, problems)
    if not head <= values.keys():  # either the whole head is assigned or none of it
        values = {name: value for name, value in values.items() if name not in head}
    for name, value in values.items():
        variables[name].assign(value)


def assign_head(network: keras.Model, checkpoint: Checkpoint) -> None:
    """Puts the head of a checkpoint into the first classes of a network's head.

    The other classes begin with weights of zero and the mean of the biases.

    Args:
        network: A network that `resnetd_tf.resnet` built, of as many classes as the checkpoint or more.
        checkpoint: The weights.
    """
    head = network.get_layer("predictions")
    known_bias = checkpoint.tensors["fc.bias"]
    kernel = np.zeros(head.kernel.shape, "float32")
    kernel[:, : len(known_bias)] = _to_keras_layout(checkpoint.tensors["fc.weight"])
    bias = np.full(head.bias.shape, known_bias.mean())
    bias[: len(known_bias)] = known_bias
    head.set_weights([kernel, bias])


def _find_impossible_values(values: dict[str, np.ndarray]) -> list[str]:
    """Describes the weights whose numbers no training gives, whatever their shapes."""
    problems = []
    for name, value in values.items():
        if value.dtype.kind in "biu":
            problems.append(f"{name} holds {value.dtype}, as quantised weights do, not floats")
        elif infinite := int(value.size - np.isfinite(value).sum()):
            problems.append(f"{infinite} of {value.size} numbers of {name} are not finite: its training diverged")
        elif name.endswith("running_var") and (value < 0).any():
            problems.append(f"{name} holds negative variances")
    return problems


def _raise_problems(network: keras.Model, checkpoint: Checkpoint, problems: list[str]) -> None:
    """Raises ValueError with the first three problems, if there are any."""
    if problems:
        rest = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"weights {checkpoint.source} do not fit {network.name}: {'; '.join(problems[:3])}{rest}")


def adapt_bands(kernel: np.ndarray, bands: int) -> np.ndarray:
    """Adapts a first convolution of three colours to another number of bands.

    Band i stands for colour i modulo 3, and bands of the same colour share its weights evenly. An image whose bands
    repeat the colours of a picture therefore has the picture's response. One or two bands share the sum of the three
    colours, so that a grey image keeps its response.

    Args:
        kernel: Weights (height, width, 3, filters).
        bands: The number of bands.

    Returns:
        Weights (height, width, bands, filters).
    """
    if bands < 3:
        return np.repeat(kernel.sum(axis=2, keepdims=True) / bands, bands, axis=2)
    colours = np.arange(bands) % 3
    return kernel[:, :, colours] / np.bincount(colours)[colours][:, np.newaxis].astype(kernel.dtype)


# The security check of .keras files.
#
# A .keras file can name any installed function or layer, and Keras calls it. Keras's safe mode lets `TFSMLayer`
# through, which runs a graph. So the configuration is read first, and may hold only what our networks contain.


# Largest expanded size in bytes. ResNet-152-D has 240 MB of weights and 600 kB of configuration.
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
OWN_LAYERS = {"BatchNormalization", "Conv2D", "Resizing"}  # registered as resnetd_tf>NAME, in whatever module


def load_keras(path: pathlib.Path, trust: bool = False) -> keras.Model:
    """Loads the model in a .keras file, not compiled.

    Args:
        path: The file.
        trust: Whether the file may hold layers and functions that our networks do not contain.

    Raises:
        ForeignModelError: The file holds others, or is larger than any network of ours.
        Exception: zipfile, h5py or Keras finds the file damaged.
    """
    if not trust:
        check_keras_file(path)
    return keras.saving.load_model(path, compile=False, safe_mode=not trust)


def check_keras_file(path: pathlib.Path) -> None:
    """Raises ForeignModelError if a .keras file holds more than our networks contain."""
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if member.filename not in LARGEST_MEMBERS:
                raise ForeignModelError(f"holds {member.filename!r}, which no file of a network has")
            if member.file_size > LARGEST_MEMBERS[member.filename]:
                raise ForeignModelError(
                    f"its {member.filename} is of {member.file_size} bytes, more than any network's"
                )
        config = json.loads(file.read("config.json"))
    config.pop("compile_config", None)  # loading does not use it
    unknown = sorted(set(_find_unknown_classes(config)))
    if unknown:
        raise ForeignModelError(f"holds {', '.join(unknown)}, which no network of ours does")


def _find_unknown_classes(config) -> Iterator[str]:
    """Yields the names of the classes and functions that Keras would look up and that our networks do not contain."""
    if isinstance(config, list):
        for value in config:
            yield from _find_unknown_classes(value)
    elif isinstance(config, dict):
        if "class_name" in config or "module" in config or "registered_name" in config:
            module, name, registered = (config.get(key) for key in ("module", "class_name", "registered_name"))
            is_known = (
                (module is None and registered is None and name == "__keras_tensor__")
                or (registered in (None, name) and name in KERAS_CLASSES.get(str(module), ()))
                or (str(module).startswith("resnetd_tf.") and name in OWN_LAYERS and registered == f"resnetd_tf>{name}")
            )
            if not is_known:
                yield str(registered or ".".join(filter(None, (module, str(name)))))
        for value in config.values():
            yield from _find_unknown_classes(value)


# Writing.

# Arguments that Keras 3.10 to 3.14 do not all know, each with the default value at which it may be left out.
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

    Earlier versions than the installed one refuse every argument that they do not know, even at its default value. The
    file leaves those arguments out.

    Args:
        model: A model in Keras's own layers, as `layers.portable_copy` makes it.
        path: The file. An existing file is replaced.
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
    """Copies a part of a configuration without the arguments in `NEWER_DEFAULTS` that have their default value."""
    if isinstance(config, list):
        return [_without_newer_defaults(value) for value in config]
    if isinstance(config, dict):
        return {
            key: _without_newer_defaults(value)
            for key, value in config.items()
            if key not in NEWER_DEFAULTS or value != NEWER_DEFAULTS[key]
        }
    return config


def write_tensors(
    tensors: dict[str, np.ndarray], metadata: dict, path: pathlib.Path, further_entries: dict[str, str] | None = None
) -> None:
    """Writes the .safetensors file of a classifier.

    Args:
        tensors: The classifier's weights, in PyTorch's layout.
        metadata: The content of its run's metadata.json, with the entries of `NEEDED_METADATA`.
        path: The file.
        further_entries: Other entries of the header.
    """
    header = {HEADER_KEY: json.dumps(metadata), **(further_entries or {})}
    content = safetensors.numpy.save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, header)
    # safetensors writes the entries of the header in any order; equal classifiers get equal files.
    start = 8 + int.from_bytes(content[:8], "little")
    ordered = json.loads(content[8:start])
    ordered["__metadata__"] = dict(sorted(ordered["__metadata__"].items()))
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
