"""Scenes as people have them: Sentinel-2 products, GeoTIFFs, one file per band, true-colour pictures.

All come out as the bands that a classifier takes, on one grid of pixels of 10 m.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.features import geometry_mask
from rasterio.windows import Window

from resnetd_tf.errors import InputError
from resnetd_tf.imagery import layers, safe
from resnetd_tf.imagery.layers import Grid, Layer
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS

SAMPLE = 512  # pixels on a side that are looked at before a scene is mapped
DARKEST = 1000  # DN that an offset of products since baseline 04.00 adds to all


@dataclass(frozen=True)
class Scene:
    """A scene, opened.

    Attributes:
        name: What it is called.
        grid: Its pixels.
        layers: Its bands, on that grid; `None` for one that is missing.
        picture: Whether it is a true-colour picture of 8 bits; otherwise its bands are digital numbers.
        fill: What missing bands have everywhere.
        words: What was found and what is applied to it.
        clouds: What tells where clouds are.
        left, top: Column and row of the layers' grid at which the scene begins.
        outlines: GeoJSON geometries in its coordinates, outside of which there is nothing; none for all of it.
    """

    name: str
    grid: Grid
    layers: tuple[Layer | None, ...]
    picture: bool
    fill: tuple[float, ...]
    words: str
    clouds: tuple[Layer, ...] = ()
    left: int = 0
    top: int = 0
    outlines: tuple[dict, ...] = ()

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """A window's pixels, and where there are any.

        Returns:
            (height, width, bands), grey levels as uint8 or digital numbers as uint16, 10,000 times the reflectance; and
            (height, width) bool.

        Raises:
            InputError: A file is damaged.
        """
        there = [layer for layer in self.layers if layer]
        place = Window(window.col_off + self.left, window.row_off + self.top, window.width, window.height)
        stored = layers.read(there, place)
        valid = (stored != (there[0].dataset.nodata or 0)).any(axis=-1)
        if self.clouds:
            kinds = layers.read(self.clouds, place)
            valid &= ~(np.isin(kinds, safe.HIDDEN) if len(self.clouds) == 1 else kinds > 0).any(axis=-1)
        if self.outlines:
            corner = self.grid.transform * rasterio.Affine.translation(window.col_off, window.row_off)
            valid &= geometry_mask(self.outlines, valid.shape, corner, all_touched=True, invert=True)
        if self.picture:
            return stored, valid
        bands = np.empty((*stored.shape[:2], len(self.layers)), "uint16")
        count = 0
        for index, layer in enumerate(self.layers):
            if layer is None:
                bands[..., index] = round(self.fill[index])
                continue
            dn = stored[..., count]
            if layer.offset or layer.gain != 1 or dn.dtype != "uint16":
                dn = np.clip(np.rint((dn.astype("float32") + layer.offset) * layer.gain), 0, 65535)
            bands[..., index] = dn
            count += 1
        return bands, valid


def open_scene(
    paths: Sequence[str | pathlib.Path],
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
    found, clouds, words, picture = _found([pathlib.Path(path) for path in paths], wanted, bands)
    if picture:
        if len(wanted) != 3:
            raise InputError(f"{paths[0]} is a picture of three colours, the classifier takes {len(wanted)} bands")
        wanted = RGB_BANDS
    missing = [band for band in wanted if band not in found]
    if missing and (fill is None or len(missing) == len(wanted)):
        raise InputError(f"{paths[0]} has no {', '.join(missing)}, which the classifier takes; --missing=mean fills in")
    chosen = [found.get(band) for band in wanted]
    if not picture and (scale is not None or offset is not None):
        chosen = [
            layer
            and dataclasses.replace(
                layer,
                offset=layer.offset if offset is None else offset,
                gain=layer.gain if scale is None else scale,
            )
            for layer in chosen
        ]
        words += "".join(
            f", {name} {value:g} as given"
            for name, value in (("offset", offset), ("scale", scale))
            if value is not None
        )
    there = [layer for layer in chosen if layer]
    grid = layers.grid_of(list({id(layer.dataset): layer.dataset for layer in there}.values()))
    warped = {id(layer.dataset): layers.on_grid(layer.dataset, grid) for layer in there}
    placed = tuple(layer and dataclasses.replace(layer, dataset=warped[id(layer.dataset)]) for layer in chosen)
    if missing:
        words += f"; no {', '.join(missing)}: the training's mean instead"
    if any(warped[id(layer.dataset)] is not layer.dataset for layer in there):
        words += f"; resampled to {grid.width} x {grid.height} pixels of 10 m"
    if clouds and not keep_clouds:
        words += "; clouds, their shadows and snow left out"
    hiding = [dataclasses.replace(layer, dataset=layers.on_grid(layer.dataset, grid, nearest=True)) for layer in clouds]
    scene = Scene(str(paths[0]), grid, placed, picture, tuple(fill or (0,) * len(wanted)), words)
    scene = dataclasses.replace(scene, clouds=() if keep_clouds else tuple(hiding))
    _check(scene, scale is not None, offset is not None)
    return scene


def _found(
    paths: list[pathlib.Path], wanted: Sequence[str], bands: Sequence[str] | None
) -> tuple[dict[str, Layer], tuple[Layer, ...], str, bool]:
    """Layers by band, those that tell of clouds, what they are in words, and whether they are a picture's."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give another")
    if len(paths) == 1:
        if product := safe.metadata_file(paths[0]):
            return *safe.layers(product, wanted), False
        if paths[0].is_dir():
            inside = [file for file in sorted(paths[0].iterdir()) if file.is_file() and band_of(file)]
            if not inside:
                raise InputError(f"{paths[0]}: holds no MTD_MSI*.xml of a product, and no files of bands (..._B04.jp2)")
            paths = inside
        elif not band_of(paths[0]) or bands:
            found, words, picture = _in_one_file(paths[0], bands)
            return found, (), words, picture
    return _file_per_band(paths, wanted), (), "one file per band: digital numbers as they are stored", False


