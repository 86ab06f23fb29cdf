"""Datasets that TensorFlow Datasets (TFDS) prepares; EuroSAT also from a mirror or from its zip archive."""

import hashlib
import io
import itertools
import math
import pathlib
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from resnetd_tf.data import images
from resnetd_tf.data.batches import WITHOUT_AUTOTUNING
from resnetd_tf.data.splits import (
    ALL,
    Dataset,
    Shape,
    Split,
    check_memory,
    collect_digests,
    find_positions,
    hold_in_memory,
    parse_split_files,
    split_slices,
    stored_shapes,
)
from resnetd_tf.errors import InputError, damage_as_input_error, first_line, root_cause_text

EUROSAT_MIRROR = "torchgeo/eurosat"  # on the Hugging Face hub
EUROSAT_ARCHIVES = {  # by TFDS configuration: file and revision in the mirror, suffix of the images in the file
    "rgb": ("EuroSAT.zip", "c877bcd43f099cd0196738f714544e355477f3fd", ".jpg"),
    "all": ("EuroSATallBands.zip", "1ce6f1bfb56db63fd91b6ecc466ea67f2509774c", ".tif"),
}


@dataclass(frozen=True)
class DatasetPart:
    """Some examples of a prepared dataset.

    Attributes:
        name: The part of the dataset that they are: "train[:70%]", or the path of the list that names them.
        slice: A TFDS slice that contains them.
        mask: Which examples of the slice they are, (n,) bool; `None` for all.
    """

    name: str
    slice: str
    mask: np.ndarray | None = None


def load_tfds(
    name: str,
    splits: Sequence[str],
    *,
    data_dir: str | None,
    eurosat_zip: str | None,
    split_files: str | None,
    image_size: int | None,
    interpolation: str,
) -> Dataset:
    """Loads splits of a TFDS dataset, after preparing it on disk if necessary.

    Args:
        name: Name of the dataset, such as "eurosat/rgb".
        splits: The splits to load, or TFDS slices.
        data_dir: The folder where TFDS keeps its datasets; `None` for TFDS's default.
        eurosat_zip: A EuroSAT archive to prepare the dataset from, or `None`.
        split_files: The lists of file names of the three splits, or `None`, as in `datasets.load_dataset`.
        image_size: Side in pixels for training images of differing sizes, or `None`, as in `datasets.load_dataset`.
        interpolation: "bilinear" or "bicubic".

    Raises:
        InputError: The dataset does not exist, cannot be obtained, is damaged or does not fit into memory.
    """
    builder, image_key, label_key = open_builder(name, data_dir)
    dtype = _pixel_dtype(builder, name, image_key)
    if eurosat_zip and builder.name != "eurosat":
        raise InputError(f"--eurosat_zip is of no use for dataset {name}, which is not EuroSAT")
    if not builder.is_prepared():
        prepare_eurosat(builder, eurosat_zip) if builder.name == "eurosat" else _download_and_prepare(builder)
    elif eurosat_zip:
        print(f"{name} is prepared already, in {builder.data_path}: --eurosat_zip is not needed")
    shapes, loaded_splits, split = {}, {}, ""
    try:
        parts = _listed_parts(builder, split_files, splits) if split_files else _sliced_parts(builder, splits)
        for split, part in parts.items():
            shapes[split] = stored_shapes(split, _read_shapes(builder, part, image_key), image_size)
        check_memory(name, itertools.chain(*shapes.values()), dtype)
        for split, part in parts.items():
            labels: list[int] = []
            names: list[str] = []
            digests: list[str] = []
            pixels = _decoded_examples(builder, part, dtype, labels, names)
            images_in_memory = hold_in_memory(collect_digests(pixels, digests), shapes[split], dtype, interpolation)
            if min(labels) < 0:
                raise InputError(f"split {split!r} of {name} has no labels, which TFDS gives as -1")
            loaded_splits[split] = Split(
                images_in_memory, np.array(labels, np.int64), tuple(names), part.name, tuple(digests)
            )
    except ValueError as error:
        raise InputError(f"split {split!r} of {name}: {first_line(error)}") from error
    except (tf.errors.OpError, OSError) as error:
        raise _name_damaged_file(builder, error) from error
    return Dataset(name, tuple(builder.info.features[label_key].names), loaded_splits)


