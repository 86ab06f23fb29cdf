"""Reads files of polygons and points, whatever their format."""

import logging
import pathlib
import warnings
from typing import TYPE_CHECKING

from resnetd_tf.errors import InputError, damage_as_input_error, first_line

if TYPE_CHECKING:
    import geopandas

CSV_SUFFIXES = (".csv", ".txt", ".tsv")

logging.getLogger("pyogrio").setLevel(logging.WARNING)


def read_shapes(path: str | pathlib.Path, attribute: str, layer: str | None = None) -> "geopandas.GeoDataFrame":
    """Reads shapes with the attribute that names their classes.

    Args:
        path: A GeoPackage, GeoJSON, Shapefile or whatever else geopandas reads; or a CSV of points, with the columns
            longitude and latitude in degrees.
        attribute: The attribute or column with the classes.
        layer: The layer to read, if the file has one of this name.

    Returns:
        The shapes with the attribute as text; empty where there is no value.

    Raises:
        InputError: The file cannot be read, has no shapes, no coordinate reference system or no such attribute.
    """
    if not pathlib.Path(path).exists():
        raise InputError(f"{path}: no such file")
    if pathlib.Path(path).suffix.lower() in CSV_SUFFIXES:
        frame = _read_points(path)
    else:
        import geopandas

        with damage_as_input_error(f"{path}: cannot be read as polygons or points"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file with several layers
            layers = list_layers(path)
            if layer not in layers and len(layers) > 1:
                raise InputError(f"{path}: has the layers {', '.join(layers)}; name one by --layer")
            if not layers:
                raise InputError(f"{path}: has no polygons and no points")
            frame = geopandas.read_file(path, layer=layer if layer in layers else layers[0])
    columns = [str(name) for name in frame.columns if name != "geometry"]
    if attribute not in columns:
        raise InputError(
            f"{path}: has no attribute {attribute}, but {', '.join(columns)}; name the one with the classes by --label"
        )
    if not len(frame):
        raise InputError(f"{path}: has no polygons and no points")
    if frame.crs is None:
        raise InputError(f"{path}: has no coordinate reference system; give it one, as QGIS does under Set Layer CRS")
    frame[attribute] = [_as_text(value) for value in frame[attribute]]
    return frame


def list_layers(path: str | pathlib.Path) -> list[str]:
    """Returns the names of the layers with shapes in a file; none of a CSV."""
    import geopandas

    if pathlib.Path(path).suffix.lower() in CSV_SUFFIXES:
        return []
    table = geopandas.list_layers(path)
    return table.loc[table["geometry_type"].notna(), "name"].tolist()


def _as_text(value) -> str:
    """Returns the value of an attribute as the name of a class; empty for no value."""
    if value is None or value != value:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _read_points(path: str | pathlib.Path) -> "geopandas.GeoDataFrame":
    """Reads points from a CSV, whose separator may also be a semicolon or a tab, and its decimals commas."""
    import geopandas
    import pandas

    advice = "; save it as CSV in UTF-8, with the columns longitude and latitude in degrees"
    with damage_as_input_error(f"{path}: cannot be read as a table of points", advice):
        frame = pandas.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False, encoding="utf-8-sig")
    frame = frame[(frame != "").any(axis=1)].reset_index(drop=True)
    frame.columns = [str(name).strip() for name in frame.columns]
    if missing := {"longitude", "latitude"} - set(frame.columns):
        raise InputError(f"{path}: has no column {' and '.join(sorted(missing))}, in degrees")
    degrees = []
    for name in ("longitude", "latitude"):
        texts = frame[name].str.strip().str.replace(",", ".")
        numbers = pandas.to_numeric(texts, errors="coerce")
        if numbers.isna().any():
            row = int(numbers.isna().to_numpy().argmax())
            raise InputError(f"{path}: row {row + 2} has the {name} {texts[row]!r}; give degrees, such as 14.25")
        if numbers.abs().max() > (90 if name == "latitude" else 540):
            raise InputError(f"{path}: has the {name} {numbers[numbers.abs().idxmax()]:g}; are the columns exchanged?")
        degrees.append(numbers)
    return geopandas.GeoDataFrame(frame, geometry=geopandas.points_from_xy(*degrees, crs="EPSG:4326"))


def write_geopackage(frame: "geopandas.GeoDataFrame", path: pathlib.Path, layer: str) -> None:
    """Writes shapes as a GeoPackage.

    Raises:
        OSError: The file cannot be written.
    """
    try:
        frame.to_file(path, driver="GPKG", layer=layer)
    except Exception as error:  # pyogrio's errors of a full disk have no common class
        raise OSError(first_line(error)) from error
