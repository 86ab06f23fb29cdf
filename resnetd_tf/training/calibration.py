"""Probabilities that say how often a classifier is right (Guo et al., arXiv 1706.04599)."""

import keras
import numpy as np
from scipy.optimize import minimize_scalar

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
        From 0.1 to 10, rounded: what is calibrated already has 1.
    """
    count = len(labels)
    logits = np.log(np.maximum(probabilities.astype("float64"), np.finfo("float32").tiny))
    doubt = 1 / (count + 2)
    true = logits[np.arange(count), labels]

    def loss(logarithm: float) -> float:
        scale = np.exp(-logarithm)
        certain = (1 - doubt) * true + doubt * logits.mean(axis=1)
        return float((np.logaddexp.reduce(logits * scale, axis=1) - certain * scale).mean())

    furthest = np.log(FURTHEST)
    found = minimize_scalar(loss, bounds=(-furthest, furthest), method="bounded", options={"xatol": 1e-4}).x
    return round(float(np.exp(found)), 2)


def divide_logits(classifier: keras.Model, by: float) -> None:
    """Divides the weights of the head, and with them the logits.

    Args:
        classifier: As built by `networks.classifier.build`.
        by: A temperature.
    """
    head = classifier.layers[-1].get_layer("predictions")
    head.set_weights([weight / by for weight in head.get_weights()])
