"""Scenes as people have them: Sentinel-2 products, GeoTIFFs, one file per band, true-colour pictures.

All come out as the bands that a classifier takes, on one grid of pixels of 10 m.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from rasterio.enums import ColorInterp

from resnetd_tf.errors import InputError
from resnetd_tf.imagery import clouds, layers, names, safe
from resnetd_tf.imagery.grid import grid_of, on_grid
from resnetd_tf.imagery.layers import Layer
from resnetd_tf.imagery.pixels import Scene, check_numbers
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS


def open_scene(
    paths: Sequence[str | pathlib.Path] | str | pathlib.Path,
    wanted: Sequence[str] = RGB_BANDS,
    *,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    fill: Sequence[float] | None = None,
    keep_clouds: bool = False,
) -> Scene:
    """Opens a scene.

    Args:
        paths: A product, a folder or file, or a file for each band.
        wanted: The bands that a classifier takes.
        bands: What the bands of a file are, where it does not say.
        scale: What 10,000 times the reflectance is of what is stored, after `offset`; default 1.
        offset: What is added to it first; default what a product's metadata says, else 0.
        fill: What a wanted band that the scene lacks has everywhere; `None` to refuse such scenes.
        keep_clouds: Whether what lies under clouds, their shadows and snow is mapped, where a product tells of them.

    Raises:
        InputError: Something given cannot be used, and what to do about it.
    """
    paths = [paths] if isinstance(paths, str | pathlib.Path) else paths
    if not paths:
        raise InputError("no scene given")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise InputError(f"--scale={scale}: must be above 0 and finite")
    if offset is not None and not math.isfinite(offset):
        raise InputError(f"--offset={offset}: must be a finite number")
    takes_picture = len(wanted) == 3 and scale is None and offset is None
    found, mask_file, words, picture = _found([pathlib.Path(path) for path in paths], wanted, bands, takes_picture)
    if picture and len(wanted) != 3:
        raise InputError(f"{paths[0]} is a picture of three colours, the classifier takes {len(wanted)} bands")
    given = {name: value for name, value in (("offset", offset), ("scale", scale)) if value is not None}
    if picture and given:
        raise InputError(
            f"{paths[0]} is a picture of 8 bits, whose colours are taken as they are: no --scale, no --offset"
        )
    missing = [band for band in wanted if band not in found]
    if missing and (fill is None or len(missing) == len(wanted)):
        fills_in = "; --missing=mean fills in" if len(wanted) > 3 else ""  # a colour is a third of what is seen
        raise InputError(f"{paths[0]} has no {', '.join(missing)}, which the classifier takes{fills_in}")
    chosen = [found.get(band) for band in wanted]
    changed: dict[str, Any] = {"offset" if name == "offset" else "gain": value for name, value in given.items()}
    chosen = [layer and dataclasses.replace(layer, **changed) for layer in chosen]
    words += "".join(f", {name} {value:g} as given" for name, value in given.items())
    there = [layer for layer in chosen if layer]
    datasets = layers.datasets(there)
    grid = grid_of(datasets)
    warped = {id(dataset): on_grid(dataset, grid) for dataset in datasets}
    if missing:
        words += f"; no {', '.join(missing)}: the training's mean instead"
    if any(warped[id(dataset)] is not dataset for dataset in datasets):
        words += f"; resampled to {grid.width} x {grid.height} pixels of 10 m"
    files = layers.files_of(datasets, *([mask_file] if mask_file else []))
    scene = Scene(
        name=str(paths[0]),
        grid=grid,
        layers=tuple(layer and dataclasses.replace(layer, dataset=warped[id(layer.dataset)]) for layer in chosen),
        picture=picture,
        fill=tuple(fill or (0,) * len(wanted)),
        words=words,
        clouds=clouds.open_mask(mask_file, grid) if mask_file and not keep_clouds else None,
        files=files,
    )
    check_numbers(scene, scale is not None, offset is not None)
    return scene


def _found(
    paths: list[pathlib.Path], wanted: Sequence[str], bands: Sequence[str] | None, takes_picture: bool
) -> tuple[dict[str, Layer], str | None, str, bool]:
    """Layers by band, the file of the cloud mask, what they are in words, and whether they are a picture's."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give another")
    if len(paths) == 1:
        product = safe.metadata_file(paths[0])
        if bands and (product or paths[0].is_dir()):
            raise InputError(f"--bands={','.join(bands)} is of one file that does not say what its bands are")
        if product:
            return *safe.layers(product, wanted), False
        if paths[0].is_dir():
            inside = names.band_files(paths[0])
            if not inside:
                raise InputError(
                    f"{paths[0]}: holds no picture, no MTD_MSI*.xml of a product and no files of bands (..._B04.jp2)"
                )
            paths = inside
        elif not names.band_of(paths[0]) or bands:
            found, words, picture = _in_one_file(paths[0], bands, takes_picture)
            return found, None, words, picture
    return _file_per_band(paths, wanted), None, "one file per band: digital numbers as they are stored", False


