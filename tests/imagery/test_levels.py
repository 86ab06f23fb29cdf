"""Levels of bands: the light of the air that L2A lacks, and dark pixels that no level has."""

import dataclasses

import numpy as np
import pytest
from scenes import colour_classifier, draw_fields, write_scene

import resnetd_tf
from resnetd_tf.data.rasters import RasterOptions
from resnetd_tf.errors import InputError
from resnetd_tf.imagery.landcover import MapOptions, open_scene_for, open_source_for
from resnetd_tf.imagery.products import find_single_source
from resnetd_tf.sentinel2 import AIR_DN, RGB_BANDS

AIR = np.array([AIR_DN[band] for band in RGB_BANDS])
NO_BANDS = RasterOptions(RGB_BANDS)


def draw_ground() -> np.ndarray:
    """Digital numbers of L2A (128, 128, 3): half forest, half fields."""
    numbers = np.random.default_rng(0).integers(0, 60, (128, 128, 3)) + np.array((150, 300, 190))
    numbers[64:] *= 6
    return numbers


def open_numbers(folder, numbers, options=NO_BANDS, name="scene.tif"):
    path = write_scene(folder / name, np.asarray(numbers).astype("uint16"))
    classifier = dataclasses.replace(colour_classifier(), metadata={"dataset": "eurosat/rgb"})
    return open_source_for(classifier, find_single_source([path]), MapOptions(raster_options=options))


def read_all(scene) -> np.ndarray:
    from rasterio.windows import Window

    return scene.read(Window(0, 0, scene.grid.width, scene.grid.height))[0]


def test_dark_l2a_gets_the_light_of_the_air(tmp_path):
    scene = open_numbers(tmp_path, draw_ground())
    np.testing.assert_array_equal(read_all(scene), draw_ground() + AIR)
    assert "L2A (1 % of its blue is below" in scene.description and "--level=L1C" in scene.description


def test_l1c_stays_as_it_is(tmp_path):
    numbers = draw_ground() + AIR
    scene = open_numbers(tmp_path, numbers)
    np.testing.assert_array_equal(read_all(scene), numbers)
    assert "L2A" not in scene.description


def test_the_name_tells_the_level(tmp_path):
    scene = open_numbers(tmp_path, draw_ground() + 500, name="S2B_MSIL2A_20240601_T33TUL.tif")
    assert "L2A (by its name)" in scene.description


def test_a_level_as_given_is_not_doubted(tmp_path):
    scene = open_numbers(tmp_path, draw_ground(), RasterOptions(RGB_BANDS, level="L1C"))
    np.testing.assert_array_equal(read_all(scene), draw_ground())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda numbers: numbers * 1.6, r"--scale=0\.\d+"),
        (lambda numbers: numbers / 2, "--scale=2;"),
        (lambda numbers: numbers[..., ::-1], "red and blue seem to be exchanged"),
        (lambda numbers: (numbers - np.percentile(numbers, 2, (0, 1))).clip(0) * 1.5, "a stretch between percentiles"),
    ],
)
def test_dark_pixels_that_l1c_cannot_have_are_refused(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        open_numbers(tmp_path, change(draw_ground() + AIR))


def test_the_scale_of_the_advice_is_accepted(tmp_path):
    numbers = (draw_ground() + AIR) * 1.6
    with pytest.raises(InputError) as error:
        open_numbers(tmp_path, numbers)
    scale = float(str(error.value).split("--scale=")[1].split(";")[0])
    assert open_numbers(tmp_path, numbers, RasterOptions(RGB_BANDS, scale=scale))


def test_a_picture_has_no_level(tmp_path):
    path = write_scene(tmp_path / "x.tif", draw_fields(200, 200), photometric="RGB")
    with pytest.raises(InputError, match=r"--level=L2A: .* grey levels as EuroSAT's, to which no light"):
        open_scene_for(resnetd_tf.eurosat(), [path], level="L2A")


def test_a_tci_takes_the_level_that_is_given(tmp_path):
    path = write_scene(tmp_path / "T33TUL_MSIL2A_TCI_10m.tif", draw_fields(200, 200), photometric="RGB")
    scenes = [open_scene_for(resnetd_tf.eurosat(), [path], level=level) for level in ("L1C", "L2A")]
    without_air, with_air = map(read_all, scenes)
    np.testing.assert_allclose(with_air.astype(float), without_air + AIR, atol=1)


def test_a_stretched_picture_is_refused_by_its_grey_levels(tmp_path):
    pixels = draw_fields(200, 200).astype(float)
    pixels = ((pixels - np.percentile(pixels, 3, (0, 1))) * 2).clip(0, 255).astype("uint8")
    path = write_scene(tmp_path / "x.tif", pixels, photometric="RGB")
    message = "ends at grey levels 0, 0 and 0, as after a stretch .* or --rendering=eurosat takes the grey levels"
    with pytest.raises(InputError, match=message):
        open_scene_for(resnetd_tf.eurosat(), [path])
    assert open_scene_for(resnetd_tf.eurosat(), [path], rendering="eurosat").is_picture


def test_a_level_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="--level=L3"):
        RasterOptions(level="L3")
