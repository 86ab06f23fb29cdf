"""This process: what it writes to stderr, and how it answers SIGTERM and Ctrl-C."""

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import NoReturn

from resnetd_tf.errors import InputError


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
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


# SIGTERM, by which Slurm, Kubernetes and others announce that they will end a process, and Ctrl-C.


class Termination:
    """Ends the process when SIGTERM comes, with exit code 143, or SIGINT: at once, or after a checkpoint if there is
    work to lose.

    An exception that comes at any moment is no end to rely on: inside of TensorFlow it can crash the process.

    Attributes:
        requested: The signal that has come. SIGTERM stands above SIGINT.
        deferred: Whether whoever sets it ends the process; otherwise the signal does, as a second SIGINT always does.
    """

    requested: signal.Signals | None = None
    deferred = reporting = False
    again: threading.Timer | None = None

    def __enter__(self) -> "Termination":
        self.former = {}
        if threading.current_thread() is threading.main_thread():  # Python handles signals in no other
            self.former[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._handle)
            if callable(signal.getsignal(signal.SIGINT)):  # else it is ignored, as in a job in the background
                self.former[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
            self.former_hook, sys.unraisablehook = sys.unraisablehook, self._ignored
        return self

    def __exit__(self, *exception) -> None:
        if self.again:
            self.again.cancel()
        for number, former in self.former.items():
            signal.signal(number, former)
        if self.former:
            sys.unraisablehook = self.former_hook

    def end(self) -> NoReturn:
        """Ends what goes on as the signal asks."""
        if self.requested == signal.SIGTERM:
            raise SystemExit(143)
        raise KeyboardInterrupt

    def interrupt_answered(self) -> None:
        """Forgets SIGINT, for which training has ended; SIGTERM, if it has come too, ends the process."""
        if self.again:
            self.again.cancel()
        if self.requested == signal.SIGTERM:
            self.end()
        self.requested = None

    def _handle(self, number, frame) -> None:
        impatient = number == signal.SIGINT and self.requested is not None
        if self.requested != signal.SIGTERM:
            self.requested = signal.Signals(number)
        if (impatient or not self.deferred) and not self.reporting:
            self.end()

    def _ignored(self, error) -> None:
        """Python ignores what is raised in a destructor, and here: the signal comes again, a moment later."""
        self.reporting = True
        try:
            if not (self.requested and isinstance(error.exc_value, SystemExit | KeyboardInterrupt)):
                self.former_hook(error)
        finally:
            self.reporting = False
        if self.requested and not self.deferred and not (self.again and self.again.is_alive()):
            self.again = threading.Timer(0.1, os.kill, (os.getpid(), self.requested))
            self.again.start()
