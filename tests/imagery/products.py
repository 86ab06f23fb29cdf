"""Small Sentinel-2 products, in the layout on disk that GDAL's own driver opens."""

import pathlib
import zipfile

import numpy as np
import rasterio
from rasterio.transform import from_origin

CRS, ORIGIN = "EPSG:32633", (499_980, 5_000_040)
RESOLUTION = {
    10: ("B02", "B03", "B04", "B08"),
    20: ("B05", "B06", "B07", "B8A", "B11", "B12"),
    60: ("B01", "B09", "B10"),
}


def write_band(path: pathlib.Path, dn: np.ndarray, metres: float = 10, driver: str = "GTiff", crs: str = CRS) -> None:
    """Writes one band (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"QUALITY": "100", "REVERSIBLE": "YES"} if driver == "JP2OpenJPEG" else {}
    height, width = dn.shape
    shape = {"height": height, "width": width, "count": 1, "dtype": dn.dtype}
    transform = from_origin(*ORIGIN, metres, metres)
    with rasterio.open(path, "w", driver=driver, **shape, crs=crs, transform=transform, **options) as file:
        file.write(dn, 1)


def write_safe(
    folder: pathlib.Path,
    bands: dict[str, np.ndarray],
    level: str = "1C",
    offset: int | None = None,
    clouds: np.ndarray | str | None = None,
) -> pathlib.Path:
    """Writes a product of these bands (height, width) uint16 of 10, 20 or 60 m; returns its folder.

    Args:
        folder: Where it goes.
        bands: By name; what an offset takes away has been added already.
        level: "1C" or "2A".
        clouds: What tells of them: of L2A the scene classification of 20 m, of L1C masks (height, width, 3) of 60 m, or
            the text of a GML file as before 04.00.
        offset: What its metadata says, -1000 since baseline 04.00; `None` for products before, which say nothing.
    """
    files = []
    for name, dn in bands.items():
        metres = next(metres for metres, names in RESOLUTION.items() if name in names)
        tile = f"T33TUM_20220601T100031_{name}"  # GDAL counts its letters
        files.append(f"GRANULE/L{level}_T33TUM/IMG_DATA/" + (f"R{metres}m/{tile}_{metres}m" if level == "2A" else tile))
        write_band(folder / f"{files[-1]}.jp2", dn, metres, "JP2OpenJPEG")
    if isinstance(clouds, np.ndarray) and level == "2A":
        files.append("GRANULE/L2A_T33TUM/IMG_DATA/R20m/T33TUM_20220601T100031_SCL_20m")
        write_band(folder / f"{files[-1]}.jp2", clouds, 20, "JP2OpenJPEG")
    elif isinstance(clouds, str):
        path = folder / "GRANULE/L1C_T33TUM/QI_DATA/MSK_CLOUDS_B00.gml"
        path.parent.mkdir()
        path.write_text(clouds)
    elif clouds is not None:
        path = folder / "GRANULE/L1C_T33TUM/QI_DATA/MSK_CLASSI_B00.jp2"
        path.parent.mkdir()
        shape = {"height": clouds.shape[0], "width": clouds.shape[1], "count": 3, "dtype": "uint8"}
        place = {"crs": CRS, "transform": from_origin(*ORIGIN, 60, 60)}
        with rasterio.open(path, "w", driver="JP2OpenJPEG", **shape, **place, QUALITY="100", REVERSIBLE="YES") as file:
            file.write(np.moveaxis(clouds, -1, 0))
    (folder / f"MTD_MSIL{level}.xml").write_text(_product(files, level, offset))
    (folder / f"GRANULE/L{level}_T33TUM/MTD_TL.xml").write_text(_tile(bands["B04"].shape[0] * 10, level))
    return folder


def pack_product(folder: pathlib.Path, path: pathlib.Path, name: str = "S2A.SAFE") -> pathlib.Path:
    """Adds a product to a zip as it is downloaded, within a folder of this name; returns the zip."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{name}/{file.relative_to(folder)}")
    return path


