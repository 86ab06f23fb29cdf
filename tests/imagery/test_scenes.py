"""Maps of scenes."""

import csv
import os
import pathlib
import resource

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.windows
from PIL import Image
from products import CRS, ORIGIN
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_validate

from resnetd_tf.errors import InputError
from resnetd_tf.imagery import landcover, map_scene, sliding_window
from resnetd_tf.imagery.landcover import MapOptions, open_scene_for, write_map
from resnetd_tf.imagery.products import open_scene
from resnetd_tf.saved import SavedClassifier

CLASSES = ("Forest", "SeaLake", "moor", "heath")


def by_colour(images) -> np.ndarray:
    """Probabilities of the four classes, from the mean colour of a window."""
    means = np.asarray(images, "float64").mean((1, 2))
    scores = np.stack([means[:, 1], means[:, 2], means[:, 0], means.mean(1)], axis=1) / 10
    found = np.exp(scores - scores.max(1, keepdims=True))
    return (found / found.sum(1, keepdims=True)).astype("float32")


def classifier(predict=by_colour) -> SavedClassifier:
    return SavedClassifier(pathlib.Path("model"), pathlib.Path(), CLASSES, 3, predict)


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture with fields of 40 x 40 pixels."""
    chance = np.random.default_rng(seed)
    fields = chance.integers(40, 200, (height // 40 + 1, width // 40 + 1, 3)).repeat(40, 0).repeat(40, 1)
    return (fields[:height, :width] + chance.integers(-20, 20, (height, width, 3))).astype("uint8")


def write(path, pixels: np.ndarray, metres: float = 10, crs: str | None = CRS) -> str:
    height, width, bands = pixels.shape
    shape = {"height": height, "width": width, "count": bands, "dtype": pixels.dtype}
    place = {"crs": crs, "transform": from_origin(*ORIGIN, metres, metres)} if crs else {}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return str(path)


def classes_of(path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.parametrize(("height", "width"), [(200, 150), (64, 64), (30, 100), (1, 1), (130, 64)])
@pytest.mark.parametrize("stride", [64, 32, 16])
def test_a_constant_stays_constant(tmp_path, height, width, stride):
    same = np.array((0.1, 0.2, 0.3, 0.4), "float32")
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(height, width))])
    rows = list(sliding_window.classify_rows(lambda images: np.tile(same, (len(images), 1)), 4, scene, 64, stride))
    found = np.stack([values for values, _ in rows])
    assert (
        found.shape == (*sliding_window.map_shape(scene, stride), 4) == (-(-height // stride), -(-width // stride), 4)
    )
    np.testing.assert_allclose(found, np.broadcast_to(same, found.shape), atol=1e-6)
    assert all(there.all() for _, there in rows)


def test_nothing_of_the_user_is_lost(tmp_path):
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(100, 100))])
    (tmp_path / "map.unfinished").mkdir()
    (tmp_path / "map.unfinished/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"map\.unfinished is there already, and no map's; give another --output"):
        write_map(classifier(), scene, tmp_path / "map")
    assert (tmp_path / "map.unfinished/notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="nothing to map"):
        write_map(classifier(), scene, tmp_path / "nothing", MapOptions(min_probability=1))
    assert not list(tmp_path.glob("nothing*"))


def test_a_picture_that_is_cut_off_is_no_scene(tmp_path):
    for name in ("scene.png", "scene.jpg"):
        Image.fromarray(drawn(200, 200)).save(tmp_path / name)
        assert open_scene_for(classifier(), [tmp_path / name]).is_picture
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"scene\.(png|jpg): cannot be read, damaged or truncated"):
            write_map(classifier(), open_scene_for(classifier(), [tmp_path / name]), tmp_path / "map")


@pytest.mark.parametrize(("height", "width"), [(200, 150), (256, 192), (64, 64), (30, 100), (130, 64)])
@pytest.mark.parametrize("stride", [64, 32, 16])
def test_windows_over_a_cell_are_those_of_the_map(tmp_path, height, width, stride):
    pixels = drawn(height, width)
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", pixels)])
    rows, columns = sliding_window.map_shape(scene, stride)
    count, seen = 64 // stride, []
    list(sliding_window.classify_rows(lambda images: seen.append(images) or by_colour(images), 4, scene, 64, stride))
    for cell in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)):
        over = sliding_window.windows_over_cell(scene, cell, 64, stride)
        expected = [
            image
            for row, images in enumerate(seen)
            for column, image in enumerate(images)
            if row <= cell[0] < row + count and column <= cell[1] < column + count
        ]
        assert len(over) == len(expected) >= 1
        np.testing.assert_array_equal(over, expected)
    pixels[:, 40:] = 0
    scene = open_scene_for(classifier(), [write(tmp_path / "partly.tif", pixels)])
    assert all((image.min((0, 1)) > 0).all() for image in sliding_window.windows_over_cell(scene, (0, 0), 64, stride))


def test_cells_of_which_nothing_is_sure(tmp_path):
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(100, 100))])
    rows = sliding_window.classify_rows(lambda images: np.full((len(images), 100), 0.01, "float32"), 100, scene, 64, 32)
    for values, there in rows:
        assert there.all()
        np.testing.assert_allclose(values, 0.01, atol=1e-6)


def test_cells_of_a_window_are_patches(tmp_path):
    pixels = drawn(256, 320)
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", pixels)])
    found = np.stack([values for values, _ in sliding_window.classify_rows(by_colour, 4, scene, 64, 64)])
    patches = pixels.reshape(4, 64, 5, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)
    np.testing.assert_allclose(found.reshape(-1, 4), by_colour(patches), atol=1e-6)


def test_overlapping_windows(tmp_path, monkeypatch):
    """Each cell is a mean of the windows over it, by how sure they are, however many rows are read at once."""
    pixels = drawn(300, 250)
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", pixels)])
    found = np.stack([values for values, _ in sliding_window.classify_rows(by_colour, 4, scene, 64, 32)])
    padded = np.pad(pixels, ((0, 20), (0, 6), (0, 0)), mode="symmetric")
    each = np.stack([by_colour([padded[y : y + 64, x : x + 64] for x in range(0, 193, 32)]) for y in range(0, 257, 32)])
    over = each[2:4, 1:3].reshape(4, 4)
    np.testing.assert_allclose(
        found[3, 2], np.average(over, axis=0, weights=sliding_window.window_confidence(over)), atol=1e-6
    )
    np.testing.assert_allclose(found[0, 0], each[0, 0], atol=1e-6)
    np.testing.assert_allclose(found[-1, -1], each[-1, -1], atol=1e-6)
    monkeypatch.setattr(sliding_window, "STRIP_ROWS", 48)
    again = np.stack([values for values, _ in sliding_window.classify_rows(by_colour, 4, scene, 64, 32)])
    np.testing.assert_array_equal(again, found)
    later = np.stack([values for values, _ in sliding_window.classify_rows(by_colour, 4, scene, 64, 32, first=5)])
    np.testing.assert_allclose(later, found[5:], atol=1e-6)


def test_what_is_written(tmp_path):
    pixels = drawn(400, 500)
    pixels[:, 300:] = 0  # nodata
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", pixels)])
    result = write_map(classifier(), scene, tmp_path / "maps/a", MapOptions(probabilities=True))
    names = ("landcover.tif", "landcover.tif.aux.xml", "landcover.png", "areas.csv", "probability.tif")
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {f"a_{name}" for name in names}
    for name in ("landcover", "probability"):
        valid, errors, warnings = cog_validate(tmp_path / f"maps/a_{name}.tif", quiet=True)
        assert valid and not errors and not warnings
    with rasterio.open(tmp_path / "maps/a_landcover.tif") as file:
        assert str(file.crs) == CRS and file.transform == from_origin(*ORIGIN, 320, 320) and file.nodata == 255
        assert file.colormap(1)[0] == (27, 107, 44, 255) and file.shape == (13, 16)
        mapped = file.read(1)
    assert (mapped[:, 10:] == 255).all() and (mapped[:, :9] < 4).all()
    named = (tmp_path / "maps/a_landcover.tif.aux.xml").read_text()
    assert "<CategoryNames><Category>Forest</Category><Category>SeaLake</Category>" in named
    with rasterio.open(tmp_path / "maps/a_probability.tif") as file:
        assert file.descriptions == CLASSES
        probabilities = file.read()
    np.testing.assert_allclose(probabilities.sum(0)[:, :9], 1, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(probabilities[0]), mapped == 255)
    np.testing.assert_array_equal(probabilities.argmax(0)[:, :9], mapped[:, :9])
    with (tmp_path / "maps/a_areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    counts = np.bincount(mapped[mapped != 255], minlength=4)
    assert [int(row["cells"]) for row in rows] == counts.tolist() and result["cells"] == counts.sum()
    in_cells = (pixels != 0).any(-1).astype(int)[:, :320]  # of the last row of cells 16 rows are the scene's
    in_cells = np.add.reduceat(in_cells, range(0, 400, 32), axis=0).reshape(13, 10, 32).sum(2)
    hectares = [in_cells[mapped[:, :10] == index].sum() / 100 for index in range(4)]
    assert [float(row["hectares"]) for row in rows] == pytest.approx(hectares) and sum(hectares) == 1200
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)

    with pytest.raises(InputError, match=r"a_landcover\.tif exists; give another --output, or --overwrite"):
        write_map(classifier(), scene, tmp_path / "maps/a")
    write_map(classifier(), scene, tmp_path / "maps/a", MapOptions(overwrite=True, min_probability=0.9, whole=True))
    whole = classes_of(tmp_path / "maps/a_landcover.tif")
    assert whole.shape == (400, 500)
    sure = np.nanmax(probabilities, axis=0, initial=0) >= 0.9
    expected = np.where(sure & (mapped != 255), mapped, 255).repeat(32, 0).repeat(32, 1)[:400, :500]
    np.testing.assert_array_equal(whole, expected)


def test_interrupted(tmp_path, monkeypatch):
    """Nothing has the map's name; the same call goes on where it was, and comes to the same."""
    monkeypatch.setattr(sliding_window, "SAVE_INTERVAL_SECONDS", 0)
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(640, 320))])
    write_map(classifier(), scene, tmp_path / "whole")
    calls = []

    def dying(images):
        calls.append(len(images))
        if len(calls) == 10:
            raise KeyboardInterrupt
        return by_colour(images)

    with pytest.raises(KeyboardInterrupt):
        write_map(classifier(dying), scene, tmp_path / "map")
    assert [path.name for path in tmp_path.glob("map*")] == ["map.unfinished"]
    later = []
    write_map(classifier(lambda images: later.append(len(images)) or by_colour(images)), scene, tmp_path / "map")
    assert len(later) < 12 and not (tmp_path / "map.unfinished").exists()
    for name in ("landcover.tif", "areas.csv"):
        assert (tmp_path / f"map_{name}").read_bytes() == (tmp_path / f"whole_{name}").read_bytes()
    # What another call has left is not gone on with.
    with pytest.raises(KeyboardInterrupt):
        calls.clear()
        write_map(classifier(dying), scene, tmp_path / "map", MapOptions(overwrite=True))
    write_map(classifier(), scene, tmp_path / "map", MapOptions(overwrite=True, stride=64))
    assert classes_of(tmp_path / "map_landcover.tif").shape == (10, 5)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_georeference(tmp_path):
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(200, 200), crs=None)])
    write_map(classifier(), scene, tmp_path / "map")
    with (tmp_path / "map_areas.csv").open() as file:
        assert {row["hectares"] for row in csv.DictReader(file)} == {""}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": 64, "stride": 48}, "--window=64 must be a multiple of --stride=48"),
        ({"min_probability": 1.5}, r"--min_probability=1\.5: must be from 0 to 1"),
    ],
)
def test_bad_options(options, told):
    with pytest.raises(InputError, match=told):
        MapOptions(**options)


