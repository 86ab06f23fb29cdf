"""Labelled patches: source -> splits in memory -> batches.

A split is decoded once and held as one array of raw pixels (uint8 for RGB, uint16 DN for 13 bands): all of
EuroSAT RGB is 0.33 GB. Batches are gathered from it, so nothing is decoded, copied or resized again on the
host.
"""

import functools
import hashlib
import io
import itertools
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from resnetd_tf.data import eurosat, synthetic
from resnetd_tf.errors import InputError, first_line

# The report's 70/20/10 split, as slices of TFDS's only split.
SPLITS = {"train": "train[:70%]", "validation": "train[70%:90%]", "test": "train[90%:]"}
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff"}


@dataclass(frozen=True)
class Split:
    """Images (n, height, width, bands) uint8 or uint16, labels (n,) int64 and a name for each."""

    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Splits by name, and the class names that labels index."""

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def patch_shape(self) -> tuple[int, int, int]:
        """(height, width, bands) of the images."""
        return next(iter(self.splits.values())).images.shape[1:]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pixels and labels of every split loaded."""
        digest = hashlib.sha256()
        for name in sorted(self.splits):
            digest.update(self.splits[name].images)
            digest.update(self.splits[name].labels)
        return digest.hexdigest()


def load(
    name: str,
    splits: Sequence[str] = tuple(SPLITS),
    *,
    data_dir: str | None = None,
    eurosat_zip: str | None = None,
    image_size: int = 224,
) -> Dataset:
    """Loads splits of a dataset into memory.

    Args:
        name: A TFDS image classification dataset ("eurosat/rgb", "eurosat/all"), "folder:PATH" for a folder
            of one folder of images a class, or "synthetic".
        splits: Of "train", "validation", "test"; for TFDS datasets also TFDS slices such as "train[90%:]".
        data_dir: Where TFDS keeps its datasets; default TFDS's own ($TFDS_DATA_DIR, else
            ~/tensorflow_datasets).
        eurosat_zip: A EuroSAT archive to prepare the dataset from, instead of downloading it.
        image_size: Images of differing sizes are resized to this square; equal ones stay as they are.

    Raises:
        InputError: The dataset does not exist, cannot be obtained or is damaged.
    """
    if name == "synthetic":
        images, labels = synthetic.draw()
        names = [f"synthetic_{index}" for index in range(len(labels))]
        return Dataset(name, synthetic.CLASSES, _slice(images, labels, names, splits))
    if name.startswith("folder:"):
        return _load_folder(name, splits, image_size)
    return _load_tfds(name, splits, data_dir, eurosat_zip, image_size)


def read_image(path: str | pathlib.Path) -> np.ndarray:
    """Pixels (height, width, bands) of a JPEG or PNG file (uint8 RGB) or of a TIFF (its own bands).

    Raises:
        InputError: The file is missing or is not a readable image.
    """
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    if path.suffix.lower() in (".tif", ".tiff"):
        return _decode_tiff(content, path)
    try:
        return decode(content).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise InputError(f"{path}: not a readable JPEG or PNG image; remove or replace it") from error


def decode(encoded, bands: int = 3):
    """Pixels (height, width, bands) uint8 of an encoded JPEG or PNG, as Pillow, OpenCV and browsers decode it.

    TensorFlow's default takes a faster cosine transform: on EuroSAT it is off by 3 grey levels or
    more somewhere in every patch, which is enough to change what a network sees.
    """
    return tf.io.decode_jpeg(encoded, channels=bands, dct_method="INTEGER_ACCURATE")


def _decode_tiff(content: bytes, path: pathlib.Path) -> np.ndarray:
    import tifffile

    try:
        image = tifffile.imread(io.BytesIO(content))
    except Exception as error:  # tifffile raises whatever the damage makes its parser stumble on
        raise InputError(f"{path}: not a readable TIFF image; remove or replace it") from error
    if image.ndim != 3 or (image.shape[-1], image.dtype.name) not in ((3, "uint8"), (13, "uint16")):
        raise InputError(
            f"{path}: {image.dtype} of shape {image.shape}; expected 3 bands of uint8 or 13 bands of uint16"
        )
    return image


def _slice(images, labels, names, splits) -> dict[str, Split]:
    """The named thirds of examples that are already in a random but fixed order."""
    bounds = np.round(np.array([0, 0.7, 0.9, 1]) * len(labels)).astype(int)
    ranges = dict(zip(SPLITS, itertools.pairwise(bounds)))
    chosen = {}
    for split in splits:
        if split not in ranges:
            raise InputError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        start, stop = ranges[split]
        chosen[split] = Split(images[start:stop], np.asarray(labels[start:stop]), tuple(names[start:stop]))
    return chosen


