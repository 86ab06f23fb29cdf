"""Datasets that TensorFlow Datasets prepares."""

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
import requests
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
class DatasetPart:
    """Some examples of a prepared dataset.

    Attributes:
        name: What they are of it: "train[:70%]", or the list that names them.
        slice: A TFDS slice.
        kept: Which of its examples they are, (n,) bool; `None` for all.
    """

    name: str
    slice: str
    kept: np.ndarray | None = None


def _sliced_parts(builder, splits: Sequence[str]) -> dict[str, DatasetPart]:
    known = split_slices(builder.info.splits)
    return {split: DatasetPart(known.get(split, split), known.get(split, split)) for split in splits}


def _listed_parts(builder, split_files: str, splits: Sequence[str]) -> dict[str, DatasetPart]:
    """The examples that lists of file names name; "all" is every example, in a list or not.

    Raises:
        InputError: As for `positions`; or examples have no file names.
    """
    everything = DatasetPart(ALL, "+".join(builder.info.splits))
    names = [name.decode() for name in _encoded_examples(builder, everything).map(_example_name).as_numpy_iterator()]
    if not all(names):
        raise InputError(f"--split_files: examples of {builder.info.name} have no file names")
    listed = [split for split in splits if split != ALL]
    places, paths = find_positions(split_files, builder.info.name, names, listed), parse_split_files(split_files)
    chosen = {
        split: DatasetPart(str(paths[split]), everything.slice, np.isin(np.arange(len(names)), places[split]))
        for split in listed
    }
    return chosen | ({ALL: everything} if ALL in splits else {})


