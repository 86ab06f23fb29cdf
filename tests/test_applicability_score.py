"""The plane near which the features of training images lie."""

import numpy as np
import pytest

from resnetd_tf import applicability
from resnetd_tf.errors import InputError


def draw_features(count: int, seed: int) -> np.ndarray:
    """Pooled features that vary in 20 of 200 directions, and a little in all."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(0).normal(size=(20, 200))
    features = 5 + generator.normal(size=(count, 20)) @ directions * 0.2 + generator.normal(size=(count, 200)) * 0.05
    return (features**2).astype("float32")


@pytest.fixture(scope="module")
def area() -> applicability.Applicability:
    return applicability.fit_applicability(draw_features(500, 1), draw_features(500, 2))


def test_one_in_a_hundred_validation_images_is_beyond_the_limit(area):
    assert (area.dissimilarity(draw_features(500, 2)) > 1).mean() == pytest.approx(0.01, abs=0.002)


def test_images_that_vary_alike_are_within_the_limit(area):
    assert (area.dissimilarity(draw_features(1000, 3)) > 1).mean() < 0.04


def test_features_off_the_plane_are_beyond_the_limit(area):
    features = np.random.default_rng(4).uniform(0, 60, (100, 200)).astype("float32")
    assert (area.dissimilarity(features) > 1).all()


def test_a_file_gives_the_same_dissimilarity(area, tmp_path):
    applicability.write_applicability(area, tmp_path / "area.safetensors")
    features = draw_features(50, 5)
    read = applicability.read_applicability(tmp_path / "area.safetensors")
    np.testing.assert_array_equal(read.dissimilarity(features), area.dissimilarity(features))


@pytest.mark.parametrize("count", [0, 7, 1000])
def test_a_damaged_file_is_refused(area, tmp_path, count):
    path = tmp_path / "area.safetensors"
    applicability.write_applicability(area, path)
    path.write_bytes(path.read_bytes()[:count])
    with pytest.raises(InputError, match="damaged or truncated"):
        applicability.read_applicability(path)
