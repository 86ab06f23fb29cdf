"""Libraries' messages on stderr, which no setting of theirs silences: there errors are one line."""

import contextlib
import os
import tempfile
from collections.abc import Iterator

from resnetd_tf.errors import InputError


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what this process writes to stderr, C++ too, to itself, unless it ends in a traceback."""
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield
        except InputError:
            raise
        except Exception:
            messages.seek(0)
            os.write(stderr, messages.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
