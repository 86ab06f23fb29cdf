"""Pictures and bands of other producers become EuroSAT's grey levels, by flag or by what the file tells."""

import pathlib
import re

import numpy as np
import PIL.Image
import pytest
import rasterio
from conftest import needs_sentinel2, sentinel2_dir
from products import write_band, write_safe
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from scenes import colour_classifier, draw_fields, write_scene

from resnetd_tf.data import images
from resnetd_tf.data.rasters import RasterOptions
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import landcover
from resnetd_tf.imagery.products import open_scene
from resnetd_tf.imagery.rendering import find_rendering
from resnetd_tf.saved import SavedClassifier
from resnetd_tf.sentinel2 import GREY_LEVELS, RENDERINGS, RGB_BANDS, parse_rendering_name

SIDE = 128
WHOLE = Window(0, 0, SIDE, SIDE)
AIR = (400, 650, 920)  # DN of red, green and blue over dark water, as L1C has them


def draw_dn(height: int = SIDE, width: int = SIDE, air=AIR) -> np.ndarray:
    """Digital numbers (height, width, 3) of a scene with dark water and brighter land, none above 2,700."""
    land = draw_fields(height, width).astype(float) * 7
    land[:, : width // 4] = np.random.default_rng(0).integers(0, 60, (height, width // 4, 3))
    return np.asarray(air) + land


def render(dn: np.ndarray, name: str) -> np.ndarray:
    """A picture of digital numbers in one of the renderings."""
    offset, gain = RENDERINGS[name].conversion(np.dtype("uint8"), False)
    return np.clip(np.rint(dn / gain - offset), 0, 255).astype("uint8")


def read(path: str, **options) -> np.ndarray:
    return open_scene([path], **options).read(WHOLE)[0]


def write_picture(path: pathlib.Path, pixels: np.ndarray) -> str:
    PIL.Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "rendering", "level", "layer"),
    [
        ("T33UUP_20240601T100031_TCI.jp2", "tci", "L1C", "true colour"),
        ("T33UUP_20240601T100031_TCI_10m.jp2", "tci-l2a", "L2A", "true colour"),
        ("S2A_MSIL2A_20240601_TCI.tif", "tci-l2a", "L2A", "true colour"),
        ("S2A_33UUP_20220101_0_L2A/TCI.tif", "tci-l2a", "L2A", "true colour"),
        ("2020-09-17_Sentinel_2_L1C_True_color.tiff", "eobrowser", "L1C", "true colour"),
        ("2020-09-17, Sentinel-2B L1C, True color.jpg", "eobrowser", "L1C", "true colour"),
        ("2024-06-01-00:00_2024-06-01-23:59_Sentinel-2_L2A_True_color.png", "eobrowser", "L2A", "true colour"),
        ("2018-10-13, Sentinel-2B L1C, B03.tiff", "eobrowser", "L1C", "band"),
        ("2024-06-01_Sentinel-2_L2A_B8A_(Raw).tiff", "sentinelhub", "L2A", "band"),
        ("2020-09-17_Sentinel-2_L1C_False_color_(urban).jpg", None, "L1C", "False color (urban)"),
        ("2020-09-17_Sentinel-2_L2A_NDVI.jpg", None, "L2A", "NDVI"),
    ],
)
def test_names_of_producers_say_how_to_read_a_file(name, rendering, level, layer):
    named = parse_rendering_name(pathlib.Path(name))
    assert named and (named.rendering, named.level, named.layer) == (rendering, level, layer)


@pytest.mark.parametrize("name", ["losinj_truecolor.jpg", "ATCI.tif", "sentinel-2_scene.png", "T33UUP_B04_10m.jp2"])
def test_other_names_say_nothing(name):
    assert parse_rendering_name(pathlib.Path(name)) is None


@pytest.mark.parametrize("name", ["tci", "tci-l2a", "earthengine", "eobrowser", "sentinelhub"])
def test_a_rendering_that_is_given_brings_the_digital_numbers_back(tmp_path, name):
    dn = np.minimum(draw_dn(), 1990)
    path = write_picture(tmp_path / "x.png", render(dn, name))
    scene = open_scene([path], rendering=name)
    _, gain = RENDERINGS[name].conversion(np.dtype("uint8"), False)
    assert not scene.is_picture and np.abs(scene.read(WHOLE)[0] - dn).max() <= gain / 2 + 0.5
    assert scene.description.startswith("true colour of 8 bits, 255 for ") and "as given)" in scene.description