def open_builder(name: str, data_dir: str | None):
    """Opens the TFDS builder of a dataset of labelled images.

    Args:
        name: Name of the dataset.
        data_dir: The folder where TFDS keeps its datasets; `None` for TFDS's default.

    Returns:
        The `tfds.core.DatasetBuilder`, and the keys of image and label in its examples.

    Raises:
        InputError: TFDS is not installed, has no dataset of that name, or the dataset has no labelled images.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(
            f"dataset {name} needs TensorFlow Datasets ({first_line(error)}); pip install 'resnetd_tf[train]' brings it"
        ) from error

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


def _sliced_parts(builder, splits: Sequence[str]) -> dict[str, DatasetPart]:
    """Returns the part of each split: a split of the dataset, a slice of its train split, or the user's TFDS slice."""
    slices = split_slices(builder.info.splits)
    return {split: DatasetPart(slices.get(split, split), slices.get(split, split)) for split in splits}


def _listed_parts(builder, split_files: str, splits: Sequence[str]) -> dict[str, DatasetPart]:
    """Returns the part of each split by lists of file names; "all" is every example, whether in a list or not.

    Raises:
        InputError: Examples have no file names, or `splits.find_positions` refuses a list.
    """
    everything = DatasetPart(ALL, "+".join(builder.info.splits))
    names = [name.decode() for name in _encoded_examples(builder, everything).map(_example_name).as_numpy_iterator()]
    if not all(names):
        raise InputError(f"--split_files: examples of {builder.info.name} have no file names")
    listed_splits = [split for split in splits if split != ALL]
    positions, paths = (
        find_positions(split_files, builder.info.name, names, listed_splits),
        parse_split_files(split_files),
    )
    parts = {
        split: DatasetPart(str(paths[split]), everything.slice, np.isin(np.arange(len(names)), positions[split]))
        for split in listed_splits
    }
    return parts | ({ALL: everything} if ALL in splits else {})


def _pixel_dtype(builder, name: str, image_key: str) -> str:
    """Returns the type in which pixels are held: "uint8" for RGB, "uint16" for 13 bands.

    Raises:
        InputError: The images are neither 8-bit RGB nor digital numbers of 13 bands.
    """
    feature = builder.info.features[image_key]
    if not isinstance(feature.shape, tuple) or len(feature.shape) != 3:
        raise InputError(f"dataset {name}: {image_key!r} has shape {feature.shape}; expected (height, width, bands)")
    bands, stored_dtype = feature.shape[-1], np.dtype(feature.np_dtype).name
    if bands not in (3, 13):
        raise InputError(f"dataset {name}: images have {bands} bands; expected 3 (RGB) or 13 (all of Sentinel-2's)")
    dtype = "uint8" if bands == 3 else "uint16"
    if stored_dtype != dtype and builder.name != "eurosat":  # TFDS declares EuroSAT's 13 bands as float32
        raise InputError(
            f"dataset {name}: images of {bands} bands are {stored_dtype}, of unknown scale; expected {dtype}"
        )
    return dtype


def _download_and_prepare(builder) -> None:
    """Lets TFDS download and prepare a dataset.

    Raises:
        InputError: TFDS cannot.
    """
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # TFDS raises many types, depending on the network and the host
        raise InputError(
            f"{builder.info.full_name} is not in {builder.data_path} and TFDS could not prepare it: {error} Two other "
            "ways to provide it: --data_dir=FOLDER (or $TFDS_DATA_DIR) where TFDS has prepared it; "
            "--dataset=folder:PATH, a folder of one folder of images a class"
        ) from error


def _encoded_examples(builder, part: DatasetPart) -> tf.data.Dataset:
    """Returns examples in the order in which they are stored, with pictures as the bytes of their files."""
    import tensorflow_datasets as tfds

    image_key, _ = builder.info.supervised_keys
    has_pictures = isinstance(builder.info.features[image_key], tfds.features.Image)
    dataset = builder.as_dataset(
        split=part.slice,
        shuffle_files=False,
        decoders={image_key: tfds.decode.SkipDecoding()} if has_pictures else None,
        read_config=tfds.ReadConfig(try_autocache=False, interleave_cycle_length=1),
    )
    if part.mask is not None:
        pairs = tf.data.Dataset.zip(dataset, tf.data.Dataset.from_tensor_slices(part.mask))
        dataset = pairs.filter(lambda example, is_in_part: is_in_part).map(lambda example, is_in_part: example)
    return dataset.with_options(WITHOUT_AUTOTUNING)


