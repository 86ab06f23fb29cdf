"""Patches of one's own classes, cut where polygons or points say what is there."""

import dataclasses
import json
import os

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from resnetd_tf.data import datasets
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import labelled
from resnetd_tf.imagery.products import open_scene

geopandas = pytest.importorskip("geopandas")
import shapely  # noqa: E402 - the extra geo has both

WEST, NORTH = 500_000, 5_000_000  # of the scene, in UTM zone 33


def box(column, row, width, height):
    """A box of pixels of the scene as a polygon in its coordinates."""
    return shapely.box(WEST + 10 * column, NORTH - 10 * (row + height), WEST + 10 * (column + width), NORTH - 10 * row)


@pytest.fixture
def scene_path(tmp_path):
    """A scene of 640 x 640 pixels whose left half is brighter; a corner has no data."""
    pixels = np.random.default_rng(0).integers(700, 900, (4, 640, 640)).astype("uint16")
    pixels[:, :, :320] += 800
    pixels[:, 600:, :40] = 0
    path = tmp_path / "scene.tif"
    profile = {"crs": "EPSG:32633", "transform": from_origin(WEST, NORTH, 10, 10), "dtype": "uint16", "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", width=640, height=640, count=4, **profile) as file:
        file.write(pixels)
        file.descriptions = ("B04", "B03", "B02", "B08")
    return path


def write_labels(path, shapes, classes, crs="EPSG:32633"):
    frame = geopandas.GeoDataFrame({"cover": classes}, geometry=shapes, crs="EPSG:32633")
    frame.to_crs(crs).to_file(path)
    return path


def test_windows_of_polygons(scene_path, tmp_path):
    """A square of 128 pixels gives nine windows; one of 70 gives one; one of 40 is too small."""
    shapes = [
        box(0, 0, 128, 128),
        box(400, 0, 70, 70),
        box(500, 300, 40, 40),
        box(0, 560, 80, 80),
        box(0, 3000, 99, 99),
    ]
    labels = labelled.read_labels(
        write_labels(tmp_path / "x.gpkg", shapes, ["bright", "dark", "dark", "bright", "dark"]), "cover"
    )
    patches = labelled.cut_patches(labels, [open_scene(scene_path)])
    assert patches.classes == ("bright", "dark")
    assert np.bincount(patches.labels).tolist() == [9, 1] and patches.shapes == [0] * 9 + [1]
    assert vars(patches.losses) == {"outside": [0, 1], "impure": [0, 1], "hidden": [1, 0]}
    means = [image.mean() for image in patches.images]
    assert min(means[:9]) > 130 > means[9] and patches.images[0].shape == (64, 64, 3)
    with rasterio.open(scene_path) as file:
        expected = file.read((1, 2, 3), window=((0, 64), (0, 64))).astype(float).mean() * 254 / 2750 + 1
    assert means[0] == pytest.approx(expected, abs=0.5)
    assert patches.centres[0] == pytest.approx((15.0041, 45.1506), abs=1e-3)


def test_a_turned_scene(tmp_path):
    """Squares of a window's size in the pixels of a scene that is turned give a window each; others are counted."""
    transform = from_origin(WEST, NORTH, 10, 10) * rasterio.Affine.rotation(20)
    pixels = np.random.default_rng(0).integers(700, 900, (3, 300, 300)).astype("uint16")
    profile = {"crs": "EPSG:32633", "transform": transform, "dtype": "uint16", "width": 300, "height": 300, "count": 3}
    with rasterio.open(tmp_path / "turned.tif", "w", driver="GTiff", **profile) as file:
        file.write(pixels)
        file.descriptions = ("B04", "B03", "B02")
    corners = [np.array([(0, 0), (64, 0), (64, 64), (0, 64)]) + offset for offset in ((10, 20), (100, 130), (180, 90))]
    shapes = [shapely.Polygon(np.stack(transform * tuple(each.T), -1)) for each in corners]
    path = write_labels(tmp_path / "x.gpkg", [*shapes, shapes[0]], ["a", "b", "a", None])
    labels = labelled.read_labels(path, "cover")
    assert labels.left_out == 1
    patches = labelled.cut_patches(labels, [open_scene(tmp_path / "turned.tif")])
    assert patches.labels == [0, 1, 0]
    np.testing.assert_array_equal(patches.images[1][..., 0] > 0, True)


def test_purity(scene_path, tmp_path):
    """A polygon that covers three quarters of its window."""
    shapes = [box(100, 100, 64, 48), box(400, 100, 64, 64)]
    labels = labelled.read_labels(write_labels(tmp_path / "x.gpkg", shapes, ["a", "b"]), "cover")
    scene = open_scene(scene_path)
    assert labelled.cut_patches(labels, [scene], purity=0.8).labels == [1]
    assert labelled.cut_patches(labels, [scene], purity=0.7).labels == [0, 1]