def load_tfds(
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
    dtype = _pixel_dtype(builder, name, image_key)
    if eurosat_zip and builder.name != "eurosat":
        raise InputError(f"--eurosat_zip is of no use for dataset {name}, which is not EuroSAT")
    if not builder.is_prepared():
        prepare_eurosat(builder, eurosat_zip) if builder.name == "eurosat" else _download_and_prepare(builder)
    elif eurosat_zip:
        print(f"{name} is prepared already, in {builder.data_path}: --eurosat_zip is not needed")
    shapes, loaded, split = {}, {}, ""
    try:
        chosen = _listed_parts(builder, split_files, splits) if split_files else _sliced_parts(builder, splits)
        for split, part in chosen.items():
            shapes[split] = stored_shapes(split, _read_shapes(builder, part, image_key), image_size)
        check_memory(name, itertools.chain(*shapes.values()), dtype)
        for split, part in chosen.items():
            labels: list[int] = []
            names: list[str] = []
            digests: list[str] = []
            pixels = collect_digests(
                _decoded_examples(builder, part, (image_key, label_key), dtype, labels, names), digests
            )
            held = hold_in_memory(pixels, shapes[split], dtype, interpolation)
            if min(labels) < 0:
                raise InputError(f"split {split!r} of {name} has no labels, which TFDS gives as -1")
            loaded[split] = Split(held, np.array(labels, np.int64), tuple(names), part.name, tuple(digests))
    except ValueError as error:
        raise InputError(f"split {split!r} of {name}: {first_line(error)}") from error
    except (tf.errors.OpError, OSError) as error:
        raise _name_damaged_file(builder, error) from error
    return Dataset(name, tuple(builder.info.features[label_key].names), loaded)


def _pixel_dtype(builder, name: str, image_key: str) -> str:
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


def _download_and_prepare(builder) -> None:
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


def _encoded_examples(builder, part: DatasetPart) -> tf.data.Dataset:
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


def _read_shapes(builder, part: DatasetPart, image_key: str) -> list[Shape]:
    """Shapes of the images of a slice; where the dataset does not say, each picture's header does."""
    shape, dataset = builder.info.features[image_key].shape, _encoded_examples(builder, part)
    if None not in shape:
        return [shape] * (len(dataset) if part.kept is None else int(part.kept.sum()))
    encoded = dataset.map(lambda example: example[image_key]).as_numpy_iterator()
    return [images.encoded_shape(io.BytesIO(file)) for file in encoded]


def _example_name(example: dict) -> tf.Tensor:
    """The file name of an example, a number as text; empty where the dataset has none."""
    name = example.get("filename", example.get("file_name"))
    if not isinstance(name, tf.Tensor) or name.shape.rank != 0:
        return tf.constant("")
    return name if name.dtype == tf.string else tf.strings.as_string(name)


def _decoded_examples(
    builder, part: DatasetPart, keys: tuple[str, str], dtype: str, labels: list[int], names: list[str]
) -> Iterator[np.ndarray]:
    """Yields images (height, width, bands), and fills the lists of labels and names as it goes."""
    image_key, label_key = keys
    feature = builder.info.features[image_key]

    def read(example):
        image = example[image_key]
        if image.dtype == tf.string:
            image = images.decode_picture(image, feature.shape[-1])
        return tf.saturate_cast(image, dtype), example[label_key], _example_name(example)

    decoded = _encoded_examples(builder, part).map(read, num_parallel_calls=tf.data.AUTOTUNE)
    # Batches because each call costs; small ones, because they are in memory beside what is held.
    batch = 1 if None in feature.shape else max(1, min(256, 2**22 // math.prod(feature.shape)))
    batched = decoded.batch(batch).with_options(WITHOUT_AUTOTUNING)
    for pixels, label, name in batched.as_numpy_iterator():
        first = len(names)  # now: `extend` lengthens the list while it takes names
        names.extend(text.decode() or f"{part.name}#{index}" for index, text in enumerate(name, first))
        labels.extend(label)
        yield from pixels


def _name_damaged_file(builder, error: Exception) -> InputError:
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


# Prepares EuroSAT for TFDS when TFDS cannot download it itself.
#
# TFDS knows one address for EuroSAT, on a host that is often down. The same archive is on the Hugging Face
# hub, where TorchGeo and torchvision fetch it, and Zenodo record 7711810 has its images in another zip.


EUROSAT_MIRROR = "torchgeo/eurosat"
EUROSAT_ARCHIVES = {  # by TFDS config: file and revision in the mirror, suffix of the images in it
    "rgb": ("EuroSAT.zip", "c877bcd43f099cd0196738f714544e355477f3fd", ".jpg"),
    "all": ("EuroSATallBands.zip", "1ce6f1bfb56db63fd91b6ecc466ea67f2509774c", ".tif"),
}


def prepare_eurosat(builder, archive: str | None = None) -> None:
    """Prepares EuroSAT on disk, whole or not at all.

    Args:
        builder: The `tfds.core.DatasetBuilder` of a EuroSAT that is not prepared yet.
        archive: Path of a EuroSAT zip; then nothing is downloaded.

    Raises:
        InputError: The dataset cannot be downloaded, or the archive is damaged or holds other images.
    """
    import tensorflow_datasets as tfds

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    if archive is not None:
        return _prepare_from_zip(builder, pathlib.Path(archive))
    tried = []
    try:
        # TFDS itself goes on trying a dead host for three and a half minutes.
        requests.head(builder.builder_config.download_url, timeout=10).raise_for_status()
        return builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except Exception as error:  # whatever the network, the host or its answer makes TFDS raise
        tried.append(f"TFDS's own download ({root_cause_text(error)})")
    try:
        downloaded = _download_from_mirror(builder)
    except InputError:
        raise
    except Exception as error:
        tried.append(f"the Hugging Face dataset {EUROSAT_MIRROR} ({root_cause_text(error)})")
    else:
        return _prepare_from_zip(builder, downloaded)
    raise InputError(
        f"{builder.info.full_name} is not in {builder.data_path} and could not be downloaded; "
        f"tried {' and '.join(tried)}. Three ways to provide it: --data_dir=FOLDER (or $TFDS_DATA_DIR) where "
        "TFDS has prepared it; --eurosat_zip=EuroSAT.zip, a downloaded archive; --dataset=folder:PATH, its "
        "unpacked folder of class folders"
    )


def _download_from_mirror(builder) -> pathlib.Path:
    """The archive in huggingface_hub's cache, checked against the SHA-256 that TFDS registers for it."""
    from huggingface_hub import hf_hub_download

    name, revision, _ = EUROSAT_ARCHIVES[builder.builder_config.name]
    print(f"TFDS cannot download {builder.info.full_name}; fetching {name} from {EUROSAT_MIRROR}", flush=True)
    path = pathlib.Path(hf_hub_download(EUROSAT_MIRROR, name, repo_type="dataset", revision=revision))
    expected = builder.url_infos[builder.builder_config.download_url].checksum
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise InputError(
            f"{name} from {EUROSAT_MIRROR} has SHA-256 {found}, TFDS registers {expected}: not used, deleted"
        )
    return path


def _prepare_from_zip(builder, archive: pathlib.Path) -> None:
    """What TFDS does with its own archive, from any zip that has the images in class folders."""
    data_dir = builder.data_path.parents[2]  # above NAME/CONFIG/VERSION
    folder = None
    try:
        pathlib.Path(data_dir).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".eurosat-", dir=data_dir)
        with damage_as_input_error(f"{archive}: not a whole zip archive", "; download it again", but=(OSError,)):
            images = _extract_images(builder, archive, pathlib.Path(folder))

        def split_generators(dl_manager):
            selection = builder.builder_config.selection
            return {"train": builder._generate_examples(path=str(images), selection=selection)}

        # Only where the images come from differs; the rest is the builder's own work.
        builder._split_generators = split_generators
        builder.download_and_prepare()
    except OSError as error:
        what = error.filename or data_dir
        raise InputError(f"cannot prepare {archive}: {what}: {error.strerror or error}") from error
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _extract_images(builder, archive: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Extracts the images, each checked against its CRC, and returns the folder of class folders.

    The class folders stand in 2750/ (TFDS's archive), EuroSAT_RGB/ (Zenodo's) or deeper (13 bands).
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
