"""Scenes as people have them: the same digital numbers come out of each."""

import json
import shutil

import numpy as np
import pytest
import rasterio
import rasterio.warp
from products import CRS, ORIGIN, RESOLUTION, pack_product, write_band, write_safe
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rasterio.windows import Window
from scenes import write_scene

from resnetd_tf.errors import InputError
from resnetd_tf.imagery.products import open_scene
from resnetd_tf.imagery.scene import area_coverage, crop_to_area
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

SIDE = 120
WHOLE = Window(0, 0, SIDE, SIDE)


def draw_bands(without=(), added=0) -> dict[str, np.ndarray]:
    """Digital numbers of all 13 bands, each at its own resolution."""
    generator = np.random.default_rng(0)
    return {
        name: (generator.integers(1, 2700, (SIDE * 10 // metres,) * 2) + added).astype("uint16")
        for metres, names in RESOLUTION.items()
        for name in names
        if name not in without
    }


def stack_colours(bands: dict[str, np.ndarray]) -> np.ndarray:
    """Red, green and blue, (height, width, 3)."""
    return np.stack([bands[name] for name in RGB_BANDS], axis=-1)


PRODUCTS = [("1C", None), ("1C", -1000), ("2A", None), ("2A", -1000)]


@pytest.fixture(params=PRODUCTS)
def product(request, tmp_path):
    """A product: its folder, level, offset, and the bands without the offset."""
    level, offset = request.param
    without = ("B10",) if level == "2A" else ()
    folder = write_safe(tmp_path / "product", draw_bands(without, added=-(offset or 0)), level, offset)
    return folder, level, offset, draw_bands(without)


def test_the_offset_of_a_product_is_applied(product):
    folder, level, offset, bands = product
    scene = open_scene([str(folder)])
    pixels, valid = scene.read(WHOLE)
    np.testing.assert_array_equal(pixels, stack_colours(bands))
    assert valid.all() and f"Sentinel-2 L{level}" in scene.description
    assert (f"offset {offset:+}" if offset else "as they are stored") in scene.description


def test_a_product_has_the_place_of_its_metadata(product):
    grid = open_scene([str(product[0])]).grid
    assert str(grid.crs) == CRS and grid.transform == from_origin(*ORIGIN, 10, 10)


def test_folder_metadata_and_zip_of_a_product_are_the_same(product, tmp_path):
    folder, level, _, bands = product
    for path in (folder / f"MTD_MSIL{level}.xml", pack_product(folder, tmp_path / "renamed.download")):
        np.testing.assert_array_equal(open_scene([str(path)]).read(WHOLE)[0], stack_colours(bands))


def test_l2a_lacks_a_band_which_can_be_filled(tmp_path):
    folder = write_safe(tmp_path / "product", draw_bands(without=("B10",)), "2A")
    with pytest.raises(InputError, match="has no B10, which the classifier takes; --missing=mean fills in"):
        open_scene([str(folder)], BANDS)
    pixels, _ = open_scene([str(folder)], BANDS, fill=range(100, 113)).read(WHOLE)
    assert (pixels[..., BANDS.index("B10")] == 109).all()


def test_l1c_has_13_bands_by_their_names(tmp_path):
    bands = draw_bands()
    pixels, _ = open_scene([str(write_safe(tmp_path / "product", bands))], BANDS).read(WHOLE)
    assert pixels.shape == (SIDE, SIDE, 13)
    np.testing.assert_array_equal(pixels[..., BANDS.index("B08")], bands["B08"])
    # B8A is no B08: the driver's eighth band.
    coarse = pixels[..., BANDS.index("B8A")].reshape(60, 2, 60, 2).mean((1, 3)).ravel()
    assert np.corrcoef(coarse, bands["B8A"].ravel())[0, 1] > 0.9


BAND_FILE = "GRANULE/L1C_T33TUM/IMG_DATA/T33TUM_20220601T100031_B03.jp2"


def test_a_truncated_band_of_a_product_is_refused(tmp_path):
    folder = write_safe(tmp_path / "product", draw_bands())
    content = (folder / BAND_FILE).read_bytes()
    (folder / BAND_FILE).write_bytes(content[: len(content) // 3])
    with pytest.raises(InputError, match=r"MTD_MSIL1C.xml:10m.*: cannot be read, damaged or truncated"):
        open_scene([str(folder)]).read(WHOLE)


def test_a_missing_band_of_a_product_is_refused(tmp_path):
    folder = write_safe(tmp_path / "product", draw_bands())
    (folder / BAND_FILE).unlink()
    with pytest.raises(InputError, match=r"MTD_MSIL1C\.xml: the file of its B03 is missing"):
        open_scene([str(folder)])


def write_band_files(folder, bands: dict[str, np.ndarray]):
    """Writes one file for each band, at its own resolution; returns the folder."""
    for metres, names in RESOLUTION.items():
        for name in names:
            write_band(folder / f"T33_{name.lower()}.tif", bands[name], metres)
    return folder


def test_files_of_bands_are_one_scene_as_a_folder_and_by_name(tmp_path):
    bands = draw_bands()
    folder = write_band_files(tmp_path / "bands", bands)
    files = [str(folder / f"T33_{name.lower()}.tif") for name in ("B02", "B03", "B04")]
    for paths in ([str(folder)], files):
        np.testing.assert_array_equal(open_scene(paths).read(WHOLE)[0], stack_colours(bands))


def test_bands_of_20_and_60_m_are_resampled(tmp_path):
    scene = open_scene([str(write_band_files(tmp_path / "bands", draw_bands()))], BANDS)
    assert scene.read(WHOLE)[0].shape == (SIDE, SIDE, 13)
    assert "resampled to 120 x 120 pixels of 10 m" in scene.description


def test_bands_of_another_extent_are_refused(tmp_path):
    bands = draw_bands()
    folder = write_band_files(tmp_path / "bands", bands)
    write_band(folder / "T33_b03.tif", bands["B03"][:, :60])
    with pytest.raises(InputError, match=r"has the extent .* give bands of one scene"):
        open_scene([str(folder)])


def test_bands_of_another_reference_system_are_refused(tmp_path):
    bands = draw_bands()
    folder = write_band_files(tmp_path / "bands", bands)
    write_band(folder / "T33_b03.tif", bands["B03"], crs="EPSG:32634")
    with pytest.raises(InputError, match=r"is in EPSG:32634, .* in EPSG:32633; give bands of one scene"):
        open_scene([str(folder)])


FOUR_BANDS = ("B08", "B02", "B04", "B03")


def test_bands_without_names_are_named_by_the_flag(tmp_path):
    bands = draw_bands()
    path = write_scene(tmp_path / "all.tif", np.stack([bands[name] for name in FOUR_BANDS], axis=-1))
    with pytest.raises(InputError, match=r"4 bands of uint16 that have no names; name all of them, as --bands="):
        open_scene([path])
    with pytest.raises(InputError, match=r"--bands names 3 bands, .* has 4"):
        open_scene([path], bands=FOUR_BANDS[:3])
    np.testing.assert_array_equal(open_scene([path], bands=FOUR_BANDS).read(WHOLE)[0], stack_colours(bands))


def test_bands_with_descriptions_have_names(tmp_path):
    bands = draw_bands()
    path = write_scene(tmp_path / "all.tif", np.stack([bands[name] for name in FOUR_BANDS], axis=-1))
    with rasterio.open(path, "r+") as file:
        file.descriptions = FOUR_BANDS
    np.testing.assert_array_equal(open_scene([path]).read(WHOLE)[0], stack_colours(bands))


@pytest.mark.parametrize(
    ("values", "flags", "message"),
    [
        (
            np.linspace(0, 0.6, SIDE**2, dtype="float32"),
            {},
            "less than 0.594 DN in every colour.* --scale=4000 .*; --scale=1 takes",
        ),
        (np.linspace(0, 255, SIDE**2).astype("uint16"), {}, "less than 252 DN in every colour.*--scale=15.686"),
        (
            np.linspace(1100, 4000, SIDE**2).astype("uint16"),
            {},
            "43 % of its pixels have more than .* --offset=-1000 or ",
        ),
        (
            np.linspace(500, 2000, SIDE**2).astype("uint16"),
            {"offset": -1000},
            "33 % of its numbers or more in each colour are not above 0 after the offset of -1000.* --offset=0 ",
        ),
        (np.zeros(SIDE**2, "uint16"), {}, "has no data"),
        (np.linspace(-3000, -1200, SIDE**2).astype("int16"), {}, "and digital numbers are above 0"),
        (
            np.linspace(1e5, 3e5, SIDE**2).astype("int32"),
            {"offset": 0},
            "100 % of its pixels have more than 2,750 DN in every colour.* --scale",
        ),
        (
            np.append(np.linspace(0, 0.6, SIDE**2 - 1), np.inf).astype("float32"),
            {},
            "less than 0.594 DN in every colour",
        ),
    ],
)
def test_numbers_that_can_hardly_be_digital_numbers_are_refused(tmp_path, values, flags, message):
    for name in RGB_BANDS:
        write_band(tmp_path / f"x_{name}.tif", values.reshape(SIDE, SIDE))
    with pytest.raises(InputError, match=message):
        open_scene([str(tmp_path)], **flags)


def test_an_offset_that_was_taken_away_twice(tmp_path):
    """Where a file cannot hold numbers below 0."""
    for index, name in enumerate(RGB_BANDS):
        numbers = np.roll(np.linspace(-900, 2000, SIDE**2), index * SIDE**2 // 3)
        write_band(tmp_path / f"x_{name}.tif", np.maximum(numbers, 0).astype("uint16").reshape(SIDE, SIDE))
    with pytest.raises(
        InputError, match=r"31 % or more are not above 0, as after an offset that was taken away twice; --offset=0"
    ):
        open_scene([str(tmp_path)])
    assert open_scene([str(tmp_path)], offset=0).description.endswith(
        "digital numbers by offset +0 as given and scale 1"
    )


def test_dark_water_without_red_is_data(tmp_path):
    numbers = np.linspace(1, 400, SIDE**2).reshape(SIDE, SIDE)
    for name in RGB_BANDS:
        band = np.where(numbers < 200, 0, numbers) if name == "B04" else numbers
        write_band(tmp_path / f"x_{name}.tif", band.astype("uint16"))
    assert open_scene([str(tmp_path)]).read(WHOLE)[1].all()


@pytest.mark.parametrize(
    ("value", "dtype"), [(-9999, "float32"), (-9999, "int16"), (65535, "uint16"), (64535, "uint16")]
)
def test_an_undeclared_number_for_missing_data_is_no_data(tmp_path, value, dtype):
    numbers = np.linspace(1, 2000, SIDE**2).reshape(SIDE, SIDE)
    for name in RGB_BANDS:
        write_band(tmp_path / f"x_{name}.tif", np.where(numbers < 800, value, numbers).astype(dtype))
    scene = open_scene([str(tmp_path)])
    np.testing.assert_array_equal(scene.read(WHOLE)[1], numbers >= 800)
    assert (
        f"; 40.0 % of the pixels are {value:g} in every band: no data, though the file does not say so"
        in scene.description
    )


def test_an_undeclared_zero_beside_a_declared_number_is_no_data(tmp_path):
    numbers = np.linspace(1, 2000, SIDE**2).reshape(SIDE, SIDE)
    pixels = np.where(numbers < 200, 0, np.where(numbers < 400, -9999, numbers))[..., np.newaxis].repeat(3, -1)
    path = write_scene(tmp_path / "x.tif", pixels.astype("int16"), nodata=-9999)
    scene = open_scene([path], bands=RGB_BANDS)
    np.testing.assert_array_equal(scene.read(WHOLE)[1], numbers >= 400)
    assert "10.0 % of the pixels are 0 in every band: no data" in scene.description


def test_a_zero_under_an_offset_is_no_data_in_one_band_too(tmp_path):
    """Since baseline 04.00 data is stored as 1 or more: bands of a swath end in different columns."""
    for place, name in enumerate(RGB_BANDS):
        band = np.random.default_rng(0).integers(1200, 3000, (SIDE, SIDE)).astype("uint16")
        band[:, : 10 * place] = 0
        write_band(tmp_path / f"x_{name}.tif", band)
    valid = open_scene([str(tmp_path)], offset=-1000).read(WHOLE)[1]
    np.testing.assert_array_equal(valid, np.tile(np.arange(SIDE) >= 20, (SIDE, 1)))


@pytest.mark.parametrize("said_by", ["descriptions", "words", "colours", "flag"])
def test_pictures_whose_bands_are_in_another_order(tmp_path, said_by):
    """Blue, green, red: as descriptions of the bands say, the file's colours, or whoever maps it."""
    pixels = np.random.default_rng(0).integers(1, 255, (3, SIDE, SIDE)).astype("uint8")
    path = tmp_path / "bgr.tif"
    options = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 3, "dtype": "uint8", "crs": CRS}
    with rasterio.open(path, "w", **options, transform=from_origin(*ORIGIN, 10, 10)) as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.undefined]
        if said_by == "colours":
            file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
        if said_by == "descriptions":
            file.descriptions = ["B02", "B03", "B04"]
        if said_by == "words":
            file.descriptions = ["Blue", "Green, 560 nm", "red"]
        file.write(pixels[::-1])
    scene = open_scene([str(path)], bands=["B02", "B03", "B04"] if said_by == "flag" else None)
    assert scene.is_picture and scene.description.endswith("red, green and blue its bands 3, 2, 1")
    np.testing.assert_array_equal(scene.read(WHOLE)[0], pixels.transpose(1, 2, 0))


def test_names_that_count_bands_and_digital_numbers_in_8_bits(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 60, (4, SIDE, SIDE)).astype("uint8")
    path = tmp_path / "counted.tif"
    options = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 4, "dtype": "uint8", "crs": CRS}
    with rasterio.open(path, "w", **options, transform=from_origin(*ORIGIN, 10, 10)) as file:
        file.descriptions = ["b1", "b2", "b3", "b4"]
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined]
        file.write(pixels)
    scene = open_scene([str(path)])
    assert scene.is_picture
    np.testing.assert_array_equal(scene.read(WHOLE)[0], pixels[:3].transpose(1, 2, 0))
    scene = open_scene([str(path)], bands=["B02", "B03", "B04", "B08"], scale=40)
    assert not scene.is_picture
    np.testing.assert_array_equal(scene.read(WHOLE)[0], 40 * pixels[2::-1].transpose(1, 2, 0).astype(int))


@pytest.mark.parametrize(
    ("names", "expected_bands"),
    [
        (("B1", "B2", "B3", "B4", "B5"), ("B04", "B03", "B02")),  # too many to be colours
        (("B08", "B04", "B03", "B02"), ("B04", "B03", "B02")),
        (("B08", "B04", "B03"), None),  # false colours, whatever the file calls them
        (("Red edge 1", "Green"), None),
    ],
)
def test_bands_in_8_bits_that_are_no_picture(tmp_path, names, expected_bands):
    pixels = np.random.default_rng(0).integers(1, 60, (len(names), SIDE, SIDE)).astype("uint8")
    path = tmp_path / "bands.tif"
    options = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": len(names), "dtype": "uint8", "crs": CRS}
    with rasterio.open(path, "w", **options, transform=from_origin(*ORIGIN, 10, 10)) as file:
        file.descriptions = names
        file.colorinterp = [
            ColorInterp.red,
            ColorInterp.green,
            ColorInterp.blue,
            *[ColorInterp.undefined] * len(names),
        ][: len(names)]
        file.write(pixels)
    if expected_bands is None:
        with pytest.raises(InputError, match=r"has no .*B02, which the classifier takes$"):
            open_scene([str(path)])
        with pytest.raises(InputError, match=r"B4x is none; bands are B01, "):
            open_scene([str(path)], bands=["B4x", *names[1:]])
        return
    scene = open_scene([str(path)], scale=40)
    assert not scene.is_picture
    numbers = [band if band in names else f"B{int(band[1:])}" for band in expected_bands]
    expected = pixels[[names.index(band) for band in numbers]].transpose(1, 2, 0)
    np.testing.assert_array_equal(scene.read(WHOLE)[0], 40 * expected.astype(int))


def test_reflectances_and_offsets_as_given(tmp_path):
    bands = draw_bands(added=1000)
    for name in RGB_BANDS:
        write_band(tmp_path / f"x_{name}.tif", bands[name].astype("float32") / 10_000)
    scene = open_scene([str(tmp_path)], scale=10_000, offset=-0.1)
    np.testing.assert_array_equal(scene.read(WHOLE)[0], stack_colours(bands) - 1000)
    assert scene.description.endswith("digital numbers by offset -0.1 and scale 10000 as given")


def test_pixels_of_20_m_become_four_of_10(tmp_path):
    smooth = np.add.outer(np.arange(60) * 20, np.arange(60) * 10).astype("uint16") + 1
    for name in RGB_BANDS:
        write_band(tmp_path / f"x_{name}.tif", smooth, 20)
    scene = open_scene([str(tmp_path)])
    assert (scene.grid.width, scene.grid.height, scene.grid.pixel_hectares) == (120, 120, 0.01)
    pixels = scene.read(WHOLE)[0][..., 0].astype(int)
    np.testing.assert_allclose(pixels.reshape(60, 2, 60, 2).mean((1, 3))[5:-5, 5:-5], smooth[5:-5, 5:-5], atol=1)


def test_a_scene_in_degrees_gets_its_utm_zone(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 255, (90, 100, 3)).astype("uint8")
    transform = from_origin(15, 60, 20 / 111_320, 10 / 111_320)
    grid = open_scene([write_scene(tmp_path / "degrees.tif", pixels, crs="EPSG:4326", transform=transform)]).grid
    assert str(grid.crs) == "EPSG:32633" and grid.pixel_hectares == pytest.approx(0.01)
    assert grid.width == pytest.approx(100, abs=4) and grid.height == pytest.approx(90, abs=4)


def test_a_wide_area_is_no_more_than_the_scene(tmp_path):
    """Degrees of latitude are curved lines in a scene: its edges are found along all of them."""
    write_band(tmp_path / "x_B04.tif", np.full((100, 100), 500, "uint16"), 10)
    for name in ("B03", "B02"):
        write_band(tmp_path / f"x_{name}.tif", np.full((100, 100), 500, "uint16"), 10)
    scene = open_scene([str(tmp_path)])
    grid = crop_to_area(scene, "-180,-90,180,90").grid
    assert (grid.width, grid.height) == (100, 100)
    _, y = rasterio.warp.transform(scene.grid.crs, "EPSG:4326", [ORIGIN[0] + 500], [ORIGIN[1] - 500])
    for west, east in ((14.9, 15.1), (10, 20)):
        part = crop_to_area(scene, f"{west},{y[0]},{east},{y[0] + 1}")
        assert part.row_offset == 0 and part.grid.height == pytest.approx(50, abs=1)


WITH_DATA = np.tile(np.arange(SIDE) < 60, (SIDE, 1))  # the left half of a scene


def test_no_number_is_no_data(tmp_path):
    reflectance = np.random.default_rng(0).uniform(0.01, 0.3, (SIDE, SIDE, 3)).astype("float32")
    reflectance[~WITH_DATA] = np.nan
    path = write_scene(tmp_path / "nan.tif", reflectance, nodata=np.nan)
    with pytest.raises(InputError, match="--scale=10000"):
        open_scene([path], bands=RGB_BANDS)
    pixels, valid = open_scene([path], bands=RGB_BANDS, scale=10_000).read(WHOLE)
    np.testing.assert_array_equal(valid, WITH_DATA)
    np.testing.assert_array_equal(pixels[WITH_DATA], np.rint(reflectance[WITH_DATA] * np.float32(10_000)))


def test_a_declared_number_in_one_band_is_no_data(tmp_path):
    dn = np.random.default_rng(0).integers(1, 3000, (SIDE, SIDE, 3)).astype("int16")
    dn[~WITH_DATA, 1] = -9999
    path = write_scene(tmp_path / "one.tif", dn, nodata=-9999)
    np.testing.assert_array_equal(open_scene([path], bands=RGB_BANDS).read(WHOLE)[1], WITH_DATA)


def test_transparent_pixels_are_no_data(tmp_path):
    colours = np.random.default_rng(0).integers(1, 255, (SIDE, SIDE, 4)).astype("uint8")
    colours[..., 3] = 255 * WITH_DATA
    path = write_scene(tmp_path / "alpha.tif", colours, photometric="RGB", alpha="YES")
    np.testing.assert_array_equal(open_scene([path]).read(WHOLE)[1], WITH_DATA)


def test_hectares_of_a_map_in_feet(tmp_path):
    dn = np.random.default_rng(0).integers(1, 3000, (SIDE, SIDE, 3)).astype("uint16")
    transform = from_origin(6.4e6, 1.8e6, 32.8083333, 32.8083333)
    path = write_scene(tmp_path / "feet.tif", dn, crs="EPSG:2229", transform=transform)
    grid = open_scene([path], bands=RGB_BANDS).grid
    assert grid.pixel_hectares == pytest.approx(0.01, rel=1e-4) and (grid.width, grid.height) == (SIDE, SIDE)


def test_hectares_of_a_map_that_stretches_metres(tmp_path):
    dn = np.random.default_rng(0).integers(1, 3000, (SIDE, SIDE, 3)).astype("uint16")
    path = write_scene(tmp_path / "web.tif", dn, crs="EPSG:3857", transform=from_origin(1.67e6, 8.4e6, 20, 20))
    grid = open_scene([path], bands=RGB_BANDS).grid
    assert str(grid.crs) == "EPSG:3857" and grid.pixel_hectares == pytest.approx(0.01, rel=0.01)
    assert grid.width == pytest.approx(SIDE, rel=0.05)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"scale": 0.0}, "must be above 0"),
        ({"offset": float("nan")}, "must be a finite number"),
        ({"bands": ("B04", "B04", "B02")}, "B04 is there twice"),
        ({"bands": ("SCL", "x", "B99")}, "--bands=SCL,x,B99: B99 is none; bands are B01, B02"),
    ],
)
def test_flags_outside_their_range_are_refused(tmp_path, flags, message):
    path = write_scene(tmp_path / "scene.tif", np.full((20, 20, 3), 900, "uint16"))
    with pytest.raises(InputError, match=message):
        open_scene([path], **flags)