def test_eurosats_rendering_takes_grey_levels_as_they_are(tmp_path):
    pixels = render(draw_dn(), "eobrowser")
    path = write_picture(tmp_path / "2020_Sentinel-2_L1C_True_color.png", pixels)
    scene = open_scene([path], rendering="eurosat")
    assert scene.is_picture and scene.description == "picture of 8 bits: colours as they are"
    np.testing.assert_array_equal(scene.read(WHOLE)[0], pixels)


@pytest.mark.parametrize(
    ("name", "rendering", "reason"),
    [
        ("T33UUP_20240601T100031_TCI.png", "tci", r"255 for 3,558 DN \(TCI of L1C, by its name\)"),
        ("2020-09-17_Sentinel-2_L1C_True_color.png", "eobrowser", r"255 for 4,000 DN \(EO Browser, by its name\)"),
        ("scene.png", "eobrowser", r"\(EO Browser, by its dark level, 5. in blue, where EuroSAT's has 64 to 108\)"),
    ],
)
def test_a_picture_tells_its_rendering(tmp_path, name, rendering, reason):
    dn = draw_dn(air=(350, 600, 800))
    path = write_picture(tmp_path / name, render(dn, rendering))
    scene = open_scene([path])
    assert np.abs(scene.read(WHOLE)[0] - dn).max() <= 9
    assert re.search(reason, scene.description)
    assert "; --rendering=eurosat takes the grey levels as they are" in scene.description


def test_eurosats_own_pictures_and_bright_ground_keep_their_grey_levels(tmp_path):
    for number, air in enumerate([(250, 440, 700), AIR, (900, 1000, 1150), (1500, 1300, 1200)]):
        pixels = render(draw_dn(air=air), "eurosat")
        scene = open_scene([write_picture(tmp_path / f"{number}.png", pixels)])
        assert scene.is_picture
        np.testing.assert_array_equal(scene.read(WHOLE)[0], pixels)


@needs_sentinel2
def test_a_dark_picture_of_the_sea_keeps_its_grey_levels():
    scene = open_scene([sentinel2_dir() / "losinj_truecolor.jpg"])
    assert scene.is_picture and scene.description == "picture of 8 bits: colours as they are"


def test_metadata_of_a_product_tell_the_rendering_of_its_tci():
    path = pathlib.Path("x.tif")
    assert find_rendering(path, {"PRODUCT_TYPE": "S2MSI1C"}, None).name == "tci"
    assert find_rendering(path, {"PROCESSING_LEVEL": "Level-2A"}, None).name == "tci-l2a"
    assert find_rendering(path, {"AREA_OR_POINT": "Area"}, None).name is None


def test_a_catalogues_tci_has_the_level_of_its_dark_pixels(tmp_path):
    assert find_rendering(pathlib.Path("TCI.tif"), {}, np.array([30, 45, 66])).name == "tci"
    assert find_rendering(pathlib.Path("TCI.tif"), {}, np.array([9, 20, 25])).name == "tci-l2a"


def test_a_name_that_the_dark_level_contradicts_is_said_and_not_followed(tmp_path):
    pixels = np.maximum(render(draw_dn(), "eurosat"), (140, 150, 180)).astype("uint8")
    scene = open_scene([write_picture(tmp_path / "2020_Sentinel-2_L1C_True_color.png", pixels)])
    assert scene.is_picture
    assert "its name is as of EO Browser in L1C, but not its dark level, 180 in blue" in scene.description


def test_false_colours_by_name_are_refused_unless_the_user_insists(tmp_path):
    path = write_picture(tmp_path / "2020_Sentinel-2_L1C_False_color.png", render(draw_dn(), "eobrowser"))
    with pytest.raises(InputError, match="its name says False color, whose colours are no digital numbers"):
        open_scene([path])
    assert open_scene([path], rendering="eurosat").is_picture


