"""What the command-line programs share: flags in, one library call, exit code out.

It stands outside the package because importing the package imports TensorFlow: `--help` and a mistyped
flag answer at once.
"""

import logging
import os
import pathlib
import sys
import tempfile

from absl import app, flags
from absl import logging as absl_logging


def import_quietly() -> None:
    """Imports TensorFlow without its start-up messages, which no setting silences: errors are one line."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            messages.seek(0)
            os.write(stderr, messages.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def run(main) -> None:
    """Parses flags and runs `main(argv)`. Exit codes: 0 done, 2 bad input, 130 interrupted.

    Bad input is told in one line on stderr.
    """
    program = pathlib.Path(sys.argv[0]).name

    def fail(message: str):
        print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2)

    def parse(argv):
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            fail(str(error))

    def guarded(argv):
        import_quietly()
        from resnetd_tf.errors import InputError

        try:
            return main(argv)
        except InputError as error:
            fail(str(error))
        except KeyboardInterrupt:
            print(f"{program}: interrupted", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=parse)
