"""How long TensorFlow's kernels work, by what they are for, from its profiler."""

import pathlib
import re
import tempfile
from collections.abc import Callable

GROUPS = {  # by what the kernels are called
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
    """Thread time of each group of kernels while `run` makes a number of steps, ms a step."""
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
        # Operations are called "name:kernel"; what surrounds them "EagerExecute: ...", "Iterator::...".
        if match := re.fullmatch(r"[^: ]+:(\w+)", plane.event_metadata[event.metadata_id].name):
            found = (group for group, parts in GROUPS.items() if any(part in match[1] for part in parts))
            groups[next(found, "rest")] += event.duration_ps / 1e9 / steps
    return groups
