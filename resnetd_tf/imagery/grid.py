"""The grid of 10 m pixels on which a scene's bands are read, and how large its pixels are on the ground."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import rasterio
import rasterio.transform
import rasterio.warp
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from resnetd_tf.errors import InputError, damage_as_input_error

WGS84 = CRS.from_epsg(4326)
PIXEL_METRES = 10.0  # metres, the side of a pixel of EuroSAT's patches
MAX_UTM_PIXELS = 120_000  # pixels a side of a scene that is resampled in one UTM zone
# Share by which lengths on the ground may vary within a scene, and pixels differ from 10 m, before they are resampled.
# UTM changes lengths by 0.004, Mercator within a tile of 110 km at 45 degrees by 0.009.
MAX_DISTORTION = 0.025
MAX_SKEW = 0.05  # cosine of the angle between rows and columns on the ground; above it, a scene is resampled
PLANAR_TOLERANCE = 0.005  # share; pixels whose area differs less from the projection's have the projection's area
LATTICE_POINTS = 5  # points a side at which a grid is measured


@dataclass(frozen=True)
class Grid:
    """The pixels of a scene or of a file.

    Attributes:
        crs: The coordinate reference system; `None` if it is unknown.
        transform: From columns and rows to coordinates.
        width: Number of columns.
        height: Number of rows.
    """

    crs: CRS | None
    transform: rasterio.Affine
    width: int
    height: int

    @property
    def metres_per_unit(self) -> float:
        """Metres of a unit of the coordinates; not a number if coordinates are no lengths."""
        return self.crs.linear_units_factor[1] if self.crs and self.crs.is_projected else np.nan

    @property
    def pixel_hectares(self) -> float | None:
        """Mean area of a pixel on the ground in hectares; `None` if the place of the pixels is unknown."""
        return None if self.crs is None else float(self._pixel_areas().mean() / 10_000)

    def pixel_hectares_in_cells(self, stride: int) -> np.ndarray | None:
        """Returns the area on the ground of one pixel in each cell of stride x stride pixels.

        Args:
            stride: Side of a cell in pixels.

        Returns:
            (rows, columns) float64, in hectares; `None` if the place of the pixels is unknown.
        """
        if self.crs is None:
            return None
        # Areas between the points of the lattice are interpolated along both sides.
        weights = []
        for side in (self.height, self.width):
            centers = (np.arange(-(-side // stride)) + 0.5) * stride / side * (LATTICE_POINTS - 1)
            distances = np.abs(np.minimum(centers, LATTICE_POINTS - 1)[:, np.newaxis] - np.arange(LATTICE_POINTS))
            weights.append(np.maximum(1 - distances, 0))
        return weights[0] @ self._pixel_areas() @ weights[1].T / 10_000

    def _pixel_areas(self) -> np.ndarray:
        """Returns areas of pixels in square metres at the points of the lattice, by the projection if it is true."""
        areas = np.abs(np.linalg.det(ground_steps(self)))
        planar = abs(self.transform.determinant) * self.metres_per_unit**2
        return np.full_like(areas, planar) if np.allclose(areas, planar, rtol=PLANAR_TOLERANCE, atol=0) else areas


def ground_steps(grid: Grid) -> np.ndarray:
    """Measures the step to the next pixel on the ground, at `LATTICE_POINTS` x `LATTICE_POINTS` points of a grid.

    The steps are measured in the equal-area projection around the grid's middle. It is true to area everywhere, and to
    length within 0.3 % up to 1,000 km from the middle.

    Returns:
        (rows, columns, 2, 2) float64, steps along a row and along a column, each eastwards and northwards, in metres.

    Raises:
        ValueError: The coordinates lie outside of their reference system.
    """
    longitude, latitude = grid_centre(grid)
    # From the upper left corner of a pixel to the corners of its neighbours, up to the last pixel of each side.
    rows, columns = (np.linspace(0, side - 1, LATTICE_POINTS) for side in (grid.height, grid.width))
    row, column = np.meshgrid(rows, columns, indexing="ij")
    corners = np.stack([(column, row), (column + 1, row), (column, row + 1)])  # (3, 2, rows, columns)
    x, y = grid.transform * (corners[:, 0].ravel(), corners[:, 1].ravel())
    local_crs = CRS.from_proj4(f"+proj=laea +lat_0={latitude} +lon_0={longitude} +datum=WGS84 +units=m")
    places = np.array(rasterio.warp.transform(grid.crs, local_crs, x, y)).reshape(2, *corners[:, 0].shape)
    if not np.isfinite(places).all():
        raise ValueError("some of its coordinates are no place on the Earth")
    return np.moveaxis(places[:, 1:] - places[:, :1], (0, 1), (-1, -2))


def grid_centre(grid: Grid) -> tuple[float, float]:
    """Returns longitude and latitude of a grid's middle, in degrees.

    Raises:
        ValueError: Its coordinates are no place in its coordinate reference system.
    """
    x, y = grid.transform * (grid.width / 2, grid.height / 2)
    (longitude,), (latitude,) = rasterio.warp.transform(grid.crs, WGS84, [x], [y])
    if not (np.isfinite(longitude) and abs(latitude) <= 90):
        raise ValueError(f"the coordinates {x:.6g}, {y:.6g} of its middle are no place on the Earth")
    return longitude, latitude


def common_grid(datasets: Sequence[rasterio.DatasetReader]) -> Grid:
    """Returns the grid of 10 m that files of one extent have in common.

    Files in degrees, or in a projection whose scale varies within them, get the UTM zone of their middle. Pixels of
    files without coordinate reference system stay as they are.

    Raises:
        InputError: The files have different extents or coordinate reference systems, or a place that cannot be used.
    """
    grids = [file_grid(dataset) for dataset in datasets]
    finest = min(range(len(grids)), key=lambda index: abs(grids[index].transform.determinant))
    grid, name = grids[finest], datasets[finest].name
    for dataset_grid, dataset in zip(grids, datasets):
        if dataset_grid.crs != grid.crs:
            raise InputError(f"{dataset.name} is in {dataset_grid.crs}, {name} in {grid.crs}; give bands of one scene")
        pixel = max(map(abs, (*dataset_grid.transform[:2], *dataset_grid.transform[3:5])))
        if not np.allclose(_grid_corners(dataset_grid), _grid_corners(grid), atol=pixel / 2, rtol=0):
            extents = [np.ravel(_grid_corners(each)[::2]).round(6).tolist() for each in (dataset_grid, grid)]
            raise InputError(
                f"{dataset.name} has the extent {extents[0]}, {name} {extents[1]}; give bands of one scene"
            )
    if grid.crs is None:
        return grid
    advice = "; give it the right one with gdal_edit.py -a_srs, or another with gdalwarp"
    with damage_as_input_error(f"{name}: its coordinate reference system cannot be used", advice):
        return _metric_grid(grid, name)


def _grid_corners(grid: Grid) -> np.ndarray:
    """Returns the coordinates (4, 2) of a grid's corners, around the grid from its origin."""
    return np.array([grid.transform * corner for corner in grid_outline(grid.width, grid.height, 1)[:4]])


