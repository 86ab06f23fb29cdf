"""Writing .keras files, and opening ours and those from elsewhere.

A .keras file can name any function or layer that is installed, and Keras calls them: its safe mode lets through
`TFSMLayer`, which runs a graph. So its configuration is read first, and holds only what our networks contain.
"""

import json
import pathlib
import shutil
import zipfile

import keras

from resnetd_tf.errors import NotOurs

# Expanded size in bytes; ResNet-152-D has 240 MB of weights and 600 kB of configuration.
LARGEST = {"metadata.json": 2**20, "config.json": 2**26, "model.weights.h5": 2**31}
KERAS = {
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
OURS = {"BatchNormalization", "Conv2D", "Resizing"}  # registered as resnetd_tf>NAME, in modules that were moved about

# Arguments that Keras 3.10 to 3.14 do not all know, with the values that leave out what they stand for.
NEWER_DEFAULTS = {
    "input_axes": None,
    "output_axes": None,
    "quantization_config": None,
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
}


def save(model: keras.Model, path: pathlib.Path) -> None:
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


def load(path: pathlib.Path, trust: bool = False) -> keras.Model:
    """The model in a .keras file, not compiled.

    Args:
        path: The file.
        trust: Whether it may hold layers and functions that our networks do not contain.

    Raises:
        NotOurs: It holds others, or is larger than any network of ours.
        Exception: What zipfile, h5py or Keras raises for a damaged file.
    """
    if not trust:
        check(path)
    return keras.saving.load_model(path, compile=False, safe_mode=not trust)


def check(path: pathlib.Path) -> None:
    """Raises NotOurs if a .keras file holds what our networks do not contain."""
    with zipfile.ZipFile(path) as file:
        for member in file.infolist():
            if member.filename not in LARGEST:
                raise NotOurs(f"holds {member.filename!r}, which no file of a network has")
            if member.file_size > LARGEST[member.filename]:
                raise NotOurs(f"its {member.filename} is of {member.file_size} bytes, more than any network's")
        config = json.loads(file.read("config.json"))
    config.pop("compile_config", None)  # which is not used
    unknown = sorted(set(_unknown(config)))
    if unknown:
        raise NotOurs(f"holds {', '.join(unknown)}, which no network of ours does")


def _unknown(config):
    """Yields the names of all that a configuration has Keras look up and that is not ours."""
    if isinstance(config, list):
        for value in config:
            yield from _unknown(value)
    elif isinstance(config, dict):
        if "class_name" in config or "module" in config or "registered_name" in config:
            module, name, registered = (config.get(key) for key in ("module", "class_name", "registered_name"))
            known = (
                (module is None and registered is None and name == "__keras_tensor__")
                or (registered in (None, name) and name in KERAS.get(str(module), ()))
                or (str(module).startswith("resnetd_tf.") and name in OURS and registered == f"resnetd_tf>{name}")
            )
            if not known:
                yield str(registered or ".".join(filter(None, (module, str(name)))))
        for value in config.values():
            yield from _unknown(value)
