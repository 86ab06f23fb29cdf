"""Makes the folder samples/ from EuroSAT's patches and a Sentinel-2 scene, and the images inside the package.

samples/README.md and resnetd_tf/weights/MODEL_CARD.md name sources and licences.

    python -m benchmarks.make_samples --eurosat_all=$SENTINEL2_DIR/eurosat_all --scene=SCENE_FOLDER --output=samples

EuroSAT's JPEG files come from TFDS ($TFDS_DATA_DIR).
"""

import collections
import csv
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np
import rasterio
import rasterio.windows
from absl import app, flags
from rasterio.transform import from_origin

from resnetd_tf import rundir
from resnetd_tf.data.rehearsal import SAMPLE_FILE
from resnetd_tf.data.splits import SPLITS
from resnetd_tf.sentinel2 import BANDS

FLAGS = flags.FLAGS
SAMPLE_IMAGES = {"train": 20, "validation": 10}  # images of each class inside the package
RAW_PATCHES = ("Forest_1031", "HerbaceousVegetation_1075", "Industrial_2007", "River_2171", "SeaLake_1121")
SCENE_BANDS = ("B04", "B03", "B02", "B08")
SCENE_WINDOW = rasterio.windows.Window(64, 1472, 448, 448)  # pixels; forest, fields, a village, marsh, water

LAYOUT = (  # patches of the products, row by row from the north-west
    ("Forest_1031", "SeaLake_1121", "AnnualCrop_1227", "Residential_2075"),
    ("Industrial_2007", "Pasture_1150", "SeaLake_1005", "Forest_1122"),
    ("River_2171", "Residential_228", "PermanentCrop_1245", "AnnualCrop_1509"),
    ("Highway_1069", "HerbaceousVegetation_1075", "Forest_1810", "Industrial_1638"),
)
PATCH = 63  # pixels of 10 m kept of a patch's 64: 4 * 63 = 252 pixels are whole pixels of 20 and 60 m as well
METRES = dict.fromkeys(BANDS, 20) | dict.fromkeys(("B02", "B03", "B04", "B08"), 10)
METRES |= dict.fromkeys(("B01", "B09", "B10"), 60)
CRS, WEST, NORTH = "EPSG:32633", 499_980, 5_000_040
PRODUCTS = (  # date, processing baseline, absolute orbit, offset that is added to digital numbers
    ("20170601", "02.05", "010143", 0),
    ("20240601", "05.10", "046712", 1000),
)
PRODUCT_METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-1C_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-1C.xsd">
<n1:General_Info>
<Product_Info>
<PRODUCT_START_TIME>{time}.024Z</PRODUCT_START_TIME>
<PRODUCT_STOP_TIME>{time}.024Z</PRODUCT_STOP_TIME>
<PRODUCT_URI>{name}</PRODUCT_URI>
<PROCESSING_LEVEL>Level-1C</PROCESSING_LEVEL>
<PRODUCT_TYPE>S2MSI1C</PRODUCT_TYPE>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
<Datatake><SPACECRAFT_NAME>Sentinel-2A</SPACECRAFT_NAME></Datatake>
<Query_Options completeSingleTile="true"><PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT></Query_Options>
<Product_Organisation><Granule_List><Granule imageFormat="JPEG2000">
{images}
</Granule></Granule_List></Product_Organisation>
</Product_Info>
<Product_Image_Characteristics>
<Special_Values>
<SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX>
</Special_Values>
<Special_Values>
<SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX>
</Special_Values>
<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>
{offsets}<Spectral_Information_List>
{spectral}
</Spectral_Information_List>
</Product_Image_Characteristics>
</n1:General_Info>
</n1:Level-1C_User_Product>
"""
TILE_METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-1C_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-1C_Tile_Metadata.xsd">
<n1:Geometric_Info>
<Tile_Geocoding>
<HORIZONTAL_CS_NAME>WGS84 / UTM zone 33N</HORIZONTAL_CS_NAME>
<HORIZONTAL_CS_CODE>{crs}</HORIZONTAL_CS_CODE>
{grids}
</Tile_Geocoding>
</n1:Geometric_Info>
</n1:Level-1C_Tile_ID>
"""
NO_CLOUDS = """<?xml version="1.0" encoding="UTF-8"?>
<eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" xmlns:gml="http://www.opengis.net/gml/3.2" gml:id="MSK_CLOUDS_B00">
<gml:name>MSK_CLOUDS pixel mask for tile 33TUM band 00</gml:name>
</eop:Mask>
"""