def test_nothing_of_another_map_is_gone_on_with(tmp_path, monkeypatch):
    """Another band file of the same name, another outline, damaged notes: it begins anew."""
    monkeypatch.setattr(sliding_window, "SAVE_INTERVAL_SECONDS", 0)
    pixels = drawn(640, 320).astype("uint16") * 10

    def band(name: str, values: np.ndarray) -> None:
        write(tmp_path / f"bands/x_{name}.tif", values[..., np.newaxis])

    (tmp_path / "bands").mkdir()
    for index, name in enumerate(("B04", "B03", "B02")):
        band(name, pixels[..., index])

    def interrupted() -> None:
        calls = []

        def dying(images):
            calls.append(0)
            if len(calls) == 8:
                raise KeyboardInterrupt
            return by_colour(images)

        with pytest.raises(KeyboardInterrupt):
            write_map(classifier(dying), open_scene_for(classifier(), [tmp_path / "bands"]), tmp_path / "map")
        assert (tmp_path / "map.unfinished/state.json").is_file()

    def finished() -> tuple[int, np.ndarray]:
        calls = []
        scene = open_scene_for(classifier(), [tmp_path / "bands"])
        counting = classifier(lambda images: calls.append(0) or by_colour(images))
        write_map(counting, scene, tmp_path / "map", MapOptions(overwrite=True))
        return len(calls), classes_of(tmp_path / "map_landcover.tif")

    whole, before = finished()
    (tmp_path / "map_landcover.tif").unlink()
    for path in tmp_path.glob("map_*"):
        path.unlink()
    interrupted()
    band("B03", pixels[::-1, ::-1, 1])
    count, mapped = finished()
    assert count == whole and (mapped != before).any()
    for name, content in (("state.json", b"[1]"), ("pixels.npy", b""), ("probabilities.npy", b"damaged")):
        for path in tmp_path.glob("map_*"):
            path.unlink()
        interrupted()
        (tmp_path / "map.unfinished" / name).write_bytes(content)
        count, again = finished()
        assert count == whole
        np.testing.assert_array_equal(again, mapped)


