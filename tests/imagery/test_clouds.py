"""Clouds are left out where a product's own mask shows them, and it is said what was left out."""

import pathlib

import numpy as np
import pytest
import rasterio.warp
from products import CRS, ORIGIN, RESOLUTION, cloud_gml, pack_product, write_band, write_safe
from rasterio.windows import Window

from resnetd_tf.errors import InputError
from resnetd_tf.imagery.clouds import find_mask_files
from resnetd_tf.imagery.landcover import open_scene_for
from resnetd_tf.saved import SavedClassifier

SIDE = 120
SCENE = Window(0, 0, SIDE, SIDE)
RGB = SavedClassifier(pathlib.Path("model"), pathlib.Path(), ("Forest", "SeaLake"), 3, np.asarray)


def write_product(folder: pathlib.Path, level: str = "1C", clouds: np.ndarray | str | None = None) -> pathlib.Path:
    """A product of 120 x 120 pixels of 10 m."""
    numbers = np.random.default_rng(0)
    bands = {
        name: numbers.integers(1, 2700, (SIDE * 10 // metres,) * 2).astype("uint16")
        for metres, names in RESOLUTION.items()
        for name in names
        if level == "1C" or name != "B10"
    }
    return write_safe(folder, bands, level, clouds=clouds)


def rectangle(left: int, top: int, right: int, bottom: int) -> list[tuple[float, float]]:
    """A ring in the product's coordinates, from columns and rows of 10 m."""
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return [(ORIGIN[0] + 10 * column, ORIGIN[1] - 10 * row) for column, row in corners]


def check_hidden(path: pathlib.Path, hidden: np.ndarray) -> str:
    """Asserts which pixels a mask hides, in the whole scene and in a window; returns the description."""
    scene = open_scene_for(RGB, [path])
    np.testing.assert_array_equal(scene.read(SCENE)[1], ~hidden)
    np.testing.assert_array_equal(scene.read(Window(50, 30, 40, 60))[1], ~hidden[30:90, 50:90])
    with_clouds = open_scene_for(RGB, [path], keep_clouds=True)
    assert with_clouds.read(SCENE)[1].all() and with_clouds.description.endswith(
        "clouds are mapped like land, as --clouds=keep says"
    )
    return scene.description


@pytest.mark.parametrize("packed", [False, True])
def test_scene_classification_of_l2a_hides_clouds_shadows_and_snow(tmp_path, packed):
    classes = np.random.default_rng(1).integers(0, 12, (60, 60)).astype("uint8")
    hidden = np.isin(classes, (3, 8, 9, 10, 11)).repeat(2, 0).repeat(2, 1)
    folder = write_product(tmp_path / "product", "2A", classes)
    summary = check_hidden(pack_product(folder, tmp_path / "product.zip") if packed else folder, hidden)
    assert summary.endswith(f"; clouds, their shadows and snow left out ({100 * hidden.mean():.1f} % of the scene)")


@pytest.mark.parametrize("packed", [False, True])
def test_masks_of_l1c_since_0400_hide_clouds_and_snow(tmp_path, packed):
    masks = (np.random.default_rng(1).random((20, 20, 3)) < 0.1).astype("uint8")
    hidden = masks.any(-1).repeat(6, 0).repeat(6, 1)
    folder = write_product(tmp_path / "product", clouds=masks)
    summary = check_hidden(pack_product(folder, tmp_path / "product.zip") if packed else folder, hidden)
    share = f"{100 * hidden.mean():.1f} % of the scene"
    assert summary.endswith(f"; clouds and snow left out ({share}), cloud shadows not")


@pytest.mark.parametrize("packed", [False, True])
def test_polygons_of_l1c_before_0400_hide_clouds(tmp_path, packed):
    gml = cloud_gml([[rectangle(0, 0, 60, 30), rectangle(12, 6, 24, 12)], [rectangle(90, 60, 130, 90)]])
    hidden = np.zeros((SIDE, SIDE), bool)
    hidden[:30, :60] = True
    hidden[6:12, 12:24] = False
    hidden[60:90, 90:] = True
    folder = write_product(tmp_path / "product", clouds=gml)
    summary = check_hidden(pack_product(folder, tmp_path / "product.zip") if packed else folder, hidden)
    share = f"{100 * hidden.mean():.1f} % of the scene"
    assert summary.endswith(f"; clouds left out ({share}), cloud shadows and snow not")


def test_polygons_in_other_coordinates_are_transformed(tmp_path):
    ring = rectangle(0, 0, 60, 30)
    elsewhere = list(zip(*rasterio.warp.transform(CRS, "EPSG:32632", *zip(*ring))))
    gml = cloud_gml([[elsewhere]], "urn:ogc:def:crs:EPSG:8.7.1:32632")
    scene = open_scene_for(RGB, [write_product(tmp_path / "product", clouds=gml)])
    hidden = ~scene.read(SCENE)[1]
    assert hidden[:29, :59].all() and hidden.sum() == pytest.approx(1800, rel=0.02)


def test_a_mask_without_clouds_is_said_to_be_empty(tmp_path):
    scene = open_scene_for(RGB, [write_product(tmp_path / "product", clouds=cloud_gml([]))])
    assert scene.read(SCENE)[1].all() and "clouds left out (0.0 % of the scene)" in scene.description


def test_the_share_is_of_the_area(tmp_path):
    gml = cloud_gml([[rectangle(0, 0, 60, 120)]])
    folder = write_product(tmp_path / "product", clouds=gml)
    corners = rasterio.warp.transform(CRS, "EPSG:4326", *zip(*rectangle(62, 10, 110, 100)))
    area = ",".join(str(bound) for side in (min, max) for bound in map(side, corners))
    assert "(0.0 % of the scene)" in open_scene_for(RGB, [folder], area=area).description
    assert "(50.0 % of the scene)" in open_scene_for(RGB, [folder]).description


def test_without_a_mask_it_is_said_that_clouds_are_mapped(tmp_path):
    write_band(tmp_path / "bands/x_B04.tif", np.arange(1, 14401, dtype="uint16").reshape(SIDE, SIDE) % 2700 + 1)
    for name in ("B03", "B02"):
        (tmp_path / f"bands/x_{name}.tif").write_bytes((tmp_path / "bands/x_B04.tif").read_bytes())
    for path in (tmp_path / "bands", write_product(tmp_path / "product")):
        assert open_scene_for(RGB, [path]).description.endswith("; no cloud mask: clouds are mapped like land")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (cloud_gml([[rectangle(0, 0, 60, 30)]])[:-20], "no element found|unclosed token"),
        (cloud_gml([[rectangle(0, 0, 60, 30)]]).replace(" 50", " 5x", 1), "could not convert string to float"),
        (cloud_gml([[rectangle(0, 0, 60, 30)]]).replace("gml:Polygon", "gml:Polygone"), "0 polygons for 1 clouds"),
        (cloud_gml([[rectangle(0, 0, 60, 30)]]).replace("499980.0", "nan", 1), "one that is no number"),
        (cloud_gml([[rectangle(9000, 0, 9100, 30)]]), "none of its 1 polygons lies in the scene"),
        ("<html><body>Not found</body></html>", "it is <html>, not a <Mask>"),
        ("", "no element found"),
    ],
)
def test_damaged_polygons_are_one_line(tmp_path, content, reason):
    folder = write_product(tmp_path / "product", clouds=content)
    expected = rf"MSK_CLOUDS_B00\.gml: the cloud mask cannot be used \(.*({reason}).*\); --clouds=keep maps without it"
    with pytest.raises(InputError, match=expected):
        open_scene_for(RGB, [folder])
    assert open_scene_for(RGB, [folder], keep_clouds=True).read(SCENE)[1].all()