def write_patches(folder: pathlib.Path) -> None:
    """Writes the first patch of each class in EuroSAT's test split: the JPEG files that TFDS stores, unchanged."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("eurosat/rgb")
    classes = builder.info.features["label"].names
    undecoded = {"image": tfds.decode.SkipDecoding()}
    for example in tfds.as_numpy(builder.as_dataset(split="train[90%:]", decoders=undecoded)):
        class_folder = folder / classes[example["label"]]
        if not class_folder.exists():
            class_folder.mkdir(parents=True)
            (class_folder / example["filename"].decode()).write_bytes(example["image"])


def write_package_sample(path: pathlib.Path) -> None:
    """Writes the first images of each class in EuroSAT's splits: the JPEG files that TFDS stores, unchanged."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("eurosat/rgb")
    classes = builder.info.features["label"].names
    files = {}
    for split, count in SAMPLE_IMAGES.items():
        counts = collections.Counter[str]()
        for example in tfds.as_numpy(
            builder.as_dataset(split=SPLITS[split], decoders={"image": tfds.decode.SkipDecoding()})
        ):
            name = classes[example["label"]]
            if counts[name] < count:
                counts[name] += 1
                files[f"{split}/{name}/{example['filename'].decode()}"] = example["image"]
    with rundir.write_atomically(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(files):
            # The date of a ZipInfo is 1980, so that the file is always the same.
            archive.writestr(zipfile.ZipInfo(name), files[name])


def raw_path(eurosat_all: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the path of a 13-band patch, such as River/River_2171.tif."""
    return eurosat_all / name.partition("_")[0] / f"{name}.tif"


def write_raw_patches(folder: pathlib.Path, eurosat_all: pathlib.Path) -> None:
    """Copies 13-band patches, unchanged."""
    for name in RAW_PATCHES:
        path = raw_path(folder, name)
        path.parent.mkdir(parents=True)
        path.write_bytes(raw_path(eurosat_all, name).read_bytes())


def write_scene(path: pathlib.Path, scene: pathlib.Path) -> None:
    """Writes part of a scene as one GeoTIFF whose bands are named.

    Args:
        path: The new file.
        scene: Folder of a file per band, uint16 digital numbers.
    """
    with rasterio.open(scene / f"s2_{SCENE_BANDS[0]}.tif") as file:
        profile = {"crs": file.crs, "transform": file.window_transform(SCENE_WINDOW), "dtype": file.dtypes[0]}
    profile |= {"height": SCENE_WINDOW.height, "width": SCENE_WINDOW.width, "count": len(SCENE_BANDS)}
    compression = {"compress": "deflate", "predictor": 2, "zlevel": 9, "interleave": "band"}
    with rasterio.open(path, "w", driver="GTiff", **profile, **compression) as target:
        target.descriptions = SCENE_BANDS
        for index, band in enumerate(SCENE_BANDS, 1):
            with rasterio.open(scene / f"s2_{band}.tif") as file:
                target.write(file.read(1, window=SCENE_WINDOW), index)


def make_mosaic(eurosat_all: pathlib.Path) -> dict[str, np.ndarray]:
    """Lays 13-band patches side by side.

    Returns:
        Each band's digital numbers, uint16, at its resolution in a product: means over blocks of 10 m pixels.
    """
    rows = []
    for names in LAYOUT:
        patches = []
        for name in names:
            with rasterio.open(raw_path(eurosat_all, name)) as file:
                patches.append(file.read()[:, :PATCH, :PATCH])
        rows.append(np.concatenate(patches, axis=2))
    pixels = np.concatenate(rows, axis=1)
    side = pixels.shape[-1]
    bands = {}
    for band, dn in zip(BANDS, pixels):
        block = METRES[band] // 10
        means = dn.reshape(side // block, block, side // block, block).mean((1, 3))
        bands[band] = np.rint(means).astype("uint16")
    return bands


def write_jp2(path: pathlib.Path, pixels: np.ndarray, metres: int) -> None:
    """Writes bands (count, height, width) without loss, georeferenced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels.dtype}
    location = {"crs": CRS, "transform": from_origin(WEST, NORTH, metres, metres)}
    with rasterio.open(path, "w", driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES", **shape, **location) as file:
        file.write(pixels)


def write_product(
    folder: pathlib.Path, bands: dict[str, np.ndarray], *, date: str, baseline: str, orbit: str, offset_dn: int
) -> None:
    """Writes an L1C product in the layout of its .SAFE folder, with a cloud mask that shows none.

    Args:
        folder: Where the product's folder goes.
        bands: Digital numbers, uint16, of each band at its own resolution.
        date: Date of the acquisition, YYYYMMDD.
        baseline: Processing baseline, such as "05.10".
        orbit: Absolute orbit, six digits.
        offset_dn: Offset that the baseline adds to digital numbers; 0 before 04.00, whose metadata have no offset.
    """
    name = f"S2A_MSIL1C_{date}T100031_N{baseline.replace('.', '')}_R122_T33TUM_{date}T120000.SAFE"
    product = folder / name
    granule = f"GRANULE/L1C_T33TUM_A{orbit}_{date}T100031"
    images = {band: f"{granule}/IMG_DATA/T33TUM_{date}T100031_{band}" for band in bands}
    for band, path in images.items():
        write_jp2(product / f"{path}.jp2", bands[band][np.newaxis] + np.uint16(offset_dn), METRES[band])
    masks = product / granule / "QI_DATA"
    if offset_dn:
        # The bands of the mask are opaque clouds, cirrus and snow.
        write_jp2(masks / "MSK_CLASSI_B00.jp2", np.zeros((3, *bands["B01"].shape), "uint8"), 60)
        offsets = [
            f'<RADIO_ADD_OFFSET band_id="{index}">{-offset_dn}</RADIO_ADD_OFFSET>' for index in range(len(BANDS))
        ]
        offset_list = "\n".join(["<Radiometric_Offset_List>", *offsets, "</Radiometric_Offset_List>", ""])
    else:
        masks.mkdir()
        write_text(masks / "MSK_CLOUDS_B00.gml", NO_CLOUDS)
        offset_list = ""
    product_order = sorted(bands, key=lambda band: int(band[1:].rstrip("A")))  # B8A after B08; EuroSAT has it last
    spectral = [
        f'<Spectral_Information bandId="{index}" physicalBand="{band.replace("B0", "B")}">'
        f"<RESOLUTION>{METRES[band]}</RESOLUTION></Spectral_Information>"
        for index, band in enumerate(product_order)
    ]
    metadata = PRODUCT_METADATA.format(
        time=f"{date[:4]}-{date[4:6]}-{date[6:]}T10:00:31",
        name=name,
        baseline=baseline,
        images="\n".join(f"<IMAGE_FILE>{images[band]}</IMAGE_FILE>" for band in product_order),
        offsets=offset_list,
        spectral="\n".join(spectral),
    )
    write_text(product / "MTD_MSIL1C.xml", metadata)
    write_text(product / granule / "MTD_TL.xml", TILE_METADATA.format(crs=CRS, grids="\n".join(describe_grids(bands))))


def describe_grids(bands: dict[str, np.ndarray]) -> Iterator[str]:
    """Yields the XML of size and position for each resolution, as the metadata of a tile have them."""
    for band in ("B02", "B05", "B01"):
        rows, columns = bands[band].shape
        yield (
            f'<Size resolution="{METRES[band]}"><NROWS>{rows}</NROWS><NCOLS>{columns}</NCOLS></Size>\n'
            f'<Geoposition resolution="{METRES[band]}"><ULX>{WEST}</ULX><ULY>{NORTH}</ULY>'
            f"<XDIM>{METRES[band]}</XDIM><YDIM>-{METRES[band]}</YDIM></Geoposition>"
        )


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file with Unix line ends on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")


def main(_) -> None:
    output, eurosat_all = pathlib.Path(FLAGS.output), pathlib.Path(FLAGS.eurosat_all)
    write_patches(output / "patches")
    write_package_sample(SAMPLE_FILE)
    write_raw_patches(output / "patches_13_bands", eurosat_all)
    write_scene(output / "scene.tif", pathlib.Path(FLAGS.scene))
    bands = make_mosaic(eurosat_all)
    for date, baseline, orbit, offset_dn in PRODUCTS:
        write_product(output, bands, date=date, baseline=baseline, orbit=orbit, offset_dn=offset_dn)
    with (output / "product_classes.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([name.partition("_")[0] for name in row] for row in LAYOUT)


if __name__ == "__main__":
    flags.DEFINE_string("eurosat_all", None, "Folder of EuroSAT's 13-band patches, CLASS/NAME.tif.", required=True)
    flags.DEFINE_string("scene", None, "Folder of a scene's bands, s2_B04.tif and so on.", required=True)
    flags.DEFINE_string("output", "samples", "Folder to write to; it must not have the new files and folders yet.")
    app.run(main)
