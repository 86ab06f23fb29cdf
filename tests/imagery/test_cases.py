"""Files as people have them, made from samples/, on which the program once answered wrongly without a word.

Each test is named for the situation. Where a file does not say what its numbers mean, the program may ask for a flag:
then the flag that it advises must make the map right.
"""

import contextlib
import csv
import io
import math
import pathlib
import re
import shutil

import numpy as np
import pytest
import rasterio
import rasterio.control
import rasterio.warp
import scipy.io
from conftest import ROOT
from PIL import Image
from products import pack_product
from rasterio.transform import from_origin
from scenes import read_classes

import resnetd_tf
from resnetd_tf.data import datasets
from resnetd_tf.data.rasters import RasterOptions
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import landcover, patches
from resnetd_tf.sentinel2 import BANDS, CLASSES, RGB_BANDS

pytestmark = pytest.mark.long  # a minute of maps by the classifier in the package

SAMPLES = ROOT / "samples"
BEFORE, SINCE = sorted(SAMPLES.glob("S2A_MSIL1C_*.SAFE"))  # baseline 04.00, which adds 1,000 to digital numbers
PATCHES = SAMPLES / "patches_13_bands"
ADDED = 1000
CRS, WEST, NORTH = "EPSG:32633", 499_980, 5_000_040
SIDE, PATCH, CELL = 252, 63, 32  # pixels of 10 m: of the products, of a patch in them, of a cell of the map
EMPTY = 255
PRODUCT_ORDER = (*BANDS[:8], "B8A", *BANDS[8:12])


@pytest.fixture(scope="module")
def classifier():
    return resnetd_tf.eurosat()


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    """B04, B03 and B02 of the products without any offset, (3, 252, 252) uint16."""
    return np.stack([read_product_band(band) for band in RGB_BANDS])


def read_product_band(band: str) -> np.ndarray:
    """Digital numbers of one band, uint16, at its own resolution, without any offset."""
    (path,) = BEFORE.rglob(f"*_{band}.jp2")
    with rasterio.open(path) as file:
        return file.read(1)


def patch_classes() -> np.ndarray:
    """Class of the patch that each pixel of the products belongs to, (252, 252) int64."""
    with (SAMPLES / "product_classes.csv").open(newline="") as file:
        layout = np.array([[CLASSES.index(name) for name in row] for row in csv.reader(file)])
    return layout.repeat(PATCH, 0).repeat(PATCH, 1)


