"""The settings of a run. The flags of train.py and the entries of metadata.json are made from them.

This module imports nothing slow, so that `--help` and a wrong flag answer at once.
"""

import dataclasses
import math
import numbers
import operator
import os
import typing
from dataclasses import dataclass
from typing import Any

from resnetd_tf.errors import InputError
from resnetd_tf.metadata import LARGEST_SIDE

VARIANTS = ("base", "b", "c", "d")
DEPTHS = (18, 34, 50, 101, 152)
SMALLEST_IMAGE_SIZE = 32  # pixels; a network halves its maps five times
SMALLEST_DEPTH = 10  # One block per stage, for quick tests; --help does not list it.

# Default learning rates. The one for fine-tuning is in the range of Kornblith et al. (arXiv 1805.08974, appendix A.5).
LEARNING_RATE_FROM_SCRATCH = 0.4
LEARNING_RATE_FINE_TUNING = 0.08

DEFAULT_RECIPE: dict[str, Any] = {
    "epochs": 10,
    "image_size": 224,
    "batch_size": 32,
    "varied": 0.125,
    "cutmix": 0.0,
    "label_smoothing": 0.1,
}
# The default values of the settings in which recipes differ. For all others, the field below has the default value.
RECIPES = {
    "default": DEFAULT_RECIPE,
    # As plain as the report's own: beyond what it mentions, there are only turns and label smoothing.
    "report": {**DEFAULT_RECIPE, "varied": 0.0},
    "best": {**DEFAULT_RECIPE, "epochs": 50, "image_size": 64},
    "few": {**DEFAULT_RECIPE, "epochs": 120, "image_size": 64, "batch_size": 16, "cutmix": 0.5},
}