def test_one_map_at_a_time(tmp_path):
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(200, 200))])
    told = []

    def another(images):
        with pytest.raises(InputError, match="is in use by another process; give another --output"):
            write_map(classifier(), scene, tmp_path / "map")
        told.append(0)
        return by_colour(images)

    write_map(classifier(another), scene, tmp_path / "map")
    assert told and (tmp_path / "map_landcover.tif").is_file()


def test_nothing_to_map_and_odd_shapes(tmp_path):
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(2000, 1))])
    write_map(classifier(), scene, tmp_path / "thin")
    assert classes_of(tmp_path / "thin_landcover.tif").shape == (63, 1)
    with pytest.raises(InputError, match="nothing to map: everywhere no data, clouds, or less than --min_probability"):
        write_map(classifier(), scene, tmp_path / "none", MapOptions(min_probability=1.0))
    assert not list(tmp_path.glob("none_*"))
    with pytest.raises(InputError, match="give what the names of files begin with"):
        write_map(classifier(), scene, ".")
    (tmp_path / "folder_areas.csv").mkdir()
    with pytest.raises(InputError, match=r"folder_areas\.csv exists"):
        write_map(classifier(), scene, tmp_path / "folder", MapOptions(overwrite=True))
    assert not (tmp_path / "folder_landcover.tif").exists()


