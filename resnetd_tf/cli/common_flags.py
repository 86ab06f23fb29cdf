"""Flags that several programs have, each with the same words."""

import dataclasses
import pathlib
import typing
from collections.abc import Callable

from absl import flags

from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import RECIPES, Settings

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


def model(stream: typing.TextIO | None = None) -> str:
    """The model that --model says, or where it is not given the default; `stream`, or stdout, tells if it is ours."""
    if flags.FLAGS.model:
        return flags.FLAGS.model
    from resnetd_tf import rundir  # which imports TensorFlow
    from resnetd_tf.networks.pretrained import EUROSAT

    base = Settings().base
    if rundir.versions(pathlib.Path(base)):
        return base
    print(f"Model: {EUROSAT}, which comes with resnetd_tf; {base} has no finished run", file=stream)
    return EUROSAT


def define_dataset(text: str) -> None:
    """Defines --dataset, which is `None` if not given, and the flags that say where datasets are."""
    flags.DEFINE_string("dataset", None, text)
    define_settings("data_dir", "eurosat_zip", "split_files")


def refuse(where: str, *names: str) -> None:
    """Raises InputError if one of these flags is given, which have no effect there."""
    for name in names:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} has no effect {where}; leave it out")


def source() -> dict[str, str | None]:
    """The arguments `dataset`, `data_dir`, `eurosat_zip` and `split_files` that the flags say."""
    return {name: flags.FLAGS[name].value for name in ("dataset", "data_dir", "eurosat_zip", "split_files")}
