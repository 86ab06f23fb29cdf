"""Arrays in and out, for notebooks."""

import json

import numpy as np
import pytest
import rasterio
import rasterio.warp
from PIL import Image
from scenes import colour_classifier, draw_fields, predict_by_colour, write_scene

from resnetd_tf import imagery, sentinel2
from resnetd_tf.errors import InputError
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS


def test_a_map_of_an_array_is_that_of_its_file(tmp_path):
    pixels = draw_fields(300, 250)
    pixels[:, 200:] = 0
    path = write_scene(tmp_path / "scene.tif", pixels)
    scene = imagery.open_scene_for(colour_classifier(), [path])
    from_file = imagery.map_scene(colour_classifier(), scene, min_probability=0.6)
    from_array = imagery.map_scene(colour_classifier(), pixels, min_probability=0.6)
    np.testing.assert_array_equal(from_array.classes, from_file.classes)
    np.testing.assert_array_equal(from_array.probabilities, from_file.probabilities)
    assert from_array.classes.shape == (10, 8)
    assert (from_array.classes[:, 7] == 255).all() and from_array.classes.min() < 4
    assert imagery.map_scene(colour_classifier(), pixels, stride=64).classes.shape == (5, 4)


def test_data_arrays(tmp_path):
    """An array with coordinates is mapped as its GeoTIFF is, and the map has coordinates too."""
    rioxarray = pytest.importorskip("rioxarray")
    dn = np.random.default_rng(0).integers(700, 2700, (3, 320, 256), "uint16")
    dn[1] += 300
    dn[2] += 600
    path = tmp_path / "scene.tif"
    profile = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000), "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", width=256, height=320, count=3, dtype="uint16", **profile) as file:
        file.write(dn)
        file.descriptions = RGB_BANDS
    array = rioxarray.open_rasterio(path).assign_coords(band=list(RGB_BANDS))
    array.attrs.pop("long_name")
    from_file = imagery.map_scene(colour_classifier(), path)
    from_array = imagery.map_scene(colour_classifier(), array)
    np.testing.assert_array_equal(from_array.classes, from_file.classes)
    dataset = from_array.to_xarray()
    assert dataset["classes"].rio.crs.to_epsg() == 32633 and dataset["classes"].shape == (10, 8)
    assert dataset["classes"].rio.transform() == rasterio.Affine(320, 0, 500_000, 0, -320, 5_000_000)
    assert float(dataset.x[0]) == 500_160 and float(dataset.y[-1]) == 5_000_000 - 3200 + 160
    assert dataset["probabilities"].dims == ("class", "y", "x")
    assert dataset["classes"].attrs["flag_meanings"].split() == list(colour_classifier().classes)
    as_read = rioxarray.open_rasterio(path)
    for variant in (as_read[::-1], as_read.sel(band=[3, 1, 2]), array.transpose("band", "x", "y")):
        land_cover = imagery.map_scene(colour_classifier(), variant)
        np.testing.assert_array_equal(land_cover.classes, from_file.classes)
    with pytest.raises(InputError, match="an array of y x x; give band x y x x"):
        imagery.map_scene(colour_classifier(), array[0])
    with pytest.raises(InputError, match="its coordinates x are uneven"):
        imagery.map_scene(colour_classifier(), array[:, :, np.arange(200) ** 2 // 200])


def test_an_area_of_a_scene(tmp_path):
    path = write_scene(tmp_path / "scene.tif", draw_fields(640, 640))
    with rasterio.open(path) as file:
        points = [file.transform * corner for corner in ((0, 0), (640, 0), (0, 640), (0, 0))]
        xs, ys = rasterio.warp.transform(file.crs, "EPSG:4326", *zip(*points))
    area = tmp_path / "triangle.geojson"
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [list(zip(xs, ys))]}))
    scene = imagery.open_scene_for(colour_classifier(), [path], area=str(area))
    classes = imagery.map_scene(colour_classifier(), scene).classes
    map_result = imagery.write_map(colour_classifier(), scene, tmp_path / "map")
    assert 150 < map_result["cells"] < 250 and (classes != 255).sum() == map_result["cells"]


def test_bands_are_rendered_as_those_from_files_are():
    dn = np.random.default_rng(0).integers(0, 3000, (2, 64, 64, 13), "uint16")
    colours = dn[..., [BANDS.index(name) for name in RGB_BANDS]]
    expected = predict_by_colour([sentinel2.compress_as_eurosat(sentinel2.render_colours(image)) for image in colours])
    np.testing.assert_array_equal(imagery.predict(colour_classifier(), dn), expected)
    np.testing.assert_array_equal(imagery.predict(colour_classifier(), list(colours)), expected)
    np.testing.assert_array_equal(imagery.predict(colour_classifier(), dn.astype(">u2")), expected)
    land_cover = imagery.map_scene(colour_classifier(), dn[0], window=64, stride=64)
    np.testing.assert_allclose(land_cover.probabilities[0, 0], expected[0], atol=1e-6)


def test_files_and_arrays_together(tmp_path):
    pixels = draw_fields(64, 64)
    Image.fromarray(pixels).save(tmp_path / "patch.png")
    probabilities = imagery.predict(colour_classifier(), [pixels, tmp_path / "patch.png", str(tmp_path / "patch.png")])
    assert probabilities.shape == (3, 4) and (probabilities == probabilities[0]).all()


@pytest.mark.parametrize(
    ("convert", "message"),
    [
        (lambda dn: dn // 20, "less than 14. DN in every colour.* checked=False"),
        (lambda dn: dn + 1000, "its darkest band is at 1,1.. DN or more"),
    ],
)
def test_numbers_that_can_hardly_be_digital_numbers_are_refused(convert, message):
    """As in files, unless the caller says that they are right."""
    dn = np.random.default_rng(0).integers(100, 3000, (64, 64, 3), "uint16")
    with pytest.raises(InputError, match=message):
        imagery.map_scene(colour_classifier(), convert(dn))
    assert imagery.map_scene(colour_classifier(), convert(dn), checked=False).classes.shape == (2, 2)
    assert (imagery.map_scene(colour_classifier(), dn * 0).classes == 255).all()


def test_arrays_of_another_shape_or_type_are_refused():
    for array, message in (
        (np.zeros((64, 64), "uint8"), r"has shape \(64, 64\); give \(height, width, bands\)"),
        (np.zeros((64, 64, 3)), "is float64 of 3 bands; give grey levels of RGB as uint8, or digital numbers"),
        (np.zeros((64, 64, 13), "uint8"), "is uint8 of 13 bands"),
        (np.zeros((64, 64, 4), "uint16"), "takes 3 bands, .* has 4"),
    ):
        with pytest.raises(InputError, match=message):
            imagery.map_scene(colour_classifier(), array)
        with pytest.raises(InputError, match=message):
            imagery.predict(colour_classifier(), [array])


@pytest.mark.parametrize("stride", [24, 0])
def test_a_stride_that_does_not_divide_the_window_is_refused(stride):
    with pytest.raises(InputError, match=f"must be a multiple of --stride={stride}"):
        imagery.map_scene(colour_classifier(), draw_fields(64, 64), stride=stride)