def define_setting(default: Any, text: str, **limits: Any) -> Any:
    """Returns a dataclass field for a setting.

    Args:
        default: The default value; `None` if it depends on the recipe.
        text: The help text of its flag.
        **limits: `choices`, or `minimum` or `above` and `maximum` or `below`.
    """
    return dataclasses.field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The dataset, the network and the training settings of a run.

    For a setting in which recipes differ, `None` means the value of the recipe. For `weights`, `None` means "none" as
    for the networks. Paths become text and NumPy's numbers Python's. Numbers may be given as text.

    Raises:
        InputError: A value has another type or is outside its range.
    """

    recipe: str = define_setting(
        "default",
        "Set of defaults for the other flags: report varies no pixels, best trains longer at 64 pixels, few is "
        "for a few hundred images",
        choices=tuple(RECIPES),
    )
    variant: str = define_setting("d", "Refinement of the network", choices=VARIANTS)
    depth: int = define_setting(50, "Number of layers of the network", choices=DEPTHS)
    dataset: str = define_setting(
        "eurosat/rgb",
        "Dataset: eurosat/rgb, eurosat/all (13 bands), synthetic, folder:PATH (one folder of images per class), "
        "labels:FILE (polygons or points, with --scenes and --label) or the name of a TFDS dataset.",
    )
    data_dir: str | None = define_setting(
        None, "Folder of the TFDS datasets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."
    )
    eurosat_zip: str | None = define_setting(
        None, "A EuroSAT archive. The dataset is prepared from it instead of being downloaded."
    )
    split_files: str | None = define_setting(
        None,
        "TRAIN,VALIDATION,TEST: three text files with the file names of each split, one per line; default 70/20/10, or "
        "the dataset's own splits.",
    )
    bands: str | None = define_setting(
        None, "Band names of raster files without them, in the order of the file: B04,B03,B02."
    )
    offset: float | None = define_setting(
        None, "Number that is added to the values in raster files; default what the product or file states, else 0."
    )
    scale: float | None = define_setting(
        None,
        "Digital numbers (10,000 times the reflectance) per unit of the values in raster files, after the offset; "
        "default what the file states, else 1.",
    )
    rendering: str | None = define_setting(
        None,
        "How the producer stores reflectances, in place of --scale. Pictures: eurosat (grey levels as they are; 255 is "
        "2,750 digital numbers), tci (3,558), tci-l2a (2,000), earthengine (3,000), eobrowser (4,000; also bands of 8 "
        "and 16 bits), sentinelhub (10,000; also 16 bits). Default what the file tells, else eurosat.",
    )
    image_size: int = define_setting(
        None,
        "Side in pixels to which the model resizes images; at least 32.",
        minimum=SMALLEST_IMAGE_SIZE,
        maximum=LARGEST_SIDE,
    )
    epochs: int = define_setting(None, "Number of passes over the training split.", minimum=1, maximum=10**6)
    batch_size: int = define_setting(
        None, "Number of images in a step, over all devices together.", minimum=1, maximum=10**6
    )
    learning_rate: float | None = define_setting(
        None,
        # Goyal et al., arXiv 1706.02677
        "Highest learning rate for a batch of 256 images; it is scaled with the batch size. Default 0.4 from random "
        "weights, else 0.08.",
        above=0,
        maximum=1e38,  # of float32
    )
    # arXiv 1812.01187, section 3.1. A cosine takes the rate back to zero, section 5.1.
    warmup_epochs: float = define_setting(
        0.5, "Number of epochs in which the learning rate rises from zero.", minimum=0
    )
    # arXiv 1803.05407
    average: float = define_setting(
        0.0,
        "Share of the training, at its end, in which the learning rate stays up and the weights are averaged. The "
        "average is validated, kept and exported.",
        minimum=0,
        below=1,
    )
    momentum: float = define_setting(0.9, "Momentum of Nesterov's accelerated gradient.", minimum=0, below=1)
    # Section 3.1: neither biases nor batch normalisation decay.
    weight_decay: float = define_setting(
        5e-3,
        "Share by which every kernel shrinks in a step, times the learning rate.",
        minimum=0,
        maximum=1,
    )
    varied: float = define_setting(
        None,
        "Share of the RGB training images whose pixels are varied: noise, blur, JPEG, brightness and so on. All images "
        "are flipped and turned.",
        minimum=0,
        maximum=1,
    )
    relit: float = define_setting(
        0.0,
        "Share of the RGB training images whose light is varied: haze, atmospheric correction, sun, renderings of "
        "viewers, and colour and waves of open water. This improves maps of L2A, of pictures and of coasts.",
        minimum=0,
        maximum=1,
    )
    # arXiv 1812.04606
    unlike: float = define_setting(
        0.0,
        "Share of the RGB training images that become unlike all classes, with even labels: clouds, saturation, false "
        "colours. The classifier becomes unsure of such images.",
        minimum=0,
        maximum=1,
    )
    # arXiv 1905.04899
    cutmix: float = define_setting(
        None,
        "Share of the training images that get a part of another image, with labels mixed by area. This improves maps.",
        minimum=0,
        maximum=1,
    )
    # arXiv 1503.02531
    teacher: str | None = define_setting(
        None,
        "Classifiers, separated by commas, whose probabilities are averaged with the labels. They see training images "
        "before their water, light and pixels are varied.",
    )
    # arXiv 1812.01187, section 5.2
    label_smoothing: float = define_setting(
        None, "Probability that is spread evenly over all classes.", minimum=0, below=1
    )
    weights: str = define_setting(
        "auto",
        "Initial weights: imagenet (published weights), ssl4eo-moco, ssl4eo-dino, seco, decur, softcon or bigearthnet "
        "(published weights of Sentinel-2 images), eurosat (the classifier in this package), none (random), auto "
        "(imagenet if available, else none), or a file: .keras, .weights.h5 or .safetensors of this package, or "
        ".safetensors or .pth of timm or torchvision.",
    )
    freeze: str = define_setting(
        "none",
        "Part of the network that training leaves unchanged; the backbone is everything but the last layer",
        choices=("none", "stem", "backbone"),
    )
    keep_classes: bool = define_setting(
        False,
        "Keep the ten classes of weights that were trained on EuroSAT and add those of the dataset. Images of EuroSAT "
        "in this package are trained on too, so that the ten are not forgotten.",
    )
    synchronized: bool = define_setting(
        False,
        "Compute batch-norm statistics over all devices, which helps with small batches; otherwise each device has its "
        "own.",
    )
    precision: str = define_setting(
        "auto",
        "Precision of training; the saved model is always float32",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    seed: int = define_setting(0, "Seed for weights, shuffling and augmentation.", minimum=0, maximum=2**32 - 1)
    deterministic: bool = define_setting(
        False, "Make runs with the same seed, machine and number of threads end with exactly the same weights."
    )
    checkpoint_minutes: float = define_setting(
        5.0,
        "Minutes between checkpoints within an epoch. Every epoch ends with a checkpoint too.",
        above=0,
    )
    output_dir: str | None = define_setting(
        None, "Base path of the model; default saved_models/resnet50d, and so on for other networks."
    )

    def __post_init__(self) -> None:
        # The class is frozen, so values are set by way of `object`.
        if self.weights is None:  # Here and in keras.applications, `None` means random weights.
            object.__setattr__(self, "weights", "none")
        types = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _convert(field, types[field.name], getattr(self, field.name)))
        for name, value in RECIPES.get(self.recipe, {}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for field in dataclasses.fields(self):
            problem = _find_problem(getattr(self, field.name), **field.metadata)
            is_smallest_depth = field.name == "depth" and self.depth == SMALLEST_DEPTH
            if problem and not is_smallest_depth:
                raise InputError(f"--{field.name}={getattr(self, field.name)}: {problem}")
        if self.weights == "none" and self.freeze != "none":
            raise InputError(f"--freeze={self.freeze}: random weights would stay as they are; give --weights")
        if self.cutmix and self.batch_size < 2:
            raise InputError(f"--cutmix={self.cutmix}: a batch of one image has no other; give a larger --batch_size")
        if self.warmup_epochs > self.epochs:
            raise InputError(f"--warmup_epochs={self.warmup_epochs}: must be at most --epochs={self.epochs}")

    @property
    def base(self) -> str:
        """Base path of the model. Each run becomes its next version."""
        return self.output_dir or f"saved_models/resnet{self.depth}{self.variant.removeprefix('base')}"


def _convert(field: dataclasses.Field, annotation: Any, value: Any) -> Any:
    """Converts the value of a setting to the type of its field.

    Args:
        field: The field of the setting.
        annotation: The type of the field: `str`, `int`, `float` or `bool`, or one of them or `None`.
        value: The value as it was given.

    Raises:
        InputError: The value has another type and cannot be converted without doubt.
    """
    kind, *optional = typing.get_args(annotation) or (annotation,)
    if value is None and (optional or field.name in DEFAULT_RECIPE):
        return None
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of NumPy's
        value = value.item()
    try:
        if kind is bool and isinstance(value, bool):
            return value
        if kind is str and isinstance(text := os.fspath(value), str):
            return str(text)
        if kind in (int, float) and not isinstance(value, bool) and isinstance(value, numbers.Real | str):
            if kind is float:
                return value if isinstance(value, int) else float(value)
            if float(value).is_integer():
                return int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        pass
    expected = {bool: "True or False", str: "text or a path", int: "a whole number", float: "a number"}[kind]
    raise InputError(f"--{field.name}={str(value)[:50]}: must be {expected}, not {type(value).__name__}")


def _find_problem(value: Any, help: str, choices=(), **limits: float) -> str | None:
    """Returns what is wrong with the value of a setting, `None` if nothing is.

    Args:
        value: The value, converted.
        help: The help text; unused.
        choices: The allowed values; empty for any.
        **limits: `minimum`, `above`, `maximum` or `below`, each with its number.
    """
    if choices and value not in choices:
        return f"must be one of {', '.join(map(str, choices))}"
    if not limits or value is None:
        return None
    comparisons = {
        "minimum": ("at least", operator.ge),
        "above": ("above", operator.gt),
        "maximum": ("at most", operator.le),
        "below": ("below", operator.lt),
    }
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    if all(comparisons[name][1](value, limit) for name, limit in limits.items()):
        return None
    return f"must be {' and '.join(f'{comparisons[name][0]} {limit}' for name, limit in limits.items())}"
