"""What the hardware does best: precision, distribution over devices, compilation."""

import os
import pathlib
import subprocess

import tensorflow as tf

from resnetd_tf.environment import cores, cpu_info

# Keras's dtype policy of each precision.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def fastest_precision() -> str:
    """The precision that the hardware computes fastest: "bfloat16", "float16" or "float32"."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        generation = min(
            tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus
        )
        return "bfloat16" if generation >= (8, 0) else "float16" if generation >= (7, 0) else "float32"
    return "bfloat16" if "avx512_bf16" in cpu_info() or "amx_bf16" in cpu_info() else "float32"


def describe(hardware: dict) -> str:
    """The devices that training runs on, and what to do where an NVIDIA card is there that TensorFlow cannot use.

    Args:
        hardware: As in `environment.environment`.
    """
    if hardware["gpus"]:
        return ", ".join(hardware["gpus"])
    processor = f"{hardware['cores']} cores of {hardware['cpu']}"
    if nvidia_card():
        return (
            f"{processor}; the NVIDIA card is not used: TensorFlow lacks its libraries, "
            "pip install 'tensorflow[and-cuda]' brings them"
        )
    return processor


def nvidia_card() -> bool:
    """Whether the machine has an NVIDIA card with a driver that is not hidden, whatever TensorFlow sees."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    return "GPU" in found or any(pathlib.Path("/proc/driver/nvidia/gpus").glob("*"))


def make_deterministic() -> None:
    """Has TensorFlow compute the same to the last digit each time; some of its operations get slower."""
    tf.config.experimental.enable_op_determinism()


def threads() -> int:
    """Threads that one operation may use: sums in parts are rounded by their number."""
    return tf.config.threading.get_intra_op_parallelism_threads() or cores()


def strategy() -> tf.distribute.Strategy:
    """MirroredStrategy over all visible GPUs, else over the logical CPU devices.

    For a single device TensorFlow's default strategy, which computes the same: MirroredStrategy feeds even
    one CPU through an iterator of its own that cost a tenth of the training speed.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if len(devices) == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def compiles_with_xla() -> bool:
    """Whether training compiles with XLA: on one GPU. On CPUs it was four times slower.

    Keras compiles no step that reduces over replicas.
    """
    return len(tf.config.list_logical_devices("GPU")) == 1
