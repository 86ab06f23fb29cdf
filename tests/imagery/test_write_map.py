"""Maps of scenes as files: their content, how an interrupted map resumes, and what a full disk leaves."""

import csv
import json
import os
import pathlib
import resource
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.windows
from PIL import Image
from products import CRS, ORIGIN
from rasterio.transform import from_origin
from rio_cogeo.cogeo import cog_validate
from scenes import CLASSES, colour_classifier, draw_fields, predict_by_colour, read_classes, write_scene

from resnetd_tf.errors import InputError
from resnetd_tf.imagery import landcover, map_scene, sliding_window
from resnetd_tf.imagery.landcover import MapOptions, open_scene_for, write_map
from resnetd_tf.imagery.products import open_scene
from resnetd_tf.imagery.scene import Scene
from resnetd_tf.saved import SavedClassifier

draw_map = landcover.draw_map


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    """Pictures of maps have one pixel: drawing is most of a small map's time, and test_map_pictures.py tests it."""
    monkeypatch.setattr(landcover, "draw_map", lambda path, *_: Image.new("RGB", (1, 1)).save(path))


def open_fields(folder: pathlib.Path, height: int = 200, width: int = 200) -> Scene:
    """A drawn scene, opened."""
    return open_scene_for(colour_classifier(), [write_scene(folder / "scene.tif", draw_fields(height, width))])


def interrupted_classifier(calls_before: int) -> SavedClassifier:
    """A classifier that is interrupted, as by Ctrl-C, after some rows of windows."""
    calls = []

    def predict(images):
        calls.append(len(images))
        if len(calls) > calls_before:
            raise KeyboardInterrupt
        return predict_by_colour(images)

    return colour_classifier(predict)


def counting_classifier(calls: list) -> SavedClassifier:
    """A classifier that adds the number of windows of each row to a list."""
    return colour_classifier(lambda images: calls.append(len(images)) or predict_by_colour(images))


@pytest.fixture(scope="module")
def written_map(tmp_path_factory):
    """A map with probabilities of a scene whose right part has no data: pixels, folder and result."""
    folder = tmp_path_factory.mktemp("written")
    pixels = draw_fields(400, 500)
    pixels[:, 300:] = 0  # nodata
    scene = open_scene_for(colour_classifier(), [write_scene(folder / "scene.tif", pixels)])
    result = write_map(colour_classifier(), scene, folder / "maps/a", MapOptions(probabilities=True))
    return pixels, folder / "maps", result


def test_the_files_of_a_map(written_map):
    names = ["landcover.tif", "landcover.tif.aux.xml", "landcover.png", "landcover.qml", "landcover.sld", "areas.csv"]
    names.append("probability.tif")
    assert {path.name for path in written_map[1].iterdir()} == {f"a_{name}" for name in names}


def test_styles_name_and_colour_the_classes(written_map):
    """A style for QGIS and one for map servers; neither has the 256 colours of the GeoTIFF."""
    namespace = "{http://www.opengis.net/sld}"
    for suffix, entry, value in ((".qml", "paletteEntry", "value"), (".sld", f"{namespace}ColorMapEntry", "quantity")):
        root = ElementTree.parse(written_map[1] / f"a_landcover{suffix}").getroot()
        entries = list(root.iter(entry))
        assert [each.get("label") for each in entries] == list(colour_classifier().classes)
        assert [each.get(value) for each in entries] == [str(index) for index in range(len(entries))]
        colours = [tuple(bytes.fromhex(each.get("color")[1:])) for each in entries]
        assert colours == landcover.class_colours(colour_classifier().classes)


@pytest.mark.parametrize("full_resolution", [False, True])
def test_polygons_cover_what_is_mapped(tmp_path, full_resolution):
    """Their areas are those of the table, also where cells have pixels without data."""
    geopandas = pytest.importorskip("geopandas")
    pixels = draw_fields(310, 250)
    pixels[:20] = 0
    path = write_scene(tmp_path / "scene.tif", pixels, nodata=0)
    scene = open_scene_for(colour_classifier(), [path])
    options = MapOptions(polygons=True, full_resolution=full_resolution)
    write_map(colour_classifier(), scene, tmp_path / "m", options)
    polygons = geopandas.read_file(tmp_path / "m_landcover.gpkg")
    with rasterio.open(tmp_path / "m_landcover.tif") as file:
        assert polygons.crs.to_wkt() == file.crs.to_wkt() or polygons.crs.to_epsg() == file.crs.to_epsg()
    with (tmp_path / "m_areas.csv").open() as file:
        areas = {row["class"]: float(row["hectares"]) for row in csv.DictReader(file)}
    assert sum(areas.values()) == pytest.approx(290 * 2.5)
    for name in CLASSES:
        assert polygons.loc[polygons["class"] == name, "hectares"].sum() == pytest.approx(areas[name], abs=0.05)


