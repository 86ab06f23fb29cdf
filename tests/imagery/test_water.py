"""Water by an index of two bands: the threshold, the probabilities of cells, and shores in the scene's pixels."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from rasterio.windows import Window
from scenes import colour_classifier, read_classes, write_scene

from resnetd_tf.imagery import water
from resnetd_tf.imagery.landcover import MapOptions, open_scene_for, write_map
from resnetd_tf.sentinel2 import CLASSES

NDWI, _, COLOURS = water.KINDS
SHORE = 100  # the column at which the water begins


def draw_coast(names: tuple[str, ...]) -> np.ndarray:
    """Digital numbers (192, 192, bands) of land, and of water from the column `SHORE` on."""
    land = {"B04": 1200, "B03": 1100, "B02": 1150, "B08": 2500, "B11": 2200}
    sea = {"B04": 500, "B03": 800, "B02": 1000, "B08": 250, "B11": 90}
    noise = np.random.default_rng(0).integers(-40, 40, (192, 192, len(names)))
    pixels = np.array([land[name] for name in names]) + noise
    pixels[:, SHORE:] = (np.array([sea[name] for name in names]) + noise)[:, SHORE:]
    return pixels.astype("uint16")


def write_coast(folder, names: tuple[str, ...]) -> str:
    return write_scene(folder / "coast.tif", draw_coast(names))


def open_coast(folder, names: tuple[str, ...], **options):
    return open_scene_for(colour_classifier(), [write_coast(folder, names)], bands=names, **options)


@pytest.mark.parametrize("names", [("B04", "B03", "B02", "B08"), ("B04", "B03", "B02", "B11")])
def test_the_pixels_of_a_map_end_at_the_shore(tmp_path, names):
    scene = open_coast(tmp_path, names)
    options = MapOptions(full_resolution=True, applicability="off")
    write_map(colour_classifier(), scene, tmp_path / "map", options)
    classes = read_classes(tmp_path / "map_landcover.tif")
    assert (classes[:, SHORE:] == 1).all() and (classes[:, :SHORE] != 1).all()


def test_the_legend_has_every_class_that_is_drawn(tmp_path, monkeypatch):
    """A pond is too small for a cell of its own, but not for the scene's pixels."""
    names, labels = ("B04", "B03", "B02", "B08"), []
    pixels = draw_coast(names)
    pond = pixels[:20, SHORE : SHORE + 20].copy()
    pixels[:, SHORE:] = pixels[:, : 192 - SHORE]
    pixels[64:84, 32:52] = pond
    monkeypatch.setattr(
        Figure, "legend", lambda figure, handles, **options: labels.extend(map(Patch.get_label, handles))
    )
    path = write_scene(tmp_path / "pond.tif", pixels)
    scene = open_scene_for(colour_classifier(), [path], bands=names, offset=0)
    write_map(colour_classifier(), scene, tmp_path / "map", MapOptions(full_resolution=True, applicability="off"))
    assert (read_classes(tmp_path / "map_landcover.tif") == 1).sum() == 400
    assert "SeaLake" in labels


def test_the_areas_of_a_map_of_pixels_are_those_of_its_pixels(tmp_path):
    scene = open_coast(tmp_path, ("B04", "B03", "B02", "B08"))
    options = MapOptions(full_resolution=True, applicability="off")
    result = write_map(colour_classifier(), scene, tmp_path / "map", options)
    assert result["shares"]["SeaLake"] == pytest.approx((192 - SHORE) / 192, abs=1e-3)


def test_an_empty_infrared_makes_no_water(tmp_path):
    names = ("B04", "B03", "B02", "B08")
    pixels = draw_coast(names)
    pixels[..., 3] = 0
    scene = open_scene_for(colour_classifier(), [write_scene(tmp_path / "empty.tif", pixels)], bands=names)
    assert scene.water_index is None or "B08" not in scene.water_index.kind.name


