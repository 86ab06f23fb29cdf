"""The networks as Keras functional models, on any backend: they import without TensorFlow.

Read `resnet` first, then `classifier`, which puts the preprocessing in front of a network. `checkpoints` and `pretrained`
say where weights come from. `layers` has three layers that are faster than Keras's own, and turns them into those again.
"""

from resnetd_tf.networks import layers  # registers our layers with Keras

__all__ = ["layers"]
