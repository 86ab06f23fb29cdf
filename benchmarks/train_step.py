"""Training speed: our classifier, compiled as for `train.py`, against KerasHub, keras.applications and timm.

    pip install -e '.[peers]'
    python -m benchmarks.train_step                        # sizes 64 and 224, float32 and bfloat16
    python -m benchmarks.train_step --size=64 --precision=bfloat16 --only=ours,timm
    KERAS_BACKEND=jax python -m benchmarks.train_step --batch=256     # needs no TensorFlow

Each contestant trains on one batch of uint8 images in memory, over and over. The images have the network's size.
"Matrix products" is the rate at which the step's multiply-adds would run at the speed of large matrix products. Our
rate divided by it is the share of the machine's peak. "Keras's layers" is our network with Keras's own convolutions,
batch normalisation and SGD.
"""

import os
import time
from functools import partial

import numpy as np

from benchmarks import contest, kernels

CLASSES = 10
BACKEND = os.environ.get("KERAS_BACKEND", "tensorflow")


def images(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns random images (batch, size, size, 3) uint8 and one-hot labels (batch, classes) float32."""
    rng = np.random.default_rng(0)
    labels = np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, batch)]
    return rng.integers(0, 256, (batch, size, size, 3)).astype("uint8"), labels


class Fit:
    """Measures the rate of `model.fit` on one batch, from tf.data on TensorFlow and from arrays elsewhere."""

    def __init__(self, model, size: int, batch: int):
        self.model, self.batch, self.steps = model, batch, 2
        self.arrays = images(size, batch)
        self()
        self.steps = max(2, round(contest.ROUND * self() / batch))

    def __call__(self) -> float:
        if BACKEND == "tensorflow":
            import tensorflow as tf

            from resnetd_tf.data.batches import WITHOUT_AUTOTUNING

            dataset = tf.data.Dataset.from_tensors(self.arrays).repeat().with_options(WITHOUT_AUTOTUNING)
            fit_arguments = {"x": dataset, "steps_per_epoch": self.steps}
        else:
            pixels, labels = (np.concatenate([array] * self.steps) for array in self.arrays)
            fit_arguments = {"x": pixels, "y": labels, "batch_size": self.batch}
        start = time.perf_counter()
        self.model.fit(**fit_arguments, verbose=0, shuffle=False)
        return self.steps * self.batch / (time.perf_counter() - start)

    def profile(self) -> dict[str, float]:
        return kernels.thread_time(self, self.steps)


def set_precision(precision: str) -> None:
    import keras

    keras.mixed_precision.set_global_policy({"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision])


def our_classifier(size: int, precision: str, fast: bool = True):
    """Sets the global precision and builds the classifier that `train.py` trains.

    Args:
        size: Side of the images in pixels.
        precision: "float32" or "bfloat16".
        fast: Whether to use this package's own layers rather than Keras's.
    """
    from resnetd_tf import normalization
    from resnetd_tf.networks import classifier, layers

    set_precision(precision)
    model = classifier.build_classifier(50, "d", classes=CLASSES, statistics=normalization.EUROSAT_RGB, image_size=size)
    return model if fast else layers.copy_with_keras_layers(model)


def ours(size: int, precision: str, batch: int, fast: bool = True) -> Fit:
    import keras

    fast = fast and BACKEND == "tensorflow"
    model = our_classifier(size, precision, fast)
    if fast:
        from resnetd_tf.training.optimizer import compile_classifier
        from resnetd_tf.training.settings import Settings

        compile_classifier(model, Settings(learning_rate=0.01), steps_per_epoch=1000)
    else:
        plain_compile(model, keras)
    return Fit(model, size, batch)


def keras_layers(size: int, precision: str, batch: int) -> Fit:
    return ours(size, precision, batch, fast=False)


def plain_compile(model, keras) -> None:
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        metrics=["accuracy"],
    )


def add_head(backbone, size: int):
    """Puts the scaling of pixels in front of a backbone, and a head behind it."""
    import keras

    pixels = keras.Input((size, size, 3), dtype="uint8")
    x = backbone(keras.layers.Rescaling(1 / 255)(pixels))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(pixels, keras.layers.Dense(CLASSES, "softmax", dtype="float32")(x))


def kerashub_classifier(size: int):
    import keras_hub

    backbone = keras_hub.models.ResNetBackbone(
        input_conv_filters=[32, 32, 64],
        input_conv_kernel_sizes=[3, 3, 3],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="bottleneck_block_vd",
        image_shape=(size, size, 3),
    )
    return add_head(backbone, size)


def keras_applications_classifier(size: int):
    import keras

    return add_head(keras.applications.ResNet50(weights=None, include_top=False, input_shape=(size, size, 3)), size)


def fit_with_keras(build, size: int, precision: str, batch: int) -> Fit:
    """Compiles the classifier that `build` returns as Keras's users do, and prepares its measurement."""
    import keras

    set_precision(precision)
    model = build(size)
    plain_compile(model, keras)
    return Fit(model, size, batch)


def kerashub(size: int, precision: str, batch: int) -> Fit:
    return fit_with_keras(kerashub_classifier, size, precision, batch)


def keras_applications(size: int, precision: str, batch: int) -> Fit:
    return fit_with_keras(keras_applications_classifier, size, precision, batch)


def timm(size: int, precision: str, batch: int):
    import timm
    import torch

    from resnetd_tf.environment import core_count

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(core_count())
    model = timm.create_model("resnet50d", num_classes=CLASSES).train().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True)
    pixels, labels = (torch.from_numpy(array).to(device) for array in images(size, batch))
    pixels = pixels.permute(0, 3, 1, 2)  # A view of (batch, height, width, bands), so still channels-last in memory.
    forward = torch.compile(model) if device == "cuda" else model

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = forward(pixels.float() / 255)
            loss = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def run(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return contest.rate(run, batch)


def multiply(matrix, products: int) -> float:
    """Returns the time in seconds that a number of products with a matrix take."""
    import keras

    product = matrix
    start = time.perf_counter()
    for _ in range(products):
        product = keras.ops.matmul(matrix, product)
    float(keras.ops.cast(product[0, 0], "float32"))  # Waits for the result.
    return time.perf_counter() - start


def matrix_products(size: int, precision: str, batch: int, passes: int = 3):
    """Measures the rate of steps if their multiply-adds ran at the speed of large matrix products.

    Args:
        size: Side of the images in pixels.
        precision: "float32" or "bfloat16".
        batch: Number of images in a step.
        passes: How often the multiply-adds of a forward pass are done. It is 3 for training, because each of the two
            gradients of a convolution costs as much as the convolution.
    """
    import keras

    from benchmarks.cost import multiply_adds
    from resnetd_tf.networks.resnet import resnet

    work = passes * multiply_adds(resnet(50, "d", input_shape=(size, size, 3), classes=CLASSES))
    side = 2048
    while True:
        run = partial(multiply, keras.ops.cast(keras.random.normal((side, side)) / side**0.5, precision))
        run(2)
        products = max(4, round(contest.ROUND / 3 / (run(4) / 4)))
        if products < 1000:
            break
        side *= 2  # On a fast device the matrix must be larger, so that starting a product takes no noticeable time.
    return lambda: products * side**3 / run(products) / work


if __name__ == "__main__":
    contest.main(
        "train_step",
        {
            "ours": ours,
            "KerasHub": kerashub,
            "keras.applications": keras_applications,
            "timm": timm,
            "Keras's layers": keras_layers,
            "matrix products": matrix_products,
        },
        {"size": (64, 224), "precision": ("bfloat16", "float32"), "batch": (32,)},
        profiled=("ours", "Keras's layers") if BACKEND == "tensorflow" else (),
    )
