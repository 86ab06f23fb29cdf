"""Scenes and cells that are unlike the training images."""

import shutil

import numpy as np
import pytest
import rasterio
from PIL import Image
from scenes import write_scene

import resnetd_tf
from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import map_scene, open_scene_for, write_map

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
FLAGS = ("--bands=B04,B03,B02", "--level=L1C")
SAMPLE = "samples/scene.tif"


@pytest.fixture(scope="module")
def classifier():
    return resnetd_tf.eurosat()


@pytest.fixture(scope="module")
def half_noise(tmp_path_factory) -> str:
    """A scene whose upper half is the sample, and whose lower half is noise."""
    with rasterio.open(SAMPLE) as file:
        pixels = np.moveaxis(file.read((1, 2, 3)), 0, -1)
    pixels[pixels.shape[0] // 2 :] = np.random.default_rng(0).integers(0, 2750, pixels[pixels.shape[0] // 2 :].shape)
    folder = tmp_path_factory.mktemp("scenes")
    return write_scene(folder / "half.tif", pixels)


def test_cells_of_noise_are_left_empty(program, half_noise, tmp_path):
    result = program("map.py", "--model=eurosat", half_noise, *FLAGS, f"--output={tmp_path / 'm'}")
    assert result.returncode == 0, result.stderr
    with rasterio.open(tmp_path / "m_landcover.tif") as file:
        classes = file.read(1)
    with rasterio.open(tmp_path / "m_applicability.tif") as file:
        dissimilarity = file.read(1)
    middle = len(classes) // 2
    assert (classes[middle + 1 :] == 255).all() and (dissimilarity[middle + 1 :] > 1).all()
    assert (classes[: middle - 1] != 255).mean() > 0.95
    assert "of the cells are unlike the training images and left empty" in result.stdout
    assert f"{half_noise}: 5" in result.stdout  # about half of the windows, said before the map


def test_marked_cells_keep_their_class(classifier, half_noise):
    scene = open_scene_for(classifier, [half_noise], bands=("B04", "B03", "B02"), level="L1C")
    marked = map_scene(classifier, scene, applicability="off")
    assert (marked.classes != 255).all() and (marked.dissimilarity > 1).mean() > 0.4


def test_a_scene_of_noise_is_refused(bad_input, program, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), "uint8")
    Image.fromarray(noise).save(tmp_path / "noise.png")
    line = bad_input("map.py", "--model=eurosat", tmp_path / "noise.png", f"--output={tmp_path / 'm'}")
    assert "100 % of 16 windows all over it are unlike the training images; --applicability=off maps it" in line
    assert [path.name for path in tmp_path.iterdir()] == ["noise.png"]
    result = program(
        "map.py", "--model=eurosat", tmp_path / "noise.png", f"--output={tmp_path / 'm'}", "--applicability=off"
    )
    assert result.returncode == 0 and not (tmp_path / "m_applicability.tif").exists()


def test_white_is_not_advised_to_be_read_as_water(classifier, tmp_path):
    cloud = np.full((300, 300, 3), 250, "uint8")
    Image.fromarray(cloud).save(tmp_path / "cloud.png")
    scene = open_scene_for(classifier, [tmp_path / "cloud.png"])
    with pytest.raises(InputError, match="100 % of 16 windows all over it are unlike the training images; --applic"):
        write_map(classifier, scene, tmp_path / "m")


def test_a_run_knows_where_its_classifier_applies(run, program, tmp_path):
    images = synthetic.draw_scenes(12, seed=3)[0].reshape(3, 4, 64, 64, 3).swapaxes(1, 2).reshape(192, 256, 3)
    Image.fromarray(images).save(tmp_path / "scene.png")
    result = program("map.py", f"--model={run}", tmp_path / "scene.png", f"--output={tmp_path / 'm'}", "--stride=64")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "m_applicability.tif").is_file()


def test_a_savedmodel_without_its_run_has_the_score(run, program, tmp_path):
    images = synthetic.draw_scenes(12, seed=3)[0].reshape(3, 4, 64, 64, 3).swapaxes(1, 2).reshape(192, 256, 3)
    Image.fromarray(images).save(tmp_path / "scene.png")
    model = shutil.copytree(run / "1", tmp_path / "copy")
    shares = []
    for name, path in (("run", run), ("copy", model)):
        result = program("map.py", f"--model={path}", tmp_path / "scene.png", f"--output={tmp_path / name}")
        assert result.returncode == 0, result.stderr
        with rasterio.open(tmp_path / f"{name}_applicability.tif") as file:
            shares.append(file.read(1))
    np.testing.assert_allclose(*shares, atol=0.1)  # the run's is in bfloat16, where the processor has it


def test_a_model_without_a_score_says_so(run, program, tmp_path):
    images = synthetic.draw_scenes(12, seed=3)[0].reshape(3, 4, 64, 64, 3).swapaxes(1, 2).reshape(192, 256, 3)
    Image.fromarray(images).save(tmp_path / "scene.png")
    shutil.copytree(run / "run-1", tmp_path / "run-1", ignore=shutil.ignore_patterns("applicability.safetensors"))
    model = tmp_path / "run-1/model.keras"
    result = program("map.py", f"--model={model}", tmp_path / "scene.png", f"--output={tmp_path / 'm'}")
    assert result.returncode == 0 and "the model has no applicability score" in result.stdout
    assert not (tmp_path / "m_applicability.tif").exists()
