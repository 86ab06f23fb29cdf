"""Trained weights: published checkpoints of ImageNet-1k and Sentinel-2, and the classifier in this package."""

import dataclasses
import hashlib
import os
import pathlib
import re
from dataclasses import dataclass

import keras
import numpy as np

from resnetd_tf.errors import root_cause_text
from resnetd_tf.normalization import CAFFE, IMAGENET, Statistics
from resnetd_tf.sentinel2 import BRIGHTEST_DN, RENDERED_LEVELS, RGB_BANDS

WEIGHTS_FILE = "model.safetensors"
KERAS_APPLICATIONS = "keras.applications"

EUROSAT_NAME = "eurosat"  # the name of the classifier that ships with this package
EUROSAT_FILE = pathlib.Path(__file__).parents[1] / "weights" / "resnet50d-eurosat.safetensors"
EUROSAT_SHA256 = "ce84954df73eaa73796c71d08895fd7c416886af50e800fa46b61faf05a0436d"


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


@dataclass(frozen=True)
class Sentinel2Weights:
    """Published weights of variant b that were trained on Sentinel-2 images.

    Attributes:
        repository: The repository of the Hugging Face hub.
        revision: Its commit.
        file: The file in it, a .pth or .safetensors file.
        sha256: SHA-256 of the file, or its first digits; empty if its authors published none.
        licence: Licence of the weights.
        bands: Names of the bands in the order of the input channels.
        mean: Mean of each band, DN, with which the training images were normalised.
        std: Standard deviation of each band, DN.
    """

    repository: str
    revision: str
    file: str
    sha256: str
    licence: str
    bands: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def statistics(self, bands: tuple[str, ...]) -> Statistics:
        """Returns the statistics of some of the bands: in grey levels for `RGB_BANDS`, in DN for other bands.

        Grey levels are those of pictures that are rendered as EuroSAT's.
        """
        indices = [self.bands.index(band) for band in bands]
        mean, std = ([values[index] for index in indices] for values in (self.mean, self.std))
        if bands != RGB_BANDS:
            return Statistics(self.repository, tuple(mean), tuple(std), "uint16")
        levels = RENDERED_LEVELS / BRIGHTEST_DN
        mean, std = [1 + levels * value for value in mean], [levels * value for value in std]
        return Statistics(self.repository, tuple(mean), tuple(std), "uint8")


# The order in products, where B8A follows B08. EuroSAT's order is `sentinel2.BANDS`.
PRODUCT_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")


def _torchgeo(
    name: str, revision: str, sha256: str, bands: tuple[str, ...] = PRODUCT_BANDS, licence: str = "CC-BY-4.0"
) -> Sentinel2Weights:
    """Describes weights in a repository of TorchGeo's, for images of DN / 10,000."""
    mean, std = (0.0,) * len(bands), (10_000.0,) * len(bands)
    file = f"{name}-{sha256[:8]}.pth"
    return Sentinel2Weights(f"torchgeo/{name}", revision, file, sha256, licence, bands, mean, std)


def _seco(name: str, revision: str, sha256: str) -> Sentinel2Weights:
    """Describes weights of SeCo, for pictures stretched between two levels and normalised as those of ImageNet.

    The levels of red, green and blue, of which 255 is 10,000 DN, are from seco_dataset.py of ServiceNow's
    seasonal-contrast.
    """
    lowest, highest = np.array((0, 2, 3)), np.array((129, 103, 88))
    span = (highest - lowest) / 255
    mean = lowest + span * np.array(IMAGENET.mean)
    std = span * np.array(IMAGENET.std)
    weights = _torchgeo(name, revision, sha256, RGB_BANDS, "Apache-2.0")
    dn = 10_000 / 255
    return dataclasses.replace(weights, mean=tuple((dn * mean).tolist()), std=tuple((dn * std).tolist()))