@pytest.mark.parametrize("name", ["landcover", "probability"])
def test_maps_are_cloud_optimised(written_map, name):
    valid, errors, warnings = cog_validate(written_map[1] / f"a_{name}.tif", quiet=True)
    assert valid and not errors and not warnings


def test_the_map_of_classes_has_the_scenes_place_and_nodata(written_map):
    with rasterio.open(written_map[1] / "a_landcover.tif") as file:
        assert str(file.crs) == CRS and file.transform == from_origin(*ORIGIN, 320, 320) and file.nodata == 255
        assert file.shape == (13, 16)
        classes = file.read(1)
    assert (classes[:, 10:] == 255).all() and (classes[:, :9] < 4).all()


def test_the_map_of_classes_has_their_names_and_colours(written_map):
    with rasterio.open(written_map[1] / "a_landcover.tif") as file:
        assert file.colormap(1)[0] == (27, 107, 44, 255)
    text = (written_map[1] / "a_landcover.tif.aux.xml").read_text()
    assert "<CategoryNames><Category>Forest</Category><Category>SeaLake</Category>" in text


def test_the_colour_table_has_the_classes_alone(written_map):
    """A legend in QGIS would have a row for each of 256 colours."""
    with rasterio.open(written_map[1] / "a_landcover.tif") as file:
        assert list(file.colormap(1).values()) == [(*colour, 255) for colour in landcover.class_colours(CLASSES)]


def test_probabilities_are_a_band_for_each_class(written_map):
    classes = read_classes(written_map[1] / "a_landcover.tif")
    with rasterio.open(written_map[1] / "a_probability.tif") as file:
        assert file.descriptions == CLASSES
        probabilities = file.read()
    np.testing.assert_allclose(probabilities.sum(0)[:, :9], 1, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(probabilities[0]), classes == 255)
    np.testing.assert_array_equal(probabilities.argmax(0)[:, :9], classes[:, :9])


def test_areas_count_the_pixels_with_data(written_map):
    pixels, folder, result = written_map
    classes = read_classes(folder / "a_landcover.tif")
    with (folder / "a_areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(CLASSES)
    counts = np.bincount(classes[classes != 255], minlength=4)
    assert [int(row["cells"]) for row in rows] == counts.tolist() and result["cells"] == counts.sum()
    valid = (pixels != 0).any(-1).astype(int)[:, :320]  # in the last row of cells 16 rows of pixels are the scene's
    valid_pixels = np.add.reduceat(valid, range(0, 400, 32), axis=0).reshape(13, 10, 32).sum(2)
    hectares = [valid_pixels[classes[:, :10] == index].sum() / 100 for index in range(4)]
    assert [float(row["hectares"]) for row in rows] == pytest.approx(hectares) and sum(hectares) == 1200
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)


def test_the_result_has_shares_and_the_most_probable_cells(written_map):
    _, folder, result = written_map
    classes = read_classes(folder / "a_landcover.tif")
    with rasterio.open(folder / "a_probability.tif") as file:
        probabilities = file.read()
    assert sum(result["shares"].values()) == pytest.approx(1)
    assert set(result["most_probable_cells"]) == {CLASSES[index] for index in np.unique(classes[classes != 255])}
    for name, cell in result["most_probable_cells"].items():
        index = CLASSES.index(name)
        assert classes[cell] == index and probabilities[index][cell] == probabilities[index][classes == index].max()


def test_files_of_a_map_are_not_replaced_unasked(tmp_path):
    scene = open_fields(tmp_path)
    write_map(colour_classifier(), scene, tmp_path / "map")
    with pytest.raises(InputError, match=r"map_landcover\.tif exists; give another --output, or --overwrite"):
        write_map(colour_classifier(), scene, tmp_path / "map")


def test_overwriting_removes_the_probabilities_of_the_earlier_map(tmp_path):
    scene = open_fields(tmp_path)
    write_map(colour_classifier(), scene, tmp_path / "map", MapOptions(probabilities=True))
    write_map(colour_classifier(), scene, tmp_path / "map", MapOptions(overwrite=True))
    assert not (tmp_path / "map_probability.tif").exists()


