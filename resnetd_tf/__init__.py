"""ResNet-50 and its B, C and D refinements for land-cover classification of Sentinel-2 imagery."""

from resnetd_tf.networks.resnet import ResNet50, ResNet50B, ResNet50C, ResNet50D, resnet

__all__ = ["ResNet50", "ResNet50B", "ResNet50C", "ResNet50D", "resnet"]