@pytest.mark.parametrize("level", ["1C", "2A"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "codestream"])
def test_a_damaged_raster_mask_is_one_line(tmp_path, capfd, level, damage):
    size = (60, 60) if level == "2A" else (20, 20, 3)
    folder = write_product(tmp_path / "product", level, np.random.default_rng(0).integers(0, 2, size).astype("uint8"))
    (mask,) = folder.rglob("*_SCL_20m.jp2" if level == "2A" else "MSK_CLASSI_B00.jp2")
    content = mask.read_bytes()
    start = content.index(b"\xff\x4f\xff\x51")
    damaged = {"truncated": content[:50], "empty": b"", "codestream": content[: start + 60] + bytes(len(content))}
    mask.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=rf"{mask.name}: the cloud mask cannot be used .*--clouds=keep"):
        open_scene_for(RGB, [folder])
    assert capfd.readouterr().err == ""
    assert open_scene_for(RGB, [folder], keep_clouds=True).read(SCENE)[1].all()


def test_a_class_that_does_not_exist_is_damage(tmp_path):
    folder = write_product(tmp_path / "product", "2A", np.full((60, 60), 77, "uint8"))
    with pytest.raises(InputError, match="it has a class 77, scene classifications end at 11"):
        open_scene_for(RGB, [folder])


def test_a_mask_of_another_place_is_refused(tmp_path):
    folder = write_product(tmp_path / "product", "2A", np.zeros((60, 60), "uint8"))
    (mask,) = folder.rglob("*_SCL_20m.jp2")
    write_band(mask, np.zeros((30, 30), "uint8"), 20, "JP2OpenJPEG")
    with pytest.raises(InputError, match="does not cover the scene's"):
        open_scene_for(RGB, [folder])
    write_band(mask, np.zeros((60, 60), "uint8"), 20, "JP2OpenJPEG", crs="EPSG:32632")
    with pytest.raises(InputError, match="its coordinate reference system is EPSG:32632, the scene's is EPSG:32633"):
        open_scene_for(RGB, [folder])


def test_masks_of_tiles_before_december_2016_are_seen(tmp_path):
    tile = tmp_path / "GRANULE/S2A_OPER_MSI_L1C_TL_SGS__20160615T152456_A005124_T33TUL_N02.04"
    metadata = tile / "S2A_OPER_MTD_L1C_TL_SGS__20160615T152456_A005124_T33TUL.xml"
    mask = tile / "QI_DATA/S2A_OPER_MSK_CLOUDS_SGS__20160615T152456_A005124_T33TUL_B00_MSIL1C.gml"
    mask.parent.mkdir(parents=True)
    for path in (
        metadata,
        mask,
        mask.with_name("S2A_OPER_MSK_DEFECT_SGS__20160615T152456_A005124_T33TUL_B01_MSIL1C.gml"),
    ):
        path.touch()
    assert find_mask_files([str(metadata)]) == (str(mask),)


def test_the_scene_classification_goes_before_other_masks(tmp_path):
    folder = write_product(tmp_path / "product", "2A", np.zeros((60, 60), "uint8"))
    (tile,) = folder.rglob("MTD_TL.xml")
    (classification,) = folder.rglob("*_SCL_20m.jp2")
    (tile.parent / "QI_DATA").mkdir()
    mask = tile.parent / "QI_DATA/MSK_CLASSI_B00.jp2"
    mask.touch()
    assert find_mask_files([str(tile), str(classification)]) == (str(classification),)
    classification.unlink()
    assert find_mask_files([str(tile), str(classification)]) == (str(mask),)
