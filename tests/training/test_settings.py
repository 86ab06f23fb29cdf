"""Settings and recipes."""

import pytest

from resnetd_tf.errors import InputError
from resnetd_tf.training.settings import RECIPES, Settings


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_what_is_not_given(recipe):
    settings = Settings(recipe=recipe)
    for name, value in RECIPES[recipe].items():
        assert getattr(settings, name) == value
    given = Settings(recipe=recipe, epochs=99, varied=0.3)
    assert given.epochs == 99 and given.varied == 0.3


def test_recipes_differ_in_the_same_settings():
    """Otherwise a setting that one of them leaves out would be `None`."""
    assert len({tuple(values) for values in RECIPES.values()}) == 1
    assert Settings() == Settings(recipe="default")


def test_recipes_are_told(program):
    text = " ".join(program("train.py", "--help").stdout.split())
    epochs = ", ".join(f"{name} {values['epochs']}" for name, values in RECIPES.items())
    assert f"--epochs: Passes over the training split. By recipe: {epochs}." in text


def test_unknown_recipe():
    with pytest.raises(InputError, match="--recipe=good: must be one of default, report, best"):
        Settings(recipe="good")


def test_cutmix_needs_another_image():
    with pytest.raises(InputError, match=r"--cutmix=0\.5: a batch of one image has no other; give a larger"):
        Settings(cutmix=0.5, batch_size=1)
    with pytest.raises(InputError, match=r"--cutmix=2\.0: must be at least 0 and at most 1"):
        Settings(cutmix=2.0)