def test_names_as_gdal_gives_them(tmp_path):
    dn = np.random.default_rng(0).integers(1, 3000, (SIDE, SIDE, 4)).astype("uint16")
    path = write_scene(tmp_path / "scene.tif", dn)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("B4, central wavelength 665 nm", "B3, central wavelength 560 nm", "B2", "SCL")
    np.testing.assert_array_equal(open_scene([path]).read(WHOLE)[0], dn[..., :3])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text.tif", r"text\.tif: not a raster file that GDAL reads"),
        ("empty", "holds no picture, no MTD_MSI"),
        ("none", "no such file or folder"),
    ],
)
def test_paths_without_a_scene_are_refused(tmp_path, name, message):
    (tmp_path / "text.tif").write_text("no image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        open_scene([str(tmp_path / name)])


def test_a_product_without_granules_is_refused(tmp_path):
    folder = write_safe(tmp_path / "product", draw_bands())
    shutil.rmtree(folder / "GRANULE")
    with pytest.raises(InputError, match="MTD_MSIL1C"):
        open_scene([str(folder)])


@pytest.mark.parametrize(
    ("text", "damage", "reason"),
    [
        ('band_id="3">-1000<', 'band_id="3">none<', "its RADIO_ADD_OFFSET cannot be used .*'none'"),
        ('band_id="3">-1000<', 'band_id="3">nan<', "its RADIO_ADD_OFFSET cannot be used .it is nan"),
        ('unit="none">10000<', 'unit="none">null<', "its QUANTIFICATION_VALUE cannot be used .*'null'"),
        ('unit="none">10000<', 'unit="none">0<', "its quantification is 0, not above 0"),
    ],
)
def test_damaged_numbers_of_metadata_are_one_line(tmp_path, text, damage, reason):
    folder = write_safe(tmp_path / "product", draw_bands(added=1000), offset=-1000)
    metadata = folder / "MTD_MSIL1C.xml"
    assert text in metadata.read_text()
    metadata.write_text(metadata.read_text().replace(text, damage))
    with pytest.raises(InputError, match=rf"MTD_MSIL1C\.xml: {reason}.*; download the product again"):
        open_scene([str(folder)])


@pytest.fixture
def triangle(tmp_path):
    """A product with its bands, and a GeoJSON file with a triangle in it: columns 30 to 90, rows 20 to 100."""
    bands = draw_bands()
    scene = open_scene([str(write_safe(tmp_path / "product", bands))])
    corners = [scene.grid.transform * corner for corner in ((30, 20), (90, 20), (90, 100))]
    x, y = rasterio.warp.transform(scene.grid.crs, "EPSG:4326", *zip(*corners))
    polygon = {"type": "Polygon", "coordinates": [[*zip(x, y), (x[0], y[0])]]}
    geometries = (None, {"type": "GeometryCollection", "geometries": [polygon]})
    features = [{"type": "Feature", "geometry": geometry} for geometry in geometries]
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return scene, bands, str(path), f"{min(x)},{min(y)},{max(x)},{max(y)}"


def test_a_part_of_a_scene_has_its_pixels(triangle):
    scene, bands, area, _ = triangle
    part = crop_to_area(scene, area)
    assert (part.column_offset, part.row_offset) == pytest.approx((30, 20), abs=1)
    assert (part.grid.width, part.grid.height) == pytest.approx((60, 80), abs=2)
    pixels, valid = part.read(Window(0, 0, part.grid.width, part.grid.height))
    rows, columns = part.window.toslices()
    np.testing.assert_array_equal(pixels, stack_colours(bands)[rows, columns])
    assert valid.all()
    assert part.grid.transform * (0, 0) == scene.grid.transform * (part.column_offset, part.row_offset)


def test_cells_in_the_polygon_count(triangle):
    part = crop_to_area(triangle[0], triangle[2])
    coverage = area_coverage(part.outlines, part.window)
    assert coverage.sum() == pytest.approx(60 * 80 / 2, rel=1e-3)
    assert coverage[3, -4] == 1 and coverage[-4, 3] == 0


def test_a_box_in_degrees_is_a_part_of_a_scene(triangle):
    part = crop_to_area(triangle[0], triangle[3])
    assert (part.grid.width, part.grid.height) == pytest.approx((60, 80), abs=3)


@pytest.mark.parametrize(
    ("area", "message"),
    [
        ("1,2,3", "give west, south, east and north in degrees"),
        ("3,2,1,4", "give west, south, east and north in degrees"),
        ("1,2,3,4", "does not reach there"),
        ("none.geojson", "cannot be read as GeoJSON"),
        ("metres.geojson", "its coordinates are no degrees"),
        ("empty.geojson", "its coordinates are no degrees"),
    ],
)
def test_areas_that_cannot_be_read_are_refused(triangle, monkeypatch, tmp_path, area, message):
    monkeypatch.chdir(tmp_path)
    metres = [(5e5, 5e6), (6e5, 5e6), (6e5, 6e6)]
    for name, rings in (("metres", [metres]), ("empty", [[]])):
        (tmp_path / f"{name}.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": rings}))
    with pytest.raises(InputError, match=message):
        crop_to_area(triangle[0], area)
