"""The dataset "synthetic": drawn scenes of EuroSAT's ten classes, for the demo and the tests.

Nothing here is imagery. The classes differ as the real ones do, in texture, edges, lines, rows, blocks and colour.
Their colours overlap, and every scene has haze and sensor noise.
"""

import numpy as np

from resnetd_tf.sentinel2 import CLASSES

SIZE = 64  # side of a scene in pixels
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE].astype(float)

# Mean colours in grey levels (red, green, blue).
SOIL, CROP, GRASS, FOREST = (128, 112, 98), (92, 108, 84), (84, 112, 82), (46, 68, 66)
WATER, ROAD, ROOF, BRIGHT = (42, 66, 84), (128, 126, 124), (142, 118, 106), (178, 176, 172)


def draw_scenes(count: int = 3000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws scenes, equally many of each class.

    Args:
        count: Number of scenes.
        seed: Seed of all random numbers; equal seeds draw equal scenes.

    Returns:
        Images (count, 64, 64, 3) uint8 and labels (count,) int64, in random order.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(CLASSES))
    return np.stack([_photograph(SCENES[CLASSES[label]](rng), rng) for label in labels]), labels


def _photograph(scene: np.ndarray, rng) -> np.ndarray:
    """Adds season, light, haze and noise to a scene of grey levels (64, 64, 3), and rounds it to uint8."""
    scene = scene * rng.uniform(0.8, 1.2) * rng.normal(1, 0.05, 3) + rng.uniform(0, 20)
    scene = scene + rng.normal(0, rng.uniform(3, 9), scene.shape)
    return np.clip(np.round(scene), 0, 255).astype(np.uint8)


def _shade(rng, colour, spread: float) -> np.ndarray:
    """Draws a colour near another: mostly lighter or darker, with a slightly different hue."""
    return np.array(colour) + rng.normal(0, spread) + rng.normal(0, spread / 4, 3)


def _ground(rng, colour, spread=8.0) -> np.ndarray:
    """Draws ground of one colour, (64, 64, 3)."""
    return np.ones((SIZE, SIZE, 3)) * _shade(rng, colour, spread)


def _mottle(rng, cells: int) -> np.ndarray:
    """Draws smooth noise (64, 64, 1) of unit scale with about `cells` blobs along a side."""
    grid = rng.normal(0, 1, (cells + 2, cells + 2))
    position = np.linspace(0, cells, SIZE)
    cell, fraction = position.astype(int), position % 1
    lines = grid[cell] * (1 - fraction)[:, None] + grid[cell + 1] * fraction[:, None]
    return (lines[:, cell] * (1 - fraction) + lines[:, cell + 1] * fraction)[..., None]


def _line_coordinates(rng) -> tuple[np.ndarray, np.ndarray]:
    """Returns coordinates of every pixel along and across a random line, each (64, 64) in pixels."""
    angle, (y, x) = rng.uniform(0, np.pi), rng.uniform(16, 48, 2)
    along = (COLUMNS - x) * np.cos(angle) + (ROWS - y) * np.sin(angle)
    return along, (ROWS - y) * np.cos(angle) - (COLUMNS - x) * np.sin(angle)


def _draw_blocks(scene, rng, count: int, *, sides: tuple[int, int], colour, spread: float) -> np.ndarray:
    """Draws rectangles into a scene, whose sides are between two numbers of pixels."""
    smallest, largest = sides
    for _ in range(count):
        (top, left), (height, width) = rng.integers(0, SIZE, 2), rng.integers(smallest, largest + 1, 2)
        scene[top : top + height, left : left + width] = _shade(rng, colour, spread)
    return scene


def _annual_crop(rng):
    along, across = _line_coordinates(rng)
    parcels = np.floor(along / rng.uniform(18, 40)) * 7 + np.floor(across / rng.uniform(14, 30))
    scene = _ground(rng, SOIL)
    for parcel in np.unique(parcels):
        scene[parcels == parcel] = _shade(rng, SOIL if rng.random() < 0.6 else CROP, 12)
    return scene + 3 * _mottle(rng, 8)


def _forest(rng):
    return _ground(rng, FOREST) + 4 * _mottle(rng, 24) + 3 * _mottle(rng, 6)


def _herbaceous(rng):
    return _ground(rng, np.add(SOIL, GRASS) / 2, 12) + 12 * _mottle(rng, rng.integers(8, 20)) + 8 * _mottle(rng, 4)


def _countryside(rng):
    """Draws the land that a road or a river crosses."""
    return [_annual_crop, _pasture, _herbaceous][rng.integers(3)](rng)


def _highway(rng):
    scene, (_, across) = _countryside(rng), _line_coordinates(rng)
    scene[np.abs(across) < rng.uniform(1.2, 2.5)] = _shade(rng, ROAD, 12)
    return scene


def _industrial(rng):
    scene = _ground(rng, ROAD, 12)
    colour = np.add(ROAD, BRIGHT) / 2
    return _draw_blocks(scene, rng, rng.integers(6, 14), sides=(10, 26), colour=colour, spread=30)


def _pasture(rng):
    scene = _ground(rng, GRASS, 8) + 3 * _mottle(rng, 5)
    return _draw_blocks(scene, rng, rng.integers(0, 5), sides=(1, 4), colour=FOREST, spread=6)


def _permanent_crop(rng):
    along, across = _line_coordinates(rng)
    rows = np.sin(2 * np.pi * across / rng.uniform(3.5, 7)) * (1 + 0.5 * np.sin(2 * np.pi * along / 5))
    return _ground(rng, np.add(SOIL, CROP) / 2, 10) + rng.uniform(6, 14) * rows[..., None] + 4 * _mottle(rng, 6)


def _residential(rng):
    scene = _ground(rng, CROP, 10)
    scene = _draw_blocks(scene, rng, rng.integers(90, 160), sides=(2, 5), colour=ROOF, spread=25)
    along, across = _line_coordinates(rng)
    streets = (np.abs(along) % rng.uniform(16, 26) < 1.5) | (np.abs(across) % rng.uniform(12, 20) < 1.5)
    scene[streets] = _shade(rng, ROAD, 8)
    return scene


def _river(rng):
    scene, (along, across) = _countryside(rng), _line_coordinates(rng)
    bend = rng.uniform(2, 8) * np.sin(2 * np.pi * along / rng.uniform(50, 110))
    scene[np.abs(across + bend) < rng.uniform(3, 9)] = _shade(rng, WATER, 10)
    return scene


def _sea_lake(rng):
    return _ground(rng, WATER, 8) + 2 * _mottle(rng, 4)


SCENES = dict(
    zip(
        CLASSES,
        (
            *(_annual_crop, _forest, _herbaceous, _highway, _industrial),
            *(_pasture, _permanent_crop, _residential, _river, _sea_lake),
        ),
        strict=True,
    )
)
