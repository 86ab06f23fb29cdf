"""SIGTERM, by which Slurm, Kubernetes and others announce that they will end a process."""

import signal
import threading


class Termination:
    """Ends the process with exit code 143 when SIGTERM comes: at once, or after a checkpoint if there is work to lose.

    Attributes:
        requested: Whether the signal has come.
        deferred: Whether whoever sets it ends the process; otherwise the signal does.
    """

    requested = deferred = False

    def __enter__(self) -> "Termination":
        self.handled = threading.current_thread() is threading.main_thread()  # Python handles signals in no other
        if self.handled:
            self.former = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *exception) -> None:
        if self.handled:
            signal.signal(signal.SIGTERM, self.former)

    def _handle(self, number, frame) -> None:
        self.requested = True
        if not self.deferred:
            raise SystemExit(143)
