"""From a trained classifier to a .safetensors file: small, without code in it, and read by PyTorch too."""

import json
import pathlib

from resnetd_tf import rundir
from resnetd_tf.deployment import comparison
from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.networks import checkpoints, safetensors_files
from resnetd_tf.saved import open_classifier, open_network


def convert(
    model: str,
    precision: str,
    output: str | None,
    dataset: str | None = None,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    split_files: str | None = None,
    trust: bool = False,
) -> pathlib.Path:
    """Writes a .safetensors file of a classifier, and compares the two.

    Weights have the names and the layout that timm gives them. The header has all of metadata.json and the results of
    the evaluations that lie in the run's folder.

    Args:
        model: A path as `saved.open_network` takes it, of a run.
        precision: "float32", or "float16" for kernels; all else is float32.
        output: The file; `None` for model-PRECISION.safetensors in the run's folder.
        dataset: What to compare on; `None` for the dataset the model was trained on.
        data_dir, eurosat_zip, split_files: As for `sources.load`.
        trust: As for `saved.open_classifier`.

    Returns:
        The path of the file.

    Raises:
        InputError: Something given cannot be used.
    """
    classifier, (source, network) = open_classifier(model, trust=trust), open_network(model, trust)
    path = pathlib.Path(output) if output else classifier.folder / f"model-{precision}.safetensors"
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: the name of the file must end in .safetensors, by which it is known")
    rundir.must_not_exist(path)
    if not network.get_layer("resizing").antialias:
        raise InputError(f"{source} resizes without antialiasing, as version 0.1.0 did; --format=savedmodel keeps that")
    described = {**classifier.metadata, "classes": classifier.classes}
    if source.name == "model.keras":  # a run's
        described["evaluations"] = _evaluations(source.parent)
    if missing := [name for name in safetensors_files.NEEDED if name not in described]:
        raise InputError(f"{source}: its run's metadata.json is needed, which says its {', '.join(missing)}")
    (check,) = comparison.patches(classifier, ("validation",), dataset, data_dir, eurosat_zip, split_files)
    tensors = {}
    with damage_told(f"{source} is no classifier that `train.py` writes"):
        named = checkpoints.state_dict_names(network.layers[-1])
    for name, weight in named.items():
        value = weight.numpy()
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        tensors[name] = value.astype("float16") if precision == "float16" and value.ndim > 1 else value
    with rundir.atomic(path) as temporary:
        safetensors_files.write(tensors, described, temporary)
        result = comparison.agreement(open_classifier(temporary).predict(check), classifier.predict(check))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB\nAgainst {source} on {len(check)} validation images: {result}")
    return path


def _evaluations(folder: pathlib.Path) -> dict[str, dict]:
    """What the evaluations in a run's folder found, by the names of their folders, without the names of images."""
    found = {}
    for path in sorted(folder.glob("evaluation-*/*.json")):
        with damage_told(f"{path}: cannot be read", "; restore or delete it"):
            result = json.loads(path.read_text(encoding="utf-8"))
            found[path.parent.name] = {name: value for name, value in result.items() if name != "mistakes"}
    return found