# By name and depth; first those for red, green and blue alone, where there are both. Revisions, digests, bands and
# normalisation are from TorchGeo's models/resnet.py (0.10), but for SeCo's levels, whose bands 0.10 exchanges. Those of
# BigEarthNet are from configilm 0.7.1's BENv2_utils.py ("120_nearest").
SENTINEL2 = {
    ("ssl4eo-moco", 18): (
        _torchgeo(
            "resnet18_sentinel2_rgb_moco",
            "e1c032e7785fd0625224cdb6699aa138bb304eec",
            "e3a335e38d1d189ad3b0eba4be4004a9c52c5e846317b6737ac9f0fac57e1ac8",
            RGB_BANDS,
        ),
        _torchgeo(
            "resnet18_sentinel2_all_moco",
            "5b8cddc9a14f3844350b7f40b85bcd32aed75918",
            "59bfdff99c7af41adfa2557e684ec59aec79f4cf6bb1a2e9714b802f08e2222e",
        ),
    ),
    ("ssl4eo-moco", 50): (
        _torchgeo(
            "resnet50_sentinel2_rgb_moco",
            "efd9723b59a88e9dc1420dc1e96afb25b0630a3c",
            "2b57ba8b9964dbe1c409aac1bb79b4d97c19c874ffe7934799b7c8ad94ff85f0",
            RGB_BANDS,
        ),
        _torchgeo(
            "resnet50_sentinel2_all_moco",
            "da4f3c9dbe09272eb902f3b37f46635fa4726879",
            "df8b932e2a23a0773febedf3f650aa7d342b805f7876ca5ed6b139d7245d7c09",
        ),
    ),
    ("ssl4eo-dino", 50): (
        _torchgeo(
            "resnet50_sentinel2_all_dino",
            "d7f14bf5530d70ac69d763e58e77e44dbecfec7c",
            "d6c330e99fb65d7a8ed9cdf06f6ec752b9db74718fa2edf42314bf3fdf132dd4",
        ),
    ),
    ("seco", 18): (
        _seco(
            "resnet18_sentinel2_rgb_seco",
            "f8dcee692cf7142163b55a5c197d981fe0e717a0",
            "cefca942e0765c9b6dea779e83bb328c8535dc9a3d49fb90e8b294525e8ef891",
        ),
    ),
    ("seco", 50): (_seco("resnet50_sentinel2_rgb_seco", "fbd07b02a8edb8fc1035f7957160deed4321c145", "018bf397"),),
    ("decur", 50): (
        dataclasses.replace(
            _torchgeo("decur", "eba7ae5945d482a4319be046d34b552db5dd9950", "fc6b09ff", licence="Apache-2.0"),
            file="rn50_ssl4eo-s12_ms_decur_ep100-fc6b09ff.pth",
        ),
    ),
    ("softcon", 50): (
        Sentinel2Weights(
            "wangyi111/softcon",
            "62ff465b2e7467dbfc70758ec1e9d08ab87fc46b",
            "B13_rn50_softcon.pth",
            "",
            "CC-BY-4.0",
            PRODUCT_BANDS,
            (1612.9, 1397.6, 1322.3, 1373.1, 1561.0, 2108.4, 2390.7, 2318.7, 2581.0, 837.7, 22.0, 2195.2, 1537.4),
            (791.0, 854.3, 878.7, 1144.9, 1127.5, 1164.2, 1276.0, 1249.5, 1345.9, 577.5, 47.5, 1340.0, 1142.9),
        ),
    ),
    ("bigearthnet", 50): (
        Sentinel2Weights(
            "BIFOLD-BigEarthNetv2-0/resnet50-s2-v0.2.0",
            "f5a590cd5876845f62702260ff62ea5a325433bb",
            "model.safetensors",
            "",
            "MIT",
            ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
            (438.372, 614.056, 588.410, 942.843, 1769.932, 2049.552, 2193.292, 2235.557, 1568.227, 997.732),
            (607.027, 603.297, 684.569, 738.433, 1100.456, 1275.805, 1369.372, 1356.544, 1070.161, 813.528),
        ),
    ),
}
SENTINEL2_NAMES = tuple(dict.fromkeys(name for name, _ in SENTINEL2))


