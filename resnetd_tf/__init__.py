"""ResNet-50 and its B, C and D refinements for land-cover classification of Sentinel-2 imagery.

Each part uses only those before it: `resnetd_tf.data`, `networks`, `imagery`, `deployment`, `evaluation`, `training`,
`cli`. They are imported by name: `import resnetd_tf.data`.
"""

import importlib

import lazy_loader
import wrapt

# On demand: Keras and TensorFlow take seconds to import, which `--help` need not wait for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "networks.checkpoints": ["statistics"],
        "networks.resnet": ["resnet", "ResNet50", "ResNet50B", "ResNet50C", "ResNet50D"],
        "saved": ["eurosat", "open_classifier"],
    },
)


@wrapt.when_imported("keras")
def _register_layers(keras) -> None:
    """Has `keras.saving.load_model` open files with our layers as soon as this package is imported."""
    importlib.import_module("resnetd_tf.networks")