def test_pixels_without_infrared_are_not_known(tmp_path):
    names = ("B04", "B03", "B02", "B08")
    pixels = draw_coast(names)
    pixels[:60, :, 3] = 0
    scene = open_scene_for(colour_classifier(), [write_scene(tmp_path / "cut.tif", pixels)], bands=names)
    water_pixels = scene.read_water(Window(0, 0, 192, 192))
    assert (water_pixels[:60] == water.UNKNOWN).all() and (water_pixels[60:, :SHORE] == 0).all()
    assert (water_pixels[60:, SHORE:] == 1).all()


def test_the_classifier_decides_where_it_is_wanted(tmp_path):
    scene = open_coast(tmp_path, ("B04", "B03", "B02", "B08"), use_water_index=False)
    assert scene.water_index is None and "NDWI" not in scene.description


def test_a_scene_without_infrared_and_clear_sea_has_no_index(tmp_path):
    pixels = np.random.default_rng(0).integers(700, 2000, (128, 128, 3), "uint16")
    scene = open_scene_for(colour_classifier(), [write_scene(tmp_path / "s.tif", pixels)], bands=("B04", "B03", "B02"))
    assert scene.water_index is None


def test_the_threshold_lies_between_land_and_water():
    values = np.concatenate([np.full(500, -0.5), np.full(500, 0.4)]) + np.random.default_rng(0).normal(0, 0.05, 1000)
    assert -0.1 <= water.find_threshold(values, NDWI) <= 0.2


def test_land_alone_is_divided_at_the_threshold_of_the_paper():
    values = np.concatenate([np.full(500, -0.7), np.full(500, -0.4)]) + np.random.default_rng(0).normal(0, 0.02, 1000)
    assert water.find_threshold(values, NDWI) == 0


def test_colours_tell_no_water_between_forest_and_fields():
    noise = np.random.default_rng(0).normal(0, 0.03, 1000)
    assert water.find_threshold(np.concatenate([np.full(500, 0.05), np.full(500, 0.33)]) + noise, COLOURS) is None


def test_colours_tell_clear_sea_from_forest():
    noise = np.random.default_rng(0).normal(0, 0.02, 1000)
    threshold = water.find_threshold(np.concatenate([np.full(200, 0.36), np.full(800, 0.5)]) + noise, COLOURS)
    assert 0.389 <= threshold <= 0.47


def test_bright_pixels_are_no_water():
    cloud = np.array([[5200.0, 4800.0], [800.0, 300.0]])
    np.testing.assert_array_equal(water.is_water(cloud, NDWI, 0.0), [False, True])


IS_WATER_CLASS = np.array([False, True, False])


@pytest.mark.parametrize(
    ("share", "probabilities", "expected"),
    [
        (1.0, (0.8, 0.1, 0.1), (0.0, 1.0, 0.0)),
        (0.0, (0.1, 0.8, 0.1), (0.5, 0.0, 0.5)),
        (0.75, (0.8, 0.1, 0.1), (0.25 * 8 / 9, 0.75, 0.25 / 9)),
        (0.2, (0.1, 0.8, 0.1), (0.1, 0.8, 0.1)),  # a river between fields
        (np.nan, (0.8, 0.1, 0.1), (0.8, 0.1, 0.1)),
    ],
)
def test_the_share_of_water_enters_the_probabilities(share, probabilities, expected):
    result = water.apply_water_shares(np.array([probabilities]), np.array([share]), IS_WATER_CLASS)
    np.testing.assert_allclose(result[0], expected, atol=1e-6)


def test_a_classifier_without_water_has_no_index():
    assert water.water_class_mask(("corn", "rice"), None) is None
    assert not water.has_eurosat_water(("corn", "rice"))
    assert water.has_eurosat_water(("land", "SeaLake")) and water.has_eurosat_water(CLASSES)
    assert not water.has_eurosat_water((*CLASSES, "lagoon"))
