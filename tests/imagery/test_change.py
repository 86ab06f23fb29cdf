"""Change of land cover between two scenes."""

import csv
import json

import numpy as np
import pytest
import rasterio
import rasterio.crs
from products import ORIGIN
from rasterio.transform import from_origin
from scenes import CLASSES, colour_classifier, draw_fields, write_scene

from resnetd_tf.errors import InputError
from resnetd_tf.imagery import assessment, change
from resnetd_tf.imagery.grid import Grid
from resnetd_tf.imagery.landcover import NODATA, MapOptions

OPTIONS = MapOptions(stride=32)


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """Two scenes of which the later one starts 64 pixels east and south, with other fields in its upper part."""
    folder = tmp_path_factory.mktemp("change")
    ground = draw_fields(448, 420)
    before = write_scene(folder / "before.tif", ground[:, :400])
    later = ground[64:, 64:].copy()
    later[:128] = draw_fields(128, later.shape[1], seed=5)
    later[:, -40:] = 0  # no data
    place = {"transform": from_origin(ORIGIN[0] + 640, ORIGIN[1] - 640, 10, 10), "nodata": 0}
    after = write_scene(folder / "after.tif", later, **place)
    targets = change.map_change(colour_classifier(), [before], [after], OPTIONS, folder / "maps/c")
    return folder, targets


def test_changes_are_those_between_the_maps(changed):
    folder, targets = changed
    maps = []
    for name in ("before", "after"):
        with rasterio.open(folder / f"maps/c_{name}_landcover.tif") as file:
            maps.append(file.read(1))
            assert file.transform.c == ORIGIN[0] + 640 and file.transform.f == ORIGIN[1] - 640
    with rasterio.open(targets["_change.tif"]) as file:
        values, names = file.read(1), json.loads(file.tags()["classes"])
        assert file.res == (320, 320) and file.nodata == NODATA
    assert values.shape == maps[0].shape == maps[1].shape == (12, 11)
    for old, new, value in zip(*(array.ravel().tolist() for array in (*maps, values))):
        if NODATA in (old, new):
            assert value == NODATA
        else:
            expected = f"{CLASSES[old]} stays" if old == new else f"{CLASSES[old]} to {CLASSES[new]}"
            assert names[str(value)] == expected
    is_changed = np.array([" to " in names[str(value)] for value in values[values != NODATA]])
    assert 0.05 < is_changed.mean() < 0.6
    assert [names[str(index)].endswith("stays") for index in range(len(names))] == sorted(
        (name.endswith("stays") for name in names.values()), reverse=True
    )


def test_hectares_of_change_are_those_of_the_maps(changed):
    """Cells on the edge and cells with less data count as far as both scenes have data."""
    folder, targets = changed
    with targets["_change.csv"].open() as file:
        header, *rows = csv.reader(file)
    assert header == ["before, in hectares", *CLASSES] and [row[0] for row in rows] == list(CLASSES)
    hectares = np.array([[float(value) for value in row[1:]] for row in rows])
    with (folder / "maps/c_after_areas.csv").open() as file:
        mapped = {row["class"]: float(row["hectares"]) for row in csv.DictReader(file)}
    assert hectares.sum(0) == pytest.approx([mapped[name] for name in CLASSES], abs=0.05)
    with rasterio.open(targets["_change.tif"]) as file:
        assert sum(json.loads(file.tags()["hectares"]).values()) == pytest.approx(hectares.sum(), abs=0.05)


def test_change_in_the_pixels_of_the_scenes(changed, tmp_path):
    folder, _ = changed
    options = MapOptions(stride=32, full_resolution=True, overwrite=True)
    paths = [str(folder / f"{name}.tif") for name in ("before", "after")]
    targets = change.map_change(colour_classifier(), paths[:1], paths[1:], options, tmp_path / "c")
    with rasterio.open(targets["_change.tif"]) as file:
        assert file.res == (10, 10) and file.shape == (384, 336)
        tag = json.loads(file.tags()["hectares"])
    with (tmp_path / "c_after_areas.csv").open() as file:
        assert sum(float(row["hectares"]) for row in csv.DictReader(file)) == pytest.approx(sum(tag.values()), abs=0.05)


