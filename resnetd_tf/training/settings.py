"""What a run is asked to do. The flags of train.py and metadata.json are made from it.

Imports nothing that takes long: `--help` and a mistyped flag answer at once.
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
SMALLEST_DEPTH = 10  # one block a stage, for quick tests; --help does not list it

# Default learning rates. Fine-tuning's is in the range that Kornblith et al. (arXiv 1805.08974, appendix A.5) search.
LEARNING_RATE_FROM_SCRATCH = 0.4
LEARNING_RATE_FINE_TUNING = 0.08

DEFAULT_RECIPE: dict[str, Any] = {"epochs": 10, "image_size": 224, "varied": 0.125, "label_smoothing": 0.1}
# What a recipe says of settings that are not given; for all others every recipe has the default of the field.
RECIPES = {
    "default": DEFAULT_RECIPE,
    # As plain as the report's: nothing that it does not mention but turns and label smoothing.
    "report": {**DEFAULT_RECIPE, "varied": 0.0},
    "best": {**DEFAULT_RECIPE, "epochs": 50, "image_size": 64},
}


def define_setting(default: Any, text: str, **limits: Any) -> Any:
    """A field with the text of its flag and what it may be: `choices`, or between `minimum` or `above` and `maximum` or
    `below`.
    """
    return dataclasses.field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train, on what, and how.

    `None` is what the recipe says, of a setting that recipes differ in; of `weights` it is "none", as for the networks.
    Paths become text, NumPy's numbers Python's, and numbers may be given as text.

    Raises:
        InputError: A value has another type, or is outside its range.
    """

    recipe: str = define_setting(
        "default",
        "Settings that belong together, for those that are not given: the default, report (as plain as the report's), "
        "or best (longer)",
        choices=tuple(RECIPES),
    )
    variant: str = define_setting("d", "Refinement of the network", choices=VARIANTS)
    depth: int = define_setting(50, "Layers of the network", choices=DEPTHS)
    dataset: str = define_setting(
        "eurosat/rgb", "eurosat/rgb, eurosat/all (13 bands), synthetic, folder:PATH or the name of a TFDS dataset."
    )
    data_dir: str | None = define_setting(
        None, "Where TFDS keeps datasets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."
    )
    eurosat_zip: str | None = define_setting(
        None, "A EuroSAT archive to prepare the dataset from instead of downloading it."
    )
    split_files: str | None = define_setting(
        None,
        "TRAIN,VALIDATION,TEST: three lists of file names, one a line, that say which images the splits have; default "
        "70/20/10, or the dataset's own splits.",
    )
    bands: str | None = define_setting(
        None, "Names of the bands of raster files that do not say them, in their order, as B04,B03,B02."
    )
    offset: float | None = define_setting(
        None, "Added to the numbers that raster files store; default what a product or the file says, else 0."
    )
    scale: float | None = define_setting(
        None,
        "Digital numbers (10,000 times the reflectance) for each unit that raster files store, after the offset; "
        "default what the file says, else 1.",
    )
    image_size: int = define_setting(
        None, "Side in pixels to which the model resizes images; at least 32.", minimum=32, maximum=LARGEST_SIDE
    )
    epochs: int = define_setting(None, "Passes over the training split.", minimum=1, maximum=10**6)
    batch_size: int = define_setting(32, "Images in a step, over all devices.", minimum=1, maximum=10**6)
    learning_rate: float | None = define_setting(
        None,
        # Goyal et al., arXiv 1706.02677
        "Highest learning rate at a batch of 256, scaled with the batch size; default 0.4 from random weights, else "
        "0.08.",
        above=0,
        maximum=1e38,  # of float32
    )
    # arXiv 1812.01187, section 3.1; a cosine brings it back to zero, section 5.1
    warmup_epochs: float = define_setting(0.5, "Epochs in which the learning rate rises from zero.", minimum=0)
    momentum: float = define_setting(0.9, "Momentum of Nesterov's accelerated gradient.", minimum=0, below=1)
    # Section 3.1: not of biases, not of batch normalisation
    weight_decay: float = define_setting(
        5e-3, "Share of every kernel that a step takes away, times the learning rate.", minimum=0, maximum=1
    )
    varied: float = define_setting(
        None,
        "Share of training images, of RGB, that get noise, blur, JPEG, other brightness and so on; all are flipped and "
        "turned.",
        minimum=0,
        maximum=1,
    )
    # arXiv 1905.04899
    cutmix: float = define_setting(
        0.0,
        "Share of training images that get a rectangle of another, labels mixed by area: for maps.",
        minimum=0,
        maximum=1,
    )
    label_smoothing: float = define_setting(
        None, "Probability given to all classes evenly.", minimum=0, below=1
    )  # section 5.2
    weights: str = define_setting(
        "auto",
        "What to start from: imagenet (published weights), eurosat (the classifier that comes with this package), none "
        "(random), auto (imagenet if they can be had, else none), or a file: .keras, .weights.h5 or .safetensors of "
        "ours, .safetensors of timm's or torchvision's.",
    )
    freeze: str = define_setting(
        "none",
        "What training leaves as it is; backbone is all but the head, the last layer",
        choices=("none", "stem", "backbone"),
    )
    synchronized: bool = define_setting(
        False, "Batch-norm statistics over all devices, for small batches on each; else each device's own."
    )
    precision: str = define_setting(
        "auto", "Precision of training; what is saved is float32", choices=("auto", "float32", "bfloat16", "float16")
    )
    seed: int = define_setting(0, "Seed for weights, shuffling and augmentation.", minimum=0, maximum=2**32 - 1)
    deterministic: bool = define_setting(
        False, "The same weights to the last digit from the same seed, machine and number of threads."
    )
    checkpoint_minutes: float = define_setting(
        5.0, "Minutes from one checkpoint to the next, within an epoch; one is written at its end too.", above=0
    )
    output_dir: str | None = define_setting(None, "Base path of the model; default saved_models/resnet50d and so on.")

    def __post_init__(self) -> None:
        if self.weights is None:  # of keras.applications, and of our networks, random weights
            object.__setattr__(self, "weights", "none")  # the class is frozen
        types = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _convert(field, types[field.name], getattr(self, field.name)))
        for name, value in RECIPES.get(self.recipe, {}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for field in dataclasses.fields(self):
            problem = _find_problem(getattr(self, field.name), **field.metadata)
            smallest = field.name == "depth" and self.depth == SMALLEST_DEPTH
            if problem and not smallest:
                raise InputError(f"--{field.name}={getattr(self, field.name)}: {problem}")
        if self.weights == "none" and self.freeze != "none":
            raise InputError(f"--freeze={self.freeze}: random weights would stay as they are; give --weights")
        if self.cutmix and self.batch_size < 2:
            raise InputError(f"--cutmix={self.cutmix}: a batch of one image has no other; give a larger --batch_size")
        if self.warmup_epochs > self.epochs:
            raise InputError(f"--warmup_epochs={self.warmup_epochs}: must be at most --epochs={self.epochs}")

    @property
    def base(self) -> str:
        """Base path of the model: each run becomes its next version."""
        return self.output_dir or f"saved_models/resnet{self.depth}{self.variant.removeprefix('base')}"


def _convert(field: dataclasses.Field, annotation: Any, value: Any) -> Any:
    """The value of a setting as the type that its field has.

    Args:
        field: The field of the setting.
        annotation: Its type: `str`, `int`, `float`, `bool`, or one of them or `None`.
        value: What was given for it.

    Raises:
        InputError: It is of another type, and cannot mean but one value of this.
    """
    kind, *optional = typing.get_args(annotation) or (annotation,)
    if value is None and (optional or field.name in DEFAULT_RECIPE):
        return None
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # NumPy's
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
    """What is wrong with the value of a setting, `None` if nothing is."""
    if choices and value not in choices:
        return f"must be one of {', '.join(map(str, choices))}"
    if not limits or value is None:
        return None
    within = {
        "minimum": ("at least", operator.ge),
        "above": ("above", operator.gt),
        "maximum": ("at most", operator.le),
        "below": ("below", operator.lt),
    }
    if isinstance(value, float) and not math.isfinite(value):
        return "must be a finite number"
    kept = all(within[name][1](value, limit) for name, limit in limits.items())
    words = (f"{within[name][0]} {limit}" for name, limit in limits.items())
    return None if kept else f"must be {' and '.join(words)}"
