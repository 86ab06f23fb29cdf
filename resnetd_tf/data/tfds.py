"""Datasets that TensorFlow Datasets prepares."""

import io
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from resnetd_tf.data import decoding, eurosat, images
from resnetd_tf.data.batches import WITHOUT_AUTOTUNING
from resnetd_tf.data.split_files import files, positions
from resnetd_tf.data.splits import ALL, Dataset, Shape, Split, digested, hold, must_fit, shapes_in_memory, slices
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
    if not all(isinstance(key, str) and key in builder.info.features for key in (image_key, label_key)):
        raise InputError(
            f"dataset {name!r} is labelled {builder.info.supervised_keys}; a classifier needs the name of one image "
            "and of one label. --dataset=folder:PATH takes the images as files"
        )
    if not isinstance(builder.info.features[label_key], tfds.features.ClassLabel):
        raise InputError(f"dataset {name!r} has no class labels to train a classifier on")
    return builder, image_key, label_key


@dataclass(frozen=True)
class Part:
    """Some examples of a prepared dataset.

    Attributes:
        name: What they are of it: "train[:70%]", or the list that names them.
        slice: A TFDS slice.
        kept: Which of its examples they are, (n,) bool; `None` for all.
    """

    name: str
    slice: str
    kept: np.ndarray | None = None


def _sliced(builder, splits: Sequence[str]) -> dict[str, Part]:
    known = slices(builder.info.splits)
    return {split: Part(known.get(split, split), known.get(split, split)) for split in splits}


def _listed(builder, split_files: str, splits: Sequence[str]) -> dict[str, Part]:
    """The examples that lists of file names name; "all" is every example, in a list or not.

    Raises:
        InputError: As for `positions`; or examples have no file names.
    """
    everything = Part(ALL, "+".join(builder.info.splits))
    names = [name.decode() for name in _undecoded(builder, everything).map(_file_name).as_numpy_iterator()]
    if not all(names):
        raise InputError(f"--split_files: examples of {builder.info.name} have no file names")
    listed = [split for split in splits if split != ALL]
    places, paths = positions(split_files, builder.info.name, names, listed), files(split_files)
    chosen = {
        split: Part(str(paths[split]), everything.slice, np.isin(np.arange(len(names)), places[split]))
        for split in listed
    }
    return chosen | ({ALL: everything} if ALL in splits else {})


def load(
    name: str,
    splits: Sequence[str],
    data_dir: str | None,
    eurosat_zip: str | None,
    split_files: str | None,
    image_size: int | None,
    interpolation: str,
) -> Dataset:
    """Loads splits of a TFDS dataset, prepared first if need be; arguments and errors are as for `sources.load`."""
    builder, image_key, label_key = open_builder(name, data_dir)
    dtype = _dtype(builder, name, image_key)
    if eurosat_zip and builder.name != "eurosat":
        raise InputError(f"--eurosat_zip is of no use for dataset {name}, which is not EuroSAT")
    if not builder.is_prepared():
        eurosat.prepare(builder, eurosat_zip) if builder.name == "eurosat" else _prepare(builder)
    elif eurosat_zip:
        print(f"{name} is prepared already, in {builder.data_path}: --eurosat_zip is not needed")
    shapes, loaded, split = {}, {}, ""
    try:
        chosen = _listed(builder, split_files, splits) if split_files else _sliced(builder, splits)
        for split, part in chosen.items():
            shapes[split] = shapes_in_memory(split, _shapes(builder, part, image_key), image_size)
        must_fit(name, itertools.chain(*shapes.values()), dtype)
        for split, part in chosen.items():
            labels: list[int] = []
            names: list[str] = []
            digests: list[str] = []
            pixels = digested(_examples(builder, part, (image_key, label_key), dtype, labels, names), digests)
            held = hold(pixels, shapes[split], dtype, interpolation)
            if min(labels) < 0:
                raise InputError(f"split {split!r} of {name} has no labels, which TFDS gives as -1")
            loaded[split] = Split(held, np.array(labels, np.int64), tuple(names), part.name, tuple(digests))
    except ValueError as error:
        raise InputError(f"split {split!r} of {name}: {first_line(error)}") from error
    except (tf.errors.OpError, OSError) as error:
        raise _damage(builder, error) from error
    return Dataset(name, tuple(builder.info.features[label_key].names), loaded)


def _dtype(builder, name: str, image_key: str) -> str:
    """The type that pixels are held in.

    Raises:
        InputError: They are not grey levels in RGB, nor digital numbers in 13 bands.
    """
    feature = builder.info.features[image_key]
    if not isinstance(feature.shape, tuple) or len(feature.shape) != 3:
        raise InputError(f"dataset {name}: {image_key!r} has shape {feature.shape}; expected (height, width, bands)")
    bands, found = feature.shape[-1], np.dtype(feature.np_dtype).name
    if bands not in (3, 13):
        raise InputError(f"dataset {name}: images have {bands} bands; expected 3 (RGB) or 13 (all of Sentinel-2's)")
    dtype = "uint8" if bands == 3 else "uint16"
    if found != dtype and builder.name != "eurosat":  # TFDS declares EuroSAT's 13 bands as float32
        raise InputError(f"dataset {name}: images of {bands} bands are {found}, of unknown scale; expected {dtype}")
    return dtype


