"""Parts of scenes: their outlines, their cells, and the hectares of what lies in them."""

import json

import numpy as np
import pytest
import rasterio
import rasterio.warp
from rasterio.windows import Window
from scenes import colour_classifier, draw_fields, predict_by_colour
from test_grid import SIDE, geodesic_hectares, measure_hectares, scene_transform, write

from resnetd_tf.errors import InputError
from resnetd_tf.imagery import sliding_window
from resnetd_tf.imagery.landcover import map_scene
from resnetd_tf.imagery.products import open_scene
from resnetd_tf.imagery.scene import area_coverage, crop_to_area

UTM = "EPSG:32633"


@pytest.fixture(scope="module")
def scene_path(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("scene") / "scene.tif", UTM, scene_transform(UTM, 15, 45, (10, 10)))


def in_degrees(scene, pixels) -> list:
    """Longitude and latitude of columns and rows of a scene."""
    points = [scene.grid.transform * pixel for pixel in pixels]
    return list(zip(*rasterio.warp.transform(scene.grid.crs, "EPSG:4326", *zip(*points))))


def geojson(path, *polygons, **geometry) -> str:
    """Writes polygons, each its rings."""
    shape = {"type": "MultiPolygon", "coordinates": polygons, **geometry}
    path.write_text(json.dumps(shape))
    return str(path)


def turned_square(hectares: float, middle: tuple[float, float], angle: float) -> np.ndarray:
    """Columns and rows (5, 2) of a square field in pixels of 10 m."""
    half = np.sqrt(hectares * 100) / 2
    corners = half * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)])
    turn = np.radians(angle)
    return corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + middle


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("hectares", [1, 5, 10, 100])
def test_fields_have_their_hectares(tmp_path, scene_path, hectares, stride):
    scene = open_scene([scene_path])
    for angle, middle in ((0, (150.3, 160.7)), (25, (161.9, 149.2)), (45, (155, 155))):
        ring = in_degrees(scene, turned_square(hectares, middle, angle))
        part = crop_to_area(scene, geojson(tmp_path / "field.geojson", [ring]))
        assert measure_hectares(part, stride) == pytest.approx(hectares, rel=1e-3)


def test_a_box_has_its_hectares(scene_path):
    scene = open_scene([scene_path])
    (west, south), (east, north) = in_degrees(scene, [(100.25, 220.5), (150.75, 180.25)])
    part = crop_to_area(scene, f"{west},{south},{east},{north}")
    assert measure_hectares(part, 16) == pytest.approx(50.5 * 40.25 / 100, rel=5e-3)


@pytest.mark.parametrize(("height", "width", "stride"), [(65, 65, 32), (500, 500, 32), (64, 100, 16), (30, 20, 64)])
def test_scenes_have_their_hectares(tmp_path, height, width, stride):
    transform = scene_transform(UTM, 15, 45, (10, 10))
    scene = open_scene([write(tmp_path / "scene.tif", UTM, transform, draw_fields(height, width))])
    assert measure_hectares(scene, stride) == pytest.approx(height * width / 100)


def test_hectares_are_those_of_data_within_the_outline(tmp_path):
    """Half of a field is under no data: that half does not count, whichever part of a cell the field is."""
    pixels = draw_fields(SIDE, SIDE)
    pixels[:, 160:] = 0
    scene = open_scene([write(tmp_path / "scene.tif", UTM, scene_transform(UTM, 15, 45, (10, 10)), pixels)])
    field = in_degrees(scene, turned_square(5, (160, 150), 0))
    part = crop_to_area(scene, geojson(tmp_path / "field.geojson", [field]))
    assert measure_hectares(part, 32) == pytest.approx(2.5, rel=1e-3)


def test_holes_and_polygons_over_each_other_are_counted_once(tmp_path, scene_path):
    scene = open_scene([scene_path])
    outer, hole = (in_degrees(scene, turned_square(size, (150, 150), 10)) for size in (100, 25))
    neighbour = in_degrees(scene, turned_square(100, (160, 150), 10))
    for polygons, hectares in (
        ([[outer, hole]], 75),
        ([[outer], [outer]], 100),
        ([[hole], [outer, hole]], 100),
    ):
        part = crop_to_area(scene, geojson(tmp_path / "field.geojson", *polygons))
        assert measure_hectares(part) == pytest.approx(hectares, rel=5e-3)
    shared = 100 * (1 - 0.1 * np.cos(np.radians(10))) * (1 - 0.1 * np.sin(np.radians(10)))
    part = crop_to_area(scene, geojson(tmp_path / "field.geojson", [outer], [neighbour]))
    assert measure_hectares(part) == pytest.approx(200 - shared, rel=5e-3)


