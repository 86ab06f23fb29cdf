"""Probabilities that say how often a classifier is right (Guo et al., arXiv 1706.04599)."""

import keras
import numpy as np
from scipy.optimize import minimize_scalar

STEP = 1.01  # temperatures are powers of it: what is calibrated already then has exactly 1
FURTHEST = 10.0


def temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """What to divide logits by so that the probabilities of images that were not trained on have the least log loss.

    Above 1 where a classifier is too sure of itself, below where it is not sure enough. One number, so that no image
    changes its class (section 4.2). True classes count as a little less than certain, the less the fewer the images, so
    that ten images that are all right promise no certainty (Platt 1999, section 2.2).

    Args:
        labels: (n,) true class indices.
        probabilities: (n, classes) of the classifier.

    Returns:
        A power of 1.01 from 0.1 to 10.
    """
    count = len(labels)
    logits = np.log(np.maximum(probabilities.astype("float64"), np.finfo("float32").tiny))
    doubt = 1 / (count + 2)
    true = logits[np.arange(count), labels]

    def loss(exponent: float) -> float:
        scale = STEP**-exponent
        certain = (1 - doubt) * true + doubt * logits.mean(axis=1)
        return float((np.logaddexp.reduce(logits * scale, axis=1) - certain * scale).mean())

    furthest = np.log(FURTHEST) / np.log(STEP)
    found = minimize_scalar(loss, bounds=(-furthest, furthest), method="bounded").x
    return STEP ** round(found)


def divide_logits(classifier: keras.Model, by: float) -> None:
    """Divides the weights of the head, and with them the logits.

    Args:
        classifier: As built by `networks.classifier.build`.
        by: A temperature.
    """
    head = classifier.layers[-1].get_layer("predictions")
    head.set_weights([weight / by for weight in head.get_weights()])
