"""What a run ran on, for its metadata and for benchmarks: versions, source revision, hardware, memory."""

import contextlib
import ctypes
import gc
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

import keras
import psutil

from resnetd_tf.errors import InputError

PROC, CONTROL_GROUPS = pathlib.Path("/proc"), pathlib.Path("/sys/fs/cgroup")
PACKAGES = ("resnetd_tf", "tensorflow", "keras", "tensorflow-datasets", "numpy")


def environment(packages: tuple[str, ...] = PACKAGES) -> dict:
    """Versions, source revision and hardware.

    Args:
        packages: Installed packages whose versions are told beside Python's.
    """
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "git_revision": _git_revision(),
        "hardware": {
            "cpu": _cpu_name(),
            "cores": cores(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpus": _gpus(),
        },
    }


def check_backend(task: str) -> None:
    """Raises InputError, before anything is written, if Keras runs on another backend than TensorFlow.

    Args:
        task: What needs TensorFlow, as the subject of the message: "training".
    """
    if (backend := keras.config.backend()) != "tensorflow":
        raise InputError(
            f"{task} needs Keras on TensorFlow, and it runs on {backend}; set KERAS_BACKEND=tensorflow before Keras is "
            "imported. The networks alone run on every backend"
        )


def cores() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> float:
    """Largest resident size of this process so far, GiB."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def available_memory() -> int:
    """Memory that this process can still take, bytes: what the machine has free, or its container or batch job."""
    free = psutil.virtual_memory().available
    # Where Linux limits it, by version 2 of its control groups.
    with contextlib.suppress(OSError, ValueError, StopIteration):  # there is none, or the limit is "max"
        lines = (PROC / "self/cgroup").read_text().splitlines()
        group = CONTROL_GROUPS / next(line for line in lines if line.startswith("0::")).removeprefix("0::/")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        usage = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = int(usage["inactive_file"]) + int(usage["active_file"])  # cached, and given up when needed
        free = min(free, limit - used + files)
    return free


def free_memory() -> None:
    """Gives the operating system back what is no longer used: models are cycles, and glibc keeps what was freed."""
    gc.collect()
    if sys.platform == "linux" and hasattr(glibc := ctypes.CDLL(None), "malloc_trim"):
        glibc.malloc_trim(0)


def program(name: str) -> str:
    """How to call one of the programs from where this one was called: "python evaluate.py" or "resnetd-evaluate"."""
    installed = pathlib.Path(sys.argv[0]).name.startswith("resnetd-")
    return f"resnetd-{name}" if installed else f"python {name}.py"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the checkout this package is run from, "-dirty" where it was changed; `None` outside one."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    try:
        # The repository may be another one, that the package was installed in.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", pathlib.Path(__file__).name], capture_output=True, check=True
        )
        command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _gpus() -> list[str]:
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    if keras.config.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform == "gpu"]
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def cpu_info() -> str:
    """What Linux tells of its processors, with a line of flags for each; elsewhere nothing."""
    try:
        return pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _cpu_name() -> str:
    names = (line.split(":")[1].strip() for line in cpu_info().splitlines() if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
