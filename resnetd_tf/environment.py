"""The environment of a run: versions, source revision, hardware, memory, and how TensorFlow uses the devices."""

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

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

PROC, CONTROL_GROUPS = pathlib.Path("/proc"), pathlib.Path("/sys/fs/cgroup")
PACKAGES = ("resnetd_tf", "tensorflow", "keras", "tensorflow-datasets", "numpy")
DTYPE_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}  # by precision


def environment_info(packages: tuple[str, ...] = PACKAGES) -> dict:
    """Collects versions, source revision and hardware, for metadata and benchmarks.

    Args:
        packages: Names of packages whose versions are recorded beside Python's.

    Returns:
        A dictionary that JSON can hold, with "versions", "git_revision" and "hardware".
    """
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "git_revision": _git_revision(),
        "hardware": {
            "cpu": _cpu_name(),
            "cores": core_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpus": _gpus(),
        },
    }


def require_tensorflow_backend(task: str) -> None:
    """Checks, before anything is written, that Keras runs on TensorFlow.

    Args:
        task: The task that needs TensorFlow, as the subject of the message: "training".

    Raises:
        InputError: Keras runs on another backend.
    """
    if (backend := keras.config.backend()) != "tensorflow":
        raise InputError(
            f"{task} needs Keras on TensorFlow, and it runs on {backend}; set KERAS_BACKEND=tensorflow before Keras is "
            "imported. The networks alone run on every backend"
        )


def core_count() -> int:
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_gib() -> float:
    """Returns the largest resident size of this process so far, in GiB."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def available_memory_bytes() -> int:
    """Returns the memory in bytes that this process can still take on its machine, or in its container or batch job."""
    free = psutil.virtual_memory().available
    # Version 2 of Linux's control groups limits containers and batch jobs.
    with contextlib.suppress(OSError, ValueError, StopIteration):  # no such group, or its limit is "max"
        lines = (PROC / "self/cgroup").read_text().splitlines()
        group = CONTROL_GROUPS / next(line for line in lines if line.startswith("0::")).removeprefix("0::/")
        limit, usage_bytes = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        # The kernel frees cached files when needed.
        file_cache = sum(int(statistics[name]) for name in ("inactive_file", "active_file"))
        free = min(free, limit - usage_bytes + file_cache)
    return free


def release_memory() -> None:
    """Returns unused memory to the operating system: models are reference cycles, and glibc keeps freed memory."""
    gc.collect()
    if sys.platform == "linux" and hasattr(glibc := ctypes.CDLL(None), "malloc_trim"):
        glibc.malloc_trim(0)


def program_command(name: str) -> str:
    """Returns the command for a program in the style of this one: "python evaluate.py" or "resnetd-evaluate"."""
    is_installed = pathlib.Path(sys.argv[0]).name.startswith("resnetd-")
    return f"resnetd-{name}" if is_installed else f"python {name}.py"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Returns the revision of this package's checkout, with "-dirty" if it was changed; `None` outside a checkout."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    try:
        # A virtual environment may lie in the repository of another project.
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", pathlib.Path(__file__).name], capture_output=True, check=True
        )
        command = [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _gpus() -> list[str]:
    """Returns the names of the GPUs that Keras's backend uses."""
    if keras.config.backend() == "tensorflow":
        gpus = tf.config.list_physical_devices("GPU")
        return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    if keras.config.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform == "gpu"]
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def read_cpu_info() -> str:
    """Returns Linux's description of the processors, with a line of flags for each; empty on other systems."""
    try:
        return pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _cpu_name() -> str:
    names = (line.split(":")[1].strip() for line in read_cpu_info().splitlines() if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


# Using the devices: precision, distribution over several, compilation.


def fastest_precision() -> str:
    """Returns the precision that the hardware computes fastest: "bfloat16", "float16" or "float32"."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        generation = min(
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus
        )
        return "bfloat16" if generation >= (8, 0) else "float16" if generation >= (7, 0) else "float32"
    return "bfloat16" if "avx512_bf16" in read_cpu_info() or "amx_bf16" in read_cpu_info() else "float32"


def describe_devices(hardware: dict) -> str:
    """Describes the devices that training runs on.

    If TensorFlow cannot use the machine's NVIDIA card, the text says how to install what is missing.

    Args:
        hardware: The entry "hardware" of `environment_info`.
    """
    if hardware["gpus"]:
        return ", ".join(hardware["gpus"])
    processor = f"{hardware['cores']} cores of {hardware['cpu']}"
    if has_nvidia_card():
        return (
            f"{processor}; the NVIDIA card is not used: TensorFlow lacks its libraries, "
            "pip install 'tensorflow[and-cuda]' brings them"
        )
    return processor


def has_nvidia_card() -> bool:
    """Returns whether the machine has an NVIDIA card that its driver knows and that no variable hides."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        cards = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        cards = ""
    return "GPU" in cards or any(pathlib.Path("/proc/driver/nvidia/gpus").glob("*"))


def enable_determinism() -> None:
    """Makes TensorFlow compute the same result to the last digit each time; some operations become slower."""
    tf.config.experimental.enable_op_determinism()


def thread_count() -> int:
    """Returns the number of threads that one operation may use, on which the rounding of its sums depends."""
    return tf.config.threading.get_intra_op_parallelism_threads() or core_count()


def make_strategy() -> "tf.distribute.Strategy":
    """Makes a MirroredStrategy over all visible GPUs, or else over the logical CPU devices.

    A single device gets TensorFlow's default strategy, which computes the same. MirroredStrategy would feed even one
    CPU through an iterator of its own, which costs a tenth of the training speed.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def uses_xla() -> bool:
    """Returns whether training compiles with XLA: only on one GPU.

    XLA is four times slower on CPUs, and Keras does not compile a step that reduces over several devices.
    """
    return len(tf.config.list_logical_devices("GPU")) == 1
