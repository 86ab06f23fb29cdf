"""Bands in raster files: their names, their digital numbers, and where there is data."""

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest
import rasterio
import rasterio.shutil
import tifffile
from conftest import ROOT
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from resnetd_tf.data import images, rasters
from resnetd_tf.data.digital_numbers import Fault, Sample
from resnetd_tf.data.rasters import RasterOptions, open_bands
from resnetd_tf.errors import InputError
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS, parse_band_name, split_band_from_stem

PATCH = next((ROOT / "samples/patches_13_bands").rglob("River*.tif"))


@pytest.fixture(scope="module")
def dn() -> np.ndarray:
    """Digital numbers (64, 64, 13) of a patch, in EuroSAT's order."""
    with rasterio.open(PATCH) as file:
        return np.moveaxis(file.read(), 0, -1)


def write_raster(path, pixels: np.ndarray, names=None, driver="GTiff", **profile):
    """Writes (height, width, bands) as a raster file whose bands are named, and returns its path."""
    height, width, count = pixels.shape
    location = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5e6, 10, 10)}
    shape = {"height": height, "width": width, "count": count, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver=driver, **shape, **location, **profile) as file:
        file.write(np.moveaxis(pixels, -1, 0))
        if names:
            file.descriptions = names
    return path


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("B4", "B04"),
        ("b8a", "B8A"),
        ("B4_median", "B04"),
        ("B04_10m", "B04"),
        ("S2_B04", "B04"),
        ("0_B11", "B11"),
        ("Band 4", "B04"),
        ("band_12", "B12"),
        ("Red, 665 nm", "B04"),
        ("Red edge 1", "B05"),
        ("nir08", "B8A"),
        ("SWIR 2", "B12"),
        ("SCL", None),
        ("TCI_R", None),
        ("B13", None),
        ("B02_B03", None),
        ("band_data", None),
        ("", None),
    ],
)
def test_descriptions_name_bands(text, band):
    assert parse_band_name(text) == band


@pytest.mark.parametrize(
    ("stem", "template", "band"),
    [
        ("T33TUL_20240601T100029_B02_10m", "T33TUL_20240601T100029_{band}_10m", "B02"),
        ("ga_s2am_ard_3-2-1_33TUL_2024-06-01_final_band04", "ga_s2am_ard_3-2-1_33TUL_2024-06-01_final_{band}", "B04"),
        ("2018-10-13, Sentinel-2B L1C, B04", "2018-10-13, Sentinel-2B L1C, {band}", "B04"),
        ("red", "{band}", "B04"),
        ("infrared", "infrared", None),
        ("T33_B02_B03", "T33_B02_B03", None),
        ("Forest_12", "Forest_12", None),
    ],
)
def test_file_names_name_bands(stem, template, band):
    assert split_band_from_stem(stem) == (template, band)


GOOGLE_EARTH_ENGINE = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