def cloud_gml(polygons: list[list[list[tuple[float, float]]]], srs: str = "urn:ogc:def:crs:EPSG::32633") -> str:
    """The cloud mask of L1C before 04.00: a feature for each polygon, whose first ring is its exterior."""
    features = []
    for index, rings in enumerate(polygons):
        kind = ("OPAQUE", "CIRRUS")[index % 2]
        corners = (" ".join(f"{x:.1f} {y:.1f}" for x, y in (*ring, ring[0])) for ring in rings)
        lists = [
            f'<gml:LinearRing><gml:posList srsDimension="2">{text}</gml:posList></gml:LinearRing>' for text in corners
        ]
        holes = "".join(f"<gml:interior>{hole}</gml:interior>" for hole in lists[1:])
        features.append(
            f'<eop:MaskFeature gml:id="{kind}.{index}"><eop:maskType codeSpace="urn:gs2:S2PDGS:maskType">{kind}'
            f"</eop:maskType><eop:extentOf><gml:Polygon><gml:exterior>{lists[0]}</gml:exterior>{holes}</gml:Polygon>"
            "</eop:extentOf></eop:MaskFeature>"
        )
    members = f"<eop:maskMembers>{''.join(features)}</eop:maskMembers>" if features else ""
    envelope = f'<gml:boundedBy><gml:Envelope srsName="{srs}"/></gml:boundedBy>' if features else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<eop:Mask xmlns:eop="http://www.opengis.net/eop/2.0" '
        f'xmlns:gml="http://www.opengis.net/gml/3.2">{envelope}{members}</eop:Mask>\n'
    )


def _product(files: list[str], level: str, offset: int | None) -> str:
    kind, listed, quantification = {
        "1C": ("RADIO", "Radiometric_Offset_List", '<QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>'),
        "2A": (
            "BOA",
            "BOA_ADD_OFFSET_VALUES_LIST",
            '<QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>'
            "</QUANTIFICATION_VALUES_LIST>",
        ),
    }[level]
    names = [f"B{number}" for number in (*range(1, 9), "8A", *range(9, 13))]
    spectral = "".join(
        f'<Spectral_Information bandId="{index}" physicalBand="{name}"/>' for index, name in enumerate(names)
    )
    offsets = "".join(f'<{kind}_ADD_OFFSET band_id="{index}">{offset}</{kind}_ADD_OFFSET>' for index in range(13))
    images = "".join(f"<IMAGE_FILE>{file}</IMAGE_FILE>" for file in files)
    baseline = "04.00" if offset else "02.08"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-{level}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-{level}.xsd">
<n1:General_Info>
<Product_Info>
<PRODUCT_URI>S2A_MSIL{level}_20220601T100031_N{baseline.replace(".", "")}_R122_T33TUM_20220601T120000.SAFE</PRODUCT_URI>
<PROCESSING_LEVEL>Level-{level}</PROCESSING_LEVEL>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
<Query_Options><PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT></Query_Options>
<Product_Organisation><Granule_List><Granule>{images}</Granule></Granule_List></Product_Organisation>
</Product_Info>
<Product_Image_Characteristics>
<Special_Values>
<SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX>
</Special_Values>
{quantification}{"" if offset is None else f"<{listed}>{offsets}</{listed}>"}
<Spectral_Information_List>{spectral}</Spectral_Information_List>
</Product_Image_Characteristics>
</n1:General_Info>
</n1:Level-{level}_User_Product>
"""


def _tile(side: int, level: str) -> str:
    sizes = "".join(
        f'<Size resolution="{metres}"><NROWS>{side // metres}</NROWS><NCOLS>{side // metres}</NCOLS></Size>'
        f'<Geoposition resolution="{metres}"><ULX>{ORIGIN[0]}</ULX><ULY>{ORIGIN[1]}</ULY><XDIM>{metres}</XDIM>'
        f"<YDIM>-{metres}</YDIM></Geoposition>"
        for metres in RESOLUTION
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-{level}_Tile_ID xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/S2_PDI_Level-{level}_Tile_Metadata.xsd">
<n1:Geometric_Info><Tile_Geocoding><HORIZONTAL_CS_NAME>WGS84 / UTM zone 33N</HORIZONTAL_CS_NAME>
<HORIZONTAL_CS_CODE>{CRS}</HORIZONTAL_CS_CODE>{sizes}</Tile_Geocoding></n1:Geometric_Info></n1:Level-{level}_Tile_ID>
"""
