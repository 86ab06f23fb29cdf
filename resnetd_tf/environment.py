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

if keras.config.backend() == "tensorflow":
    import tensorflow as tf

PROC, CONTROL_GROUPS = pathlib.Path("/proc"), pathlib.Path("/sys/fs/cgroup")
PACKAGES = ("resnetd_tf", "tensorflow", "keras", "tensorflow-datasets", "numpy")


def environment_info(packages: tuple[str, ...] = PACKAGES) -> dict:
    """Versions, source revision and hardware.

    Args:
        packages: Installed packages whose versions are told beside Python's.
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
    """Raises InputError, before anything is written, if Keras runs on another backend than TensorFlow.

    Args:
        task: What needs TensorFlow, as the subject of the message: "training".
    """
    if (backend := keras.config.backend()) != "tensorflow":
        raise InputError(
            f"{task} needs Keras on TensorFlow, and it runs on {backend}; set KERAS_BACKEND=tensorflow before Keras is "
            "imported. The networks alone run on every backend"
        )


def core_count() -> int:
    """Number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_gib() -> float:
    """Largest resident size of this process so far, GiB."""
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def available_memory_bytes() -> int:
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


def release_memory() -> None:
    """Gives the operating system back what is no longer used: models are cycles, and glibc keeps what was freed."""
    gc.collect()
    if sys.platform == "linux" and hasattr(glibc := ctypes.CDLL(None), "malloc_trim"):
        glibc.malloc_trim(0)


def program_command(name: str) -> str:
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
        gpus = tf.config.list_physical_devices("GPU")
        return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    if keras.config.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform == "gpu"]
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def read_cpu_info() -> str:
    """What Linux tells of its processors, with a line of flags for each; elsewhere nothing."""
    try:
        return pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _cpu_name() -> str:
    names = (line.split(":")[1].strip() for line in read_cpu_info().splitlines() if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


# What the hardware does best: precision, distribution over devices, compilation.


# Keras's dtype policy of each precision.
DTYPE_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def fastest_precision() -> str:
    """The precision that the hardware computes fastest: "bfloat16", "float16" or "float32"."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        generation = min(
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus
        )
        return "bfloat16" if generation >= (8, 0) else "float16" if generation >= (7, 0) else "float32"
    return "bfloat16" if "avx512_bf16" in read_cpu_info() or "amx_bf16" in read_cpu_info() else "float32"


def describe_devices(hardware: dict) -> str:
    """The devices that training runs on, and what to do where an NVIDIA card is there that TensorFlow cannot use.

    Args:
        hardware: As in `environment.environment`.
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
    """Whether the machine has an NVIDIA card with a driver that is not hidden, whatever TensorFlow sees."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    return "GPU" in found or any(pathlib.Path("/proc/driver/nvidia/gpus").glob("*"))


def enable_determinism() -> None:
    """Has TensorFlow compute the same to the last digit each time; some of its operations get slower."""
    tf.config.experimental.enable_op_determinism()


def thread_count() -> int:
    """Threads that one operation may use: sums in parts are rounded by their number."""
    return tf.config.threading.get_intra_op_parallelism_threads() or core_count()


def make_strategy() -> "tf.distribute.Strategy":
    """MirroredStrategy over all visible GPUs, else over the logical CPU devices.

    For a single device TensorFlow's default strategy, which computes the same: MirroredStrategy feeds even
    one CPU through an iterator of its own that cost a tenth of the training speed.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def uses_xla() -> bool:
    """Whether training compiles with XLA: on one GPU. On CPUs it was four times slower.

    Keras compiles no step that reduces over replicas.
    """
    return len(tf.config.list_logical_devices("GPU")) == 1
