"""What the command-line programs share: how a program runs, and the flags that several programs have.

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

if typing.TYPE_CHECKING:
    from resnetd_tf.data.rasters import RasterOptions
    from resnetd_tf.saved import SavedClassifier

flags.disclaim_key_flags()  # a flag that is defined here belongs to the program that asks for it

# The extra of setup.cfg that installs a module, for modules that labelling and mapping do not need.
EXTRAS = {
    "ai_edge_litert": "tflite",
    "geopandas": "geo",
    "grpc": "serving",
    "huggingface_hub": "train",
    "importlib_resources": "train",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "pandas": "geo",
    "planetary_computer": "stac",
    "pystac": "stac",
    "pystac_client": "stac",
    "requests": "train",
    "rioxarray": "geo",
    "scipy": "train",
    "shapely": "geo",
    "tensorboard": "train",
    "tensorflow_datasets": "train",
    "tensorflow_serving": "serving",
    "tf2onnx": "onnx",
    "xarray": "geo",
}

STAC_FLAGS = ("date", "max_cloud", "stac_api")

FLAG_DEFINERS: dict[type, Callable] = {
    str: flags.DEFINE_string,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}
MODEL_HELP = (
    "A folder of versions (the newest counts), a SavedModel, a .keras or .safetensors file, an export of export.py, or "
    "eurosat, the classifier that comes with this package; default {base}, or eurosat if that has no finished run."
)


def run_program(main: Callable[[list[str]], None], *, takes_arguments: bool = False) -> None:
    """Reads the flags, runs a program and ends the process.

    `--help` shows the docstring of the module that defines `main`, and the flags of that module.

    Exit codes: 0 for success; 2 for bad input, with one line on stderr; 130 for Ctrl-C; 141 if nobody reads the output
    any more; 143 for SIGTERM.

    Args:
        main: Function of the program. It takes the arguments that are not flags.
        takes_arguments: Whether the program takes such arguments. Otherwise they are bad input.
    """
    _set_help(main.__module__)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name with letters that the encoding of the terminal lacks must not end the program.
        sys.stdout.reconfigure(errors="backslashreplace")

    def parse_flags(argv: list[str]) -> list[str]:
        try:
            arguments = flags.FLAGS(argv)
        except flags.Error as error:
            exit_with_error(str(error))
        except SystemExit:  # absl ends with exit code 1 after --help
            sys.exit(0)
        if len(arguments) > 1 and not takes_arguments:
            exit_with_error(f"unexpected argument {arguments[1]!r}; flags begin with --, see --help")
        for name in flags.FLAGS:
            # An empty flag usually comes from an unset variable of a shell script.
            if flags.FLAGS[name].present and flags.FLAGS[name].value == "":
                exit_with_error(f"--{name}= is empty; leave it out, or give a value")
        return arguments

    def run_main(argv: list[str]) -> None:
        try:
            with Termination() as termination:  # removes files that are half written
                main(argv[1:])
                termination.raise_if_requested()  # Python ignores an exception that is raised in a destructor
        except InputError as error:
            exit_with_error(str(error))
        except ModuleNotFoundError as error:
            message = missing_module_message(error)
            if message is None:
                raise
            exit_with_error(message)
        except BrokenPipeError:  # the reader of the output has ended, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except KeyboardInterrupt:
            line_end = "\n" if sys.stdout.isatty() else ""  # the cursor may stand behind a progress bar
            print(f"{line_end}{_program_name()}: interrupted", file=sys.stderr)
            sys.exit(130)

    app.run(run_main, flags_parser=parse_flags)


def exit_with_error(message: str) -> NoReturn:
    """Prints a message on stderr as one line of printable characters, and ends the process with exit code 2."""
    one_line = _use_command_names(" ".join(message.split()))
    printable = "".join(character if character.isprintable() else repr(character)[1:-1] for character in one_line)
    print(f"{_program_name()}: {printable}", file=sys.stderr)
    sys.exit(2)


def missing_module_message(error: ModuleNotFoundError) -> str | None:
    """Formats a message that says which extra to install; `None` if no extra has the missing module."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    return f"needs {module}, which is not installed; pip install 'resnetd_tf[{EXTRAS[module]}]'"


