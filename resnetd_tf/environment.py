"""What a run ran on, for its metadata and for benchmarks: versions, source revision, hardware."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

import keras
import psutil

PACKAGES = ("resnetd_tf", "tensorflow", "keras", "tensorflow-datasets", "numpy")


def environment(packages: tuple[str, ...] = PACKAGES) -> dict:
    """Versions, source revision and hardware.

    Args:
        packages: Installed packages whose versions count beside Python's.
    """
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "git_revision": _git_revision(),
        "hardware": {
            "cpu": _cpu_name(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpus": _gpus(),
        },
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Of the checkout this package is run from, "-dirty" where it was changed; `None` outside one."""
    source = pathlib.Path(__file__).parent
    try:
        command = ["git", "-C", source, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
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


def _cpu_name() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
