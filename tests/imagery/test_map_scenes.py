"""Maps of several scenes, as map.py makes them: which paths are scenes, and what their maps are called."""

import pathlib

import numpy as np
import pytest
from PIL import Image
from scenes import colour_classifier, draw_fields, predict_by_colour, read_classes, write_scene

from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import landcover
from resnetd_tf.imagery.landcover import MapOptions, map_scenes
from resnetd_tf.imagery.products import Source, classify_source


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    """The current folder, with a scene and a patch; pictures of maps have one pixel."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(landcover, "draw_map", lambda path, classified: Image.new("RGB", (1, 1)).save(path))
    Image.fromarray(draw_fields(192, 256)).save("scene.png")
    Image.fromarray(draw_fields(64, 64)).save("patch.png")
    return tmp_path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_program_maps_a_scene(run, small_classifier, program, tmp_path):
    images = synthetic.draw_scenes(12, seed=3)[0]
    scene = images.reshape(3, 4, 64, 64, 3).swapaxes(1, 2).reshape(192, 256, 3)
    Image.fromarray(scene).save(tmp_path / "scene.png")
    result = program("map.py", f"--model={run}", "scene.png", "--stride=64", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    model, description, *_ = result.stdout.splitlines()
    assert model.startswith(f"Model: {run / 'run-1'}, ")
    assert description.startswith("scene.png: picture of 8 bits: colours as they are")
    classes = read_classes(tmp_path / "scene_landcover.tif")
    np.testing.assert_array_equal(classes.ravel(), small_classifier.predict(images).argmax(1))


def test_the_program_wants_a_scene(bad_input):
    assert "no scene given" in bad_input("map.py")


def test_a_patch_is_refused_and_scenes_beside_it_are_mapped(here):
    message = r"^patch\.png: not larger than a patch \(128 pixels a side\); predict\.py labels patches, --window maps"
    with pytest.raises(InputError, match=message):
        map_scenes(colour_classifier(), ["patch.png", "scene.png"], MapOptions())
    assert (here / "scene_landcover.tif").is_file() and not (here / "patch_landcover.tif").exists()


def test_a_file_that_is_no_scene_is_named_and_takes_no_map(here):
    (here / "notes.md").write_text("no image")
    with pytest.raises(InputError, match=r"^notes\.md: not a raster file"):
        map_scenes(colour_classifier(), ["notes.md", "scene.png"], MapOptions(), output="map")
    assert (here / "map_landcover.tif").is_file()


def test_many_patches_are_refused_in_one_line(here):
    for index in range(5):
        Image.fromarray(draw_fields(64, 64)).save(here / f"patch{index}.png")
    with pytest.raises(InputError, match=r"^patch\.png and 5 more: not larger than a patch"):
        map_scenes(colour_classifier(), sorted(path.name for path in here.glob("patch*")), MapOptions())


def test_patches_are_mapped_where_that_is_wanted(here):
    map_scenes(colour_classifier(), ["patch.png"], MapOptions(stride=64), include_patches=True)
    expected = predict_by_colour(draw_fields(64, 64)[np.newaxis]).argmax()
    assert read_classes(here / "patch_landcover.tif").tolist() == [[expected]]


def test_maps_of_a_folder_have_the_names_of_their_scenes(here):
    write_scene(here / "other.tif", draw_fields(150, 150))
    map_scenes(colour_classifier(), ["scene.png", "other.tif"], MapOptions(), output=f"{here}/maps/")
    assert {path.name for path in here.glob("maps/*.tif")} == {"scene_landcover.tif", "other_landcover.tif"}


def test_one_name_for_several_maps_is_refused(here):
    write_scene(here / "other.tif", draw_fields(150, 150))
    with pytest.raises(InputError, match="--output=x names one map, but 2 scenes are given; --output=x/ is a folder"):
        map_scenes(colour_classifier(), ["scene.png", "other.tif"], MapOptions(), output="x")
    assert not list(here.glob("x*"))


def test_scenes_of_one_name_are_refused(here):
    (here / "copy").mkdir()
    Image.fromarray(draw_fields(192, 256, seed=1)).save(here / "copy/scene.png")
    with pytest.raises(InputError, match="several scenes would be called scene; map one at a time, with --output"):
        map_scenes(colour_classifier(), ["scene.png", "copy/scene.png"], MapOptions())


def test_a_scene_that_cannot_be_mapped_does_not_stop_the_others(here, capsys):
    (here / "bad.tif").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"^bad\.tif: not a raster file that GDAL reads"):
        map_scenes(colour_classifier(), ["bad.tif", "scene.png"], MapOptions())
    assert (here / "scene_landcover.tif").is_file()
    printed = capsys.readouterr().out
    assert "Written: scene_landcover.tif, scene_landcover.tif.aux.xml, scene_landcover.png, scene_areas.csv" in printed


def test_what_opens_scenes_is_in_the_options(here, capsys):
    pixels = draw_fields(640, 320).astype("uint16") * 10 + 1000
    for index, name in enumerate(("B04", "B03", "B02")):
        write_scene(here / f"x_{name}.tif", pixels[..., index : index + 1])
    options = MapOptions(keep_clouds=True, raster_options=landcover.RasterOptions(offset=-1000))
    map_scenes(colour_classifier(), sorted(here.glob("x_*.tif")), options)
    assert "offset -1000 as given" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "metres", "kind"),
    [((128, 128), 10, "patch"), ((129, 20), 10, "scene"), ((70, 70), 20, "scene"), ((60, 60), 20, "patch")],
)
def test_patches_are_told_from_scenes_by_pixels_of_10_m(tmp_path, size, metres, kind):
    path = pathlib.Path(write_scene(tmp_path / "image.tif", draw_fields(*size), metres))
    assert classify_source(Source(str(path), (path,)), 128) == kind


def test_a_product_is_a_scene_and_a_text_neither(tmp_path):
    assert classify_source(Source("x.SAFE", metadata="x.SAFE/MTD_MSIL1C.xml"), 128) == "scene"
    path = tmp_path / "text.tif"
    path.write_text("no image")
    assert classify_source(Source(str(path), (path,)), 128) == "unreadable"
