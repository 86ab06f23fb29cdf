"""What paths lead to: every product, scene and picture, each once, or one line."""

import shutil
import zipfile

import numpy as np
import pytest
import rasterio
from conftest import ROOT
from products import pack_product, write_band, write_safe

from resnetd_tf.errors import InputError
from resnetd_tf.imagery.products import find_sources, open_scene, open_source
from resnetd_tf.sentinel2 import RGB_BANDS

SAFE = next((ROOT / "samples").glob("*_N0510_*.SAFE"))


def draw_band(shape=(60, 60), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(200, 2000, shape).astype("uint16")


def find_names(paths) -> list[str]:
    return [source.name.rsplit("/", 1)[-1] for source in find_sources(paths)]


def test_two_dates_are_two_scenes(tmp_path):
    for date in ("20210101", "20210601"):
        for name in RGB_BANDS:
            write_band(tmp_path / f"T33TUL_{date}T100029_{name}.tif", draw_band())
    (tmp_path / f"T33TUL_20210101T100029_{RGB_BANDS[0]}.tif").unlink()
    assert find_names([tmp_path]) == ["T33TUL_20210101T100029", "T33TUL_20210601T100029"]
    incomplete, complete = find_sources([tmp_path])
    assert open_source(complete).grid.width == 60
    with pytest.raises(InputError, match=r"T33TUL_20210101T100029 has no B04"):
        open_source(incomplete)
    with pytest.raises(InputError, match=r"2 scenes are given, .*T33TUL_20210101T100029 and .*20210601T100029 first"):
        open_scene(tmp_path)


def test_two_tiles_given_as_files_are_two_scenes(tmp_path):
    for tile in ("T33TUL", "T33TVL"):
        for name in RGB_BANDS:
            write_band(tmp_path / f"{tile}_20210101T100029_{name}.tif", draw_band())
    assert find_names(sorted(tmp_path.iterdir())) == ["T33TUL_20210101T100029", "T33TVL_20210101T100029"]


def test_files_named_in_no_common_way_are_one_scene(tmp_path):
    for name in ("scene B04.tif", "green.tif", "b2-final.tif"):
        write_band(tmp_path / name, draw_band())
    assert len(find_sources([tmp_path])) == 1


def test_dates_are_not_mixed_to_complete_a_scene(tmp_path):
    for date, name in (("20210101", "B02"), ("20210101", "B03"), ("20210601", "B04")):
        write_band(tmp_path / f"T33TUL_{date}_{name}.tif", draw_band())
    assert len(find_sources([tmp_path])) == 2


def test_the_finest_of_several_resolutions_counts(tmp_path):
    for name in RGB_BANDS:
        write_band(tmp_path / f"R10m/T33TUL_{name}_10m.tif", draw_band())
        write_band(tmp_path / f"R20m/T33TUL_{name}_20m.tif", draw_band((30, 30)), 20)
    (source,) = find_sources([tmp_path])
    assert {path.parent.name for path in source.files} == {"R10m"}


def test_two_files_of_one_band_are_refused(tmp_path):
    for name in RGB_BANDS:
        write_band(tmp_path / f"T33TUL_{name}.tif", draw_band())
    write_band(tmp_path / "T33TUL_B04.jp2", draw_band(), driver="JP2OpenJPEG")
    with pytest.raises(InputError, match=r"T33TUL_B04\.jp2 and .*T33TUL_B04\.tif both are B04 of one scene"):
        find_sources([tmp_path])


def draw_product_bands() -> dict[str, np.ndarray]:
    return {name: draw_band() for name in (*RGB_BANDS, "B08")}


def test_zips_beside_products_are_all_found(tmp_path):
    pack_product(write_safe(tmp_path / "a.SAFE", draw_product_bands()), tmp_path / "b.zip")
    assert sorted(find_names([tmp_path])) == ["a.SAFE", "b.zip"]


def test_each_product_of_a_zip_is_found(tmp_path):
    folder = write_safe(tmp_path / "x/a.SAFE", draw_product_bands())
    path = pack_product(folder, tmp_path / "two.zip", "one.SAFE")
    pack_product(folder, path, "two.SAFE")
    assert find_names([path]) == ["one.SAFE", "two.SAFE"]
    assert all(open_source(source).grid.width == 60 for source in find_sources([path]))


def test_the_order_of_13_bands_without_names_is_checked_of_scenes_too(tmp_path):
    path = next((ROOT / "samples/patches_13_bands").rglob("River*.tif"))
    assert "without names, in EuroSAT's order" in open_scene(path).description
    with rasterio.open(path) as file, rasterio.open(tmp_path / "x.tif", "w", **file.profile) as reversed_file:
        reversed_file.write(file.read()[::-1])
    with pytest.raises(InputError, match=r"band 4 is the darkest, .*--bands=B8A,B12,B11,B10,B09"):
        open_scene(tmp_path / "x.tif")


def test_a_folder_is_all_used_or_said(tmp_path, capsys):
    for name in RGB_BANDS:
        write_band(tmp_path / f"T33TUL_{name}.tif", draw_band())
    write_band(tmp_path / "T33TUL_SCL.tif", draw_band())
    assert len(find_sources([tmp_path])) == 1
    assert "1 files beside the bands are not used: T33TUL_SCL.tif" in capsys.readouterr().err
    write_safe(tmp_path / "deep/2024/x.SAFE", draw_product_bands())
    write_band(tmp_path / "y.SAFE/GRANULE/z/IMG_DATA/T33TUL_B04.tif", draw_band())
    shutil.rmtree(tmp_path / "y.SAFE")
    assert sorted(find_names([tmp_path])) == ["T33TUL", "x.SAFE"]


def test_a_picture_beside_a_product_is_mapped_too(tmp_path):
    write_safe(tmp_path / "x.SAFE", draw_product_bands())
    write_band(tmp_path / "scene.tif", draw_band())
    assert sorted(find_names([tmp_path])) == ["scene.tif", "x.SAFE"]


def test_what_is_given_twice_counts_once(tmp_path):
    folder = write_safe(tmp_path / "x.SAFE", draw_product_bands())
    write_band(tmp_path / "scene.tif", draw_band())
    paths = [tmp_path, folder, folder / "MTD_MSIL1C.xml", tmp_path / "scene.tif"]
    assert len(find_sources(paths)) == 2


def test_files_of_several_bands_are_no_bands_by_their_names(tmp_path):
    for name in ("patch_b1.tif", "patch_b2.tif"):
        shutil.copy(ROOT / "samples/scene.tif", tmp_path / name)
    assert find_names([tmp_path]) == ["patch_b1.tif", "patch_b2.tif"]


@pytest.mark.parametrize("part", ["GRANULE", "GRANULE/*", "GRANULE/*/IMG_DATA"])
def test_a_part_of_a_product_is_the_product(part):
    (path,) = SAFE.glob(part)
    (source,) = find_sources([path])
    assert "offset -1000" in open_source(source).description


def test_a_product_without_its_metadata_is_read_as_files_of_bands(tmp_path):
    folder = tmp_path / SAFE.name
    shutil.copytree(SAFE, folder)
    (folder / "MTD_MSIL1C.xml").unlink()
    (source,) = find_sources([folder])
    assert "offset -1000 and scale 1 as of baseline 05.10 in its name" in open_source(source).description


def test_what_beside_bands_lies_in_a_product_is_no_scene(tmp_path):
    for name in (*RGB_BANDS, "TCI", "SCL", "AOT"):
        write_band(tmp_path / f"IMG_DATA/T33TUL_20210101T100029_{name}.tif", draw_band())
    (source,) = find_sources([tmp_path / "IMG_DATA"])
    assert len(source.files) == 3


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("x.zip", b"PK\3\4 broken", "cannot be read as a zip, damaged or truncated; download it again"),
        ("x.tif", b"", "not a raster file that GDAL reads"),
        ("x.vrt", b"<VRTDataset", "not a raster file that GDAL reads"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        open_scene(tmp_path / name)


def test_an_address_is_not_read():
    with pytest.raises(InputError, match=r"https://example.org/a.tif: no such file .*download the file"):
        find_sources(["https://example.org/a.tif"])


def test_a_zip_without_a_product_says_so(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "no product")
    with pytest.raises(InputError, match="holds no Sentinel-2 product"):
        find_sources([tmp_path / "x.zip"])