def test_a_missing_band_is_filled_in(tmp_path):
    for name in ("B04", "B03"):
        write(tmp_path / f"x_{name}.tif", drawn(128, 128)[..., :1].astype("uint16") * 10)
    known = SavedClassifier(tmp_path / "model.safetensors", tmp_path, CLASSES, 3, by_colour)
    scene = open_scene([str(tmp_path)], fill=(1, 2, 700))
    write_map(known, scene, tmp_path / "map")
    assert scene.read(rasterio.windows.Window(0, 0, 4, 4))[0][..., 2].tolist() == [[700] * 4] * 4


@pytest.mark.parametrize("kibibytes", [0, 1, 2, 4, 8, 16, 64])
def test_a_full_disk_is_one_line_and_publishes_nothing(tmp_path, kibibytes, capfd):
    """Files may have no more bytes than that once all is classified, as on a disk that fills up."""
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(300, 300))])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "maps").mkdir()

    def filling_the_disk(images):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kibibytes, hard))
        return by_colour(images)

    try:
        with pytest.raises(InputError, match=r"cannot write .*; free space or give another") as refusal:
            write_map(
                classifier(filling_the_disk), scene, tmp_path / "maps/a", MapOptions(probabilities=True, stride=8)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == "" and "\n" not in str(refusal.value)
    assert not list((tmp_path / "maps").glob("a_*"))
    write_map(classifier(), scene, tmp_path / "maps/a", MapOptions(probabilities=True, stride=8))
    assert len(list((tmp_path / "maps").iterdir())) == 5


@pytest.mark.parametrize("name", ["landcover.tif", "probability.tif"])
def test_a_file_that_reads_back_otherwise_is_not_published(tmp_path, monkeypatch, name):
    """GDAL can return from writing to a full disk as if all were well."""
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(400, 400))])
    copy = rasterio.shutil.copy

    def incomplete_copy(source, target, **options):
        copy(source, target, **options)
        if pathlib.Path(target).name == name:
            os.truncate(target, pathlib.Path(target).stat().st_size - 50)

    monkeypatch.setattr(rasterio.shutil, "copy", incomplete_copy)
    with pytest.raises(InputError, match=r"cannot write .*map_\*: .*; free space or give another --output"):
        write_map(classifier(), scene, tmp_path / "map", MapOptions(probabilities=True))
    assert not list(tmp_path.glob("map_*"))


