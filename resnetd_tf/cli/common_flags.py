"""Flags that several programs have, each with the same words."""

import dataclasses
import pathlib
import typing
from collections.abc import Callable

from absl import flags

from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import RECIPES, Settings

if typing.TYPE_CHECKING:
    from resnetd_tf.saved import SavedClassifier

flags.disclaim_key_flags()  # they are flags of the program that asks for them

DEFINE: dict[type, Callable] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}
MODEL = (
    "A folder of versions (the newest counts), a SavedModel, a .keras or .safetensors file, what export.py made, or "
    "eurosat, the classifier that comes with this package; default {base}, or eurosat where that has no finished run."
)


def define_settings(*names: str) -> None:
    """Defines the flags of `Settings` with these names; of all without any."""
    types = typing.get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        if names and field.name not in names:
            continue
        kind = next(kind for kind in (typing.get_args(types[field.name]) or (types[field.name],)) if kind in DEFINE)
        text = field.metadata["help"]
        if choices := field.metadata.get("choices"):
            text = f"{text.removesuffix('.')} ({', '.join(map(str, choices))})."
        if recipes := {name: values[field.name] for name, values in RECIPES.items() if field.name in values}:
            text += f" By recipe: {', '.join(f'{name} {value}' for name, value in recipes.items())}."
        DEFINE[kind](field.name, field.default, text)


def settings() -> Settings:
    """The settings that the flags say.

    Raises:
        InputError: One is outside its range.
    """
    values: dict[str, typing.Any] = {
        field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Settings)
    }
    return Settings(**values)


def define_model() -> None:
    """Defines --model and --trust."""
    flags.DEFINE_string("model", None, MODEL.format(base=Settings().base))
    flags.DEFINE_bool("trust", False, "Open a model that holds what no classifier of ours does; it may run anything.")


def model() -> str:
    """The model that --model says, or where it is not given the default."""
    if flags.FLAGS.model:
        return flags.FLAGS.model
    from resnetd_tf import rundir  # which imports TensorFlow
    from resnetd_tf.networks.pretrained import EUROSAT

    base = Settings().base
    return base if rundir.versions(pathlib.Path(base)) else EUROSAT


def open_model(stream: typing.TextIO | None = None) -> "SavedClassifier":
    """Opens the model of `model`, and prints which one it is, with its epochs and accuracy.

    Args:
        stream: Where the line goes; `None` for stdout.

    Raises:
        InputError: As for `saved.open_classifier`.
    """
    from resnetd_tf import saved  # which imports TensorFlow

    classifier = saved.open_classifier(model(), trust=flags.FLAGS.trust)
    reason, base = "", Settings().base
    if not flags.FLAGS.model:
        packaged = model() != base
        reason = (
            f" ({base} has no finished run)" if packaged else " (the newest run; --model=eurosat for the package's)"
        )
    print(f"Model: {classifier.summary}{reason}", file=stream, flush=True)
    return classifier


def define_dataset(text: str) -> None:
    """Defines --dataset, which is `None` if not given, and the flags that say where datasets are."""
    flags.DEFINE_string("dataset", None, text)
    define_settings("data_dir", "eurosat_zip", "split_files", "bands", "offset", "scale")


def refuse(where: str, *names: str) -> None:
    """Raises InputError if one of these flags is given, which have no effect there."""
    for name in names:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} has no effect {where}; leave it out")


def source() -> dict[str, typing.Any]:
    """The arguments `dataset`, `data_dir`, `eurosat_zip`, `split_files` and `reading` that the flags say."""
    from resnetd_tf.data.rasters import Reading

    values = {name: flags.FLAGS[name].value for name in ("dataset", "data_dir", "eurosat_zip", "split_files")}
    bands = flags.FLAGS.bands
    return values | {
        "reading": Reading(tuple(bands.split(",")) if bands else None, flags.FLAGS.scale, flags.FLAGS.offset)
    }
