"""Asks a classifier of ours that TensorFlow Serving runs.

server = client.connect("grpc://localhost:8500", "resnet50d")
probabilities, problems = server.classify([path.read_bytes() for path in pathlib.Path("patches").glob("*.jpg")])
classifier = client.classifier("grpc://localhost:8500", "resnet50d")  # as saved.open_classifier returns it
"""

import io
import pathlib
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image

from resnetd_tf.data.images import of_type
from resnetd_tf.deployment.serving_protocols import Grpc, Rest
from resnetd_tf.deployment.signatures import ENCODED
from resnetd_tf.errors import InputError, damage_told
from resnetd_tf.saved import SavedClassifier

BATCH = 32  # images in a request: what one batch of the server's may hold, see serving/batching.config
OUTPUTS = {"probabilities", "labels", "error", "patch_side", "largest_patch"}  # of `encoded`, that are used here


@dataclass(frozen=True)
class Server:
    """A classifier on a server.

    Attributes:
        address: As it was given.
        predict: What sends files to the signature `encoded` and returns its outputs by name.
    """

    address: str
    predict: Callable[[Sequence[bytes]], dict[str, np.ndarray]]

    def classify(self, files: Sequence[bytes]) -> tuple[np.ndarray, list[str]]:
        """Probabilities (n, classes) float32 of JPEG and PNG files of any sizes, and what is wrong with each.

        What is wrong is empty for most; a picture with something wrong has probabilities of zero.

        Raises:
            InputError: The server cannot be reached, does not answer in time, or answers something else.
        """
        if not files:
            return np.zeros((0, len(self.about()[0])), "float32"), []
        probabilities: list[np.ndarray] = []
        problems: list[str] = []
        for start in range(0, len(files), BATCH):
            some = files[start : start + BATCH]
            with damage_told(f"server {self.address}: answers what no classifier of ours does"):
                answer = self.predict(some)
                if len(answer["error"]) != len(some) or not np.isfinite(answer["probabilities"]).all():
                    raise ValueError(f"{len(answer['error'])} answers to {len(some)} images, or what are no numbers")
                probabilities.append(answer["probabilities"].astype("float32").reshape(len(some), -1))
                problems += map(str, answer["error"])
        with damage_told(f"server {self.address}: its model was replaced meanwhile", "; try again"):
            return np.concatenate(probabilities), problems

    def about(self) -> tuple[tuple[str, ...], dict]:
        """Class names, and of what size patches are, as in metadata.json; it says them with each answer."""
        with damage_told(f"server {self.address}: answers what no classifier of ours does"):
            answer = self.predict([b"no picture"])
            side, largest = (int(answer[name][0]) for name in ("patch_side", "largest_patch"))
            return tuple(map(str, answer["labels"][0])), {"patch_shape": [side, side, 3], "largest_patch": largest}


def connect(address: str, model: str, version: int | None = None, timeout: float = 30) -> Server:
    """A classifier on a server, once it is known to be one.

    Args:
        address: grpc://HOST:PORT or http://HOST:PORT, also https.
        model: Its name there.
        version: Which version; `None` for the one that the server has as its newest.
        timeout: Seconds in which a request must be answered; by HTTP, that a server may be silent.

    Raises:
        InputError: There is no such server or model, or it is no classifier of ours.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        named = parts.hostname and parts.port and not parts.path.strip("/")
        given = named and parts.scheme in ("grpc", "http", "https")
    except ValueError:
        given = False
    if not 0 < timeout < 1e6:  # no number neither
        raise InputError(f"--timeout={timeout}: give seconds, above 0 and below a million")
    if not given:
        raise InputError(f"--server={address}: give grpc://HOST:8500 or http://HOST:8501")
    protocol = Grpc if parts.scheme == "grpc" else Rest
    asked = protocol(address, parts, model, version, timeout)
    with damage_told(f"server {address}: answers what no TensorFlow Serving does"):
        outputs = asked.outputs()
    if not outputs >= OUTPUTS:
        raise InputError(
            f"server {address}: {model} is no classifier of RGB by export.py: it has no signature `{ENCODED}` with "
            f"{', '.join(sorted(OUTPUTS))}; export it anew, or give another --model_name"
        )
    return Server(address, asked.predict)


def classifier(address: str, model: str, version: int | None = None, timeout: float = 30) -> SavedClassifier:
    """A classifier on a server as one on disk, for all that takes such.

    Pictures are decoded here and sent as PNG, so that every kind of file has the answer that it has without a server.

    Args:
        address, model, version, timeout: As for `connect`; errors too.
    """
    server = connect(address, model, version, timeout)
    classes, told = server.about()

    def predict(images: np.ndarray | list[np.ndarray]) -> np.ndarray:
        probabilities, problems = server.classify([_png(image) for image in images])
        if len(probabilities) and probabilities.shape[1] != len(classes):
            raise InputError(f"server {address}: its model was replaced meanwhile; try again")
        if wrong := [problem for problem in problems if problem]:
            raise InputError(f"server {address}: {wrong[0]}")
        return probabilities

    return SavedClassifier(pathlib.Path(f"{model} at {address}"), pathlib.Path(), classes, 3, predict, told)


def _png(image: np.ndarray) -> bytes:
    (pixels,) = of_type(np.asarray(image)[np.newaxis], 3, np.dtype("uint8"))
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