def _file_per_band(paths: list[pathlib.Path], wanted: Sequence[str]) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    for path in paths:
        name = names.band_of(path)
        if name is None:
            raise InputError(f"{path}: its name tells no band, as ..._B04.tif does; give one scene at a time")
        if name not in wanted:
            continue
        dataset = layers.open_raster(str(path))
        if dataset.count != 1:
            raise InputError(f"{path} has {dataset.count} bands, its name tells one; rename it")
        before = found.get(name)  # the finest of several
        if before is None or abs(dataset.transform.determinant) < abs(before.dataset.transform.determinant):
            found[name] = Layer(dataset, 1)
    return found


def _names_of_bands(dataset, path: pathlib.Path, bands: Sequence[str] | None) -> list[str | None]:
    """Names of a file's bands, as `--bands` or its descriptions tell; `None` of what is no band of Sentinel-2."""
    if not bands:
        named = [names.band_described(text) for text in dataset.descriptions]
        counted = [names.band_name(f"B{index}") for index in dataset.indexes]
        only_counts = dataset.dtypes[0] == "uint8" and dataset.count <= 4 and named == counted  # B1, B2, B3
        return [None] * dataset.count if only_counts else named
    if len(bands) != dataset.count:
        raise InputError(f"--bands names {len(bands)} bands, {path} has {dataset.count}")
    named = [names.band_name(band) for band in bands]  # None of others, such as SCL
    unknown = [band for band, name in zip(bands, named) if not name and band.strip()[:1] in ("B", "b")]
    if unknown or not any(named):
        what = f"{', '.join(unknown)} is none; " if unknown else ""
        raise InputError(f"--bands={','.join(bands)}: {what}bands are {', '.join(BANDS)}")
    return named


def _in_one_file(
    path: pathlib.Path, bands: Sequence[str] | None, takes_picture: bool
) -> tuple[dict[str, Layer], str, bool]:
    dataset = layers.open_raster(str(path))
    kind, named = dataset.dtypes[0], _names_of_bands(dataset, path, bands)
    if kind == "uint8" and (takes_picture or not any(named)) and (places := _places_of_colours(dataset, named)):
        colours = {band: Layer(dataset, place) for band, place in zip(RGB_BANDS, places)}
        others: dict[tuple[int, ...], str] = {(1, 2, 3): "", (1, 1, 1): ", one grey for all"}
        which = others.get(tuple(places), f", red, green and blue its bands {', '.join(map(str, places))}")
        return colours, f"picture of 8 bits: colours as they are{which}", True
    if not any(named):
        if dataset.driver in ("PNG", "JPEG", "GIF", "BMP", "WEBP") or kind == "uint8":
            raise InputError(f"{path}: {kind} or of a palette, of unknown scale; convert it to RGB of 8 bits")
        called = ", ".join(filter(None, dataset.descriptions))
        raise InputError(
            f"{path}: {dataset.count} bands of {kind} that {f'are called {called}' if called else 'have no names'}; "
            "name all of them, as --bands=B02,B03,B04,B08"
        )
    found = {name: Layer(dataset, index) for name, index in zip(named, dataset.indexes) if name}
    if len(found) < sum(map(bool, named)):
        raise InputError(f"{path}: a band is named twice; name them, as --bands=B02,B03,B04,B08")
    return found, f"bands {', '.join(found)} of {kind}: digital numbers as they are stored", False


def _places_of_colours(dataset, named: list[str | None]) -> Sequence[int] | None:
    """The bands of a picture of 8 bits that are red, green and blue, from 1; `None` of what is no picture.

    Their names say it; if none has one, the file's colours, else their order. Where some are named, but not all three
    colours, it is no picture: B08, B04, B03 are false colours.
    """
    if all(named.count(band) == 1 for band in RGB_BANDS):
        return [named.index(band) + 1 for band in RGB_BANDS]
    if any(named) or dataset.count > 4 or dataset.colorinterp[0] == ColorInterp.palette:
        return None
    if dataset.count == 2 and dataset.colorinterp[1] != ColorInterp.alpha:
        return None
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if set(colours) <= set(dataset.colorinterp):
        return [dataset.colorinterp.index(colour) + 1 for colour in colours]
    return (1, 2, 3) if dataset.count > 2 else (1, 1, 1)  # the last of two or four is transparency