def test_points_in_degrees_and_two_scenes(scene_path, tmp_path):
    points = [shapely.Point(WEST + 1000, NORTH - 1000), shapely.Point(WEST + 5000, NORTH - 1000)]
    labels = labelled.read_labels(write_labels(tmp_path / "x.geojson", points, [1, 2], "EPSG:4326"), "cover")
    scene = open_scene(scene_path)
    patches = labelled.cut_patches(labels, [scene, scene], size=32)
    assert labels.classes == ("1", "2") and patches.labels == [0, 1, 0, 1] and patches.shapes == [0, 1, 0, 1]
    assert patches.images[0].shape == (32, 32, 3) and patches.images[0].mean() > patches.images[1].mean() + 50


def draw_patches(count=200, seed=0):
    """Patches at random places of 20 x 20 km, in polygons of up to three, without images."""
    generator = np.random.default_rng(seed)
    centres = 15 + generator.random((count, 2)) * 0.18
    patches = labelled.LabelledPatches(("a", "b", "c"), labelled.Losses([0] * 3, [2] * 3, [0] * 3))
    for index, centre in enumerate(centres):
        patches.labels.append(int(generator.integers(3)))
        patches.shapes.append(index // 3)
        patches.centres.append(tuple(centre))
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.003
        patches.outlines.append(centre + corners)
        patches.images.append(np.zeros((8, 8, 3), "uint8"))
    return patches


def test_neighbours_are_in_one_split():
    patches = draw_patches(60)
    splits = np.array(labelled.split_by_place(patches, block_km=0))
    shapes, labels = np.array(patches.shapes), np.array(patches.labels)
    for shape in np.unique(shapes):
        assert len(set(splits[shapes == shape])) == 1
    outlines = shapely.polygons(np.array(patches.outlines))
    for first, second in shapely.STRtree(outlines).query(outlines, predicate="overlaps").T:
        assert splits[first] == splits[second]
    for label in range(3):
        assert set(splits[labels == label]) == {"train", "validation", "test"}
    assert splits.tolist() == labelled.split_by_place(patches, block_km=0)


def test_blocks_stay_together():
    patches = draw_patches(60)
    patches.shapes = list(range(60))
    patches.outlines = [outline.mean(0) + (outline - outline.mean(0)) / 100 for outline in patches.outlines]
    splits = np.array(labelled.split_by_place(patches, block_km=3.0))
    shares = [(splits == name).mean() for name in ("train", "validation", "test")]
    assert np.abs(np.array(shares) - (0.7, 0.2, 0.1)).max() < 0.15
    kilometres = np.array(patches.centres) * 111.2
    kilometres[:, 0] *= np.cos(np.radians(np.mean(np.array(patches.centres)[:, 1])))
    blocks = np.floor(kilometres / 3).astype(int)
    for block in np.unique(blocks, axis=0):
        assert len(set(splits[(blocks == block).all(1)])) == 1


def test_too_few_places_for_three_splits():
    patches = draw_patches(9)
    patches.labels = [0] * 6 + [1] * 3
    with pytest.raises(InputError, match=r"c has no patch: 0 shapes .*, 2 are too small or mixed"):
        labelled.split_by_place(patches, block_km=0)
    patches = dataclasses.replace(patches, classes=("a", "b"))
    with pytest.raises(InputError, match=r"a lies in 2 places; .* draw more polygons elsewhere$"):
        labelled.split_by_place(patches, block_km=0)
    with pytest.raises(InputError, match=r"a lies in 2 places; .* draw more polygons elsewhere$"):
        labelled.split_by_place(patches, block_km=1)  # smaller blocks would not help


def test_smaller_blocks_are_advised_where_they_help():
    with pytest.raises(InputError, match=r"a lies in 1 place; .* or give a smaller --block_km; 0 keeps only"):
        labelled.split_by_place(draw_patches(60), block_km=100)


def test_places_are_divided_in_whatever_order_works():
    """Three places hold two of the classes each: only some orders leave each split every class."""
    patches = draw_patches(9)
    pairs = [(0, 2), (1, 2), (0, 1), (0, 1), (0, 2), (1, 2)]
    patches = dataclasses.replace(
        patches,
        labels=[label for pair in pairs for label in pair],
        shapes=[place for place in range(6) for _ in range(2)],
        centres=[(15 + place, 45.0) for place in range(6) for _ in range(2)],
        outlines=[
            np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * 0.01 + (15 + place, 45) for place in range(6) for _ in range(2)
        ],
    )
    splits = np.array(labelled.split_by_place(patches, block_km=0))
    for label in range(3):
        assert set(splits[np.array(patches.labels) == label]) == {"train", "validation", "test"}


def test_shapes_without_a_class_and_of_several_parts(scene_path, tmp_path):
    """A shape without a class lies between others; two squares far apart are one multipolygon."""
    parts = shapely.MultiPolygon([box(0, 0, 70, 70), box(200, 400, 70, 70)])
    labels = labelled.read_labels(
        write_labels(
            tmp_path / "x.gpkg", [box(500, 0, 70, 70), box(500, 200, 70, 70), parts], ["dark", None, "bright"]
        ),
        "cover",
    )
    patches = labelled.cut_patches(labels, [open_scene(scene_path)])
    assert patches.labels == [1, 0, 0] and len(set(patches.shapes)) == 3
    assert patches.images[0].mean() < 90 < patches.images[1].mean()


def test_polygons_over_the_edge_and_out_of_the_projection(scene_path, tmp_path):
    shapes = [box(-40, 0, 110, 70), shapely.Point(WEST + 5_000, NORTH - 1_000)]
    labels = labelled.read_labels(write_labels(tmp_path / "x.gpkg", shapes, ["a", "b"]), "cover")
    assert labelled.cut_patches(labels, [open_scene(scene_path)]).labels == [0, 1]
    far = geopandas.GeoDataFrame(
        {"cover": ["a", "b"]}, geometry=[shapely.Point(-75, -37), shapely.Point(15, 45)], crs=4326
    )
    far.to_file(tmp_path / "far.gpkg")
    labels = labelled.read_labels(tmp_path / "far.gpkg", "cover")
    assert labelled.cut_patches(labels, [open_scene(scene_path)]).losses.outside == [1, 1]


def test_from_polygons_to_a_dataset(program, scene_path, tmp_path):
    """The folder has three splits, which train.py takes as they are."""
    shapes = [box(column, row, 64, 64) for column in (0, 128, 360, 480) for row in (0, 128, 256, 384)]
    labels = write_labels(tmp_path / "x.gpkg", shapes, ["bright"] * 8 + ["dark"] * 8)
    arguments = ("patches.py", str(labels), f"--scenes={scene_path}", "--label=cover", "--block_km=0")
    result = program(*arguments, f"--output={tmp_path / 'mine'}")
    assert result.returncode == 0 and not result.stderr, result.stderr
    assert "16 patches" in result.stdout
    dataset = datasets.load_dataset(f"folder:{tmp_path / 'mine'}")
    assert dataset.classes == ("bright", "dark")
    assert sum(len(split) for split in dataset.splits.values()) == 16
    assert all(set(split.labels) == {0, 1} for split in dataset.splits.values())
    outlines = geopandas.read_file(tmp_path / "mine/patches.gpkg")
    assert len(outlines) == 16 and set(outlines["split"]) == {"train", "validation", "test"}
    with Image.open(tmp_path / "mine" / outlines["name"][0]) as picture:
        assert picture.size == (64, 64)


def test_training_on_polygons(program, scene_path, tmp_path):
    """train.py cuts the patches beside its model, once for the same polygons and scenes."""
    shapes = [box(column, row, 64, 64) for column in (0, 128, 360, 480) for row in (0, 128, 256, 384)]
    labels = write_labels(tmp_path / "x.gpkg", shapes, ["bright"] * 8 + ["dark"] * 8)
    network = ("--depth=10", "--image_size=32", "--weights=none", "--epochs=1")
    arguments = (f"--dataset=labels:{labels}", f"--scenes={scene_path}", "--label=cover", "--block_km=0")
    for is_first in (True, False):
        result = program("train.py", *network, *arguments, f"--output_dir={tmp_path / 'model'}")
        assert result.returncode == 0, result.stderr
        assert ("cut by an earlier run" in result.stdout) != is_first
    (folder,) = tmp_path.glob("model-patches-*")
    metadata = json.loads((tmp_path / "model/run-2/metadata.json").read_text())
    assert metadata["dataset"] == f"folder:{folder}" and metadata["classes"] == ["bright", "dark"]
    count = metadata["split_sizes"]["train"]
    assert f"Chosen by the number and size of the patches: --recipe=few --batch_size={count}" in result.stdout
    assert metadata["recipe"] == "few" and metadata["batch_size"] == count < 16
    assert metadata["largest_patch"] == 128  # a larger scene is mapped, though a folder's pictures may be larger


def test_patches_are_cut_anew_when_labels_or_scenes_change(bad_input, scene_path, tmp_path):
    """The classes of a Shapefile lie in another file than its polygons."""
    shapes = [box(column, row, 64, 64) for column in (0, 128, 360, 480) for row in (0, 128, 256)]
    arguments = (f"--dataset=labels:{tmp_path / 'x.shp'}", f"--scenes={scene_path}", "--label=cover", "--block_km=0")
    counts = []
    for classes, time in ((["a"] * 6 + ["b"] * 6, None), (["b"] * 6 + ["a"] * 6, None), (["b"] * 6 + ["a"] * 6, 1e9)):
        write_labels(tmp_path / "x.shp", shapes, classes)
        if time:
            os.utime(scene_path, (time, time))
        flags = ("--weights=none", "--batch_size=32", f"--output_dir={tmp_path / 'model'}")
        message = bad_input("train.py", *arguments, *flags)
        assert "batch size 32 is larger than the training split" in message  # the patches are cut by then
        counts.append(len(list(tmp_path.glob("model-patches-*"))))
    assert counts == [1, 2, 3]
    bad_input("train.py", *arguments, "--purity=1", "--patch_size=128", f"--output_dir={tmp_path / 'new/model'}")
    assert not (tmp_path / "new").exists()


def test_bounds_across_180_degrees(tmp_path):
    shapes = [shapely.Point(179.95, -17), shapely.Point(-179.95, -17.1)]
    geopandas.GeoDataFrame({"cover": ["a", "b"]}, geometry=shapes, crs=4326).to_file(tmp_path / "x.gpkg")
    west, south, east, north = labelled.read_labels(tmp_path / "x.gpkg", "cover").bounds
    np.testing.assert_allclose((west, south, east, north), (179.949, -17.101, -179.949, -16.999), atol=1e-6)


def test_labels_flags_need_polygons(bad_input):
    assert "--purity has no effect without --dataset=labels:FILE" in bad_input("train.py", "--purity=0.5")
    assert "give --scenes" in bad_input("train.py", "--dataset=labels:x.gpkg", "--label=cover")
    arguments = ("--dataset=labels:x.gpkg", "--scenes=x.tif", "--label=cover")
    message = bad_input("train.py", *arguments, "--keep_classes", "--weights=eurosat", "--patch_size=32")
    assert "--patch_size=32: with --keep_classes patches have 64 pixels a side" in message
    assert "x.gpkg: no such file" in bad_input("train.py", *arguments, "--warmup_epochs=20")  # of 60, not of 10


def test_neighbours_promise_too_much():
    """Each place has features of its own, which tell nothing of its class."""
    generator = np.random.default_rng(0)
    places, labels = np.repeat(np.arange(40), 5), np.repeat(np.arange(40) % 2, 5)
    features = generator.normal(size=(40, 64))[places] + 0.1 * generator.normal(size=(200, 64))
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * 1e-4
    outlines = [corners + np.array((place / 10, index * 1e-3)) for index, place in enumerate(places)]
    patches = labelled.LabelledPatches(
        ("a", "b"),
        labelled.Losses([0, 0], [0, 0], [0, 0]),
        labels=labels.tolist(),
        shapes=places.tolist(),
        centres=[tuple(outline.mean(0)) for outline in outlines],
        outlines=outlines,
    )
    by_place, at_random = labelled.compare_with_random_splits(patches, features, 0)
    assert by_place < 0.65 and at_random > 0.95
    patches.shapes = list(range(200))
    assert labelled.compare_with_random_splits(patches, features, 0) is None


def test_bad_labels(bad_input, scene_path, tmp_path):
    def refuse(shapes, classes, **options):
        path = write_labels(tmp_path / "bad.gpkg", shapes, classes)
        flags = {"label": "cover", "scenes": scene_path, "output": tmp_path / "out"} | options
        return bad_input("patches.py", str(path), *(f"--{name}={value}" for name, value in flags.items()))

    square, neighbour = box(0, 0, 64, 64), box(32, 0, 64, 64)
    assert "shapes 1 (a) and 2 (b) overlap" in refuse([square, neighbour], ["a", "b"])
    assert "has no attribute crop, but cover" in refuse([square, neighbour], ["a", "b"], label="crop")
    assert "has 1 classes" in refuse([square, neighbour], ["a", "a"])
    assert "cannot be the name of a folder" in refuse([square, neighbour], ["a/b", "c"])
    bow = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    assert "shape 1 is not valid (Self-intersection" in refuse([bow, box(99, 0, 9, 9)], ["a", "b"])
    assert "overlap" in refuse([square, shapely.Point(WEST + 100, NORTH - 100)], ["a", "b"])
    far = [box(9000, 0, 64, 64), box(9900, 0, 64, 64)]
    assert "a has no patch: 1 shapes lie outside" in refuse(far, ["a", "b"])
    line = shapely.LineString([(0, 0), (1, 1)])
    assert "holds LineString" in refuse([line, square], ["a", "b"])
    assert "a lies in 1 place" in refuse([square, box(200, 0, 64, 64)], ["a", "b"])
    assert "give --label" in bad_input("patches.py", "x.gpkg", f"--scenes={scene_path}", "--output=out")
    assert not (tmp_path / "out").exists()