def test_coverage_is_the_area_of_a_polygon_within_each_pixel():
    corners = np.array([(2.25, 3.5), (7.75, 3.5), (7.75, 8.1), (2.25, 8.1), (2.25, 3.5)])
    rectangle = {"coordinates": [corners], "bbox": [2.25, 3.5, 7.75, 8.1]}
    shares = area_coverage([rectangle], Window(0, 0, 10, 12))
    assert shares.sum() == pytest.approx(5.5 * 4.6) and shares[3, 2] == pytest.approx(0.75 / 2) and shares[5, 5] == 1
    np.testing.assert_allclose(area_coverage([rectangle], Window(3, 4, 4, 5)), shares[4:9, 3:7])
    assert (
        not area_coverage([rectangle], Window(8, 0, 4, 12)).any()
        and not area_coverage([rectangle], Window(0, 9, 9, 5)).any()
    )
    corners = np.array([(0, 0), (10, 10), (10, 0), (0, 10), (0, 0)])
    bow_tie = {"coordinates": [corners], "bbox": [0, 0, 10, 10]}
    assert area_coverage([bow_tie], Window(0, 0, 10, 10)).sum() == pytest.approx(50)


@pytest.mark.parametrize("size", [16, 32, 96])
@pytest.mark.parametrize("stride", [16, 32])
@pytest.mark.parametrize("corner", [(0, 0), (96, 64), (224, 224)])
def test_cells_of_an_area_are_those_of_the_whole_map(scene_path, corner, size, stride):
    """Windows over an area read the scene around it, up to the scene's own edges."""
    scene = open_scene([scene_path])
    (west, south), (east, north) = in_degrees(scene, [(corner[0], corner[1] + size), (corner[0] + size, corner[1])])
    part = crop_to_area(scene, f"{west:.9f},{south:.9f},{east:.9f},{north:.9f}")
    assert (part.column_offset, part.row_offset, part.grid.width, part.grid.height) == (*corner, size, size)
    whole_map, area_map = (map_scene(colour_classifier(), each, stride=stride) for each in (scene, part))
    row, column, count = corner[1] // stride, corner[0] // stride, -(-size // stride)
    expected = whole_map.probabilities[row : row + count, column : column + count]
    np.testing.assert_allclose(area_map.probabilities, expected, atol=1e-6)


def test_windows_over_a_cell_of_an_area_are_those_over_it_in_the_scene(scene_path):
    scene = open_scene([scene_path])
    (west, south), (east, north) = in_degrees(scene, [(96, 160), (160, 96)])
    part = crop_to_area(scene, f"{west:.9f},{south:.9f},{east:.9f},{north:.9f}")
    for cell in ((0, 0), (1, 1)):
        expected = sliding_window.windows_over_cell(scene, (cell[0] + 3, cell[1] + 3), 64, 32)
        np.testing.assert_array_equal(sliding_window.windows_over_cell(part, cell, 64, 32), expected)


def test_rows_of_an_area_go_on_where_they_were(scene_path):
    scene = open_scene([scene_path])
    (west, south), (east, north) = in_degrees(scene, [(90, 250), (170, 80)])
    part = crop_to_area(scene, f"{west},{south},{east},{north}")
    rows, later = (
        list(sliding_window.classify_rows(lambda images: (predict_by_colour(images), None), 4, part, 64, 16, first))
        for first in (0, 4)
    )
    assert len(rows) == sliding_window.map_shape(part, 16)[0] and len(later) == len(rows) - 4
    for (values, pixels, _), (values_later, pixels_later, _) in zip(rows[4:], later):
        np.testing.assert_allclose(values, values_later, atol=1e-6)
        np.testing.assert_array_equal(pixels, pixels_later)


@pytest.mark.parametrize("angle", [30, 90, 200])
def test_an_area_of_a_turned_scene(tmp_path, angle):
    scene = open_scene([write(tmp_path / "scene.tif", UTM, scene_transform(UTM, 15, 45, (10, 10), angle))])
    field = in_degrees(scene, turned_square(10, (120, 180), 20))
    part = crop_to_area(scene, geojson(tmp_path / "field.geojson", [field]))
    assert measure_hectares(part) == pytest.approx(10, rel=1e-3)
    assert part.column_offset < 120 < part.column_offset + part.grid.width < 150
    assert part.row_offset < 180 < part.row_offset + part.grid.height < 210
    box = crop_to_area(scene, "14.99,44.99,15.01,45.01")
    assert measure_hectares(box) == pytest.approx(
        geodesic_hectares("EPSG:4326", rasterio.Affine(0.02, 0, 14.99, 0, 0.02, 44.99), 1, 1), rel=2e-3
    )


