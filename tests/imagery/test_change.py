"""Change of land cover between two scenes."""

import csv
import json

import numpy as np
import pytest
import rasterio
from products import ORIGIN
from rasterio.transform import from_origin
from scenes import CLASSES, colour_classifier, draw_fields, write_scene

from resnetd_tf.errors import InputError
from resnetd_tf.imagery import assessment, change
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


def test_hectares_of_change(changed):
    """Cells on the edge count as far as the scenes reach: 336 pixels are ten cells and a half."""
    _, targets = changed
    with targets["_change.csv"].open() as file:
        header, *rows = csv.reader(file)
    assert header == ["before, in hectares", *CLASSES] and [row[0] for row in rows] == list(CLASSES)
    hectares = np.array([[float(value) for value in row[1:]] for row in rows])
    with rasterio.open(targets["_change.tif"]) as file:
        known = (file.read(1) != NODATA).sum(0)
    assert hectares.sum() == pytest.approx(10.24 * (known[:10].sum() + known[10] / 2))


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
    with pytest.raises(InputError, match=r"c_change\.tif exists"):
        change.map_change(
            colour_classifier(), [str(folder / "before.tif")], [str(folder / "after.tif")], OPTIONS, folder / "maps/c"
        )


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
