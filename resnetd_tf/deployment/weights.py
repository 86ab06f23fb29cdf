"""From a trained classifier to a .safetensors file: small, without code in it, and read by PyTorch too."""

import json
import pathlib

import keras

from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.networks import checkpoints, safetensors_files
from resnetd_tf.saved import SavedClassifier

# Numbers in a kernel from which on "float16" halves it. The smaller ones of ResNet-50-D, nearly all in its first half,
# are 7 % of its weights and make nearly all of what rounding changes: of a run of `best` and fifty epochs more, up to
# 2.9e-3 of a probability of validation images with them, 1.6e-4 without.
LARGE = 2**18
OF_THIS_MACHINE = ("data_dir", "eurosat_zip")  # of metadata.json: paths that say nothing elsewhere


def write(network: keras.Model, classifier: SavedClassifier, path: pathlib.Path, precision: str) -> None:
    """Writes a .safetensors file of a classifier.

    Weights have the names and the layout that timm gives them. The header has metadata.json, but for `data_dir` and
    `eurosat_zip`, and the results of the evaluations that lie in the run's folder.

    Args:
        network: The classifier as a Keras model.
        classifier: The same, opened, of a run.
        path: The file.
        precision: "float32", or "float16" for kernels that are `LARGE`; all else is float32.

    Raises:
        InputError: It is not known how it was trained, or it resizes as version 0.1.0 did.
    """
    if not network.get_layer("resizing").antialias:
        raise InputError(
            f"{classifier.path} resizes without antialiasing, as version 0.1.0 did; --format=savedmodel keeps that"
        )
    described = {**classifier.metadata, "classes": classifier.classes}
    for name in OF_THIS_MACHINE:
        described.pop(name, None)
    if classifier.path.suffix != ".safetensors" and (classifier.folder / "model.keras").is_file():  # a run's
        described["evaluations"] = _evaluations(classifier.folder)
    if missing := [name for name in safetensors_files.NEEDED if name not in described]:
        raise InputError(f"{classifier.path}: its run's metadata.json is needed, which says its {', '.join(missing)}")
    tensors = {}
    for name, weight in checkpoints.state_dict_names(network.layers[-1]).items():
        value = weight.numpy()
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        tensors[name] = value.astype("float16") if precision == "float16" and value.size >= LARGE else value
    safetensors_files.write(tensors, described, path)


def _evaluations(folder: pathlib.Path) -> dict[str, dict]:
    """What the evaluations in a run's folder found, by the names of their folders, without the names of images."""
    found = {}
    for path in sorted(folder.glob("evaluation-*/*.json")):
        with damage_told(f"{path}: cannot be read", "; restore or delete it"):
            result = json.loads(path.read_text(encoding="utf-8"))
            found[path.parent.name] = {name: value for name, value in result.items() if name != "mistakes"}
    return found