def test_files_are_published_all_or_none(tmp_path, monkeypatch):
    """A rename that fails puts back the files of the map before."""
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(200, 200))])
    write_map(classifier(), scene, tmp_path / "map", MapOptions(probabilities=True))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("map_*")}
    replace = pathlib.Path.replace

    def failing_replace(path, target):
        if path.parent.name == "map.unfinished" and path.name == "areas.csv":
            raise PermissionError(13, "Permission denied")
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(InputError, match="Permission denied"):
        patch.setattr(pathlib.Path, "replace", failing_replace)
        write_map(classifier(), scene, tmp_path / "map", MapOptions(overwrite=True, stride=16))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("map_*")} == before
    write_map(classifier(), scene, tmp_path / "map", MapOptions(overwrite=True, stride=16))
    assert not (tmp_path / "map_probability.tif").exists()


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(200, 200))])

    def writing_another(images):
        (tmp_path / "map_areas.csv").write_text("mine")
        return by_colour(images)

    with pytest.raises(InputError, match=r"map_areas\.csv exists; give another --output, or --overwrite"):
        write_map(classifier(writing_another), scene, tmp_path / "map")
    assert [path.name for path in tmp_path.glob("map_*")] == ["map_areas.csv"]
    assert (tmp_path / "map_areas.csv").read_text() == "mine"


def test_an_interrupted_call_can_be_repeated_in_a_notebook(tmp_path, monkeypatch):
    """A notebook keeps the exception, and with it all that the call had opened."""
    monkeypatch.setattr(sliding_window, "SAVE_INTERVAL_SECONDS", 0)
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(640, 320))])
    calls = []

    def interrupting(images):
        calls.append(0)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return by_colour(images)

    with pytest.raises(KeyboardInterrupt) as kept_exception:
        write_map(classifier(interrupting), scene, tmp_path / "map")
    write_map(classifier(), scene, tmp_path / "map")
    assert kept_exception.value.__traceback__ and not (tmp_path / "map.unfinished").exists()


def test_a_call_that_fails_at_once_leaves_no_folder(tmp_path):
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(200, 200))])

    def failing(images):
        raise InputError("no answer")

    with pytest.raises(InputError, match="no answer"):
        write_map(classifier(failing), scene, tmp_path / "map")
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def many_classes(count: int) -> SavedClassifier:
    """A classifier that is sure of its last class."""
    sure = np.eye(count, dtype="float32")[-1]
    names = tuple(f"class{index}" for index in range(count))
    return SavedClassifier(
        pathlib.Path("model"), pathlib.Path(), names, 3, lambda images: np.tile(sure, (len(images), 1))
    )


def test_more_than_255_classes_are_refused(tmp_path):
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(100, 100))])
    write_map(many_classes(255), scene, tmp_path / "map")
    assert (classes_of(tmp_path / "map_landcover.tif") == 254).all()
    for call in (
        lambda: write_map(many_classes(256), scene, tmp_path / "more"),
        lambda: map_scene(many_classes(256), scene),
    ):
        with pytest.raises(InputError, match="the classifier has 256 classes, a map at most 255"):
            call()
    assert not list(tmp_path.glob("more*"))


def test_the_colour_table_has_the_classes_alone(tmp_path):
    """A legend in QGIS would have a row for each of 256 colours."""
    scene = open_scene_for(classifier(), [write(tmp_path / "scene.tif", drawn(100, 100))])
    write_map(classifier(), scene, tmp_path / "map")
    with rasterio.open(tmp_path / "map_landcover.tif") as file:
        assert list(file.colormap(1).values()) == [(*colour, 255) for colour in landcover.class_colours(CLASSES)]
