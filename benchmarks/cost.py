"""Prints the parameters and multiply-adds of every network beside those in the paper.

python -m benchmarks.cost
"""

import keras
import numpy as np

from resnetd_tf.networks.resnet import resnet
from resnetd_tf.training.settings import DEPTHS, VARIANTS

# Multiply-adds (10^9) and parameters (10^6) in arXiv 1812.01187, table 5.
PAPER = {(50, "base"): (3.8, 25), (50, "b"): (4.1, 25), (50, "c"): (4.3, 25), (50, "d"): (4.3, 25)}


def parameters(model: keras.Model) -> int:
    """Counts the trained weights."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def multiply_adds(model: keras.Model) -> int:
    """Counts the multiply-adds of the convolutions and dense layers for one image.

    A convolution takes kernel height x kernel width x input channels at each output position and filter, padding
    included. The other layers are not counted, as is usual.

    Args:
        model: A network or a classifier with a fixed input size.
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += multiply_adds(layer)
        elif isinstance(layer, keras.layers.Conv2D):
            total += int(np.prod(layer.kernel.shape)) * int(np.prod(layer.output.shape[1:3]))
        elif isinstance(layer, keras.layers.Dense):
            total += int(np.prod(layer.kernel.shape))
    return total


def main() -> None:
    print("| network | parameters (10^6) | multiply-adds at 224x224 (10^9) | in the paper |")
    print("|---|---|---|---|")
    for depth in DEPTHS:
        for variant in VARIANTS:
            model = resnet(depth, variant, input_shape=(224, 224, 3))
            paper = "{:.1f}, {} parameters".format(*PAPER[depth, variant]) if (depth, variant) in PAPER else ""
            print(f"| {depth}{variant} | {parameters(model) / 1e6:.2f} | {multiply_adds(model) / 1e9:.2f} | {paper} |")
            keras.utils.clear_session()


if __name__ == "__main__":
    main()