def test_a_scale_gives_digital_numbers_for_each_grey_level(tmp_path):
    pixels = render(draw_dn(), "eobrowser")
    path = write_picture(tmp_path / "x.png", pixels)
    scene = open_scene([path], scale=12)
    np.testing.assert_array_equal(scene.read(WHOLE)[0], 12 * pixels.astype(int))
    assert scene.description == "true colour of 8 bits, 12 DN for a grey level, as given"
    np.testing.assert_array_equal(read(path, scale=12, offset=-1), 12 * (pixels.astype(int) - 1))
    with pytest.raises(InputError, match="no --offset=-1 without --scale"):
        open_scene([path], offset=-1)


@pytest.mark.parametrize("bands", [3, 4])
def test_red_and_blue_that_are_swapped_are_refused_and_the_flag_mends_them(tmp_path, bands):
    pixels = render(draw_dn(), "eurosat")
    alpha = np.full((SIDE, SIDE, bands - 3), 255, "uint8")
    path = write_picture(tmp_path / "x.png", np.concatenate([pixels[..., ::-1], alpha], axis=-1))
    with pytest.raises(InputError, match=r"more red than blue \(levels 8., 6., 3.\)") as error:
        open_scene([path])
    names = str(error.value).partition("--bands=")[2].partition(" swaps")[0].split(",")
    assert names == ["B02", "B03", "B04", "x"][:bands]
    np.testing.assert_array_equal(read(path, bands=names), pixels)


def test_a_desert_is_not_taken_for_swapped_colours(tmp_path):
    pixels = render(draw_dn(air=(1300, 1100, 950))[:, SIDE // 4 :], "eurosat")
    assert open_scene([write_picture(tmp_path / "x.png", pixels)]).is_picture


def cut_out(pixels: np.ndarray) -> np.ndarray:
    """Makes all but a polygon white, and some white clouds in the polygon; returns the polygon's mask."""
    rows, columns = np.indices(pixels.shape[:2])
    inside = (columns > 0.3 * rows + 10) & (columns < 110)
    pixels[~inside] = 255
    pixels[30:50, 60:90] = 255
    return inside


@pytest.mark.parametrize("rendering", [None, "eobrowser"])
def test_white_around_a_polygon_is_no_data_but_white_clouds_are(tmp_path, rendering):
    pixels = render(draw_dn(), "eurosat")
    inside = cut_out(pixels)
    scene = open_scene([write_picture(tmp_path / "x.png", pixels)], rendering=rendering)
    np.testing.assert_array_equal(scene.read(WHOLE)[1], inside)
    share = 100 * (1 - inside.mean())
    assert f"; {share:.1f} % of the pixels, white around a polygon, are no data" in scene.description


def test_white_around_a_polygon_is_found_in_a_scene_larger_than_the_sample(tmp_path):
    pixels = render(draw_dn(1200, 900), "eurosat")
    inside = np.indices((1200, 900))[1] > 300
    pixels[~inside] = 255
    pixels[500:700, 600:800] = 255
    scene = open_scene([write_picture(tmp_path / "x.png", pixels)])
    for row in (0, 400, 900):
        window = Window(250, row, 600, 300)
        np.testing.assert_array_equal(scene.read(window)[1], inside[row : row + 300, 250:850])


def test_a_white_cloud_in_a_corner_is_data(tmp_path):
    pixels = render(draw_dn(), "eurosat").astype(float)
    rows, columns = np.indices((SIDE, SIDE))
    pixels += np.clip(2 * (600 - 5 * (rows + columns)), 0, 400)[..., np.newaxis]  # fades
    scene = open_scene([write_picture(tmp_path / "x.png", pixels.clip(0, 255).astype("uint8"))])
    assert scene.read(WHOLE)[1].all() and "polygon" not in scene.description


@pytest.mark.parametrize(("dtype", "highest_dn"), [("uint8", 4000), ("uint16", 10_000)])
@pytest.mark.parametrize("told_by", ["name", "flag"])
def test_single_bands_of_eo_browser_become_digital_numbers(tmp_path, dtype, highest_dn, told_by):
    dn = draw_dn()
    highest = np.iinfo(dtype).max
    for name, band in zip(RGB_BANDS, np.moveaxis(dn, -1, 0)):
        producer = "2018-10-13, Sentinel-2B L1C, " if told_by == "name" else "x_"
        stored = np.rint(band * highest / highest_dn).astype(dtype)
        write_band(tmp_path / f"{producer}{name}.tiff", stored)
    scene = open_scene([str(tmp_path)], rendering="eobrowser" if told_by == "flag" else None)
    assert np.abs(scene.read(WHOLE)[0] - dn).max() <= highest_dn / highest / 2 + 1
    source = "by its name (--scale=1 takes them as they are)" if told_by == "name" else "as given"
    assert f"as EO Browser stores them, {source}" in scene.description


def test_true_colour_of_16_bits_is_read_by_its_name(tmp_path):
    dn = draw_dn()
    stored = np.rint(dn * 65_535 / 4000).astype("uint16")
    path = tmp_path / "2020-09-17_Sentinel_2_L1C_True_color.tiff"
    with rasterio.open(write_scene(path, stored, photometric="MINISBLACK"), "r+") as file:
        file.descriptions = ["band_data"] * 3
        assert file.colorinterp[0] == ColorInterp.gray
    assert np.abs(read(str(path)).astype(float) - dn).max() <= 1
    np.testing.assert_array_equal(read(str(path), scale=0.05), np.rint(stored * np.float32(0.05)))


def test_white_around_bands_of_8_bits_is_no_data(tmp_path):
    pixels = render(draw_dn(), "eobrowser")
    inside = cut_out(pixels)
    for name, band in zip(RGB_BANDS, np.moveaxis(pixels, -1, 0)):
        write_band(tmp_path / f"2018-10-13, Sentinel-2B L1C, {name}.tiff", band)
    np.testing.assert_array_equal(open_scene([str(tmp_path)]).read(WHOLE)[1], inside)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rendering": "esa"}, "--rendering=esa: must be one of eurosat, tci, "),
        ({"rendering": "tci", "scale": 2}, "--rendering=tci says scale and offset already; leave out --scale=2"),
        ({"rendering": "tci", "offset": 0}, "--rendering=tci says scale and offset already; leave out --offset=0"),
        ({"rendering": "tci"}, "--rendering=tci states no numbers for bands of uint16; give --scale"),
    ],
)
def test_renderings_that_cannot_be_used_are_refused(tmp_path, options, message):
    path = write_scene(tmp_path / "x.tif", draw_dn().astype("uint16"), photometric="RGB")
    with pytest.raises(InputError, match=message):
        open_scene([path], **options)