@pytest.mark.parametrize("form", ["named", "pages", "planar pages", "rows as pages", "netCDF", "JPEG 2000"])
def test_thirteen_bands_come_out_in_the_same_order(tmp_path, dn, form):
    shuffled = dn[..., [BANDS.index(f"B{name[1:].zfill(2)}") for name in GOOGLE_EARTH_ENGINE]]
    path = tmp_path / "patch.tif"
    if form == "named":
        write_raster(path, shuffled, GOOGLE_EARTH_ENGINE, interleave="band")
    elif form == "JPEG 2000":
        path = write_raster(tmp_path / "patch.jp2", shuffled, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    elif form == "planar pages":
        tifffile.imwrite(path, np.moveaxis(dn, -1, 0))
    elif form == "rows as pages":
        tifffile.imwrite(path, dn)
    elif form == "pages":
        with tifffile.TiffWriter(path) as file:
            for index in range(13):
                file.write(dn[..., index], contiguous=False)
    else:
        path = tmp_path / "patch.nc"
        rasterio.shutil.copy(write_raster(tmp_path / "x.tif", shuffled), path, driver="netCDF")
    loses_names = form in ("netCDF", "JPEG 2000")
    patch = images.read_patch(
        path, raster_options=RasterOptions(GOOGLE_EARTH_ENGINE) if loses_names else rasters.AS_STORED
    )
    np.testing.assert_array_equal(patch.pixels, dn)
    assert patch.fault is None


def test_thirteen_bands_without_names_in_another_order_are_refused(tmp_path, dn):
    with pytest.raises(InputError, match=r"band 4 is the darkest, not band 10 .*--bands=B8A,B12,B11,B10"):
        images.read_image(write_raster(tmp_path / "reversed.tif", np.ascontiguousarray(dn[..., ::-1])))


def colours(dn: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(dn[..., [BANDS.index(name) for name in RGB_BANDS]])


@pytest.mark.parametrize("said_by", ["file", "STAC", "STAC 1.1", "metadata", "name", "flags"])
def test_scale_and_offset_are_taken_from_where_they_are_said(tmp_path, dn, said_by):
    expected = images.read_patch(write_raster(tmp_path / "dn.tif", colours(dn), RGB_BANDS)).pixels
    stored, raster_options = colours(dn) + np.uint16(1000), rasters.AS_STORED
    name = "S2A_MSIL1C_20240601T100031_N0510_R122_T33TUM_20240601T120000.tif" if said_by == "name" else "x.tif"
    path = write_raster(tmp_path / name, stored, RGB_BANDS)
    scale_and_offset = {"scale": 0.0001, "offset": -0.1}
    if said_by == "file":
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = [scale_and_offset["scale"]] * 3, [scale_and_offset["offset"]] * 3
    elif said_by == "metadata":
        with rasterio.open(path, "r+") as file:
            file.update_tags(QUANTIFICATION_VALUE="10000")
            for index in (1, 2, 3):
                file.update_tags(index, RADIO_ADD_OFFSET="-1000")
    elif said_by.startswith("STAC"):
        key = "bands" if "1.1" in said_by else "raster:bands"
        prefixed = {f"raster:{name}": value for name, value in scale_and_offset.items()}
        bands = [prefixed if key == "bands" else scale_and_offset] * 3
        item = {"stac_version": "1.1.0", "assets": {"visual": {"href": f"./{name}", key: bands}}}
        (tmp_path / "item.json").write_text(json.dumps(item))
    elif said_by == "flags":
        raster_options = RasterOptions(offset=-1000)
    patch = images.read_patch(path, raster_options=raster_options)
    assert patch.fault is None and "offset -1000 " in patch.description
    np.testing.assert_array_equal(patch.pixels, expected)


def test_flags_override_scale_and_offset_of_the_file(tmp_path, dn):
    path = write_raster(tmp_path / "x.tif", colours(dn), RGB_BANDS)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [0.5] * 3, [3.0] * 3
    expected = images.read_patch(write_raster(tmp_path / "dn.tif", colours(dn), RGB_BANDS)).pixels
    np.testing.assert_array_equal(
        images.read_patch(path, raster_options=RasterOptions(scale=1, offset=0)).pixels, expected
    )


def test_a_stac_item_names_bands(tmp_path, dn):
    path = write_raster(tmp_path / "x.tif", colours(dn)[..., ::-1])
    bands = [{"name": name} for name in ("blue", "green", "red")]
    item = {"stac_version": "1.0.0", "assets": {"data": {"href": "https://example.org/a/x.tif", "eo:bands": bands}}}
    (tmp_path / "item.json").write_text(json.dumps(item))
    expected = images.read_patch(write_raster(tmp_path / "dn.tif", colours(dn), RGB_BANDS)).pixels
    np.testing.assert_array_equal(images.read_patch(path).pixels, expected)


def test_numbers_of_bands_are_no_names(tmp_path, dn):
    path = write_raster(tmp_path / "x.tif", colours(dn), ("Band 1", "Band 2", "Band 3"))
    with pytest.raises(InputError, match=r"3 bands of uint16 that are called Band 1, .*--bands=B04,B03,B02"):
        images.read_image(path)


def test_a_picture_whose_colours_are_named_in_another_order_is_turned_around(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64, 3)).astype("uint8")
    path = write_raster(tmp_path / "bgr.tif", pixels, ("B02", "B03", "B04"))
    np.testing.assert_array_equal(images.read_patch(path).pixels, pixels[..., ::-1])


@pytest.mark.parametrize("count", [5, 13])
def test_more_than_four_bands_of_8_bits_are_no_picture(tmp_path, count):
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64, count)).astype("uint8")
    with pytest.raises(InputError, match=rf"{count} bands of uint8 that have no names; name all of them"):
        images.read_image(write_raster(tmp_path / "x.tif", pixels))
    tifffile.imwrite(tmp_path / "pages.tif", np.moveaxis(pixels, -1, 0))
    with pytest.raises(InputError, match=rf"{count} bands of uint8 that have no names"):
        images.read_image(tmp_path / "pages.tif")