def grid_outline(width: float, height: float, count: int) -> np.ndarray:
    """Returns a closed ring (4 * count + 1, 2) of columns and rows around a grid, with `count` steps a side."""
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height), (0, 0)], "float64")
    steps = np.arange(4 * count + 1) / count
    return np.stack([np.interp(steps, np.arange(5), corners[:, axis]) for axis in (0, 1)], axis=1)


def file_grid(dataset: rasterio.DatasetReader) -> Grid:
    """Returns the pixels of a file as they are stored, placed by its transform or its ground control points.

    Raises:
        InputError: The file says its place only in ways that cannot be used.
    """
    crs, transform = dataset.crs, dataset.transform
    if transform == rasterio.Affine.identity():
        points, crs_of_points = dataset.gcps
        if points:
            crs, transform = crs_of_points, _fit_control_points(dataset.name, points)
        elif dataset.rpcs or dataset.tags(ns="GEOLOCATION"):
            kind = "rational polynomial coefficients" if dataset.rpcs else "an array of geolocations"
            flag = "-rpc" if dataset.rpcs else "-geoloc"
            raise InputError(f"{dataset.name}: only {kind} say where it lies; bring it on a grid with gdalwarp {flag}")
    if not (np.isfinite(transform[:6]).all() and transform.determinant):
        raise InputError(
            f"{dataset.name}: its transform {tuple(transform[:6])} says no place; give it one with gdal_edit.py -a_ullr"
        )
    # A local or geocentric reference system does not say where on a map pixels lie.
    map_crs = crs if crs and (crs.is_projected or crs.is_geographic) else None
    return Grid(map_crs, transform, dataset.width, dataset.height)


def _fit_control_points(name: str, points: Sequence[rasterio.control.GroundControlPoint]) -> rasterio.Affine:
    """Returns the transform on which ground control points lie.

    Raises:
        InputError: The points lie on no regular grid, so that pixels would be misplaced.
    """
    with damage_as_input_error(
        f"{name}: its {len(points)} control points place no grid", "; bring it on one with gdalwarp"
    ):
        transform = rasterio.transform.from_gcps(points)
        columns, rows = ~transform * (np.array([point.x for point in points]), np.array([point.y for point in points]))
        error = np.hypot(columns - [point.col for point in points], rows - [point.row for point in points]).max()
    if not error <= 1:
        raise InputError(
            f"{name}: its {len(points)} control points lie up to {error:.3g} pixels off a regular grid; bring it "
            "on one with gdalwarp -tps"
        )
    return transform


