"""Datasets that TensorFlow Datasets prepares."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from resnetd_tf.data import eurosat, images
from resnetd_tf.data.batches import WITHOUT_AUTOTUNING
from resnetd_tf.data.splits import SPLITS, Dataset, Split
from resnetd_tf.errors import InputError, first_line


def open_builder(name: str, data_dir: str | None):
    """The `tfds.core.DatasetBuilder` of a dataset of labelled images, and its keys of image and label.

    Raises:
        InputError: There is none of that name, or it has no labelled images.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise InputError(
            f"dataset {name!r} is unknown; give eurosat/rgb, eurosat/all, synthetic, folder:PATH "
            "or another TFDS image classification dataset"
        ) from error
    if builder.info.supervised_keys is None or len(builder.info.supervised_keys) != 2:
        raise InputError(f"dataset {name!r} has no labelled images to train a classifier on")
    image_key, label_key = builder.info.supervised_keys
    if not isinstance(builder.info.features[label_key], tfds.features.ClassLabel):
        raise InputError(f"dataset {name!r} has no class labels to train a classifier on")
    return builder, image_key, label_key


def load(name: str, splits: Sequence[str], data_dir: str | None, eurosat_zip: str | None, image_size: int) -> Dataset:
    """Loads splits of a TFDS dataset, prepared first if need be; arguments and errors are as for `sources.load`."""
    builder, image_key, label_key = open_builder(name, data_dir)
    if not builder.is_prepared():
        eurosat.prepare(builder, eurosat_zip)
    loaded = {}
    for split in splits:
        try:
            loaded[split] = _read(builder, SPLITS.get(split, split), image_key, label_key, image_size)
        except ValueError as error:
            raise InputError(f"split {split!r} of {name}: {first_line(error)}") from error
        except tf.errors.OpError as error:
            raise _damage(builder, error) from error
    return Dataset(name, tuple(builder.info.features[label_key].names), loaded)


def _read(builder, split: str, image_key: str, label_key: str, image_size: int) -> Split:
    import tensorflow_datasets as tfds

    feature = builder.info.features[image_key]
    encoded = isinstance(feature, tfds.features.Image)
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders={image_key: tfds.decode.SkipDecoding()} if encoded else None,
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )
    count = len(dataset)
    height, width, bands = feature.shape
    if None in (height, width):
        height = width = image_size
    dtype = tf.uint8 if bands == 3 else tf.uint16

    def read(example):
        image = example[image_key]
        if encoded:
            image = images.decode(image, bands)
        if None in feature.shape:
            image = tf.round(tf.image.resize(image, (height, width), antialias=True))
        name = example.get("filename", example.get("file_name", tf.constant("")))
        return tf.saturate_cast(image, dtype), example[label_key], name

    pixels = np.empty((count, height, width, bands), dtype.as_numpy_dtype)
    labels = np.empty(count, np.int64)
    names: list[str] = []
    batches = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(256)
    for image, label, name in batches.with_options(WITHOUT_AUTOTUNING).as_numpy_iterator():
        pixels[len(names) : len(names) + len(label)] = image
        labels[len(names) : len(names) + len(label)] = label
        names.extend(text.decode() for text in name)
    return Split(pixels, labels, tuple(text or f"{split}#{i}" for i, text in enumerate(names)))


def _damage(builder, error: Exception) -> InputError:
    """Names the file of a prepared dataset that cannot be read."""
    import tensorflow_datasets as tfds

    remedy = f"delete {builder.data_path} and run again to prepare it anew"
    for path in builder.info.splits["train"].filepaths:
        try:
            records = sum(1 for _ in tf.data.TFRecordDataset(str(path)))
        except tf.errors.OpError as damage:
            return InputError(f"{path}: truncated or corrupt ({damage.message.split('[')[0].strip()}); {remedy}")
    image_key = builder.info.supervised_keys[0]
    undecoded = builder.as_dataset(split="train", decoders={image_key: tfds.decode.SkipDecoding()})
    for example in undecoded.take(records):
        try:
            images.decode(example[image_key])
        except tf.errors.InvalidArgumentError:
            name = example["filename"].numpy().decode() if "filename" in example else "an image"
            return InputError(f"{path}: {name} in it is not a readable JPEG or PNG image; {remedy}")
    return InputError(f"{builder.data_path}: cannot be read ({first_line(error)}); {remedy}")
