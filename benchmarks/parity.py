"""Compares our networks with those of timm, keras.applications and KerasHub at the same weights.

    pip install -e '.[peers]'
    python -m benchmarks.parity            # prints a table of the largest differences
    python -m benchmarks.parity --write    # writes the outputs of timm and KerasHub for the tests into tests/golden/

Weights and batch-norm statistics are random, so that every layer counts. They are drawn by the name of the tensor, so
that the tests can draw them again and compare with the stored outputs.
"""

import itertools
import pathlib
import re
import sys
import zlib

import keras
import numpy as np

from resnetd_tf.networks import checkpoints
from resnetd_tf.networks.checkpoints import Checkpoint, assign_weights, pytorch_state_dict
from resnetd_tf.networks.resnet import DEPTHS, resnet
from resnetd_tf.training import settings

GOLDEN = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "logits.npz"
CLASSES = 10
SIZES = ((224, 224), (97, 129))
# Peer, depth, variant, output strides. Each is compared at both sizes, with 3 and 13 bands.
NETWORKS = [("timm", depth, variant, (32, 16, 8)) for variant in "bd" for depth in settings.DEPTHS]
NETWORKS += [("timm", depth, "c", (32, 16, 8)) for depth in (50, 101, 152)]
NETWORKS += [(p, d, v, (32,)) for p, v in (("keras.applications", "base"), ("KerasHub", "d")) for d in (50, 101, 152)]
# Cases small enough for the repository and the tests that still have every variant, stride and kind of block.
STORED = [
    ("timm", depth, variant, (97, 129), stride, bands)
    for (depth, variant) in ((18, "b"), (18, "d"), (50, "b"), (50, "c"), (50, "d"))
    for (stride, bands) in ((32, 3), (16, 13), (8, 3))
] + [("KerasHub", 50, "d", (97, 129), 32, 3)]


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws a random tensor in PyTorch's layout, at a scale that keeps activations near one."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype("float32")
    if len(shape) > 1:
        return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype("float32")
    if name.endswith(".weight"):
        return rng.uniform(0.3, 0.7, shape).astype("float32")
    return (0.1 * rng.normal(size=shape)).astype("float32")


def draw_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """Draws random tensors for a network of ours, with PyTorch's names and in its layout."""
    return {name: draw(name, tensor.shape) for name, tensor in pytorch_state_dict(model).items()}


def images(size: tuple[int, int], bands: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *size, bands)).astype("float32")


def key(peer: str, depth: int, variant: str, size: tuple[int, int], stride: int, bands: int) -> str:
    return f"{peer}_{depth}{variant}_{size[0]}x{size[1]}_stride{stride}_bands{bands}"


def ours(peer, depth, variant, size, stride, bands) -> keras.Model:
    """Builds our network with random weights.

    Its outputs are logits (2, 10), or pooled features for KerasHub, whose backbone ends there.
    """
    top = {"include_top": False, "pooling": "avg"} if peer == "KerasHub" else {"classes": CLASSES}
    model = resnet(depth, variant, input_shape=(*size, bands), classifier_activation=None, output_stride=stride, **top)
    assign_weights(model, Checkpoint("random weights", draw_state_dict(model)))
    return model


def timm_outputs(depth, variant, size, stride, bands, model) -> np.ndarray:
    import timm
    import torch

    name = f"resnet{depth}{variant.removeprefix('b')}"
    peer = timm.create_model(name, num_classes=CLASSES, in_chans=bands, output_stride=stride).eval()
    tensors = {name: torch.from_numpy(tensor) for name, tensor in draw_state_dict(model).items()}
    missing, extra = peer.load_state_dict(tensors, strict=False)
    assert not extra and all(name.endswith("num_batches_tracked") for name in missing)
    with torch.no_grad():
        return peer(torch.from_numpy(images(size, bands).transpose(0, 3, 1, 2))).numpy()


def keras_applications_outputs(depth, size, bands, model) -> np.ndarray:
    """Draws the weights of the peer, and puts them into our network as its ImageNet weights are."""
    builder = getattr(keras.applications, f"ResNet{depth}")
    peer = builder(weights=None, input_shape=(*size, bands), classes=CLASSES, classifier_activation=None)
    kinds = {"gamma": "weight", "moving_variance": "running_var"}
    for layer in peer.layers:
        for weight in layer.weights:
            shape = tuple(weight.shape)
            tensor = draw(f"{layer.name}.{kinds.get(weight.name, weight.name)}", shape[::-1])
            weight.assign(tensor.T)
    assign_weights(model, Checkpoint("keras.applications", checkpoints.convert_keras_applications(peer)))
    return keras.ops.convert_to_numpy(peer(images(size, bands)[..., ::-1]))  # BGR


def kerashub_outputs(depth, size, bands, model) -> np.ndarray:
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[32, 32, 64],
        input_conv_kernel_sizes=[3, 3, 3],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=DEPTHS[depth][2],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block_vd",
        image_shape=(*size, bands),
    )
    for layer in model.layers:
        if layer.weights:
            name = re.sub(r"stem_(\d)", r"conv\1", layer.name.replace("shortcut", "0"))
            name = re.sub(r"stage(\d)_block(\d+)", lambda m: f"stack{int(m[1]) - 1}_block{int(m[2]) - 1}", name)
            backbone.get_layer(name).set_weights(layer.get_weights())
    return keras.ops.convert_to_numpy(backbone(images(size, bands))).mean(axis=(1, 2))


def theirs(peer, depth, variant, size, stride, bands, model) -> np.ndarray:
    """Computes the peer's outputs with the weights of our `model`."""
    if peer == "timm":
        return timm_outputs(depth, variant, size, stride, bands, model)
    if peer == "KerasHub":
        return kerashub_outputs(depth, size, bands, model)
    return keras_applications_outputs(depth, size, bands, model)


def compare(case) -> tuple[float, float]:
    """Returns the largest output of the peer, and our largest difference from it."""
    keras.utils.clear_session()
    model = ours(*case)
    expected = theirs(*case, model)
    outputs = keras.ops.convert_to_numpy(model(images(case[3], case[5])))
    return float(np.abs(expected).max()), float(np.abs(outputs - expected).max())


def main() -> None:
    import keras_hub
    import timm
    import torch

    if "--write" in sys.argv:
        GOLDEN.parent.mkdir(exist_ok=True)
        np.savez_compressed(GOLDEN, **{key(*case): theirs(*case, ours(*case)) for case in STORED})
        return
    print(f"timm {timm.__version__}, torch {torch.__version__}, Keras {keras.__version__}, ", end="")
    print(f"KerasHub {keras_hub.__version__}; {keras.config.backend()} backend, float32, {CLASSES} logits")
    print("| peer | network | output strides | comparisons | largest output | largest difference |")
    print("|---|---|---|---|---|---|")
    largest, count = 0.0, 0
    for peer, depth, variant, strides in NETWORKS:
        cases = [
            (peer, depth, variant, size, stride, bands)
            for size, stride, bands in itertools.product(SIZES, strides, (3, 13))
        ]
        outputs, differences = zip(*map(compare, cases))
        row = (peer, f"{depth}{variant}", ", ".join(map(str, strides)), len(cases))
        print("|", " | ".join(map(str, row)), f"| {max(outputs):.2f} | {max(differences):.1e} |", flush=True)
        largest, count = max(largest, *differences), count + len(cases)
    print(f"\nLargest difference of all {count}: {largest:.1e}")


if __name__ == "__main__":
    main()
