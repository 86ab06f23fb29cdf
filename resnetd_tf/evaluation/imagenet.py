"""Top-1 and top-5 accuracy on ImageNet, measured as the publishers of the checkpoints do."""

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
class CenterCrop:
    """Resizes an image so that its shorter side is size / crop pixels, then cuts out the middle.

    Attributes:
        size: Side in pixels of the square that is cut out.
        crop: Side of the square as a share of the shorter side, from 0 to 1.
        interpolation: Interpolation of `tf.image.resize`: "bicubic" or "bilinear".
    """

    size: int = 224
    crop: float = 0.875
    interpolation: str = "bicubic"

    def __call__(self, image: tf.Tensor) -> tf.Tensor:
        """Resizes and crops an image (height, width, 3) uint8.

        Returns:
            The image (size, size, 3) uint8, equal to Pillow's and torchvision's within one grey level.
        """
        shape = tf.shape(image)[:2]
        shorter_side = int(self.size / self.crop)
        resized_shape = shape * shorter_side // tf.reduce_min(shape)
        resized = tf.image.resize(image, resized_shape, self.interpolation, antialias=True)
        top, left = (tf.cast(tf.round((resized_shape[axis] - self.size) / 2), tf.int32) for axis in (0, 1))
        return tf.saturate_cast(tf.round(resized[top : top + self.size, left : left + self.size]), tf.uint8)


@dataclass(frozen=True)
class ImageNetClassifier:
    """A classifier of ImageNet's 1000 classes.

    Attributes:
        name: Name for reports.
        predict: Function from images (n, size, size, 3) uint8 to probabilities (n, 1000).
        center_crop: How the classifier expects images to be resized and cropped.
    """

    name: str
    predict: Callable[[np.ndarray], np.ndarray]
    center_crop: CenterCrop


def convert_saved_classifier(saved_classifier: SavedClassifier) -> ImageNetClassifier:
    """Takes a saved classifier, at the image size of its training.

    Raises:
        InputError: The classifier does not have ImageNet's 1000 classes.
    """
    if (count := len(saved_classifier.classes)) != IMAGENET_CLASSES:
        raise InputError(f"{saved_classifier.path} knows {count} classes; ImageNet has {IMAGENET_CLASSES}")
    center_crop = CenterCrop(size=saved_classifier.metadata.get("image_size", CenterCrop.size))
    return ImageNetClassifier(str(saved_classifier.path), saved_classifier.predict, center_crop)


def build_with_weights(weights: str, depth: int, variant: str) -> ImageNetClassifier:
    """Builds a network with weights, for images as the published checkpoint of that network expects them.

    Args:
        weights: "imagenet" or a file, for `checkpoints.read_checkpoint`.
        depth: Layers of the network.
        variant: "base", "b", "c" or "d".

    Raises:
        InputError: The weights cannot be fetched, cannot be read or do not fit the network.
    """
    try:
        checkpoint = checkpoints.read_checkpoint(weights, depth, variant)
        if "fc.weight" not in checkpoint.tensors:
            raise ValueError(f"weights {weights}: have no head for ImageNet's {IMAGENET_CLASSES} classes")
        published = pretrained.find_published(depth, variant)
        network = classifier.build_classifier(
            depth,
            variant,
            classes=IMAGENET_CLASSES,
            statistics=checkpoint.statistics or IMAGENET,
            image_size=published.size,
            checkpoint=checkpoint,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    function = tf.function(lambda pixels: network(pixels, training=False))
    center_crop = CenterCrop(published.size, published.crop, published.interpolation)
    return ImageNetClassifier(checkpoint.source, lambda pixels: function(tf.constant(pixels)).numpy(), center_crop)


def evaluate_imagenet(imagenet_classifier: ImageNetClassifier, dataset: str, split: str, data_dir: str | None) -> dict:
    """Measures top-1 and top-5 accuracy.

    Args:
        imagenet_classifier: The classifier to evaluate.
        dataset: TFDS name of ImageNet, or of a dataset with its features and classes: "imagenet2012".
        split: A TFDS split or slice.
        data_dir: Folder of the datasets of TFDS; `None` for its default.

    Returns:
        `top1`, `top1_interval`, `top5` and `count`, with the names of model, dataset and split, and the size and crop.

    Raises:
        InputError: The dataset is missing, damaged or not ImageNet.
    """
    center_crop = imagenet_classifier.center_crop
    batches = _make_batches(dataset, split, data_dir, center_crop)
    top1, top5, total = _count_correct(imagenet_classifier.predict, batches)
    return {
        "dataset": dataset,
        "split": split,
        "model": imagenet_classifier.name,
        "size": center_crop.size,
        "crop": center_crop.crop,
        "count": total,
        "top1": top1 / total,
        "top1_interval": wilson_interval(top1, total),
        "top5": top5 / total,
    }


def _make_batches(dataset: str, split: str, data_dir: str | None, center_crop: CenterCrop) -> tf.data.Dataset:
    """Makes batches of images (n, size, size, 3) uint8 and labels (n,)."""
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

    def decode_example(example):
        return center_crop(images.decode_picture(example[image_key])), example[label_key]

    try:
        decoders = {image_key: tensorflow_datasets.decode.SkipDecoding()}
        examples = builder.as_dataset(split=split, decoders=decoders)
    except ValueError as error:
        raise InputError(f"split {split!r} of {dataset}: {first_line(error)}") from error
    return examples.map(decode_example, num_parallel_calls=tf.data.AUTOTUNE).batch(64).prefetch(2)


def _count_correct(predict: Callable[[np.ndarray], np.ndarray], batches: tf.data.Dataset) -> tuple[int, int, int]:
    """Counts correct classifications.

    Returns:
        Number of images whose label is the most probable class, number of those whose label is among the five most
        probable classes, and number of all images.
    """
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