def band_of(path: pathlib.Path) -> str | None:
    """The band that a file's name tells, as in T33UUP_20210101_B04_10m.jp2."""
    parts = re.split(r"[^0-9A-Za-z]+", path.stem)
    return next((name for part in reversed(parts) if (name := safe.band_name(part))), None)


def _file_per_band(paths: list[pathlib.Path], wanted: Sequence[str]) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    for path in paths:
        name = band_of(path)
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


def _in_one_file(path: pathlib.Path, bands: Sequence[str] | None) -> tuple[dict[str, Layer], str, bool]:
    dataset = layers.open_raster(str(path))
    kind = dataset.dtypes[0]
    if bands:
        if len(bands) != dataset.count:
            raise InputError(f"--bands names {len(bands)} bands, {path} has {dataset.count}")
        names = [safe.band_name(band) for band in bands]
        if None in names:
            raise InputError(f"--bands={','.join(bands)}: bands are {', '.join(BANDS)}")
    else:
        if kind == "uint8" and dataset.count <= 4 and dataset.colorinterp[0] != ColorInterp.palette:
            places = (1, 2, 3) if dataset.count > 2 else (1, 1, 1)  # the last of two or four is transparency
            colours = {band: Layer(dataset, place) for band, place in zip(RGB_BANDS, places)}
            return colours, "picture of 8 bits: colours as they are", True
        names = [safe.band_name(text or "") for text in dataset.descriptions]
        if None in names:
            raise InputError(
                f"{path}: {dataset.count} bands of {kind} that have no names; name them, as --bands=B02,B03,B04,B08"
            )
    found = {str(name): Layer(dataset, index) for name, index in zip(names, dataset.indexes)}
    return found, f"bands {', '.join(found)} of {kind}: digital numbers as they are stored", False


def _check(scene: Scene, has_scale: bool, has_offset: bool) -> None:
    """Raises InputError if numbers are not what they are taken for, from a look at all of the scene."""
    if scene.picture:
        return
    there = [layer for layer in scene.layers if layer]
    shape = (min(SAMPLE, scene.grid.height), min(SAMPLE, scene.grid.width))
    stored = layers.read(there, shape=shape).astype("float64")
    valid = stored[(stored != (there[0].dataset.nodata or 0)).any(axis=-1)]
    if not valid.size:
        raise InputError(f"{scene.name} has no data, or none that was seen; nothing to map")
    what = f"{scene.name}: its numbers go from {valid.min():.6g} to {valid.max():.6g}"
    if not has_scale and valid.max() <= 2 and there[0].dataset.dtypes[0].startswith("float"):
        raise InputError(f"{what}, as reflectances do; --scale=10000 makes digital numbers of them")
    if not has_scale and valid.max() <= 255:
        raise InputError(f"{what}, as grey levels of 8 bits do; give the digital numbers, or a picture of type uint8")
    offsets = {layer.offset for layer in there}
    if has_offset or scene.words.startswith("Sentinel-2"):
        dark = np.mean([(band + layer.offset <= 0).mean() for band, layer in zip(valid.T, there)])
        if min(offsets) < 0 and dark > 0.25:
            raise InputError(
                f"{what}, and {100 * dark:.0f} % are not above 0 after the offset; --offset=0 leaves it out"
            )
    elif np.percentile(valid, 0.1) >= DARKEST and offsets == {0}:
        raise InputError(
            f"{what}, none near 0: products since baseline 04.00 are offset; --offset=-1000 takes it away, --offset=0 "
            "says that there is none"
        )