def _prepare(builder) -> None:
    """Has TFDS download and prepare a dataset."""
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # whatever the network, the host or its answer makes TFDS raise
        raise InputError(
            f"{builder.info.full_name} is not in {builder.data_path} and TFDS could not prepare it: {error} Two other "
            "ways to provide it: --data_dir=FOLDER (or $TFDS_DATA_DIR) where TFDS has prepared it; "
            "--dataset=folder:PATH, a folder of one folder of images a class"
        ) from error


def _undecoded(builder, part: Part) -> tf.data.Dataset:
    """Examples in the order that they are stored in, pictures as the bytes of their files."""
    import tensorflow_datasets as tfds

    image_key, _ = builder.info.supervised_keys
    encoded = isinstance(builder.info.features[image_key], tfds.features.Image)
    dataset = builder.as_dataset(
        split=part.slice,
        shuffle_files=False,
        decoders={image_key: tfds.decode.SkipDecoding()} if encoded else None,
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )
    if part.kept is not None:
        flagged = tf.data.Dataset.zip(dataset, tf.data.Dataset.from_tensor_slices(part.kept))
        dataset = flagged.filter(lambda example, kept: kept)
        dataset = dataset.map(lambda example, kept: example)
    return dataset.with_options(WITHOUT_AUTOTUNING)


def _shapes(builder, part: Part, image_key: str) -> list[Shape]:
    """Shapes of the images of a slice; where the dataset does not say, each picture's header does."""
    shape, dataset = builder.info.features[image_key].shape, _undecoded(builder, part)
    if None not in shape:
        return [shape] * (len(dataset) if part.kept is None else int(part.kept.sum()))
    encoded = dataset.map(lambda example: example[image_key]).as_numpy_iterator()
    return [images.shape_of_encoded(io.BytesIO(file)) for file in encoded]


def _file_name(example: dict) -> tf.Tensor:
    """The file name of an example, a number as text; empty where the dataset has none."""
    name = example.get("filename", example.get("file_name"))
    if not isinstance(name, tf.Tensor) or name.shape.rank != 0:
        return tf.constant("")
    return name if name.dtype == tf.string else tf.strings.as_string(name)


def _examples(
    builder, part: Part, keys: tuple[str, str], dtype: str, labels: list[int], names: list[str]
) -> Iterator[np.ndarray]:
    """Yields images (height, width, bands), and fills the lists of labels and names as it goes."""
    image_key, label_key = keys
    feature = builder.info.features[image_key]

    def read(example):
        image = example[image_key]
        if image.dtype == tf.string:
            image = decoding.decode(image, feature.shape[-1])
        return tf.saturate_cast(image, dtype), example[label_key], _file_name(example)

    decoded = _undecoded(builder, part).map(read, num_parallel_calls=tf.data.AUTOTUNE)
    # Batches because each call costs; small ones, because they are in memory beside what is held.
    batch = 1 if None in feature.shape else max(1, min(256, 2**22 // math.prod(feature.shape)))
    batched = decoded.batch(batch).with_options(WITHOUT_AUTOTUNING)
    for pixels, label, name in batched.as_numpy_iterator():
        first = len(names)  # now: `extend` lengthens the list while it takes names
        names.extend(text.decode() or f"{part.name}#{index}" for index, text in enumerate(name, first))
        labels.extend(label)
        yield from pixels


def _damage(builder, error: Exception) -> InputError:
    """Names the file of a prepared dataset that cannot be read."""
    remedy = f"delete {builder.data_path} and run again to prepare it anew"
    image_key, _ = builder.info.supervised_keys
    for split, info in builder.info.splits.items():
        for path, expected in zip(info.filepaths, info.shard_lengths):
            try:
                found = sum(1 for _ in tf.data.TFRecordDataset(str(path)))
            except tf.errors.OpError as damage:
                return InputError(f"{path}: truncated or corrupt ({damage.message.split('[')[0].strip()}); {remedy}")
            if found != expected:
                return InputError(f"{path}: truncated, holds {found} of {expected} images; {remedy}")
        for example in _undecoded(builder, Part(split, split)):
            try:
                decoding.decode(example[image_key])
            except tf.errors.InvalidArgumentError:
                name = _file_name(example).numpy().decode() or "an image"
                return InputError(
                    f"{builder.data_path}: {name} in it is not a readable JPEG or PNG image of 8 bits a colour and at "
                    f"most {images.MAX_PIXELS} pixels; {remedy}, or give its pictures by --dataset=folder:PATH"
                )
    return InputError(f"{builder.data_path}: cannot be read ({first_line(error)}); {remedy}")