def _metric_grid(grid: Grid, name: str) -> Grid:
    """Returns the grid of 10 m of a grid that has a coordinate reference system.

    In a projection that has one scale all over the scene, such as Mercator of a small part, the grid keeps its
    direction and its reference system: pixels that are 10 m on the ground stay as they are.
    """
    steps = ground_steps(grid)
    lengths = np.hypot(*np.moveaxis(steps, -1, 0))  # lengths of the steps along a row and along a column
    means = lengths.reshape(-1, 2).mean(axis=0)
    has_one_scale = np.allclose(lengths, means, rtol=MAX_DISTORTION, atol=0)
    row_steps, column_steps = np.moveaxis(steps, -2, 0)
    is_square = np.abs((row_steps * column_steps).sum(axis=-1)).max() <= MAX_SKEW * means.prod()
    if not (grid.crs and grid.crs.is_projected and has_one_scale and is_square):
        return _utm_grid(grid, name)
    if np.allclose(means, PIXEL_METRES, rtol=MAX_DISTORTION, atol=0):
        return grid
    width, height = (max(1, round(side * step / PIXEL_METRES)) for side, step in zip((grid.width, grid.height), means))
    scaled_transform = grid.transform * rasterio.Affine.scale(grid.width / width, grid.height / height)
    return Grid(grid.crs, scaled_transform, width, height)


def _utm_grid(grid: Grid, name: str) -> Grid:
    """Returns the grid of 10 m around a grid in the UTM zone of its middle; near the poles in polar stereographic."""
    longitude, latitude = grid_centre(grid)
    zone = int((longitude + 180) % 360 // 6) + 1 if -80 <= latitude <= 84 else 61
    crs = CRS.from_epsg((32600 if latitude >= 0 else 32700) + zone)
    x, y = grid.transform * grid_outline(grid.width, grid.height, 100).T
    places = np.array(rasterio.warp.transform(grid.crs, crs, x, y))
    (west, south), (east, north) = np.floor(places.min(1) / PIXEL_METRES), np.ceil(places.max(1) / PIXEL_METRES)
    width, height = east - west, north - south
    if not max(width, height) <= MAX_UTM_PIXELS:
        raise InputError(
            f"{name} has sides of up to {max(width, height) * PIXEL_METRES / 1000:.0f} km, a map at most "
            f"{MAX_UTM_PIXELS * PIXEL_METRES / 1000:.0f}; cut it with gdal_translate -projwin"
        )
    return Grid(
        crs,
        rasterio.Affine(PIXEL_METRES, 0, west * PIXEL_METRES, 0, -PIXEL_METRES, north * PIXEL_METRES),
        int(width),
        int(height),
    )


def warp_to_grid(dataset: rasterio.DatasetReader, grid: Grid, nearest: bool = False) -> rasterio.DatasetReader:
    """Returns a file as if it had the pixels of a grid: coarser ones are interpolated, finer ones averaged.

    Args:
        dataset: The file.
        grid: The grid.
        nearest: Whether pixels keep their values, which are numbers of classes.
    """
    stored_grid = file_grid(dataset)
    has_size = (stored_grid.width, stored_grid.height) == (grid.width, grid.height)
    if has_size and stored_grid.transform.almost_equals(grid.transform, 1e-6) and stored_grid.crs == grid.crs:
        return dataset
    # In another projection an average would reach half a pixel over the edges of the data; GDAL widens the cubic
    # kernel where pixels are finer.
    use_average = dataset.width > grid.width and stored_grid.crs == grid.crs
    # Where a file declares no nodata, an alpha band tells black ground from the surroundings of the file.
    add_alpha = stored_grid.crs != grid.crs and dataset.nodata is None and ColorInterp.alpha not in dataset.colorinterp
    return WarpedVRT(
        dataset,
        src_crs=_source_crs(stored_grid, grid.crs, dataset.name),
        src_transform=stored_grid.transform,
        crs=grid.crs,
        transform=grid.transform,
        width=grid.width,
        height=grid.height,
        add_alpha=add_alpha,
        resampling=Resampling.nearest if nearest else Resampling.average if use_average else Resampling.cubic,
    )


def _source_crs(grid: Grid, target: CRS | None, name: str) -> CRS | None:
    """Returns the coordinate reference system of a grid, with its longitudes where they go beyond 180 degrees.

    Raises:
        InputError: The datum would be lost.
    """
    longitudes = _grid_corners(grid)[:, 0]
    if grid.crs is None or not grid.crs.is_geographic or np.abs(longitudes).max() <= 180:
        return grid.crs
    middle = (longitudes.min() + longitudes.max()) / 2
    wrapped_crs = CRS.from_proj4(f"{grid.crs.to_proj4()} +lon_wrap={middle}")
    latitude = (grid.transform * (grid.width / 2, grid.height / 2))[1]
    places = np.array([rasterio.warp.transform(crs, target, [middle], [latitude]) for crs in (grid.crs, wrapped_crs)])
    if not np.allclose(places[0], places[1], atol=PIXEL_METRES / 4, rtol=0):  # PROJ's strings do not say every datum
        raise InputError(
            f"{name}: longitudes up to {np.abs(longitudes).max():.6g} in {grid.crs}; bring it into UTM first"
        )
    return wrapped_crs
