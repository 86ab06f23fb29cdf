"""Settings and recipes."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import RECIPES, Settings


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_defaults(recipe):
    settings = Settings(recipe=recipe)
    for name, value in RECIPES[recipe].items():
        assert getattr(settings, name) == value
    overridden = Settings(recipe=recipe, epochs=99, varied=0.3)
    assert overridden.epochs == 99 and overridden.varied == 0.3


def test_recipes_differ_in_the_same_settings():
    """Otherwise a setting that one of them leaves out would be `None`."""
    assert len({tuple(values) for values in RECIPES.values()}) == 1
    assert Settings() == Settings(recipe="default")


def test_help_lists_the_values_of_recipes(program):
    text = " ".join(program("train.py", "--help").stdout.split())
    epochs = ", ".join(f"{name} {values['epochs']}" for name, values in RECIPES.items())
    assert f"--epochs: Number of passes over the training split. By recipe: {epochs}." in text


def test_unknown_recipe():
    with pytest.raises(InputError, match="--recipe=good: must be one of default, report, best, few"):
        Settings(recipe="good")


def test_cutmix_needs_another_image():
    with pytest.raises(InputError, match=r"--cutmix=0\.5: a batch of one image has no other; give a larger"):
        Settings(cutmix=0.5, batch_size=1)
    with pytest.raises(InputError, match=r"--cutmix=2\.0: must be at least 0 and at most 1"):
        Settings(cutmix=2.0)


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("output_dir", pathlib.Path("models/mine"), "models/mine"),
        ("data_dir", np.str_("data"), "data"),
        ("seed", np.int64(3), 3),
        ("seed", np.array(3), 3),
        ("depth", "50", 50),
        ("epochs", "3", 3),
        ("epochs", 3.0, 3),
        ("epochs", None, 10),
        ("learning_rate", "0.1", 0.1),
        ("learning_rate", np.float32(0.5), 0.5),
        ("learning_rate", None, None),
        ("warmup_epochs", 1, 1),
        ("deterministic", np.True_, True),
        ("weights", None, "none"),
        ("weights", pathlib.Path("model.keras"), "model.keras"),
    ],
)
def test_values_are_converted_to_the_type_of_their_setting(name, argument, value):
    settings = Settings(**{name: argument})
    converted = getattr(settings, name)
    assert converted == value and type(converted) is type(value)
    assert json.loads(json.dumps(dataclasses.asdict(settings))) == dataclasses.asdict(settings)
    assert dataclasses.replace(settings) == settings


@pytest.mark.parametrize(
    ("name", "argument", "message"),
    [
        ("epochs", "three", "--epochs=three: must be a whole number, not str"),
        ("epochs", 2.5, "--epochs=2.5: must be a whole number, not float"),
        ("epochs", True, "--epochs=True: must be a whole number, not bool"),
        ("epochs", float("nan"), "--epochs=nan: must be a whole number"),
        ("epochs", float("inf"), "--epochs=inf: must be a whole number"),
        ("seed", None, "--seed=None: must be a whole number, not NoneType"),
        ("seed", [1, 2], r"--seed=\[1, 2\]: must be a whole number, not list"),
        ("seed", np.arange(2), r"--seed=\[0 1\]: must be a whole number, not ndarray"),
        ("momentum", "high", "--momentum=high: must be a number"),
        ("momentum", 1j, "--momentum=1j: must be a number"),
        ("deterministic", "False", "--deterministic=False: must be True or False, not str"),
        ("deterministic", 1, "--deterministic=1: must be True or False, not int"),
        ("output_dir", 3, "--output_dir=3: must be text or a path, not int"),
        ("output_dir", b"model", "--output_dir=b'model': must be text or a path, not bytes"),
        ("variant", None, "--variant=None: must be text or a path, not NoneType"),
        ("recipe", ["best"], r"--recipe=\['best'\]: must be text or a path, not list"),
    ],
)
def test_values_of_other_types_are_refused(name, argument, message):
    with pytest.raises(InputError, match=message):
        Settings(**{name: argument})
