"""Where a classifier applies: how unlike its training images an image is.

A classifier names one of its classes whatever it sees. Its probabilities do not say that it has never seen the like,
its features do. Those of training images lie near a plane of few dimensions; dissimilarity is the distance from it.
Meyer and Pebesma (2021, arXiv 2005.07939) call the places that are like the training data the area of applicability.
"""

import base64
import dataclasses
import json
import pathlib
from dataclasses import dataclass

import keras
import numpy as np
import safetensors.numpy

from resnetd_tf import rundir
from resnetd_tf.errors import damage_as_input_error

FILE_NAME = "applicability.safetensors"  # beside the file of a classifier
SCORE_KEY = "applicability"  # entry of the header of a classifier's .safetensors file
COMPONENTS = 64  # principal components; 128 tell hardly better
QUANTILE = 0.99  # of validation images lie within the limit
FEWEST_IMAGES = 100  # validation images that such a quantile takes


@dataclass(frozen=True)
class Applicability:
    """The plane near which the features of training images lie.

    The features are square roots of the pooled features, which are never negative: a few large ones would outweigh all
    others.

    Attributes:
        mean: (features,) float32, the mean of the features.
        components: (components, features) float32, their principal components.
        limit: The distance that `QUANTILE` of the validation images have at most.
    """

    mean: np.ndarray
    components: np.ndarray
    limit: float

    def dissimilarity(self, pooled: np.ndarray) -> np.ndarray:
        """Returns how unlike the training images are, (n,) float32: 0 on the plane, above 1 beyond the limit.

        Args:
            pooled: (n, features) float32, the outputs of the network's last pooling.
        """
        return keras.ops.convert_to_numpy(self.dissimilarity_tensor(pooled))

    def dissimilarity_tensor(self, pooled):
        """Returns the dissimilarities of a tensor as a tensor, for a graph."""
        ops = keras.ops
        components = ops.convert_to_tensor(self.components)
        offsets = ops.sqrt(ops.maximum(pooled, 0)) - self.mean
        residuals = offsets - ops.matmul(ops.matmul(offsets, ops.transpose(components)), components)
        return ops.sqrt(ops.sum(residuals * residuals, axis=1)) / self.limit


def fit_applicability(training: np.ndarray, validation: np.ndarray) -> Applicability:
    """Fits the plane to the features of training images, and its limit to those of validation images.

    Args:
        training: (n, features) float32, pooled features of training images, changed as training changes them.
        validation: (m, features) float32, pooled features of validation images, changed alike.
    """
    features = np.sqrt(np.maximum(training, 0, dtype="float64"))
    mean = features.mean(0)
    covariance = (features - mean).T @ (features - mean) / len(features)
    components = np.linalg.eigh(covariance)[1][:, : -COMPONENTS - 1 : -1].T
    plane = Applicability(mean.astype("float32"), np.ascontiguousarray(components, "float32"), limit=1.0)
    limit = float(np.quantile(plane.dissimilarity(validation), QUANTILE))
    return dataclasses.replace(plane, limit=max(limit, 1e-7))  # also of features that are all equal


def _to_bytes(applicability: Applicability) -> bytes:
    tensors = {
        "mean": applicability.mean,
        "components": applicability.components,
        "limit": np.array([applicability.limit], "float64"),
    }
    return safetensors.numpy.save(tensors)


def _from_bytes(content: bytes) -> Applicability:
    tensors = safetensors.numpy.load(content)
    mean, components, (limit,) = tensors["mean"], tensors["components"], tensors["limit"].tolist()
    if components.shape[1:] != mean.shape or not limit > 0:
        raise ValueError(f"components {components.shape} for a mean {mean.shape}, limit {limit}")
    return Applicability(mean, components, limit)


def header_entries(applicability: Applicability | None) -> dict[str, str]:
    """Returns the entries of a .safetensors file's header that hold it; none if it is not known.

    They are no tensors of the file, so that PyTorch finds the weights of a network alone.
    """
    return {SCORE_KEY: base64.b64encode(_to_bytes(applicability)).decode()} if applicability else {}


def write_applicability(applicability: Applicability, path: pathlib.Path) -> None:
    """Writes the file; a killed process leaves no part of it."""
    with rundir.write_atomically(path) as temporary:
        temporary.write_bytes(_to_bytes(applicability))


def read_applicability(path: pathlib.Path) -> Applicability:
    """Reads the file.

    Raises:
        InputError: The file is damaged.
    """
    with damage_as_input_error(f"{path}: cannot be read, damaged or truncated"):
        return _from_bytes(path.read_bytes())


def _read_header(path: pathlib.Path) -> dict[str, str]:
    """Reads the entries in the header of a .safetensors file without its tensors."""
    with damage_as_input_error(f"{path}: cannot be read, damaged or truncated"), path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")  # the file begins with the size of its header, which is JSON
        return json.loads(file.read(size)).get("__metadata__", {})


def find_applicability(model: pathlib.Path) -> Applicability | None:
    """Reads where the classifier in a .keras or .safetensors file applies, if that is known.

    A .safetensors file has it in its header. Otherwise, it is in a file beside the model of a run or of the package.

    Raises:
        InputError: The file is damaged.
    """
    if model.suffix == ".safetensors":
        header = _read_header(model)
        if SCORE_KEY in header:
            with damage_as_input_error(f"{model}: its entry {SCORE_KEY} cannot be read"):
                return _from_bytes(base64.b64decode(header[SCORE_KEY]))
        has_other_models = len(list(model.parent.glob("*.safetensors"))) > 2  # than itself and the score
        if has_other_models or (model.parent / "model.keras").is_file():
            return None  # the file beside it may be of another model
    path = model.with_name(FILE_NAME)
    return read_applicability(path) if path.is_file() else None