def test_full_resolution_and_improbable_cells(tmp_path):
    scene = open_fields(tmp_path, 400, 300)
    land_cover = map_scene(colour_classifier(), scene)
    write_map(colour_classifier(), scene, tmp_path / "map", MapOptions(min_probability=0.9, full_resolution=True))
    classes = read_classes(tmp_path / "map_landcover.tif")
    is_sure = land_cover.probabilities.max(-1) >= 0.9
    assert is_sure.any() and not is_sure.all()
    expected = np.where(is_sure, land_cover.classes, 255).repeat(32, 0).repeat(32, 1)[:400, :300]
    np.testing.assert_array_equal(classes, expected)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_georeference_there_are_no_hectares(tmp_path):
    path = write_scene(tmp_path / "scene.tif", draw_fields(200, 200), crs=None)
    write_map(colour_classifier(), open_scene_for(colour_classifier(), [path]), tmp_path / "map")
    with (tmp_path / "map_areas.csv").open() as file:
        assert {row["hectares"] for row in csv.DictReader(file)} == {""}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 64, "stride": 48}, "--window=64 must be a multiple of --stride=48"),
        ({"min_probability": 1.5}, r"--min_probability=1\.5: must be from 0 to 1"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MapOptions(**options)


def test_a_scene_of_one_column_is_mapped(tmp_path):
    write_map(colour_classifier(), open_fields(tmp_path, 2000, 1), tmp_path / "thin")
    assert read_classes(tmp_path / "thin_landcover.tif").shape == (63, 1)


def test_a_map_without_any_class_is_not_written(tmp_path):
    message = "nothing to map: everywhere no data, clouds, less than --min_probability, or unlike"
    with pytest.raises(InputError, match=message):
        write_map(colour_classifier(), open_fields(tmp_path), tmp_path / "none", MapOptions(min_probability=1))
    assert not list(tmp_path.glob("none*"))


def test_an_output_without_a_name_is_refused(tmp_path):
    with pytest.raises(InputError, match="give what the names of files begin with"):
        write_map(colour_classifier(), open_fields(tmp_path), ".")


def test_a_folder_with_the_name_of_a_file_is_not_replaced(tmp_path):
    (tmp_path / "map_areas.csv").mkdir()
    with pytest.raises(InputError, match=r"map_areas\.csv exists"):
        write_map(colour_classifier(), open_fields(tmp_path), tmp_path / "map", MapOptions(overwrite=True))
    assert not (tmp_path / "map_landcover.tif").exists()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_picture_is_refused(tmp_path, suffix):
    path = tmp_path / f"scene{suffix}"
    Image.fromarray(draw_fields(200, 200)).save(path)
    assert open_scene_for(colour_classifier(), [path]).is_picture
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"scene\.(png|jpg): cannot be read, damaged or truncated"):
        write_map(colour_classifier(), open_scene_for(colour_classifier(), [path]), tmp_path / "map")


def test_a_missing_band_is_filled(tmp_path):
    for name in ("B04", "B03"):
        write_scene(tmp_path / f"x_{name}.tif", draw_fields(128, 128)[..., :1].astype("uint16") * 10)
    scene = open_scene([str(tmp_path)], fill=(1, 2, 700))
    assert scene.read(rasterio.windows.Window(0, 0, 4, 4))[0][..., 2].tolist() == [[700] * 4] * 4
    write_map(colour_classifier(), scene, tmp_path / "map")


def sure_classifier(class_count: int) -> SavedClassifier:
    """A classifier that is sure of its last class."""
    last = np.eye(class_count, dtype="float32")[-1]
    names = tuple(f"class{index}" for index in range(class_count))
    return SavedClassifier(
        pathlib.Path("model"), pathlib.Path(), names, 3, lambda images: np.tile(last, (len(images), 1))
    )


def test_a_map_has_at_most_255_classes(tmp_path):
    scene = open_fields(tmp_path, 100, 100)
    write_map(sure_classifier(255), scene, tmp_path / "map")
    assert (read_classes(tmp_path / "map_landcover.tif") == 254).all()
    with pytest.raises(InputError, match="the classifier has 256 classes, a map at most 255"):
        write_map(sure_classifier(256), scene, tmp_path / "more")
    with pytest.raises(InputError, match="the classifier has 256 classes, a map at most 255"):
        map_scene(sure_classifier(256), scene)
    assert not list(tmp_path.glob("more*"))


# An interrupted map resumes.


@pytest.fixture
def save_each_row(monkeypatch):
    """The progress of a map is recorded after each row."""
    monkeypatch.setattr(sliding_window, "SAVE_INTERVAL_SECONDS", -1)


def test_an_interrupted_map_leaves_nothing_but_its_progress(tmp_path, save_each_row):
    with pytest.raises(KeyboardInterrupt):
        write_map(interrupted_classifier(5), open_fields(tmp_path, 640, 320), tmp_path / "map")
    assert [path.name for path in tmp_path.glob("map*")] == ["map.unfinished"]