def cell_classes(columns: int = 8) -> np.ndarray:
    """True class in the middle of each cell of a map of the products, (8, columns)."""
    return patch_classes()[CELL // 2 :: CELL, CELL // 2 :: CELL][:, :columns]


def write_raster(
    path: pathlib.Path, pixels: np.ndarray, names=RGB_BANDS, *, metres: float = 10, driver: str = "GTiff", **profile
) -> pathlib.Path:
    """Writes bands (count, height, width), georeferenced unless `profile` says otherwise; returns their path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if driver == "JP2OpenJPEG":
        profile |= {"QUALITY": "100", "REVERSIBLE": "YES"}
    count, height, width = pixels.shape
    profile = {"crs": CRS, "transform": from_origin(WEST, NORTH, metres, metres)} | profile
    profile |= {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver=driver, **profile) as file:
        file.write(pixels)
        if names:
            file.descriptions = names
    return path


def write_bands(folder: pathlib.Path, name: str, pixels: np.ndarray, **profile) -> list[pathlib.Path]:
    """Writes a file per band of red, green and blue; `name` has a * where the band's name goes, such as T33_*.tif."""
    return [
        write_raster(folder / name.replace("*", band), dn[np.newaxis], None, **profile)
        for band, dn in zip(("04", "03", "02"), pixels)
    ]


def map_scenes(
    classifier,
    output: pathlib.Path | str,
    *paths: pathlib.Path,
    offset: float | None = None,
    applicability: str = "mask",
) -> str:
    """Does what map.py does; returns what it prints."""
    printed = io.StringIO()
    raster_options = RasterOptions(offset=offset)
    options = landcover.MapOptions.for_classifier(
        classifier, raster_options=raster_options, applicability=applicability
    )
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        landcover.map_scenes(classifier, paths, options, output=str(output))
    return printed.getvalue()


def predict_labels(classifier, folder: pathlib.Path, offset: float | None = None) -> dict[str, str]:
    """The most probable class of each patch in a folder, by file name; nothing but CSV goes to stdout."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        patches.label_patches(classifier, [folder], top=1, format="csv", raster_options=RasterOptions(offset=offset))
    rows = csv.DictReader(printed.getvalue().splitlines())
    return {pathlib.Path(row["path"]).name: row["class_1"] for row in rows}


def map_cells(
    classifier, folder: pathlib.Path, *paths: pathlib.Path, advised: float | None = None, offset: float | None = None
) -> np.ndarray:
    """Maps one scene; returns the classes of its cells, (rows, columns) uint8.

    Args:
        classifier: The classifier.
        folder: Where the map goes.
        paths: The scene.
        advised: An offset that the program may ask for; it is given then.
        offset: What is added to stored numbers.
    """
    try:
        map_scenes(classifier, folder / "map", *paths, offset=offset)
    except InputError as error:
        if advised is None:
            raise
        assert f"--offset={advised}" in str(error)
        assert not list(folder.glob("map*"))
        map_scenes(classifier, folder / "map", *paths, offset=advised)
    return read_classes(folder / "map_landcover.tif")


def sum_hectares(path: pathlib.Path) -> float:
    """Sum of the areas of all classes in a map's table."""
    with path.open(newline="") as file:
        return sum(float(row["hectares"]) for row in csv.DictReader(file))


def assert_right(cells: np.ndarray, expected: np.ndarray | None = None) -> None:
    """At least nine cells of ten that are not empty have the class of their patch."""
    expected = cell_classes() if expected is None else expected
    assert cells.shape == expected.shape
    assert (cells[cells != EMPTY] == expected[cells != EMPTY]).mean() >= 0.9


def copy_patches(folder: pathlib.Path, added: int = 0, order=BANDS, **profile) -> pathlib.Path:
    """Writes the 13-band patches anew, with named bands; returns the folder."""
    for path in sorted(PATCHES.rglob("*.tif")):
        with rasterio.open(path) as file:
            pixels = file.read([BANDS.index(band) + 1 for band in order]) + np.uint16(added)
        write_raster(folder / path.parent.name / path.name, pixels, order, **profile)
    return folder


def with_lake_of_l2a(colours: np.ndarray) -> np.ndarray:
    """The products' colours with lakes as dark as they are without the air: reflectances around 0."""
    lake = patch_classes() == CLASSES.index("SeaLake")
    dark = colours.astype(int)
    for dn, median in zip(dark, (20, 60, 100)):
        dn[lake] += median - int(np.median(dn[lake]))
    return dark.clip(1).astype("uint16")


# Numbers


def test_patches_with_the_offset(classifier, tmp_path):
    """a1: patches cut from products since 04.00 are refused; with the flag that is named they get the same labels."""
    plain = copy_patches(tmp_path / "plain")
    shifted = copy_patches(tmp_path / "shifted", ADDED)
    with pytest.raises(InputError, match="--offset=-1000"):
        predict_labels(classifier, shifted)
    assert predict_labels(classifier, shifted, offset=-ADDED) == predict_labels(classifier, plain)


def test_data_set_of_patches_with_the_offset(tmp_path):
    """a1: training and evaluation do not take such a folder for digital numbers."""
    shifted = copy_patches(tmp_path, ADDED)
    for path in sorted(shifted.rglob("*.tif")):  # enough for three splits
        for number in range(9):
            shutil.copy(path, path.with_name(f"{path.stem}_{number}.tif"))
    with pytest.raises(InputError, match="offset"):
        datasets.load_dataset(f"folder:{shifted}")


def test_lake_in_l2a_bands_since_04_00(classifier, colours, tmp_path):
    """a2: the offset is taken away, or asked for; lakes around 0 do not hide it."""
    plain = with_lake_of_l2a(colours)
    expected = map_cells(classifier, tmp_path / "plain", write_raster(tmp_path / "plain.tif", plain), offset=0.0)
    name = "S2B_MSIL2A_20240601T100029_N0510_R122_T33TUL_20240601T120000_B*_10m.tif"
    write_bands(tmp_path / "bands", name, plain + np.uint16(ADDED), nodata=0)
    np.testing.assert_array_equal(map_cells(classifier, tmp_path, tmp_path / "bands", advised=-ADDED), expected)


def test_scale_in_the_file(classifier, colours, tmp_path):
    """a3: reflectance = stored * 0.0005, as the bands declare."""
    path = write_raster(tmp_path / "scene.tif", np.rint(colours / 5).astype("uint16"), nodata=0)
    with rasterio.open(path, "r+") as file:
        file.scales = (0.0005,) * 3
    assert_right(map_cells(classifier, tmp_path, path))


def test_slanting_edge_of_a_swath(classifier, colours, tmp_path):
    """a4: zeros at the edge are no data, and do not hide the offset."""
    pixels = colours + np.uint16(ADDED)
    rows, columns = np.indices((SIDE, SIDE))
    for band in range(3):
        pixels[band, columns < 72 - rows // 8 + 12 * band] = 0
    write_bands(tmp_path / "bands", "T33TUL_20240601T100029_B*.jp2", pixels, driver="JP2OpenJPEG")
    cells = map_cells(classifier, tmp_path, tmp_path / "bands", advised=-ADDED)
    assert (cells[:, 0] == EMPTY).all() and (cells[:, 4:] != EMPTY).all()
    assert_right(cells[:, 4:], cell_classes()[:, 4:])


# Bands


@pytest.mark.parametrize(
    ("order", "interleave"),
    [(BANDS, "pixel"), (PRODUCT_ORDER, "pixel"), (BANDS[::-1], "pixel"), (BANDS, "band")],
    ids=["eurosat", "product", "reversed", "planar"],
)
def test_order_of_named_bands(classifier, tmp_path, order, interleave):
    """b1: bands are taken by their names, in whatever order and layout the file has them."""
    labels = predict_labels(classifier, copy_patches(tmp_path, order=order, interleave=interleave))
    assert labels == {path.name: path.parent.name for path in PATCHES.rglob("*.tif")}


def test_bands_of_digital_earth_australia(classifier, colours, tmp_path):
    """b3: names end in band04, int16 with nodata -999."""
    name = "ga_s2am_ard_3-2-1_33TUL_2024-06-01_final_band*.tif"
    write_bands(tmp_path / "bands", name, colours.astype("int16"), nodata=-999)
    assert_right(map_cells(classifier, tmp_path, tmp_path / "bands"))


def test_two_dates_in_a_folder(classifier, colours, tmp_path):
    """b4: the date that lacks a band is named; bands of two dates are never put together."""
    folder = tmp_path / "bands"
    write_bands(folder, "T33TUL_20210101T100029_B*.tif", colours[:, ::-1, ::-1])
    (folder / "T33TUL_20210101T100029_B04.tif").unlink()
    write_bands(folder, "T33TUL_20210601T100029_B*.tif", colours)
    try:
        text = map_scenes(classifier, f"{tmp_path}/maps/", folder)
    except InputError as error:
        text = str(error)
    assert "20210101" in text
    for path in tmp_path.glob("maps/*_landcover.tif"):
        assert_right(read_classes(path))


def test_netcdf_with_a_variable_per_band(classifier, colours, tmp_path):
    """c7: mapped by the variables' names, or refused in words that name the kind of file."""
    path = tmp_path / "openEO.nc"
    with scipy.io.netcdf_file(path, "w") as file:
        file.Conventions = "CF-1.6"
        for axis, first, step in (("y", NORTH - 5, -10), ("x", WEST + 5, 10)):
            file.createDimension(axis, SIDE)
            variable = file.createVariable(axis, "f8", (axis,))
            variable.standard_name, variable.units = f"projection_{axis}_coordinate", "m"
            variable[:] = first + step * np.arange(SIDE)
        crs = file.createVariable("crs", "i4", ())
        crs.spatial_ref = rasterio.crs.CRS.from_string(CRS).to_wkt()
        for band, dn in zip(RGB_BANDS, colours):
            variable = file.createVariable(band, "i2", ("y", "x"))
            variable.grid_mapping = "crs"
            variable[:] = dn.astype("int16")
    try:
        cells = map_cells(classifier, tmp_path, path)
    except InputError as error:
        assert "openEO.nc" in str(error) and "netcdf" in str(error).lower()
    else:
        assert_right(cells)


# Files and folders


def test_folder_img_data(classifier, tmp_path):
    """c1: of R10m, R20m and R60m the bands of R10m are taken; nothing in them is a photograph."""
    folder = tmp_path / "IMG_DATA"
    for metres in (10, 20, 60):
        block = metres // 10
        for band in ("B02", "B03", "B04", "B08"):
            dn = read_product_band(band).reshape(SIDE // block, block, SIDE // block, block).mean((1, 3))
            pixels = np.rint(dn + ADDED).astype("uint16")[np.newaxis]
            name = f"T01KAB_20230821T221941_{band}_{metres}m.jp2"
            write_raster(folder / f"R{metres}m" / name, pixels, None, metres=metres, driver="JP2OpenJPEG")
        side = SIDE // block
        products = {"AOT": (1, "uint16"), "WVP": (1, "uint16"), "TCI": (3, "uint8")}  # what L2A adds to the bands
        products |= {"SCL": (1, "uint8")} if metres > 10 else {}
        for layer, (count, dtype) in products.items():
            name = f"T01KAB_20230821T221941_{layer}_{metres}m.jp2"
            pixels = np.full((count, side, side), 4, dtype)
            write_raster(folder / f"R{metres}m" / name, pixels, None, metres=metres, driver="JP2OpenJPEG")
    assert_right(map_cells(classifier, tmp_path, folder, advised=-ADDED))


def test_folder_of_zips(classifier, tmp_path):
    """c3: every product in it is mapped."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    pack_product(BEFORE, folder / f"{BEFORE.name}.zip", BEFORE.name)
    pack_product(SINCE, folder / f"{SINCE.stem}.zip", SINCE.name)
    map_scenes(classifier, f"{tmp_path}/maps/", folder)
    maps = sorted(tmp_path.glob("maps/*_landcover.tif"))
    assert len(maps) == 2
    for path in maps:
        assert_right(read_classes(path))


def test_product_of_before_december_2016(classifier, tmp_path):
    """c5: both granules are mapped, or the product is refused by its name."""
    run = "S2A_OPER_MSI_L1C_TL_SGS__20160615T152456_A005124"
    name = "S2A_OPER_PRD_MSIL1C_PDMC_20160616T104721_R122_V20160615T100608_20160615T100608.SAFE"
    metadata = (BEFORE / "MTD_MSIL1C.xml").read_text()
    head, _, rest = metadata.partition("<Query_Options")
    tail = rest.partition("</Product_Organisation>")[2]
    granules = []
    for tile in ("T33TUL", "T33TVL"):
        granule = tmp_path / name / "GRANULE" / f"{run}_{tile}_N02.04"
        (granule / "IMG_DATA").mkdir(parents=True)
        for band in BANDS:
            (path,) = BEFORE.rglob(f"*_{band}.jp2")
            shutil.copy(path, granule / "IMG_DATA" / f"{run}_{tile}_{band}.jp2")
        (path,) = BEFORE.rglob("MTD_TL.xml")
        place = path.read_text() if tile == "T33TUL" else path.read_text().replace(str(WEST), str(WEST + 10 * SIDE))
        (granule / f"{run.replace('MSI_L1C', 'MTD_L1C')}_{tile}.xml").write_text(place)
        images = "".join(f"<IMAGE_ID>{run}_{tile}_{band}</IMAGE_ID>" for band in BANDS)
        granules.append(
            f'<Granule_List><Granules granuleIdentifier="{granule.name}">{images}</Granules></Granule_List>'
        )
    bands = "".join(f"<BAND_NAME>{band.replace('B0', 'B')}</BAND_NAME>" for band in BANDS)
    options = f"<Query_Options><Band_List>{bands}</Band_List><PRODUCT_FORMAT>SAFE</PRODUCT_FORMAT></Query_Options>"
    organisation = f"<Product_Organisation>{''.join(granules)}</Product_Organisation>"
    text = head.replace(BEFORE.name, name).replace("02.05", "02.04") + options + organisation + tail
    file = name.replace("PRD_MSIL1C", "MTD_SAFL1C").replace(".SAFE", ".xml")
    (tmp_path / name / file).write_text(text.replace("psd-14", "psd-12"))
    try:
        map_scenes(classifier, f"{tmp_path}/maps/", tmp_path / name)
    except InputError as error:
        assert name in str(error) and "2016" in str(error).replace(name, "")
        assert not list(tmp_path.glob("maps/*"))
    else:
        total = sum(sum_hectares(path) for path in tmp_path.glob("maps/*_areas.csv"))
        assert total == pytest.approx(2 * SIDE**2 / 100, rel=0.01)


def test_virtual_raster_of_two_files(classifier, colours, tmp_path):
    """c6: a VRT is a scene like any other."""
    half = SIDE // 2
    write_raster(tmp_path / "west.tif", colours[..., :half])
    write_raster(tmp_path / "east.tif", colours[..., half:], transform=from_origin(WEST + 10 * half, NORTH, 10, 10))
    bands = ""
    for index, band in enumerate(RGB_BANDS, 1):
        bands += f'<VRTRasterBand dataType="UInt16" band="{index}"><Description>{band}</Description>'
        for name, column in (("west.tif", 0), ("east.tif", half)):
            size = f'xSize="{half}" ySize="{SIDE}"'
            bands += f'<SimpleSource><SourceFilename relativeToVRT="1">{name}</SourceFilename>'
            bands += f'<SourceBand>{index}</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
            bands += f'<DstRect xOff="{column}" yOff="0" {size}/></SimpleSource>'
        bands += "</VRTRasterBand>"
    text = f'<VRTDataset rasterXSize="{SIDE}" rasterYSize="{SIDE}"><SRS>{CRS}</SRS>'
    text += f"<GeoTransform>{WEST}, 10, 0, {NORTH}, 0, -10</GeoTransform>{bands}</VRTDataset>"
    (tmp_path / "mosaic.vrt").write_text(text)
    assert_right(map_cells(classifier, tmp_path, tmp_path / "mosaic.vrt"))


def test_folder_that_is_split_already(tmp_path):
    """h: train/, val/ and test/ with class folders are the splits."""
    for turns, split in enumerate(("train", "val", "test")):
        for name in ("Forest", "River", "SeaLake"):
            (path,) = (SAMPLES / "patches" / name).iterdir()
            (tmp_path / split / name).mkdir(parents=True)
            pixels = np.rot90(np.asarray(Image.open(path)), turns)
            Image.fromarray(pixels).save(tmp_path / split / name / f"{name}_{split}.png")
    dataset = datasets.load_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ("Forest", "River", "SeaLake")
    for split, part in dataset.splits.items():
        own = {"train": "train", "validation": "val", "test": "test"}[split]
        assert len(part.names) == 3 and all(f"_{own}" in name for name in part.names)


# No data and clouds


def test_dark_water_in_a_picture_with_nodata_0(classifier, colours, tmp_path):
    """d2: a pixel without red is data. No image of the training lacks red, so the applicability is left aside."""
    picture = np.rint(np.clip(1 + colours * (254 / 2750), 1, 255)).astype("uint8")
    picture[0, patch_classes() == CLASSES.index("SeaLake")] = 0
    path = write_raster(tmp_path / "tci.tif", picture, None, photometric="RGB", nodata=0)
    scene = landcover.open_scene_for(classifier, [path])
    cells = landcover.map_scene(classifier, scene, applicability="off").classes
    lake = cell_classes() == CLASSES.index("SeaLake")
    assert (cells[lake] == CLASSES.index("SeaLake")).all()


def test_zeros_beside_a_declared_nodata(classifier, colours, tmp_path):
    """d4: -9999 within the region, 0 outside: both are no data, and the share of the zeros is printed."""
    pixels = colours.astype("int16")
    pixels[:, :32] = -9999
    pixels[:, :, 192:] = 0
    path = write_raster(tmp_path / "export.tif", pixels, ("B4", "B3", "B2"), nodata=-9999)
    printed = map_scenes(classifier, tmp_path / "map", path)
    cells = read_classes(tmp_path / "map_landcover.tif")
    assert (cells[0] == EMPTY).all() and (cells[:, 6:] == EMPTY).all()
    assert_right(cells[1:, :6], cell_classes()[1:, :6])
    assert re.search(r"\b(20\.8|21|23\.8|24)\d* ?%", printed)  # of the scene, or of what is not -9999


def test_clouds_of_before_04_00(classifier, tmp_path):
    """f: what MSK_CLOUDS_B00.gml outlines, here the western quarter, stays empty."""
    product = shutil.copytree(BEFORE, tmp_path / BEFORE.name)
    (mask,) = product.rglob("MSK_CLOUDS_B00.gml")
    east, south = WEST + 10 * PATCH, NORTH - 10 * SIDE
    ring = f"{WEST} {NORTH} {east} {NORTH} {east} {south} {WEST} {south} {WEST} {NORTH}"
    cloud = (
        '<eop:maskMembers><eop:MaskFeature gml:id="OPAQUE.0"><eop:maskType>OPAQUE</eop:maskType><eop:extentOf>'
        '<gml:Polygon gml:id="OPAQUE.0_Polygon"><gml:exterior><gml:LinearRing><gml:posList srsDimension="2">'
        f"{ring}</gml:posList></gml:LinearRing></gml:exterior></gml:Polygon></eop:extentOf></eop:MaskFeature>"
        "</eop:maskMembers></eop:Mask>"
    )
    mask.write_text(mask.read_text().replace("</eop:Mask>", cloud))
    cells = map_cells(classifier, tmp_path, product)
    assert (cells[:, 0] == EMPTY).all() and (cells[:, 2:] != EMPTY).all()
    assert_right(cells[:, 2:], cell_classes()[:, 2:])


# Places and areas


def test_areas_in_world_mercator(classifier, colours, tmp_path):
    """e2: EPSG:3395 stretches pixels of 10 m to 14 units at 45 degrees; hectares are those of the ground."""
    place = rasterio.warp.transform("EPSG:4326", "EPSG:3395", [15.0], [45.15])
    eccentricity = 0.0818191908
    latitude = math.radians(45.15)
    stretch = math.sqrt(1 - (eccentricity * math.sin(latitude)) ** 2) / math.cos(latitude)
    size = 10 * stretch
    transform = from_origin(place[0][0] - size * SIDE / 2, place[1][0] + size * SIDE / 2, size, size)
    path = write_raster(tmp_path / "scene.tif", colours, crs="EPSG:3395", transform=transform)
    assert_right(map_cells(classifier, tmp_path, path))
    assert sum_hectares(tmp_path / "map_areas.csv") == pytest.approx(SIDE**2 / 100, rel=0.01)


@pytest.mark.parametrize("metres", [10, 20])
def test_georeference_by_control_points(classifier, colours, tmp_path, metres):
    """e3: four control points alone give place and pixel size."""
    block = metres // 10
    side = SIDE // block
    pixels = colours.reshape(3, side, block, side, block).mean((2, 4)).astype("uint16")
    points = [
        rasterio.control.GroundControlPoint(row, column, WEST + metres * column, NORTH - metres * row)
        for row in (0, side)
        for column in (0, side)
    ]
    path = write_raster(tmp_path / "scene.tif", pixels, transform=None, gcps=points)
    # Pixels of 20 m blur some windows so that they are unlike the training images. Without a class they have no area.
    map_scenes(classifier, tmp_path / "map", path, applicability="off")
    cells = read_classes(tmp_path / "map_landcover.tif")
    with rasterio.open(tmp_path / "map_landcover.tif") as file:
        assert file.crs == CRS
        assert file.transform.almost_equals(from_origin(WEST, NORTH, 10 * CELL, 10 * CELL), precision=1)
    assert sum_hectares(tmp_path / "map_areas.csv") == pytest.approx(SIDE**2 / 100, rel=0.01)
    if metres == 10:
        assert_right(cells)
