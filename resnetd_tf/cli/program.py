"""What the command-line programs share: flags in, one library call, exit code out.

TensorFlow is imported after the flags are read, so that `--help` and a mistyped flag answer at once.
"""

import io
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags
from absl import logging as absl_logging

from resnetd_tf.errors import InputError
from resnetd_tf.quiet import quiet
from resnetd_tf.training.termination import Termination


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
        with quiet():
            import tensorflow  # noqa: F401
    finally:
        if without_jax:
            del sys.modules["jax"]
    import keras

    keras.config.set_image_data_format("channels_last")  # as images are here


def run(main: Callable[[list[str]], None], *, takes_arguments: bool = False) -> None:
    """Reads flags and runs `main` with the arguments that are no flags.

    The docstring of its module and the flags defined there are what `--help` shows. Exit codes: 0 done, 2 bad input,
    told in one line on stderr, 130 interrupted, 141 if its output is read no more, 143 ended by SIGTERM.

    Args:
        main: What the program does.
        takes_arguments: Whether it takes arguments that are no flags; otherwise they are refused.
    """
    program = pathlib.Path(sys.argv[0]).name
    _describe(main.__module__)
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


def _describe(module: str) -> None:
    """Has `--help` show a module's docstring and flags as those of the program that was called."""
    if module != "__main__":
        text = sys.modules[module].__doc__ or ""
        installed = pathlib.Path(sys.argv[0]).name.startswith("resnetd-")
        sys.modules["__main__"].__doc__ = re.sub(r"python (\w+)\.py", r"resnetd-\1", text) if installed else text
        for flag in flags.FLAGS.get_key_flags_for_module(module):
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