def test_a_map_that_is_interrupted_early_keeps_its_rows(tmp_path):
    scene, calls = open_fields(tmp_path, 640, 320), []
    with pytest.raises(KeyboardInterrupt):
        write_map(interrupted_classifier(5), scene, tmp_path / "map")
    state = json.loads((tmp_path / "map.unfinished/state.json").read_text())
    assert state["rows"] == 5
    write_map(counting_classifier(calls), scene, tmp_path / "map")
    assert len(calls) < 17


def test_a_folder_that_was_made_for_a_map_goes_with_it(tmp_path):
    options = MapOptions(min_probability=1.0)
    with pytest.raises(InputError, match="nothing to map"):
        write_map(colour_classifier(), open_fields(tmp_path), tmp_path / "maps/june/map", options)
    assert not (tmp_path / "maps").exists()


def test_an_interrupted_map_resumes_and_is_the_same(tmp_path, save_each_row):
    scene, calls = open_fields(tmp_path, 640, 320), []
    write_map(colour_classifier(), scene, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write_map(interrupted_classifier(9), scene, tmp_path / "map")
    write_map(counting_classifier(calls), scene, tmp_path / "map")
    assert len(calls) < 12 and not (tmp_path / "map.unfinished").exists()
    for name in ("landcover.tif", "areas.csv"):
        assert (tmp_path / f"map_{name}").read_bytes() == (tmp_path / f"whole_{name}").read_bytes()


def test_a_map_with_another_stride_does_not_resume(tmp_path, save_each_row):
    scene = open_fields(tmp_path, 640, 320)
    with pytest.raises(KeyboardInterrupt):
        write_map(interrupted_classifier(5), scene, tmp_path / "map")
    write_map(colour_classifier(), scene, tmp_path / "map", MapOptions(stride=64))
    assert read_classes(tmp_path / "map_landcover.tif").shape == (10, 5)


def write_band_files(folder: pathlib.Path) -> pathlib.Path:
    """Three files of digital numbers, one for each colour."""
    folder.mkdir()
    pixels = draw_fields(640, 320).astype("uint16") * 10
    for index, name in enumerate(("B04", "B03", "B02")):
        write_scene(folder / f"x_{name}.tif", pixels[..., index : index + 1])
    return folder


def test_a_map_of_another_band_file_does_not_resume(tmp_path, save_each_row):
    folder, calls = write_band_files(tmp_path / "bands"), []
    with pytest.raises(KeyboardInterrupt):
        write_map(interrupted_classifier(7), open_scene_for(colour_classifier(), [folder]), tmp_path / "map")
    band = read_classes(folder / "x_B03.tif")
    write_scene(folder / "x_B03.tif", band[::-1, ::-1, np.newaxis])
    scene = open_scene_for(colour_classifier(), [folder])
    write_map(counting_classifier(calls), scene, tmp_path / "map")
    assert len(calls) == 19
    expected = map_scene(colour_classifier(), scene).classes
    np.testing.assert_array_equal(read_classes(tmp_path / "map_landcover.tif"), expected)


@pytest.mark.parametrize(
    ("name", "content"), [("state.json", b"[1]"), ("pixels.npy", b""), ("probabilities.npy", b"damaged")]
)
def test_damaged_progress_is_not_resumed(tmp_path, save_each_row, name, content):
    scene, calls = open_fields(tmp_path, 640, 320), []
    with pytest.raises(KeyboardInterrupt):
        write_map(interrupted_classifier(7), scene, tmp_path / "map")
    assert (tmp_path / "map.unfinished/state.json").is_file()
    (tmp_path / "map.unfinished" / name).write_bytes(content)
    write_map(counting_classifier(calls), scene, tmp_path / "map")
    assert len(calls) == 19
    expected = map_scene(colour_classifier(), scene).classes
    np.testing.assert_array_equal(read_classes(tmp_path / "map_landcover.tif"), expected)


def test_an_interrupted_call_can_be_repeated_in_a_notebook(tmp_path, save_each_row):
    """A notebook keeps the exception, and with it all that the call had opened."""
    scene = open_fields(tmp_path, 640, 320)
    with pytest.raises(KeyboardInterrupt) as kept_exception:
        write_map(interrupted_classifier(4), scene, tmp_path / "map")
    write_map(colour_classifier(), scene, tmp_path / "map")
    assert kept_exception.value.__traceback__ and not (tmp_path / "map.unfinished").exists()


def test_a_call_that_fails_at_once_leaves_no_folder(tmp_path):
    def predict(images):
        raise InputError("no answer")

    with pytest.raises(InputError, match="no answer"):
        write_map(colour_classifier(predict), open_fields(tmp_path), tmp_path / "map")
    assert [path.name for path in tmp_path.iterdir()] == ["scene.tif"]


def test_files_of_the_user_in_the_working_folder_are_not_lost(tmp_path):
    (tmp_path / "map.unfinished").mkdir()
    (tmp_path / "map.unfinished/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"map\.unfinished is there already, and no map's; give another --output"):
        write_map(colour_classifier(), open_fields(tmp_path), tmp_path / "map")
    assert (tmp_path / "map.unfinished/notes.txt").read_text() == "mine"


def test_one_map_at_a_time(tmp_path):
    scene, refusals = open_fields(tmp_path), []

    def predict(images):
        with pytest.raises(InputError, match="is in use by another process; give another --output") as refusal:
            write_map(colour_classifier(), scene, tmp_path / "map")
        refusals.append(refusal)
        return predict_by_colour(images)

    write_map(colour_classifier(predict), scene, tmp_path / "map")
    assert refusals and (tmp_path / "map_landcover.tif").is_file() and not (tmp_path / "map.unfinished").exists()


# Either every file is written or none is.


@pytest.mark.parametrize("kibibytes", [0, 1, 2, 4, 8, 16, 64])
def test_a_full_disk_is_one_line_and_publishes_nothing(tmp_path, monkeypatch, kibibytes, capfd):
    """Files may have no more bytes than that once all is classified, as on a disk that fills up."""
    if kibibytes == 64:
        monkeypatch.setattr(landcover, "draw_map", draw_map)  # only the picture is larger
    scene, options = open_fields(tmp_path, 300, 300), MapOptions(probabilities=True, stride=8)
    soft_limit, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "maps").mkdir()

    def predict(images):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kibibytes, hard_limit))
        return predict_by_colour(images)

    try:
        with pytest.raises(InputError, match=r"cannot write .*; free space or give another") as refusal:
            write_map(colour_classifier(predict), scene, tmp_path / "maps/a", options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft_limit, hard_limit))
    assert capfd.readouterr().err == "" and "\n" not in str(refusal.value)
    assert not list((tmp_path / "maps").glob("a_*"))
    write_map(colour_classifier(), scene, tmp_path / "maps/a", options)
    assert len(list((tmp_path / "maps").iterdir())) == 7


