"""Trained weights: published ImageNet-1k checkpoints, and the classifier that ships with this package."""

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
    """A checkpoint is not cached and cannot be fetched, or the file in the package is missing or damaged."""


@dataclass(frozen=True)
class PublishedWeights:
    """A published checkpoint of 1000 ImageNet classes.

    Attributes:
        source: A repository of the Hugging Face hub with a model.safetensors, or "keras.applications".
        licence: Licence of the weights.
        top1: Accuracy on ImageNet-1k's 50,000 validation images, in percent.
        statistics: Mean and standard deviation of the training images.
        interpolation: The filter that the training images were resized with, "bilinear" or "bicubic".
        size: Side in pixels of the images that `top1` was measured on.
        crop: Share of the resized image's shorter side that the centre crop takes, 0 to 1.
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


# By depth and variant. The authors of arXiv 1812.01187 trained the `gluon` weights (GluonCV) with one recipe for all
# variants. They published none for 18d and 34d. Accuracies are from timm's results/results-imagenet.csv (commit
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
    """Returns whether a path leads to the classifier that ships with this package."""
    return path.is_file() and EUROSAT_FILE.is_file() and path.samefile(EUROSAT_FILE)


def packaged_weights() -> pathlib.Path:
    """Returns the file of the classifier that ships with this package, once its SHA-256 is checked.

    Raises:
        WeightsUnavailable: The file is missing or damaged.
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
    """Returns the published checkpoint for a network. With basic blocks `base` and `b` are the same.

    Args:
        depth: Depth of the network, as in `resnetd_tf.resnet`.
        variant: Variant of the network, as in `resnetd_tf.resnet`.

    Raises:
        WeightsUnavailable: None was published.
    """
    if depth in (18, 34) and variant == "base":
        variant = "b"
    if (depth, variant) not in PUBLISHED:
        raise WeightsUnavailable(f"no ImageNet weights were published for depth {depth}, variant {variant}")
    return PUBLISHED[depth, variant]


def fetch_safetensors(published: PublishedWeights) -> pathlib.Path:
    """Fetches a checkpoint into huggingface_hub's cache if it is not there, and checks it against the hub's SHA-256.

    Returns:
        The file in the cache.

    Raises:
        WeightsUnavailable: The file is not cached and cannot be fetched, or it is damaged.
    """
    huggingface_hub = _import_huggingface_hub()
    url = huggingface_hub.hf_hub_url(published.source, WEIGHTS_FILE)
    path = huggingface_hub.try_to_load_from_cache(published.source, WEIGHTS_FILE)
    try:
        if not isinstance(path, str):
            _probe(url)  # huggingface_hub itself keeps trying for half a minute
            path = huggingface_hub.hf_hub_download(published.source, WEIGHTS_FILE)
    except Exception as error:  # the network, the hub and the disk have many errors
        raise WeightsUnavailable(
            f"ImageNet weights: cannot fetch {url} ({root_cause_text(error)}); fetch it where there is a network "
            f"and give it as --weights={WEIGHTS_FILE}"
        ) from error
    blob = pathlib.Path(path).resolve()
    if re.fullmatch(r"[0-9a-f]{64}", blob.name):  # the cache stores large files under their SHA-256
        with blob.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != blob.name:
                pathlib.Path(path).unlink()
                blob.unlink(missing_ok=True)
                raise WeightsUnavailable(
                    f"ImageNet weights: {url} came damaged and was deleted; run again to fetch it anew"
                )
    return pathlib.Path(path)


def fetch_keras(depth: int) -> tuple[keras.Model, pathlib.Path]:
    """Fetches the ImageNet weights of keras.applications if Keras has not cached them.

    Returns:
        The ResNet of keras.applications with these weights, and their file in Keras's cache.

    Raises:
        WeightsUnavailable: The weights are not cached and cannot be fetched.
    """
    name = f"resnet{depth}_weights_tf_dim_ordering_tf_kernels.h5"
    url = f"https://storage.googleapis.com/tensorflow/keras-applications/resnet/{name}"
    cache = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models" / name
    try:
        if not cache.is_file():
            _probe(url)  # Keras itself waits without a time limit
        return getattr(keras.applications, f"ResNet{depth}")(weights="imagenet"), cache
    except WeightsUnavailable:
        raise
    except Exception as error:  # the network and the disk have many errors
        raise WeightsUnavailable(
            f"ImageNet weights: cannot fetch {url} ({root_cause_text(error)}); fetch it where there is a network "
            f"and put it at {cache}"
        ) from error


def _probe(url: str) -> None:
    """Raises an error unless `url` answers within ten seconds."""
    _import_huggingface_hub().get_session().head(url, timeout=10, follow_redirects=True).raise_for_status()


def _import_huggingface_hub():
    """Imports huggingface_hub, which the extra "train" installs.

    Raises:
        WeightsUnavailable: It is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsUnavailable(
            f"ImageNet weights: fetching needs huggingface_hub ({error}); pip install 'resnetd_tf[train]' brings it"
        ) from error
    return huggingface_hub