AT_180 = [
    (UTM.replace("33", "60"), 179.999),
    ("EPSG:32701", -179.999),
    ("EPSG:4326", 180),
    ("EPSG:3832", 180),  # a Mercator about 150 degrees east
]


@pytest.mark.parametrize(("crs", "longitude"), AT_180)
@pytest.mark.parametrize(
    "area", ["179.995,-16.005,-179.995,-15.995", "179.995,-16.005,180.005,-15.995", "-180.005,-16.005,-179.995,-15.995"]
)
def test_boxes_across_180_degrees(tmp_path, crs, longitude, area):
    step = (1e-4, 1e-4) if crs == "EPSG:4326" else (10, 10)
    part = crop_to_area(
        open_scene([write(tmp_path / "scene.tif", crs, scene_transform(crs, longitude, -16, step))]), area
    )
    hectares = geodesic_hectares("EPSG:4326", rasterio.Affine(0.01, 0, 179.995, 0, 0.01, -16.005), 1, 1)
    assert measure_hectares(part, 16) == pytest.approx(hectares, rel=0.01)


def ring(west: float, east: float) -> list:
    return [(west, -16.005), (east, -16.005), (east, -15.995), (west, -15.995), (west, -16.005)]


@pytest.mark.parametrize(
    "polygons",
    [
        [[ring(179.995, -179.995)]],
        [[ring(179.995, 180.005)]],
        [[ring(179.995, 180)], [ring(-180, -179.995)]],  # as RFC 7946 wants it
    ],
)
def test_outlines_across_180_degrees(tmp_path, polygons):
    crs = "EPSG:32701"
    scene = open_scene([write(tmp_path / "scene.tif", crs, scene_transform(crs, -179.999, -16, (10, 10)))])
    part = crop_to_area(scene, geojson(tmp_path / "area.geojson", *polygons))
    hectares = geodesic_hectares("EPSG:4326", rasterio.Affine(0.01, 0, 179.995, 0, 0.01, -16.005), 1, 1)
    assert measure_hectares(part, 16) == pytest.approx(hectares, rel=2e-3)


def test_an_outline_far_larger_than_the_scene_is_all_of_it(tmp_path, scene_path):
    scene = open_scene([scene_path])
    world = [(-180, -90), (180, -90), (180, 90), (-180, 90), (-180, -90)]
    continent = [(-60, -30), (100, -30), (100, 80), (-60, 80), (-60, -30)]
    for outline in (world, continent):
        part = crop_to_area(scene, geojson(tmp_path / "area.geojson", [outline]))
        assert measure_hectares(part) == pytest.approx(measure_hectares(scene))
    for area in ("-180,-90,180,90", "0,0,360,90", "-345.5,40,14,50"):
        assert measure_hectares(crop_to_area(scene, area)) == pytest.approx(measure_hectares(scene))


def test_areas_about_the_pole(tmp_path):
    crs = "EPSG:32661"
    scene = open_scene([write(tmp_path / "scene.tif", crs, scene_transform(crs, 0, 90, (10, 10)))])
    assert measure_hectares(crop_to_area(scene, "-180,89.99,180,90")) == pytest.approx(
        np.pi * 1.1169**2 * 100, rel=0.01
    )
    quarter = measure_hectares(crop_to_area(scene, "135,89.99,-135,90"))
    assert quarter == pytest.approx(np.pi * 1.1169**2 * 25, rel=0.01)


@pytest.mark.parametrize("area", ["1,2,3", "3,2,1,4", "15,46,16,45", "15,45,400,46", "nan,1,2,3"])
def test_what_is_no_box_is_refused(scene_path, area):
    with pytest.raises(InputError, match="give west, south, east and north in degrees"):
        crop_to_area(open_scene([scene_path]), area)


@pytest.mark.parametrize(
    "points", [[], [(15, 45)], [(500_000, 5_000_000)] * 4, [(15, float("nan"))] * 4, ["a", "b", "c"]]
)
def test_what_is_no_ring_is_refused(tmp_path, scene_path, points):
    with pytest.raises(InputError, match="its coordinates are no degrees, longitude first"):
        crop_to_area(open_scene([scene_path]), geojson(tmp_path / "area.geojson", [points]))


def test_an_area_beside_the_scene_is_refused(tmp_path, scene_path):
    scene = open_scene([scene_path])
    for area in ("15,46,16,47", "-165,44.9,-164.9,45.1", geojson(tmp_path / "a.geojson", [ring(15, 15.1)])):
        with pytest.raises(InputError, match="does not reach there"):
            crop_to_area(scene, area)