def test_many_kinds_of_change(tmp_path):
    """Kinds that do not fit into 8 bits are put together; classes whose names make equal kinds are told apart."""
    names = ("a", "a to b", "b to c", "c", *(f"n{index}" for index in range(14)))
    before, after = np.meshgrid(np.arange(18, dtype="uint8"), np.arange(18, dtype="uint8"), indexing="ij")
    hectares = 2.0 - np.arange(324).reshape(18, 18) / 1000
    grid = Grid(rasterio.crs.CRS.from_epsg(32633), from_origin(5e5, 5e6, 100, 100), 18, 18)
    ends = ("_change.tif", "_change.tif.aux.xml", "_change.qml", "_change.sld", "_change.csv", "_change.png")
    change.write_change(names, before, after, hectares, grid, {end: tmp_path / f"x{end}" for end in ends})
    with rasterio.open(tmp_path / "x_change.tif") as file:
        legend, values = json.loads(file.tags()["classes"]), file.read(1)
        tag = json.loads(file.tags()["hectares"])
    assert len(legend) == 254 and legend["253"] == "other changes" and (values == 253).sum() == 324 - 253
    assert sum(tag.values()) == pytest.approx(hectares.sum(), abs=0.1)
    assert "a to b to c" in legend.values() and len(set(legend.values())) == 254


def test_a_sample_of_changes_can_be_drawn(changed):
    """Kinds of change are the classes of a map for assess.py."""
    class_map = assessment.read_class_map(changed[1]["_change.tif"])
    sizes = assessment.choose_sample_sizes(class_map, total=40)
    places = assessment.draw_places(class_map, sizes)
    assert len(places) == sizes.sum() and all(" to " in name or "stays" in name for name in class_map.names)


def test_all_files_are_written(changed):
    folder, targets = changed
    assert all(path.is_file() for path in targets.values())
    assert len(list((folder / "maps").iterdir())) == len(targets) + 2 * 6
    paths = [str(folder / f"{name}.tif") for name in ("before", "after")]
    with pytest.raises(InputError, match=r"c_change\.tif exists"):
        change.map_change(colour_classifier(), paths[:1], paths[1:], OPTIONS, folder / "maps/c")


def test_existing_files_are_found_before_anything_is_classified(changed, tmp_path):
    folder, _ = changed
    paths = [str(folder / f"{name}.tif") for name in ("before", "after")]
    (tmp_path / "z_after_areas.csv").touch()
    with pytest.raises(InputError, match=r"z_after_areas\.csv exists"):
        change.map_change(colour_classifier(), paths[:1], paths[1:], OPTIONS, tmp_path / "z")
    (tmp_path / "y_change.png").mkdir()
    with pytest.raises(InputError, match=r"y_change\.png exists"):
        options = MapOptions(stride=32, overwrite=True)
        change.map_change(colour_classifier(), paths[:1], paths[1:], options, tmp_path / "y")
    with pytest.raises(InputError, match="give what the names of files begin with"):
        change.map_change(colour_classifier(), paths[:1], paths[1:], OPTIONS, ".")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y_change.png", "z_after_areas.csv"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"transform": from_origin(ORIGIN[0] + 4, ORIGIN[1], 10, 10)}, "do not lie on those of"),
        ({"transform": from_origin(ORIGIN[0] + 90_000, ORIGIN[1], 10, 10)}, "show no common ground"),
        ({"crs": "EPSG:32634"}, "is in EPSG:32634"),
    ],
)
def test_scenes_on_other_grids_are_refused(tmp_path, place, message):
    before = write_scene(tmp_path / "before.tif", draw_fields(128, 128))
    after = write_scene(tmp_path / "after.tif", draw_fields(128, 128), **place)
    with pytest.raises(InputError, match=message):
        change.map_change(colour_classifier(), [before], [after], OPTIONS, tmp_path / "maps/c")
    assert not (tmp_path / "maps").exists()


def test_flags_of_change(bad_input):
    assert "--before and --after belong together" in bad_input("map.py", "--before=a.tif")
    assert "give --output" in bad_input("map.py", "--before=a.tif", "--after=b.tif")
    assert "no other scene" in bad_input("map.py", "--before=a.tif", "--after=b.tif", "--output=c", "d.tif")
