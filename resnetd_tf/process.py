"""Control of the running process: its stderr, and its answer to SIGTERM and Ctrl-C."""

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Iterator

from resnetd_tf.errors import InputError


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Discards what this process, its C++ libraries included, writes to stderr; an unexpected exception prints it."""
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


class Termination:
    """Ends the program on SIGTERM, by which Slurm and Kubernetes announce a kill, or on Ctrl-C (SIGINT).

    A signal raises SystemExit(143) or KeyboardInterrupt at once. While `deferred` is set, a signal is only noted in
    `requested`, and the program ends itself with `raise_if_requested` where it is safe to stop: an exception raised
    inside TensorFlow can crash the process. A second Ctrl-C always ends the program at once.

    Attributes:
        requested: The signal that has come, `None` before; SIGTERM takes precedence over SIGINT.
        deferred: Whether the program itself checks `requested`.
    """

    requested: signal.Signals | None = None
    deferred = False

    def __enter__(self) -> "Termination":
        self.previous_handlers = {}
        if threading.current_thread() is threading.main_thread():  # Python handles signals in no other thread.
            self.previous_handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle)
            # Jobs in the background ignore SIGINT, which is no callable handler. That stays so.
            if callable(signal.getsignal(signal.SIGINT)):
                self.previous_handlers[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self.previous_handlers.items():
            signal.signal(number, handler)

    def raise_if_requested(self) -> None:
        """Raises SystemExit(143) if SIGTERM has come, and KeyboardInterrupt if SIGINT has.

        This also catches a signal whose exception Python ignored because it was raised in a destructor.
        """
        if self.requested == signal.SIGTERM:
            raise SystemExit(143)
        if self.requested == signal.SIGINT:
            raise KeyboardInterrupt

    def clear_interrupt(self) -> None:
        """Forgets SIGINT, which the program has answered; raises SystemExit(143) if SIGTERM has come too."""
        if self.requested == signal.SIGTERM:
            self.raise_if_requested()
        self.requested = None

    def _handle(self, number, frame) -> None:
        is_second_interrupt = number == signal.SIGINT and self.requested is not None
        if self.requested != signal.SIGTERM:
            self.requested = signal.Signals(number)
        if is_second_interrupt or not self.deferred:
            self.raise_if_requested()
