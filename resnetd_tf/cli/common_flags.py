"""Flags that several programs have, each with the same words."""

import dataclasses
import typing
from collections.abc import Callable

from absl import flags

from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import Settings

flags.disclaim_key_flags()  # they are flags of the program that asks for them

DEFINE: dict[type, Callable] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}
NEWEST = "A folder of versions (the newest counts), a SavedModel or a .keras file."


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
    flags.DEFINE_string("model", Settings().base, NEWEST)
    flags.DEFINE_bool("trust", False, "Open a model that holds what no classifier of ours does; it may run anything.")


def define_dataset(text: str) -> None:
    """Defines --dataset, which is `None` if not given, and the flags that say where datasets are."""
    flags.DEFINE_string("dataset", None, text)
    define_settings("data_dir", "eurosat_zip")


def refuse(where: str, *names: str) -> None:
    """Raises InputError if one of these flags is given, which have no effect there."""
    for name in names:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} has no effect {where}; leave it out")


def source() -> dict[str, str | None]:
    """The arguments `dataset`, `data_dir` and `eurosat_zip` that the flags say."""
    return {name: flags.FLAGS[name].value for name in ("dataset", "data_dir", "eurosat_zip")}