def _load_folder(name: str, splits, image_size: int) -> Dataset:
    root = pathlib.Path(name.removeprefix("folder:"))
    if not root.is_dir():
        raise InputError(f"dataset {name}: {root} is not a folder")
    paths = [path for path in root.glob("*/*") if path.suffix.lower() in SUFFIXES]
    classes = tuple(sorted({path.parent.name for path in paths}))
    if not paths:
        raise InputError(f"dataset {name}: no images; expected {root}/CLASS/IMAGE with {', '.join(sorted(SUFFIXES))}")
    if len(classes) == 1:
        raise InputError(f"dataset {name}: only one class, {classes[0]}; a classifier needs at least two")
    if len(paths) < 10:
        raise InputError(f"dataset {name}: {len(paths)} images; a 70/20/10 split needs at least 10")
    # By a hash of the name: random, yet the same on every machine. TFDS orders its examples alike.
    paths.sort(key=lambda path: hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest())
    images = [read_image(path) for path in paths]
    if len({(image.shape[-1], image.dtype) for image in images}) > 1:
        raise InputError(f"dataset {name}: RGB and 13-band images are mixed")
    if len({image.shape for image in images}) > 1:
        images = [_resize(image, image_size) for image in images]
    labels = np.array([classes.index(path.parent.name) for path in paths])
    return Dataset(name, classes, _slice(np.stack(images), labels, [str(path) for path in paths], splits))


def _resize(image, size: int) -> np.ndarray:
    """To (size, size), antialiased, in the image's own dtype."""
    resized = tf.image.resize(image, (size, size), antialias=True)
    return tf.saturate_cast(tf.round(resized), image.dtype).numpy()


def open_tfds(name: str, data_dir: str | None):
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


def _load_tfds(name: str, splits, data_dir, eurosat_zip, image_size: int) -> Dataset:
    builder, image_key, label_key = open_tfds(name, data_dir)
    if not builder.is_prepared():
        eurosat.prepare(builder, eurosat_zip)
    loaded = {}
    for split in splits:
        try:
            loaded[split] = _read_tfds(builder, SPLITS.get(split, split), image_key, label_key, image_size)
        except ValueError as error:
            raise InputError(f"split {split!r} of {name}: {first_line(error)}") from error
        except tf.errors.OpError as error:
            raise _damage(builder, error) from error
    return Dataset(name, tuple(builder.info.features[label_key].names), loaded)


def _read_tfds(builder, split: str, image_key: str, label_key: str, image_size: int) -> Split:
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
            image = decode(image, bands)
        if None in feature.shape:
            image = tf.round(tf.image.resize(image, (height, width), antialias=True))
        name = example.get("filename", example.get("file_name", tf.constant("")))
        return tf.saturate_cast(image, dtype), example[label_key], name

    images = np.empty((count, height, width, bands), dtype.as_numpy_dtype)
    labels = np.empty(count, np.int64)
    names: list[str] = []
    batches = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE).batch(256)
    for image, label, name in _without_autotuning(batches).as_numpy_iterator():
        images[len(names) : len(names) + len(label)] = image
        labels[len(names) : len(names) + len(label)] = label
        names.extend(text.decode() for text in name)
    return Split(images, labels, tuple(text or f"{split}#{i}" for i, text in enumerate(names)))


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
            decode(example[image_key])
        except tf.errors.InvalidArgumentError:
            name = example["filename"].numpy().decode() if "filename" in example else "an image"
            return InputError(f"{path}: {name} in it is not a readable JPEG or PNG image; {remedy}")
    return InputError(f"{builder.data_path}: cannot be read ({first_line(error)}); {remedy}")


def _without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Without tf.data's tuner: an iterator's end waits for the tuner's next look, up to a minute an epoch."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def batches(split: Split, classes: int, batch_size: int, *, training: bool = False, seed: int = 0) -> tf.data.Dataset:
    """Batches of raw pixels and one-hot labels.

    Args:
        split: What to draw from.
        classes: Number of classes.
        batch_size: Images in a batch, over all replicas.
        training: Shuffled anew each epoch, augmented, and without an incomplete last batch; otherwise in
            order and complete.
        seed: Of shuffling and augmentation: equal seeds give equal batches.

    Returns:
        Pairs of images (batch, height, width, bands) and labels (batch, classes) float32.
    """
    with tf.device("CPU"):
        images, labels = tf.constant(split.images), tf.one_hot(split.labels, classes)
    indices = tf.data.Dataset.range(len(split))
    if training:
        indices = indices.shuffle(len(split), seed=seed)
    indices = indices.batch(batch_size, drop_remainder=training)
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(2)

    def gather(index, seed):
        image = tf.gather(images, index)
        return augment(image, seed) if training else image, tf.gather(labels, index)

    dataset = tf.data.Dataset.zip(indices, seeds).map(gather, num_parallel_calls=2).prefetch(4)
    return _without_autotuning(dataset)


def augment(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Flips and quarter turns, each image its own: seen from above, a scene has no upright.

    Args:
        images: (batch, height, width, bands). Those not square are only flipped.
        seed: Two integers.
    """
    chosen = tf.random.stateless_uniform((3, tf.shape(images)[0], 1, 1, 1), seed) < 0.5
    images = tf.where(chosen[0], tf.reverse(images, [1]), images)
    images = tf.where(chosen[1], tf.reverse(images, [2]), images)
    if images.shape[1] == images.shape[2]:  # with a transposition the flips make all eight
        images = tf.where(chosen[2], tf.transpose(images, (0, 2, 1, 3)), images)
    return images