def test_a_band_that_is_not_used_is_named(tmp_path, dn):
    four = np.concatenate([colours(dn), colours(dn)[..., :1]], axis=-1)
    band_set = open_bands(write_raster(tmp_path / "x.tif", four, (*RGB_BANDS, "SCL")), rasters.AS_STORED)
    assert band_set.description.endswith("; band 4 of the file, no band of Sentinel-2, not used")
    picture = write_raster(tmp_path / "picture.tif", (four // 20).astype("uint8"), photometric="RGB", alpha="NO")
    assert open_bands(picture, rasters.AS_STORED).description.endswith("; band 4 not used")


def test_numbers_of_a_picture_cannot_be_explained(tmp_path):
    path = ROOT / "samples/patches/River/River_1198.jpg"
    with pytest.raises(InputError, match=r"is a picture of 8 bits, .*: no --offset=-1000"):
        images.read_patch(path, raster_options=RasterOptions(offset=-1000))


def test_black_under_full_alpha_is_data(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64, 4)).astype("uint8")
    pixels[:, :32, :3], pixels[..., 3] = 0, 255
    pixels[:8, :, 3] = 0
    path = write_raster(tmp_path / "x.tif", pixels, photometric="RGB", alpha="YES")
    bands = list(open_bands(path, rasters.AS_STORED).bands.values())
    valid = rasters.valid_mask(bands, rasters.read_bands(bands))
    assert not valid[:8].any() and valid[8:].all()


def test_nodata_of_zero_in_one_band_is_dark_water(tmp_path, dn):
    pixels = colours(dn)
    pixels[:, :20, 0] = 0
    pixels[:, :10] = 0
    bands = list(
        open_bands(write_raster(tmp_path / "x.tif", pixels, RGB_BANDS, nodata=0), rasters.AS_STORED).bands.values()
    )
    valid = rasters.valid_mask(bands, rasters.read_bands(bands))
    assert not valid[:, :10].any() and valid[:, 10:].all()


def test_bright_ground_is_doubted_only_among_few(dn):
    """One in nine of EuroSAT's own patches is as bright as if an offset was left in."""
    bright = images.Patch(dn, "bands", Fault("darkest", can_be_bright_ground=True))
    for count, is_refused in ((20, False), (3, True)):
        checks = images.PatchChecks()
        for index in range(count):
            checks.add(ROOT / f"{index}.tif", images.Patch(dn, "bands"))
        checks.add(ROOT / "bright.tif", dataclasses.replace(bright, sample=make_sample(dn + 1000)))
        assert bool(checks.refusals()) == is_refused


def test_pictures_do_not_outvote_numbers_that_cannot_be(dn):
    checks = images.PatchChecks()
    for index in range(20):
        checks.add(ROOT / f"{index}.jpg", images.Patch(dn))
    checks.add(ROOT / "x.tif", images.Patch(dn, "bands", Fault("white"), make_sample(dn * 6.5535)))
    (paths,) = checks.refusals().values()
    assert paths == [ROOT / "x.tif"]


def test_patches_that_are_read_alike_are_refused_together(dn):
    checks = images.PatchChecks()
    for index in range(10):
        sample = make_sample(dn.astype(float) - 1000)
        checks.add(ROOT / f"{index}.tif", images.Patch(dn, "bands", Fault("dark") if index % 2 else None, sample))
    ((reason, paths),) = checks.refusals().items()
    assert len(paths) == 10 and "(so for 5 of 10 images)" in reason and "--offset=1000" in reason


def make_sample(dn: np.ndarray) -> Sample:
    colours_alone = colours(dn).reshape(-1, 3).astype("float64")
    return Sample(RGB_BANDS, colours_alone, np.zeros(3), np.ones(3), np.dtype("float64"))


def test_a_positive_nodata_counts_in_one_band(tmp_path, dn):
    pixels = colours(dn)
    pixels[:, :20, 0] = 65535
    path = write_raster(tmp_path / "x.tif", pixels, RGB_BANDS, nodata=65535)
    bands = list(open_bands(path, rasters.AS_STORED).bands.values())
    valid = rasters.valid_mask(bands, rasters.read_bands(bands))
    assert not valid[:, :20].any() and valid[:, 20:].all()


@pytest.mark.parametrize("bands", ["x", 4, [4], [{"name": 4}], {"a": 1}, [{"scale": "x"}]])
def test_a_stac_item_that_says_nonsense_is_one_line_or_nothing(tmp_path, dn, bands):
    path = write_raster(tmp_path / "x.tif", colours(dn), RGB_BANDS)
    item = {"stac_version": "1.0.0", "assets": {"data": {"href": "x.tif", "raster:bands": bands}}}
    (tmp_path / "item.json").write_text(json.dumps(item))
    try:
        assert images.read_patch(path).fault is None
    except InputError as error:
        assert "STAC item" in str(error)


def test_a_baseline_counts_in_the_name_of_the_file_or_its_product_alone(tmp_path, dn):
    folder = tmp_path / "S2A_MSIL1C_20240601T100031_N0510_R122_T33TUM_20240601T120000"
    folder.mkdir()
    path = write_raster(folder / "clip.tif", colours(dn), RGB_BANDS)
    assert "as they are stored" in images.read_patch(path).description


def test_flags_settle_a_scale_that_cannot_be(tmp_path, dn):
    path = write_raster(tmp_path / "x.tif", colours(dn), RGB_BANDS)
    with rasterio.open(path, "r+") as file:
        file.scales = [-1.0] * 3
    with pytest.raises(InputError, match="says a scale of -1"):
        images.read_patch(path)
    assert images.read_patch(path, raster_options=RasterOptions(scale=1, offset=0)).fault is None


def test_the_colours_of_a_picture_are_those_that_the_file_says(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64, 3)).astype("uint8")
    path = write_raster(tmp_path / "x.tif", pixels, photometric="MINISBLACK")
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    np.testing.assert_array_equal(images.read_image(path), pixels[..., ::-1])


