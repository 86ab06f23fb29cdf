"""Top-1 and top-5 accuracy on ImageNet, as the checkpoints' publishers measure it."""

import pathlib
import sys
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from resnetd_tf import rundir
from resnetd_tf.data import splits as data
from resnetd_tf.errors import InputError, first_line
from resnetd_tf.evaluation import metrics as evaluation
from resnetd_tf.networks import checkpoints, classifier
from resnetd_tf.networks import pretrained as published

CLASSES = 1000


def resize_and_crop(image: tf.Tensor, size: int, crop: float, interpolation: str) -> tf.Tensor:
    """The centre of an image: its shorter side resized to size / crop, a square of `size` cut out.

    Args:
        image: (height, width, 3) uint8.

    Returns:
        (size, size, 3) uint8, as Pillow and torchvision make it but for a grey level of rounding.
    """
    shape = tf.shape(image)[:2]
    shorter = int(size / crop)
    target = shape * shorter // tf.reduce_min(shape)
    resized = tf.image.resize(image, target, interpolation, antialias=True)
    top, left = (tf.cast(tf.round((target[i] - size) / 2), tf.int32) for i in (0, 1))
    return tf.saturate_cast(tf.round(resized[top : top + size, left : left + size]), tf.uint8)


def _batches(dataset: str, split: str, data_dir, size: int, crop: float, interpolation: str) -> tf.data.Dataset:
    """Batches of images (n, size, size, 3) uint8 and labels (n,)."""
    import tensorflow_datasets as tfds

    builder, image_key, label_key = data.open_tfds(dataset, data_dir)
    classes = builder.info.features[label_key].num_classes
    if classes != CLASSES:
        raise InputError(f"dataset {dataset} has {classes} classes; ImageNet has {CLASSES}")
    if not builder.is_prepared():
        raise InputError(
            f"{builder.info.full_name} is not in {builder.data_path}; TFDS cannot download it: register at "
            "image-net.org, put ILSVRC2012_img_val.tar in a folder, and run: "
            f"tfds build {dataset} --manual_dir=FOLDER"
        )

    def prepare(example):
        image = data.decode(example[image_key])
        return resize_and_crop(image, size, crop, interpolation), example[label_key]

    try:
        examples = builder.as_dataset(split=split, decoders={image_key: tfds.decode.SkipDecoding()})
    except ValueError as error:
        raise InputError(f"split {split!r} of {dataset}: {first_line(error)}") from error
    return examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).batch(64).prefetch(2)


def _count_correct(predict: Callable[[np.ndarray], np.ndarray], batches: tf.data.Dataset) -> tuple[int, int, int]:
    """How often the label is the most probable class, and among the five most probable; of how many."""
    top1 = top5 = total = 0
    progress = keras.utils.Progbar(len(batches), stateful_metrics=["top-1"]) if sys.stdout.isatty() else None
    try:
        for images, labels in batches.as_numpy_iterator():
            best = np.argsort(-predict(images), axis=1, kind="stable")[:, :5]
            top1 += int((best[:, 0] == labels).sum())
            top5 += int((best == labels[:, np.newaxis]).sum())
            total += len(labels)
            if progress:
                progress.add(1, [("top-1", top1 / total)])
    except tf.errors.OpError as error:
        raise InputError(f"the dataset cannot be read: {error.message.splitlines()[0]}; prepare it anew") from error
    return top1, top5, total


def run(
    dataset: str,
    *,
    model: str | None = None,
    depth: int = 50,
    variant: str = "d",
    weights: str | None = None,
    split: str = "validation",
    data_dir: str | None = None,
    output_dir: str | None = None,
) -> dict:
    """Evaluates a classifier of the 1000 classes, prints its accuracy and writes metrics.json.

    Args:
        dataset: TFDS name of ImageNet or of a dataset with its features and classes: "imagenet2012".
        model: A path as `rundir.locate` takes it; or `None` for published or given weights.
        depth, variant, weights: Without a model, what to evaluate; `weights` as for `weights.read`. The images are
            prepared as the published checkpoint of this depth and variant has them; a model's at the size it
            was trained on, with a centre crop of 0.875.
        split: A TFDS split or slice.
        data_dir: Where TFDS keeps its datasets.
        output_dir: A new folder; `None` for evaluation-DATASET-SPLIT-K beside the model or in the current folder.

    Returns:
        What metrics.json holds.

    Raises:
        InputError: Something given cannot be used.
    """
    size, crop, interpolation = 224, 0.875, "bicubic"
    place = pathlib.Path()
    if weights is None:
        opened = rundir.open_classifier(model)
        predict, count, name = opened.predict, len(opened.classes), str(opened.path)
        size = opened.metadata.get("image_size", size)
        place = opened.folder or place
    else:
        try:
            checkpoint = checkpoints.read(weights, depth, variant)
            chosen = published.find(depth, variant)
            size, crop, interpolation = chosen.size, chosen.crop, chosen.interpolation
            network = classifier.build(
                depth, variant, classes=CLASSES, statistics=published.IMAGENET, image_size=size, checkpoint=checkpoint
            )
        except ValueError as error:
            raise InputError(str(error)) from error
        function = tf.function(lambda pixels: network(pixels, training=False))
        predict, count, name = lambda images: function(tf.constant(images)).numpy(), CLASSES, checkpoint.source
    if count != CLASSES:
        raise InputError(f"{name} knows {count} classes; ImageNet has {CLASSES}")
    top1, top5, total = _count_correct(predict, _batches(dataset, split, data_dir, size, crop, interpolation))
    low, high = evaluation.interval(top1, total)
    result = {"dataset": dataset, "split": split, "model": name, "size": size, "crop": crop, "count": total}
    result |= {"top1": top1 / total, "top1_interval": [low, high], "top5": top5 / total}
    folder = rundir.new_evaluation(place, f"{dataset}-{split}", output_dir)
    rundir.write_json(folder / "metrics.json", result)
    print(f"{name} on {dataset} {split}, {size}x{size} of {int(size / crop)}: ", end="")
    print(f"top-1 {100 * top1 / total:.2f} % [{100 * low:.2f}, {100 * high:.2f}], ", end="")
    print(f"top-5 {100 * top5 / total:.2f} %, {total} images")
    print(f"Written to {folder}: metrics.json")
    return result
