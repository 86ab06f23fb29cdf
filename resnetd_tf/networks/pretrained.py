"""Weights that were trained before: published ImageNet-1k checkpoints, and the classifier in this package."""

import hashlib
import os
import pathlib
import re
from dataclasses import dataclass

import keras

from resnetd_tf.errors import root_cause_text
from resnetd_tf.normalization import CAFFE, IMAGENET, Statistics

WEIGHTS_FILE = "model.safetensors"
KERAS_APPLICATIONS = "keras.applications"

EUROSAT_NAME = "eurosat"  # the name of the classifier that ships with this package
EUROSAT_FILE = pathlib.Path(__file__).parents[1] / "weights" / "resnet50d-eurosat.safetensors"
EUROSAT_SHA256 = "43d4b1c1c1da962f73626c961325c940e6f358719f5ff08e4501da4c5ab8fea9"


class WeightsUnavailable(ValueError):
    """A checkpoint is neither cached nor can it be fetched."""


@dataclass(frozen=True)
class PublishedWeights:
    """A checkpoint of 1000 ImageNet classes.

    Attributes:
        source: A repository of the Hugging Face hub with a model.safetensors, or "keras.applications".
        licence: Licence of the weights.
        top1: Accuracy on ImageNet-1k's 50,000 validation images, in percent.
        statistics: Mean and standard deviation of the images it was trained on.
        interpolation: The filter that its images were resized with.
        size: Side in pixels of the images that `top1` was measured on.
        crop: Share of the shorter side of the resized image that the centre crop takes.
    """

    source: str
    licence: str
    top1: float
    statistics: Statistics = IMAGENET
    interpolation: str = "bicubic"
    size: int = 224
    crop: float = 0.875


def _timm(name: str, top1: float, **evaluated) -> PublishedWeights:
    return PublishedWeights(f"timm/{name}", "Apache-2.0", top1, **evaluated)


def _keras(top1: float) -> PublishedWeights:
    return PublishedWeights(KERAS_APPLICATIONS, "MIT", top1, CAFFE, "bilinear")


# By depth and variant. `gluon` are the weights of the authors of arXiv 1812.01187 (GluonCV), one recipe for all
# variants; there are none of theirs for 18d and 34d. Accuracies: timm's results/results-imagenet.csv (commit
# 0173a13) and keras.io/api/applications.
PUBLISHED = {
    (50, "base"): _keras(74.9),
    (101, "base"): _keras(76.4),
    (152, "base"): _keras(76.6),
    (18, "b"): _timm("resnet18.gluon_in1k", 70.84),
    (34, "b"): _timm("resnet34.gluon_in1k", 74.58),
    (50, "b"): _timm("resnet50.gluon_in1k", 77.58),
    (101, "b"): _timm("resnet101.gluon_in1k", 79.31),
    (152, "b"): _timm("resnet152.gluon_in1k", 79.69),
    (50, "c"): _timm("resnet50c.gluon_in1k", 78.01),
    (101, "c"): _timm("resnet101c.gluon_in1k", 79.54),
    (152, "c"): _timm("resnet152c.gluon_in1k", 79.91),
    (18, "d"): _timm("resnet18d.ra2_in1k", 73.79, size=288, crop=0.95),
    (34, "d"): _timm("resnet34d.ra2_in1k", 78.44, size=288, crop=0.95),
    (50, "d"): _timm("resnet50d.gluon_in1k", 79.08),
    (101, "d"): _timm("resnet101d.gluon_in1k", 80.43),
    (152, "d"): _timm("resnet152d.gluon_in1k", 80.48),
}


def is_packaged(path: pathlib.Path) -> bool:
    """Whether a path is that of the classifier that ships with this package."""
    return path.is_file() and EUROSAT_FILE.is_file() and path.samefile(EUROSAT_FILE)


def packaged_weights() -> pathlib.Path:
    """The file of the classifier that ships with this package.

    Raises:
        Unavailable: It is missing or damaged.
    """
    if not EUROSAT_FILE.is_file():
        raise WeightsUnavailable(
            f"{EUROSAT_FILE} is missing; install resnetd_tf anew, or train a classifier: python train.py"
        )
    with EUROSAT_FILE.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != EUROSAT_SHA256:
            raise WeightsUnavailable(f"{EUROSAT_FILE} is damaged: its SHA-256 is another; install resnetd_tf anew")
    return EUROSAT_FILE


def find_published(depth: int, variant: str) -> PublishedWeights:
    """The checkpoint for a network; basic blocks make `base` and `b` the same.

    Raises:
        Unavailable: None was published.
    """
    if depth in (18, 34) and variant == "base":
        variant = "b"
    if (depth, variant) not in PUBLISHED:
        raise WeightsUnavailable(f"no ImageNet weights were published for depth {depth}, variant {variant}")
    return PUBLISHED[depth, variant]


def fetch_safetensors(published: PublishedWeights) -> pathlib.Path:
    """The file in huggingface_hub's cache, fetched if it is not there, checked against the hub's SHA-256.

    Raises:
        Unavailable: It is not cached and cannot be fetched, or what came is damaged.
    """
    import huggingface_hub

    url = huggingface_hub.hf_hub_url(published.source, WEIGHTS_FILE)
    path = huggingface_hub.try_to_load_from_cache(published.source, WEIGHTS_FILE)
    try:
        if not isinstance(path, str):
            _probe(url)  # huggingface_hub itself goes on trying for half a minute
            path = huggingface_hub.hf_hub_download(published.source, WEIGHTS_FILE)
    except Exception as error:  # whatever the network, the hub or the disk makes it raise
        raise WeightsUnavailable(
            f"ImageNet weights: cannot fetch {url} ({root_cause_text(error)}); fetch it where there is a network "
            f"and give it as --weights={WEIGHTS_FILE}"
        ) from error
    blob = pathlib.Path(path).resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):  # large files are stored under their SHA-256
        with blob.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                pathlib.Path(path).unlink()
                blob.unlink(missing_ok=True)
                raise WeightsUnavailable(
                    f"ImageNet weights: {url} came damaged and was deleted; run again to fetch it anew"
                )
    return pathlib.Path(path)


def fetch_keras(depth: int) -> tuple[keras.Model, pathlib.Path]:
    """keras.applications' ResNet with its ImageNet weights, and their file in Keras's own cache.

    Raises:
        Unavailable: They are not cached and cannot be fetched.
    """
    name = f"resnet{depth}_weights_tf_dim_ordering_tf_kernels.h5"
    url = f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/{name}"
    cache = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models" / name
    try:
        if not cache.is_file():
            _probe(url)  # Keras itself waits without a limit
        return getattr(keras.applications, f"ResNet{depth}")(weights="imagenet"), cache
    except Exception as error:  # whatever the network or the disk makes Keras raise
        raise WeightsUnavailable(
            f"ImageNet weights: cannot fetch {url} ({root_cause_text(error)}); fetch it where there is a network "
            f"and put it at {cache}"
        ) from error


def _probe(url: str) -> None:
    """Raises unless `url` answers within seconds."""
    from huggingface_hub import get_session

    get_session().head(url, timeout=10, follow_redirects=True).raise_for_status()