@pytest.mark.parametrize(("count", "names"), [(3, "B04,B03,B02"), (4, "B02,B03,B04,B08")])
def test_bands_of_8_bits_without_colours_are_no_picture_until_they_are_named(tmp_path, count, names):
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64, count)).astype("uint8")
    path = write_raster(tmp_path / "x.tif", pixels, photometric="MINISBLACK")
    message = rf"{count} bands of 8 bits whose colours the file gives as grey, undefined, .*--bands={names} if that is"
    with pytest.raises(InputError, match=message):
        images.read_image(path)
    patch = images.read_patch(path, raster_options=RasterOptions(tuple(names.split(","))))
    colours = [names.split(",").index(band) for band in RGB_BANDS]
    np.testing.assert_array_equal(patch.pixels, pixels[..., colours])


@pytest.mark.parametrize("driver", ["PNG", "JPEG", "GTiff"])
def test_pictures_of_red_green_and_blue_are_taken_for_true_colour(tmp_path, driver):
    pixels = np.random.default_rng(0).integers(1, 255, (64, 64, 3)).astype("uint8")
    path = tmp_path / f"x.{driver.lower()}"
    PIL.Image.fromarray(pixels).save(path, "TIFF" if driver == "GTiff" else driver)
    assert open_bands(path, rasters.AS_STORED).description == "picture of 8 bits: colours as they are"


def test_a_raster_file_is_opened_once(tmp_path, dn, monkeypatch):
    path, opened = write_raster(tmp_path / "x.tif", dn), []
    open_raster = rasters.open_raster
    monkeypatch.setattr(rasters, "open_raster", lambda path: opened.append(path) or open_raster(path))
    np.testing.assert_array_equal(images.read_image(path), dn)
    assert opened == [str(path)]


@pytest.mark.parametrize("required_bands", [RGB_BANDS, BANDS, None])
def test_an_open_image_knows_the_shape_and_type_of_its_pixels(tmp_path, dn, required_bands):
    image = images.open_image(write_raster(tmp_path / "x.tif", dn[:40]), required_bands=required_bands)
    pixels = image.read().pixels
    assert image.shape == pixels.shape == (40, 64, len(required_bands or BANDS)) and image.dtype == pixels.dtype


def test_a_file_of_several_images_is_refused(tmp_path):
    path, dates = tmp_path / "dates.tif", np.full((3, 64, 80, 3), 90, "uint8")
    tifffile.imwrite(path, dates, photometric="rgb")
    with pytest.raises(InputError, match=r"holds 3 images of 3 bands, such as dates; .*gdal_translate 'GTIFF_DIR:1:"):
        images.read_image(path)


def test_a_small_preview_beside_an_image_is_left_aside(tmp_path):
    path = tmp_path / "preview.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(np.full((64, 80, 3), 90, "uint8"), photometric="rgb")
        file.write(np.full((32, 40, 3), 20, "uint8"), photometric="rgb")
    assert (images.read_image(path) == 90).all()
