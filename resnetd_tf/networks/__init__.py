"""The networks as Keras functional models, on any backend: they import without TensorFlow.

Read `resnet` first, then `classifier` (preprocessing in front of a network); `checkpoints` and `pretrained` say where
weights come from, `batchnorm`, `convolution` and `resizing` make three layers faster, `copies` turns those into Keras's
own again.
"""

from resnetd_tf.networks import batchnorm, convolution, resizing  # registers their layers

__all__ = ["batchnorm", "convolution", "resizing"]
