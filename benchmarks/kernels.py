"""Measures with TensorFlow's profiler how long its kernels work, by their purpose."""

import pathlib
import re
import tempfile
from collections.abc import Callable

GROUPS = {  # parts of the names of the kernels
    "convolutions": ("Conv2D", "MatMul"),
    "batch normalisation": ("BatchNorm",),
    "ReLU": ("Relu",),
    "pooling": ("Pool",),
    "pads and slices": ("Pad", "Slice"),
    "casts": ("Cast",),
    "optimizer": ("ResourceApply", "AssignVariable", "AssignSub", "AssignAdd"),
    "other element by element": ("Add", "Mul", "Sub", "Div", "Mean", "Sum", "Square", "Rsqrt", "Tile", "Maximum"),
}


def thread_time(run: Callable[[], object], steps: int) -> dict[str, float]:
    """Measures the thread time of each group of kernels in milliseconds a step.

    Args:
        run: A function that runs the steps.
        steps: Their number.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    groups = dict.fromkeys([*GROUPS, "rest"], 0.0)
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        run()
        tf.profiler.experimental.stop()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
    (plane,) = (plane for plane in space.planes if plane.name == "/host:CPU")
    for event in (event for line in plane.lines for event in line.events):
        # Operations are called "name:kernel". Other events are called "EagerExecute: ..." or "Iterator::...".
        if match := re.fullmatch(r"[^: ]+:(\w+)", plane.event_metadata[event.metadata_id].name):
            matching = (group for group, parts in GROUPS.items() if any(part in match[1] for part in parts))
            groups[next(matching, "rest")] += event.duration_ps / 1e9 / steps
    return groups
