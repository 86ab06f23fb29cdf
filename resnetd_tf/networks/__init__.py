"""The networks as Keras functional models, on any backend: they import without TensorFlow.

Read `resnet` first, then `classifier`, which puts the preprocessing in front of a network. `checkpoints` reads weights
from files and fits them into a network, and `pretrained` fetches published ones. `layers` has three layers that are
faster than Keras's own, and copies models back into Keras's layers.
"""

from resnetd_tf.networks import layers  # registers our layers with Keras

__all__ = ["layers"]
