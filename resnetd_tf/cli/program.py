"""What the command-line programs share: flags in, one library call, exit code out.

TensorFlow is imported after the flags are read, so that `--help` and a mistyped flag answer at once.
"""

import dataclasses
import io
import logging
import os
import pathlib
import re
import sys
import typing
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging

from resnetd_tf.errors import InputError
from resnetd_tf.process import Termination, silence_stderr
from resnetd_tf.training.settings import RECIPES, Settings


def import_tensorflow() -> None:
    """Imports TensorFlow without its start-up messages, which no setting silences: errors are one line.

    Raises:
        InputError: Keras is told to use another backend.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise InputError(f"KERAS_BACKEND={backend}: the programs need tensorflow; unset it. The networks alone do not")
    os.environ["KERAS_BACKEND"] = backend  # whatever keras.json says
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    without_jax = "jax" not in sys.modules
    if without_jax:  # TensorFlow imports it where it is installed, 0.1 GiB that is not used here
        sys.modules["jax"] = None  # type: ignore[assignment]
    try:
        with silence_stderr():
            import tensorflow  # noqa: F401
    finally:
        if without_jax:
            del sys.modules["jax"]
    import keras

    keras.config.set_image_data_format("channels_last")  # as images are here


def run_program(main: Callable[[list[str]], None], *, takes_arguments: bool = False) -> None:
    """Reads flags and runs `main` with the arguments that are no flags.

    The docstring of its module and the flags defined there are what `--help` shows. Exit codes: 0 done, 2 bad input,
    told in one line on stderr, 130 interrupted, 141 if its output is read no more, 143 ended by SIGTERM.

    Args:
        main: What the program does.
        takes_arguments: Whether it takes arguments that are no flags; otherwise they are refused.
    """
    program = pathlib.Path(sys.argv[0]).name
    _show_help_of(main.__module__)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that the terminal's encoding lacks end no program
        sys.stdout.reconfigure(errors="backslashreplace")

    def fail(message: str) -> NoReturn:
        line = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in " ".join(message.split()))
        print(f"{program}: {line}", file=sys.stderr)
        sys.exit(2)

    def parse(argv: list[str]) -> list[str]:
        try:
            arguments = flags.FLAGS(argv)
        except flags.Error as error:
            fail(str(error))
        except SystemExit:  # after --help; absl's exit code is 1
            sys.exit(0)
        if len(arguments) > 1 and not takes_arguments:
            fail(f"unexpected argument {arguments[1]!r}; flags begin with --, see --help")
        for name in flags.FLAGS:
            if flags.FLAGS[name].present and flags.FLAGS[name].value == "":  # as where a script's variable is not set
                fail(f"--{name}= is empty; leave it out, or say what")
        return arguments

    def guarded(argv: list[str]) -> None:
        try:
            with Termination():  # what is half-written is removed
                main(argv[1:])
        except InputError as error:
            fail(str(error))
        except BrokenPipeError:  # what was printed is read no more, as by `head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except KeyboardInterrupt:
            line = "\n" if sys.stdout.isatty() else ""  # after a progress bar
            print(f"{line}{program}: interrupted", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=parse)


def _show_help_of(module: str) -> None:
    """Has `--help` show a module's docstring and flags as those of the program that was called."""
    if module != "__main__":
        text = sys.modules[module].__doc__ or ""
        installed = pathlib.Path(sys.argv[0]).name.startswith("resnetd-")
        sys.modules["__main__"].__doc__ = re.sub(r"python (\w+)\.py", r"resnetd-\1", text) if installed else text
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


# Flags that several programs have, each with the same words.


if typing.TYPE_CHECKING:
    from resnetd_tf.saved import SavedClassifier

flags.disclaim_key_flags()  # they are flags of the program that asks for them

FLAG_DEFINERS: dict[type, Callable] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}
MODEL_HELP = (
    "A folder of versions (the newest counts), a SavedModel, a .keras or .safetensors file, what export.py made, or "
    "eurosat, the classifier that comes with this package; default {base}, or eurosat where that has no finished run."
)


def define_settings_flags(*names: str) -> None:
    """Defines the flags of `Settings` with these names; of all without any."""
    types = typing.get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        if names and field.name not in names:
            continue
        kind = next(
            kind for kind in (typing.get_args(types[field.name]) or (types[field.name],)) if kind in FLAG_DEFINERS
        )
        text = field.metadata["help"]
        if choices := field.metadata.get("choices"):
            text = f"{text.removesuffix('.')} ({', '.join(map(str, choices))})."
        if recipes := {name: values[field.name] for name, values in RECIPES.items() if field.name in values}:
            text += f" By recipe: {', '.join(f'{name} {value}' for name, value in recipes.items())}."
        FLAG_DEFINERS[kind](field.name, field.default, text)


def settings_from_flags() -> Settings:
    """The settings that the flags say.

    Raises:
        InputError: One is outside its range.
    """
    values: dict[str, typing.Any] = {
        field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Settings)
    }
    return Settings(**values)


def define_model_flags() -> None:
    """Defines --model and --trust."""
    flags.DEFINE_string("model", None, MODEL_HELP.format(base=Settings().base))
    flags.DEFINE_bool("trust", False, "Open a model that holds what no classifier of ours does; it may run anything.")


def model_path_from_flags() -> str:
    """The model that --model says, or where it is not given the default."""
    if flags.FLAGS.model:
        return flags.FLAGS.model
    from resnetd_tf import rundir
    from resnetd_tf.networks.pretrained import EUROSAT_NAME

    base = Settings().base
    return base if rundir.savedmodel_versions(pathlib.Path(base)) else EUROSAT_NAME


def open_model(stream: typing.TextIO | None = None) -> "SavedClassifier":
    """Opens the model of `model`, and prints which one it is, with its epochs and accuracy.

    Args:
        stream: Where the line goes; `None` for stdout.

    Raises:
        InputError: As for `saved.open_classifier`.
    """
    from resnetd_tf import saved

    classifier = saved.open_classifier(model_path_from_flags(), trust=flags.FLAGS.trust)
    reason, base = "", Settings().base
    if not flags.FLAGS.model:
        packaged = model_path_from_flags() != base
        reason = (
            f" ({base} has no finished run)" if packaged else " (the newest run; --model=eurosat for the package's)"
        )
    print(f"Model: {classifier.summary}{reason}", file=stream, flush=True)
    return classifier


def define_dataset_flags(text: str) -> None:
    """Defines --dataset, which is `None` if not given, and the flags that say where datasets are."""
    flags.DEFINE_string("dataset", None, text)
    define_settings_flags("data_dir", "eurosat_zip", "split_files", "bands", "offset", "scale")


def refuse_flags(where: str, *names: str) -> None:
    """Raises InputError if one of these flags is given, which have no effect there."""
    for name in names:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} has no effect {where}; leave it out")


def dataset_arguments() -> dict[str, typing.Any]:
    """The arguments `dataset`, `data_dir`, `eurosat_zip`, `split_files` and `raster_options` that the flags say."""
    from resnetd_tf.data.rasters import RasterOptions

    values = {name: flags.FLAGS[name].value for name in ("dataset", "data_dir", "eurosat_zip", "split_files")}
    bands = flags.FLAGS.bands
    return values | {
        "raster_options": RasterOptions(
            tuple(bands.split(",")) if bands else None, flags.FLAGS.scale, flags.FLAGS.offset
        )
    }
