"""Our networks against timm's, keras.applications' and KerasHub's: the same weights, the largest difference.

    pip install -e '.[peers]'
    python -m benchmarks.parity            # the table
    python -m benchmarks.parity --write    # timm's and KerasHub's outputs for the tests, in tests/golden/

Weights and batch-norm statistics are random, drawn by tensor name, so that every layer counts; the tests
redraw them and compare with the stored outputs.
"""

import itertools
import pathlib
import re
import sys
import zlib

import keras
import numpy as np

from resnetd_tf.networks import checkpoints
from resnetd_tf.networks.checkpoints import Checkpoint, assign_weights, pytorch_names
from resnetd_tf.networks.resnet import resnet
from resnetd_tf.training.settings import DEPTHS

GOLDEN = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "logits.npz"
CLASSES = 10
SIZES = ((224, 224), (97, 129))
# Peer, depth, variant, output strides. Each at both sizes, with 3 and 13 bands.
NETWORKS = [("timm", depth, variant, (32, 16, 8)) for variant in "bd" for depth in DEPTHS]
NETWORKS += [("timm", depth, "c", (32, 16, 8)) for depth in (50, 101, 152)]
NETWORKS += [(p, d, v, (32,)) for p, v in (("keras.applications", "base"), ("KerasHub", "d")) for d in (50, 101, 152)]
# Small enough for the repository and the tests, and still every variant, stride and kind of block.
STORED = [
    ("timm", depth, variant, (97, 129), stride, bands)
    for (depth, variant) in ((18, "b"), (18, "d"), (50, "b"), (50, "c"), (50, "d"))
    for (stride, bands) in ((32, 3), (16, 13), (8, 3))
] + [("KerasHub", 50, "d", (97, 129), 32, 3)]


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A random tensor for a PyTorch name and layout, of a scale that keeps activations near one."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype("float32")
    if len(shape) > 1:
        return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype("float32")
    if name.endswith(".weight"):
        return rng.uniform(0.3, 0.7, shape).astype("float32")
    return (0.1 * rng.normal(size=shape)).astype("float32")


def draw_state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """Random tensors for a network of ours, under PyTorch's names and in its layouts."""
    tensors = {}
    for name, weight in pytorch_names(model).items():
        shape = tuple(weight.shape)
        tensors[name] = draw(name, (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1])
    return tensors


def images(size: tuple[int, int], bands: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, *size, bands)).astype("float32")


def key(peer: str, depth: int, variant: str, size: tuple[int, int], stride: int, bands: int) -> str:
    return f"{peer}_{depth}{variant}_{size[0]}x{size[1]}_stride{stride}_bands{bands}"


def ours(peer, depth, variant, size, stride, bands) -> keras.Model:
    """Our network, with random weights: logits (2, 10), or pooled features for KerasHub, whose backbone ends there."""
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
    """Here the peer's weights are drawn, and go into ours as its ImageNet weights would."""
    builder = getattr(keras.applications, f"ResNet{depth}")
    peer = builder(weights=None, input_shape=(*size, bands), classes=CLASSES, classifier_activation=None)
    kinds = {"gamma": "weight", "moving_variance": "running_var"}
    for layer in peer.layers:
        for weight in layer.weights:
            shape = tuple(weight.shape)
            drawn = draw(f"{layer.name}.{kinds.get(weight.name, weight.name)}", shape[::-1])
            weight.assign(drawn.T)
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
    """The peer's outputs, with the weights of our `model`."""
    if peer == "timm":
        return timm_outputs(depth, variant, size, stride, bands, model)
    if peer == "KerasHub":
        return kerashub_outputs(depth, size, bands, model)
    return keras_applications_outputs(depth, size, bands, model)


def compare(case) -> tuple[float, float]:
    """The largest output of the peer, and our largest difference from it."""
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
        cases = [(peer, depth, variant, *rest) for rest in itertools.product(SIZES, strides, (3, 13))]
        outputs, differences = zip(*map(compare, cases))
        row = (peer, f"{depth}{variant}", ", ".join(map(str, strides)), len(cases))
        print("|", " | ".join(map(str, row)), f"| {max(outputs):.2f} | {max(differences):.1e} |", flush=True)
        largest, count = max(largest, *differences), count + len(cases)
    print(f"\nLargest difference of all {count}: {largest:.1e}")


if __name__ == "__main__":
    main()
