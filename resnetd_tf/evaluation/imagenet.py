"""Top-1 and top-5 accuracy on ImageNet, as the checkpoints' publishers measure it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from resnetd_tf.data import images, tfds
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.evaluation.metrics import wilson_interval
from resnetd_tf.networks import checkpoints, classifier, pretrained
from resnetd_tf.normalization import IMAGENET
from resnetd_tf.saved import SavedClassifier

IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Preparation:
    """How images are made ready: the shorter side resized to size / crop, a square of `size` cut out of the middle."""

    size: int = 224
    crop: float = 0.875
    interpolation: str = "bicubic"


@dataclass(frozen=True)
class Contender:
    """What is evaluated: a name, a function from uint8 images to probabilities, and how it wants images prepared."""

    name: str
    predict: Callable[[np.ndarray], np.ndarray]
    preparation: Preparation


def contender_from_classifier(opened: SavedClassifier) -> Contender:
    """A saved classifier, at the image size it was trained on.

    Raises:
        InputError: It does not know ImageNet's 1000 classes.
    """
    if len(opened.classes) != IMAGENET_CLASSES:
        raise InputError(f"{opened.path} knows {len(opened.classes)} classes; ImageNet has {IMAGENET_CLASSES}")
    preparation = Preparation(size=opened.metadata.get("image_size", Preparation.size))
    return Contender(str(opened.path), opened.predict, preparation)


def contender_from_weights(weights: str, depth: int, variant: str) -> Contender:
    """A network with weights as `checkpoints.read` takes them, on images as the published checkpoint has them.

    Raises:
        InputError: The weights cannot be fetched, read or fitted.
    """
    try:
        checkpoint = checkpoints.read_checkpoint(weights, depth, variant)
        chosen, statistics = pretrained.find_published(depth, variant), checkpoint.statistics or IMAGENET
        network = classifier.build_classifier(
            depth,
            variant,
            classes=IMAGENET_CLASSES,
            statistics=statistics,
            image_size=chosen.size,
            checkpoint=checkpoint,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    function = tf.function(lambda pixels: network(pixels, training=False))
    preparation = Preparation(chosen.size, chosen.crop, chosen.interpolation)
    return Contender(checkpoint.source, lambda pixels: function(tf.constant(pixels)).numpy(), preparation)


def resize_and_crop(image: tf.Tensor, preparation: Preparation) -> tf.Tensor:
    """Resizes an image (height, width, 3) uint8 and cuts out its middle.

    Returns:
        (size, size, 3) uint8, as Pillow and torchvision make it but for a grey level of rounding.
    """
    size, shape = preparation.size, tf.shape(image)[:2]
    shorter = int(size / preparation.crop)
    target = shape * shorter // tf.reduce_min(shape)
    resized = tf.image.resize(image, target, preparation.interpolation, antialias=True)
    top, left = (tf.cast(tf.round((target[i] - size) / 2), tf.int32) for i in (0, 1))
    return tf.saturate_cast(tf.round(resized[top : top + size, left : left + size]), tf.uint8)


def evaluate_contender(contender: Contender, dataset: str, split: str, data_dir: str | None) -> dict:
    """Top-1 and top-5 accuracy, with the names of model, dataset and split.

    Args:
        contender: What to evaluate.
        dataset: TFDS name of ImageNet or of a dataset with its features and classes: "imagenet2012".
        split: A TFDS split or slice.
        data_dir: Where TFDS keeps its datasets.

    Raises:
        InputError: The dataset is not there, is another one or is damaged.
    """
    batches = _make_batches(dataset, split, data_dir, contender.preparation)
    top1, top5, total = _count_correct(contender.predict, batches)
    return {
        "dataset": dataset,
        "split": split,
        "model": contender.name,
        "size": contender.preparation.size,
        "crop": contender.preparation.crop,
        "count": total,
        "top1": top1 / total,
        "top1_interval": wilson_interval(top1, total),
        "top5": top5 / total,
    }


def _make_batches(dataset: str, split: str, data_dir: str | None, preparation: Preparation) -> tf.data.Dataset:
    """Batches of images (n, size, size, 3) uint8 and labels (n,)."""
    import tensorflow_datasets

    builder, image_key, label_key = tfds.open_builder(dataset, data_dir)
    classes = builder.info.features[label_key].num_classes
    if classes != IMAGENET_CLASSES:
        raise InputError(f"dataset {dataset} has {classes} classes; ImageNet has {IMAGENET_CLASSES}")
    if not builder.is_prepared():
        raise InputError(
            f"{builder.info.full_name} is not in {builder.data_path}; TFDS cannot download it: register at "
            "image-net.org, put ILSVRC2012_img_val.tar in a folder, and run: "
            f"tfds build {dataset} --manual_dir=FOLDER"
        )

    def prepare(example):
        return resize_and_crop(images.decode_picture(example[image_key]), preparation), example[label_key]

    try:
        undecoded = {image_key: tensorflow_datasets.decode.SkipDecoding()}
        examples = builder.as_dataset(split=split, decoders=undecoded)
    except ValueError as error:
        raise InputError(f"split {split!r} of {dataset}: {first_line(error)}") from error
    return examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(64).prefetch(2)


def _count_correct(predict: Callable[[np.ndarray], np.ndarray], batches: tf.data.Dataset) -> tuple[int, int, int]:
    """How often the label is the most probable class, and among the five most probable; of how many."""
    top1 = top5 = total = 0
    progress = keras.utils.Progbar(len(batches), stateful_metrics=["top-1"]) if sys.stdout.isatty() else None
    try:
        for pixels, labels in batches.as_numpy_iterator():
            best = np.argsort(-predict(pixels), axis=1, kind="stable")[:, :5]
            top1 += int((best[:, 0] == labels).sum())
            top5 += int((best == labels[:, np.newaxis]).sum())
            total += len(labels)
            if progress:
                progress.add(1, [("top-1", top1 / total)])
    except tf.errors.OpError as error:
        raise InputError(f"the dataset cannot be read: {error.message.splitlines()[0]}; prepare it anew") from error
    return top1, top5, total