def find_sentinel2(name: str, depth: int, variant: str, bands: tuple[str, ...]) -> Sentinel2Weights:
    """Returns the published weights of a name for a network and for images of these bands.

    Args:
        name: One of `SENTINEL2_NAMES`.
        depth: Depth of the network, as in `resnetd_tf.resnet`.
        variant: Variant of the network, as in `resnetd_tf.resnet`. With basic blocks `base` and `b` are the same.
        bands: Names of the images' bands.

    Raises:
        WeightsUnavailable: None were published for the network, or they lack a band.
    """
    depths = [known_depth for known_name, known_depth in SENTINEL2 if known_name == name]
    if depth not in depths or not (variant == "b" or (variant == "base" and depth == 18)):
        choices = " or ".join(map(str, depths))
        raise WeightsUnavailable(
            f"weights {name} are for depth {choices}, variant b; give --variant=b and --depth={choices}"
        )
    candidates = SENTINEL2[name, depth]
    for weights in candidates:
        if set(bands) <= set(weights.bands):
            return weights
    missing = " ".join(band for band in bands if band not in candidates[-1].bands)
    raise WeightsUnavailable(
        f"weights {name} lack {missing}, which the images have; they know {' '.join(candidates[-1].bands)}"
    )


def identify_sentinel2(sha256: str) -> Sentinel2Weights | None:
    """Returns the published Sentinel-2 weights whose file has this SHA-256, if any has."""
    published = (weights for candidates in SENTINEL2.values() for weights in candidates)
    return next((weights for weights in published if weights.sha256 and sha256.startswith(weights.sha256)), None)


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


def fetch_from_hub(
    repository: str, file: str = WEIGHTS_FILE, revision: str | None = None, sha256: str = ""
) -> pathlib.Path:
    """Fetches a checkpoint into huggingface_hub's cache if it is not there, and checks its SHA-256.

    Args:
        repository: The repository of the hub.
        file: The file in it.
        revision: Its commit; `None` for the newest.
        sha256: SHA-256 of the file, or its first digits. The hub's own is always checked.

    Returns:
        The file in the cache.

    Raises:
        WeightsUnavailable: The file is not cached and cannot be fetched, or it is damaged.
    """
    huggingface_hub = _import_huggingface_hub()
    url = huggingface_hub.hf_hub_url(repository, file, revision=revision)
    path = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision)
    try:
        if not isinstance(path, str):
            _probe(url)  # huggingface_hub itself keeps trying for half a minute
            path = huggingface_hub.hf_hub_download(repository, file, revision=revision)
    except Exception as error:  # the network, the hub and the disk have many errors
        advice = f"and give it as --weights={file}"
        if revision:
            cache = f"{huggingface_hub.constants.HF_HUB_CACHE}/models--{repository.replace('/', '--')}"
            advice = (
                f"(hf download {repository} {file} --revision={revision}) and copy that folder of its cache to {cache}"
            )
        raise WeightsUnavailable(
            f"weights: cannot fetch {url} ({root_cause_text(error)}); fetch it where there is a network {advice}"
        ) from error
    blob = pathlib.Path(path).resolve()
    with blob.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    # The cache stores large files under their SHA-256.
    expected = blob.name if re.fullmatch(r"[0-9a-f]{64}", blob.name) else ""
    if not digest.startswith(expected) or not digest.startswith(sha256):
        pathlib.Path(path).unlink()
        blob.unlink(missing_ok=True)
        raise WeightsUnavailable(
            f"weights: {url} came damaged, with SHA-256 {digest[:8]}... instead of {(sha256 or expected)[:8]}..., and "
            "was deleted; run again to fetch it anew"
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
            f"published weights: fetching needs huggingface_hub ({error}); pip install 'resnetd_tf[train]' brings it"
        ) from error
    return huggingface_hub