@pytest.mark.parametrize("name", ["landcover.tif", "probability.tif"])
def test_a_file_that_reads_back_otherwise_is_not_published(tmp_path, monkeypatch, name):
    """GDAL can return from writing to a full disk as if all were well."""
    scene = open_fields(tmp_path, 400, 400)
    copy = rasterio.shutil.copy

    def incomplete_copy(source, target, **options):
        copy(source, target, **options)
        if pathlib.Path(target).name == name:
            os.truncate(target, pathlib.Path(target).stat().st_size - 50)

    monkeypatch.setattr(rasterio.shutil, "copy", incomplete_copy)
    with pytest.raises(InputError, match=r"cannot write .*map_\*: .*; free space or give another --output"):
        write_map(colour_classifier(), scene, tmp_path / "map", MapOptions(probabilities=True))
    assert not list(tmp_path.glob("map_*"))


def test_a_rename_that_fails_puts_back_the_files_of_the_earlier_map(tmp_path, monkeypatch):
    scene = open_fields(tmp_path)
    write_map(colour_classifier(), scene, tmp_path / "map", MapOptions(probabilities=True))
    earlier_files = {path.name: path.read_bytes() for path in tmp_path.glob("map_*")}
    replace = pathlib.Path.replace

    def failing_replace(path, target):
        if path.parent.name == "map.unfinished" and path.name == "areas.csv":
            raise PermissionError(13, "Permission denied")
        return replace(path, target)

    monkeypatch.setattr(pathlib.Path, "replace", failing_replace)
    with pytest.raises(InputError, match="Permission denied"):
        write_map(colour_classifier(), scene, tmp_path / "map", MapOptions(overwrite=True, stride=16))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("map_*")} == earlier_files


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    scene = open_fields(tmp_path)

    def predict(images):
        (tmp_path / "map_areas.csv").write_text("mine")
        return predict_by_colour(images)

    with pytest.raises(InputError, match=r"map_areas\.csv exists; give another --output, or --overwrite"):
        write_map(colour_classifier(predict), scene, tmp_path / "map")
    assert [path.name for path in tmp_path.glob("map_*")] == ["map_areas.csv"]
    assert (tmp_path / "map_areas.csv").read_text() == "mine"
