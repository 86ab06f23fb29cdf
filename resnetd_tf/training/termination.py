"""SIGTERM, by which Slurm, Kubernetes and others announce that they will end a process."""

import os
import signal
import sys
import threading


class Termination:
    """Ends the process with exit code 143 when SIGTERM comes: at once, or after a checkpoint if there is work to lose.

    Attributes:
        requested: Whether the signal has come.
        deferred: Whether whoever sets it ends the process; otherwise the signal does.
    """

    requested = deferred = reporting = False
    again: threading.Timer | None = None

    def __enter__(self) -> "Termination":
        self.handled = threading.current_thread() is threading.main_thread()  # Python handles signals in no other
        if self.handled:
            self.former = signal.signal(signal.SIGTERM, self._handle)
            self.former_hook, sys.unraisablehook = sys.unraisablehook, self._ignored
        return self

    def __exit__(self, *exception) -> None:
        if self.again:
            self.again.cancel()
        if self.handled:
            signal.signal(signal.SIGTERM, self.former)
            sys.unraisablehook = self.former_hook

    def _handle(self, number, frame) -> None:
        self.requested = True
        if not self.deferred and not self.reporting:
            raise SystemExit(143)

    def _ignored(self, error) -> None:
        """Python ignores what is raised in a destructor, and here: the signal comes again, a moment later."""
        self.reporting = True
        try:
            if not (self.requested and isinstance(error.exc_value, SystemExit)):
                self.former_hook(error)
        finally:
            self.reporting = False
        if self.requested and not (self.again and self.again.is_alive()):
            self.again = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
            self.again.start()
