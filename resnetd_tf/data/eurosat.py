"""Prepares EuroSAT for TFDS when TFDS cannot download it itself.

TFDS knows one address for EuroSAT, on a host that is often down. The same archive is on the Hugging Face
hub, where TorchGeo and torchvision fetch it, and Zenodo record 7711810 has its images in another zip.
"""

import hashlib
import pathlib
import re
import shutil
import sys
import tempfile
import zipfile

import requests

from resnetd_tf.errors import InputError, damage_told, reason

MIRROR = "torchgeo/eurosat"
ARCHIVES = {  # by TFDS config: file and revision in the mirror, suffix of the images in it
    "rgb": ("EuroSAT.zip", "c877bcd43f099cd0196738f714544e355477f3fd", ".jpg"),
    "all": ("EuroSATallBands.zip", "1ce6f1bfb56db63fd91b6ecc466ea67f2509774c", ".tif"),
}


def prepare(builder, archive: str | None = None) -> None:
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
        tried.append(f"TFDS's own download ({reason(error)})")
    try:
        downloaded = _download_from_mirror(builder)
    except InputError:
        raise
    except Exception as error:
        tried.append(f"the Hugging Face dataset {MIRROR} ({reason(error)})")
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

    name, revision, _ = ARCHIVES[builder.builder_config.name]
    print(f"TFDS cannot download {builder.info.full_name}; fetching {name} from {MIRROR}", flush=True)
    path = pathlib.Path(hf_hub_download(MIRROR, name, repo_type="dataset", revision=revision))
    expected = builder.url_infos[builder.builder_config.download_url].checksum
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise InputError(f"{name} from {MIRROR} has SHA-256 {found}, TFDS registers {expected}: not used, deleted")
    return path


def _prepare_from_zip(builder, archive: pathlib.Path) -> None:
    """What TFDS does with its own archive, from any zip that has the images in class folders."""
    data_dir = builder.data_path.parents[2]  # above NAME/CONFIG/VERSION
    folder = None
    try:
        pathlib.Path(data_dir).mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=".eurosat-", dir=data_dir)
        with damage_told(f"{archive}: not a whole zip archive", "; download it again", but=(OSError,)):
            images = _extract(builder, archive, pathlib.Path(folder))

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


def _extract(builder, archive: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Extracts the images, each checked against its CRC, and returns the folder of class folders.

    The class folders stand in 2750/ (TFDS's archive), EuroSAT_RGB/ (Zenodo's) or deeper (13 bands).
    """
    suffix = ARCHIVES[builder.builder_config.name][2]
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