def _read_shapes(builder, part: DatasetPart, image_key: str) -> list[Shape]:
    """Returns the shape of each image; pictures of differing sizes have theirs in their headers."""
    shape, dataset = builder.info.features[image_key].shape, _encoded_examples(builder, part)
    if None not in shape:
        return [shape] * (len(dataset) if part.mask is None else int(part.mask.sum()))
    files = dataset.map(lambda example: example[image_key]).as_numpy_iterator()
    return [images.encoded_shape(io.BytesIO(file)) for file in files]


def _example_name(example: dict) -> tf.Tensor:
    """Returns the file name of an example as a scalar string; empty if the dataset has no file names."""
    name = example.get("filename", example.get("file_name"))
    if not isinstance(name, tf.Tensor) or name.shape.rank != 0:
        return tf.constant("")
    return name if name.dtype == tf.string else tf.strings.as_string(name)


def _decoded_examples(
    builder, part: DatasetPart, dtype: str, labels: list[int], names: list[str]
) -> Iterator[np.ndarray]:
    """Yields decoded images, and appends to the lists of labels and names as it goes.

    Args:
        builder: The builder of the prepared dataset.
        part: The examples to decode.
        dtype: Type of the pixels.
        labels: List that receives the label of each image.
        names: List that receives the file name of each image, or "PART#INDEX" if it has none.

    Yields:
        Images (height, width, bands).
    """
    image_key, label_key = builder.info.supervised_keys
    feature = builder.info.features[image_key]

    def read(example):
        image = example[image_key]
        if image.dtype == tf.string:
            image = images.decode_picture(image, feature.shape[-1])
        return tf.saturate_cast(image, dtype), example[label_key], _example_name(example)

    examples = _encoded_examples(builder, part).map(read, num_parallel_calls=tf.data.AUTOTUNE)
    # Batches save calls. They are small because they take memory beside the images that are kept.
    batch_size = 1 if None in feature.shape else max(1, min(256, 2**22 // math.prod(feature.shape)))
    example_batches = examples.batch(batch_size).with_options(WITHOUT_AUTOTUNING)
    for batch_pixels, batch_labels, batch_names in example_batches.as_numpy_iterator():
        first = len(names)  # before `extend`, which lengthens the list as it goes
        names.extend(name.decode() or f"{part.name}#{index}" for index, name in enumerate(batch_names, first))
        labels.extend(batch_labels)
        yield from batch_pixels


def _name_damaged_file(builder, error: Exception) -> InputError:
    """Returns an error that names the damaged file, or the unreadable picture, of a prepared dataset."""
    remedy = f"delete {builder.data_path} and run again to prepare it anew"
    image_key, _ = builder.info.supervised_keys
    for split, info in builder.info.splits.items():
        for path, expected in zip(info.filepaths, info.shard_lengths):
            try:
                count = sum(1 for _ in tf.data.TFRecordDataset(str(path)))
            except tf.errors.OpError as damage:
                return InputError(f"{path}: truncated or corrupt ({damage.message.split('[')[0].strip()}); {remedy}")
            if count != expected:
                return InputError(f"{path}: truncated, holds {count} of {expected} images; {remedy}")
        for example in _encoded_examples(builder, DatasetPart(split, split)):
            try:
                images.decode_picture(example[image_key])
            except tf.errors.InvalidArgumentError:
                name = _example_name(example).numpy().decode() or "an image"
                return InputError(
                    f"{builder.data_path}: {name} in it is not a readable JPEG or PNG image of 8 bits a colour and at "
                    f"most {images.MAX_PIXELS} pixels; {remedy}, or give its pictures by --dataset=folder:PATH"
                )
    return InputError(f"{builder.data_path}: cannot be read ({first_line(error)}); {remedy}")


# Preparing EuroSAT when TFDS cannot download it: the only address that TFDS knows is on a host that is often down. The
# same archive is on the Hugging Face hub, and Zenodo's record 7711810 has the images in another zip.


def prepare_eurosat(builder, archive: str | None = None) -> None:
    """Prepares EuroSAT on disk: either the complete dataset appears or none.

    Args:
        builder: The `tfds.core.DatasetBuilder` of EuroSAT, which is not prepared yet.
        archive: Path of a EuroSAT zip to use instead of a download, or `None`.

    Raises:
        InputError: The dataset cannot be downloaded, or the archive is damaged or holds other images.
    """
    import requests
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    if archive is not None:
        return _prepare_from_zip(builder, pathlib.Path(archive))
    failures = []
    try:
        # TFDS itself would keep trying a dead host for three and a half minutes.
        requests.head(builder.builder_config.download_url, timeout=10).raise_for_status()
        return builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # TFDS raises many types, depending on the network and the host
        failures.append(f"TFDS's own download ({root_cause_text(error)})")
    try:
        downloaded = _download_from_mirror(builder)
    except InputError:
        raise
    except Exception as error:
        failures.append(f"the Hugging Face dataset {EUROSAT_MIRROR} ({root_cause_text(error)})")
    else:
        return _prepare_from_zip(builder, downloaded)
    raise InputError(
        f"{builder.info.full_name} is not in {builder.data_path} and could not be downloaded; "
        f"tried {' and '.join(failures)}. Three ways to provide it: --data_dir=FOLDER (or $TFDS_DATA_DIR) where "
        "TFDS has prepared it; --eurosat_zip=EuroSAT.zip, a downloaded archive; --dataset=folder:PATH, its "
        "unpacked folder of class folders"
    )


def _download_from_mirror(builder) -> pathlib.Path:
    """Downloads the archive to the cache of huggingface_hub, and checks it against the SHA-256 that TFDS registers."""
    from huggingface_hub import hf_hub_download

    name, revision, _ = EUROSAT_ARCHIVES[builder.builder_config.name]
    print(f"TFDS cannot download {builder.info.full_name}; fetching {name} from {EUROSAT_MIRROR}", flush=True)
    path = pathlib.Path(hf_hub_download(EUROSAT_MIRROR, name, repo_type="dataset", revision=revision))
    expected = builder.url_infos[builder.builder_config.download_url].checksum
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise InputError(
            f"{name} from {EUROSAT_MIRROR} has SHA-256 {digest}, TFDS registers {expected}: not used, deleted"
        )
    return path


def _prepare_from_zip(builder, archive: pathlib.Path) -> None:
    """Prepares EuroSAT as TFDS does with its own archive, from any zip with the images in class folders."""
    data_dir = builder.data_path.parents[2]  # above NAME/CONFIG/VERSION
    folder = None
    try:
        pathlib.Path(data_dir).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".eurosat-", dir=data_dir)
        with damage_as_input_error(f"{archive}: not a whole zip archive", "; download it again", except_for=(OSError,)):
            class_folders = _extract_images(builder, archive, pathlib.Path(folder))

        def split_generators(dl_manager):
            selection = builder.builder_config.selection
            return {"train": builder._generate_examples(path=str(class_folders), selection=selection)}

        # Everything but the source of the images is the builder's own work.
        builder._split_generators = split_generators
        builder.download_and_prepare()
    except OSError as error:
        location = error.filename or data_dir
        raise InputError(f"cannot prepare {archive}: {location}: {error.strerror or error}") from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _extract_images(builder, archive: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Extracts the images, checking the CRC of each, and returns the folder of class folders.

    The archive has the class folders in 2750/ (TFDS's), EuroSAT_RGB/ (Zenodo's) or deeper (13 bands).

    Raises:
        InputError: The archive has no images of EuroSAT.
    """
    suffix = EUROSAT_ARCHIVES[builder.builder_config.name][2]
    classes = "|".join(builder.info.features["label"].names)
    pattern = re.compile(rf"(?:.*/)?((?:{classes})/(?:{classes})_\d+{re.escape(suffix)})")
    count = 0
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            if match := pattern.fullmatch(member.filename):
                target = folder / match[1]
                target.parent.mkdir(exist_ok=True)
                with file.open(member) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                count += 1
    if not count:
        raise InputError(f"{archive}: holds no CLASS/CLASS_1{suffix} of EuroSAT for {builder.info.full_name}")
    return folder
