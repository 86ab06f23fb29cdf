"""Our networks against timm's: the same weights, the largest difference of a logit.

    pip install -e '.[parity]'
    python -m benchmarks.parity            # the table
    python -m benchmarks.parity --write    # timm's logits for the tests, in tests/golden/

Weights and batch-norm statistics are random, drawn by tensor name, so that every layer counts; the tests
redraw them and compare with the stored logits.
"""

import itertools
import pathlib
import sys
import zlib

import numpy as np

from resnetd_tf import resnet
from resnetd_tf.weights import load_state_dict

GOLDEN = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "logits.npz"
CLASSES = 10
NETWORKS = [(d, "b") for d in (18, 34, 50, 101, 152)] + [(d, "c") for d in (50, 101, 152)]
NETWORKS += [(d, "d") for d in (18, 34, 50, 101, 152)]
# Small enough for the repository and the tests, and still every variant, stride and kind of block.
STORED = [
    (depth, variant, (97, 129), stride, bands)
    for (depth, variant) in ((18, "b"), (18, "d"), (50, "b"), (50, "c"), (50, "d"))
    for (stride, bands) in ((32, 3), (16, 13), (8, 3))
]


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A random tensor for a name of the state dict, of a scale that keeps activations near one."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype("float32")
    if len(shape) > 1:
        return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype("float32")
    if name.endswith(".weight"):
        return rng.uniform(0.3, 0.7, shape).astype("float32")
    return (0.1 * rng.normal(size=shape)).astype("float32")


def images(size: tuple[int, int], bands: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *size, bands)).astype("float32")


def key(depth: int, variant: str, size: tuple[int, int], stride: int, bands: int) -> str:
    return f"{depth}{variant}_{size[0]}x{size[1]}_stride{stride}_bands{bands}"


def our_logits(depth, variant, size, stride, bands, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Logits (2, 10) of our network with the drawn weights, given the shapes of the state dict."""
    model = resnet(
        depth, variant, input_shape=(*size, bands), classes=CLASSES, classifier_activation=None, output_stride=stride
    )
    load_state_dict(model, {name: draw(name, shape) for name, shape in shapes.items()})
    return np.asarray(model(images(size, bands)))


def timm_logits(depth, variant, size, stride, bands):
    """The same of timm's network, and the shapes of its state dict."""
    import timm
    import torch

    name = f"resnet{depth}{variant.removeprefix('b')}"
    model = timm.create_model(name, num_classes=CLASSES, in_chans=bands, output_stride=stride).eval()
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    model.load_state_dict({n: torch.from_numpy(draw(n, shape)) for n, shape in shapes.items()}, strict=False)
    with torch.no_grad():
        return model(torch.from_numpy(images(size, bands).transpose(0, 3, 1, 2))).numpy(), shapes


def main() -> None:
    import timm
    import torch

    if "--write" in sys.argv:
        GOLDEN.parent.mkdir(exist_ok=True)
        np.savez_compressed(GOLDEN, **{key(*case): timm_logits(*case)[0] for case in STORED})
        return
    cases = [
        (*network, size, stride, bands)
        for network, size, stride, bands in itertools.product(NETWORKS, ((224, 224), (97, 129)), (32, 16, 8), (3, 13))
    ]
    print(
        f"timm {timm.__version__}, torch {torch.__version__}; largest difference of a logit, float32, {CLASSES} classes"
    )
    print("| network | size | output stride | bands | largest logit | difference |")
    print("|---|---|---|---|---|---|")
    largest = 0.0
    for case in cases:
        theirs, shapes = timm_logits(*case)
        difference = float(np.abs(our_logits(*case, shapes) - theirs).max())
        largest = max(largest, difference)
        depth, variant, size, stride, bands = case
        row = (f"{depth}{variant}", f"{size[0]}x{size[1]}", stride, bands, f"{np.abs(theirs).max():.2f}")
        print("|", " | ".join(map(str, (*row, f"{difference:.1e}"))), "|", flush=True)
    print(f"\nLargest of all {len(cases)}: {largest:.1e}")


if __name__ == "__main__":
    main()