def import_tensorflow() -> None:
    """Imports TensorFlow and hides its start-up messages, which no setting silences.

    Raises:
        InputError: The environment makes Keras use another backend.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend != "tensorflow":
        raise InputError(f"KERAS_BACKEND={backend}: the programs need tensorflow; unset it. The networks alone do not")
    os.environ["KERAS_BACKEND"] = backend  # the variable overrides keras.json
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # TensorFlow imports JAX if it is installed. That takes 0.1 GiB, and nothing here uses it.
    hides_jax = "jax" not in sys.modules
    if hides_jax:
        sys.modules["jax"] = None  # type: ignore[assignment]
    try:
        with silence_stderr():
            import tensorflow  # noqa: F401
    finally:
        if hides_jax:
            del sys.modules["jax"]
    import keras

    keras.config.set_image_data_format("channels_last")


def _program_name() -> str:
    return pathlib.Path(sys.argv[0]).name


def _use_command_names(text: str) -> str:
    """Returns a text with `map.py` and so on called `resnetd-map`, if this program is an installed command."""
    if not _program_name().startswith("resnetd-"):
        return text
    return re.sub(
        r"(?:python )?(?<![\w./\\-])(train|evaluate|predict|map|assess|patches|export)\.py\b", r"resnetd-\1", text
    )


def _set_help(module: str) -> None:
    """Makes `--help` show the docstring and the flags of a module."""
    if module == "__main__":
        return
    sys.modules["__main__"].__doc__ = _use_command_names(sys.modules[module].__doc__ or "")
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        flag.help = _use_command_names(flag.help)
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def define_settings_flags(*names: str) -> None:
    """Defines the flags of the fields of `Settings` with these names, or of all fields if no name is given."""
    types = typing.get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        if names and field.name not in names:
            continue
        alternatives = typing.get_args(types[field.name]) or (types[field.name],)  # `str | None` has two
        flag_type = next(alternative for alternative in alternatives if alternative in FLAG_DEFINERS)
        text = field.metadata["help"]
        if choices := field.metadata.get("choices"):
            text = f"{text.removesuffix('.')} ({', '.join(map(str, choices))})."
        if recipes := {name: values[field.name] for name, values in RECIPES.items() if field.name in values}:
            text += f" By recipe: {', '.join(f'{name} {value}' for name, value in recipes.items())}."
        FLAG_DEFINERS[flag_type](field.name, field.default, text)


def settings_from_flags(**replacements: typing.Any) -> Settings:
    """Makes `Settings` from the flags.

    Args:
        **replacements: Values that take the place of flags.

    Raises:
        InputError: A value is outside its range.
    """
    values: dict[str, typing.Any] = {
        field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Settings)
    }
    return Settings(**(values | replacements))


def define_model_flags() -> None:
    """Defines --model and --trust."""
    flags.DEFINE_string("model", None, MODEL_HELP.format(base=Settings().base))
    flags.DEFINE_bool(
        "trust", False, "Open a model with layers that no classifier of this package has; it may run any code."
    )


def model_path_from_flags() -> str:
    """Returns the value of --model, or the default model if the flag is not given."""
    if flags.FLAGS.model:
        return flags.FLAGS.model
    from resnetd_tf import rundir
    from resnetd_tf.networks.pretrained import EUROSAT_NAME

    base = Settings().base
    return base if rundir.savedmodel_versions(pathlib.Path(base)) else EUROSAT_NAME


def open_model(stream: typing.TextIO | None = None) -> "SavedClassifier":
    """Opens the model of --model, and prints its path, epochs and accuracy.

    Args:
        stream: Stream to print on; `None` for stdout.

    Raises:
        InputError: There is no such model, it is damaged, or it is not to be trusted.
    """
    from resnetd_tf import saved

    path = model_path_from_flags()
    classifier = saved.open_classifier(path, trust=flags.FLAGS.trust)
    note, base = "", Settings().base
    if not flags.FLAGS.model:
        is_run = path == base
        note = " (the newest run; --model=eurosat for the package's)" if is_run else f" ({base} has no finished run)"
    print(f"Model: {classifier.summary}{note}", file=stream, flush=True)
    return classifier


def define_imagery_flags() -> None:
    """Defines the flags that predict.py and map.py share: of the model or server, and of how raster files are read."""
    define_model_flags()
    flags.DEFINE_string(
        "server",
        None,
        "Address of a TensorFlow Serving to use instead of --model: grpc://HOST:8500 or http://HOST:8501.",
    )
    flags.DEFINE_string("model_name", "resnet50d", "Name of the model on the server.")
    flags.DEFINE_integer(
        "version", None, "Version of the model on the server; default its newest.", lower_bound=1, upper_bound=2**63 - 1
    )
    flags.DEFINE_float("timeout", 30, "Seconds in which the server must answer a request.")
    define_settings_flags("bands", "offset", "scale", "rendering")
    flags.DEFINE_enum(
        "missing",
        "refuse",
        ["refuse", "mean"],
        "Refuse images that lack a band, or fill the band with its mean in the training.",
    )


def open_model_or_server(stream: typing.TextIO) -> "SavedClassifier":
    """Opens the model of --model, or the one on the server of --server, and prints which one it is.

    Args:
        stream: Stream to print on.

    Raises:
        InputError: The model cannot be opened, the server does not answer, or flags of both are given.
    """
    if flags.FLAGS.server is None:
        refuse_flags("without --server", "model_name", "version", "timeout")
        import_tensorflow()
        return open_model(stream)
    refuse_flags("beside --server", "model", "trust", "explain")
    import_tensorflow()
    from resnetd_tf.deployment import client

    name, address, version = flags.FLAGS.model_name, flags.FLAGS.server, flags.FLAGS.version
    classifier = client.open_served_classifier(address, name, version, flags.FLAGS.timeout)
    version_text = "the newest version" if version is None else f"version {version}"
    print(f"Model: {name} at {address}, {version_text} there, test accuracy not known", file=stream)
    return classifier


def define_dataset_flags(text: str) -> None:
    """Defines --dataset, with `None` as its default, and the flags that say where and how datasets are read.

    Args:
        text: Help text of --dataset.
    """
    flags.DEFINE_string("dataset", None, text)
    define_settings_flags("data_dir", "eurosat_zip", "split_files", "bands", "offset", "scale", "rendering")


def dataset_arguments() -> dict[str, typing.Any]:
    """Returns the arguments `dataset`, `data_dir`, `eurosat_zip`, `split_files` and `raster_options` from the flags."""
    values = {name: flags.FLAGS[name].value for name in ("dataset", "data_dir", "eurosat_zip", "split_files")}
    return values | {"raster_options": raster_options_from_flags()}


def raster_options_from_flags() -> "RasterOptions":
    """Returns how raster files are read, from --bands, --scale, --offset and --rendering."""
    from resnetd_tf.data.rasters import RasterOptions

    values = flags.FLAGS
    bands = tuple(values.bands.split(",")) if values.bands else None
    return RasterOptions(bands, values.scale, values.offset, rendering=values.rendering)


def define_stac_flags() -> None:
    """Defines the flags of a search for scenes."""
    flags.DEFINE_string(
        "date", None, "Of a search stac:COLLECTION: a day, or two with a slash between, 2024-06-01/2024-08-31."
    )
    flags.DEFINE_float(
        "max_cloud", 20, "Of a search: greatest share of clouds of an item in per cent.", lower_bound=0, upper_bound=100
    )
    flags.DEFINE_string("stac_api", None, "Of a search: address of the STAC API; default Earth Search.")


def has_search(paths: typing.Sequence[str]) -> bool:
    """Returns whether one of these scenes is a search in a STAC catalogue."""
    from resnetd_tf.imagery import stac

    return any(path.startswith(stac.SEARCH_PREFIX) for path in paths)


def check_search_flags(paths: typing.Sequence[str]) -> None:
    """Raises InputError if flags of a search are given, and none of these scenes is a search."""
    if not has_search(paths):
        refuse_flags("without a search stac:COLLECTION", *STAC_FLAGS)


def fetch_remote_scenes(
    paths: list[str],
    prefix: str,
    required_bands: typing.Sequence[str],
    area: str | None,
    *,
    margin: int = 0,
    overwrite: bool = False,
) -> list[str]:
    """Fetches the scenes that are STAC items or searches, and returns the paths of all scenes on this machine.

    Args:
        paths: Scenes: paths, addresses of items, or searches "stac:COLLECTION".
        prefix: Start of the paths of the fetched files.
        required_bands: The bands that a classifier takes.
        area: The area to read, as `stac.fetch_scene` takes it.
        margin: Pixels around the area that windows reach into.
        overwrite: Whether files of the same name are replaced.

    Raises:
        InputError: A scene cannot be fetched.
    """
    from resnetd_tf.imagery import stac

    values = flags.FLAGS

    def fetch(path: str) -> str:
        fetched_path = stac.fetch_scene(
            path,
            prefix,
            required_bands=required_bands,
            area=area,
            date=values.date,
            max_cloud=values.max_cloud,
            api=values.stac_api or stac.EARTH_SEARCH,
            margin=max(stac.MARGIN, margin),
            keep_clouds=values.clouds == "keep",
            overwrite=overwrite,
        )
        return str(fetched_path)

    return [fetch(path) if stac.is_remote(path) else path for path in paths]


def refuse_flags(circumstance: str, *names: str) -> None:
    """Raises InputError if one of these flags is given.

    Args:
        circumstance: When the flags have no effect, for the message: "beside --server".
        *names: Names of the flags.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise InputError(f"--{name} has no effect {circumstance}; leave it out")