def test_a_product_needs_no_rendering(tmp_path):
    bands = {name: np.full((SIDE, SIDE), 1000, "uint16") for name in ("B02", "B03", "B04", "B08")}
    folder = write_safe(tmp_path / "product", bands)
    with pytest.raises(InputError, match=r"--rendering=tci is of no use for .*, whose metadata say what its numbers"):
        open_scene([str(folder)], rendering="tci")


def test_a_patch_is_rendered_as_eurosats(tmp_path):
    dn = draw_dn(64, 64)
    path = write_picture(tmp_path / "x.png", render(dn, "eobrowser"))
    patch = images.read_patch(path, raster_options=RasterOptions(rendering="eobrowser"))
    expected = GREY_LEVELS[np.rint(dn).astype("uint16")].astype(float)
    assert np.abs(patch.pixels.mean((0, 1)) - expected.mean((0, 1))).max() < 0.5
    assert patch.description == "true colour of 8 bits, 255 for 4,000 DN (EO Browser, as given)"
    np.testing.assert_array_equal(images.read_image(path), render(dn, "eobrowser"))  # by itself, nothing changes


def test_a_classifier_of_the_users_own_pictures_gets_them_as_they_are(tmp_path):
    path = write_picture(tmp_path / "T33UUP_20240601T100031_TCI.png", render(draw_dn(), "tci"))
    classifier = colour_classifier()
    assert not landcover.open_scene_for(classifier, [path]).is_picture
    metadata = {**classifier.metadata, "dataset": "folder:mine"}
    own = SavedClassifier(classifier.path, pathlib.Path(), classifier.classes, 3, classifier.predict, metadata=metadata)
    assert landcover.open_scene_for(own, [path]).is_picture
    assert not landcover.open_scene_for(own, [path], rendering="tci").is_picture


def test_a_grey_picture_is_no_scene(tmp_path):
    path = write_picture(tmp_path / "x.png", render(draw_dn(), "eurosat")[..., 0])
    with pytest.raises(InputError, match="uint8 without red, green and blue, no true colour; give an RGB picture"):
        open_scene([path])
