"""From polygons to a map of own classes with its assessment, on ground whose classes are known.

    python -m benchmarks.own_classes

Images of EuroSAT's test split lie side by side, 10 x 10, as a scene of four classes. Polygons surround a fifth of them.
`train.py`, `map.py` and `assess.py` run as a user would run them. The reference labels of the places that `assess.py`
draws are the images' own. The table says how many cells of the map are right, and in the map that the packaged
classifier, which was trained on 1,890 images of each class, makes of the same scene. EuroSAT is in TFDS_DATA_DIR.
"""

import pathlib
import re
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from benchmarks import contest
from resnetd_tf.cli import program
from resnetd_tf.errors import InputError

if TYPE_CHECKING:
    import geopandas

FLAGS = flags.FLAGS
GROUPS = (
    ("AnnualCrop", "Forest", "Residential", "SeaLake"),
    ("Highway", "Pasture", "PermanentCrop", "River"),
    ("AnnualCrop", "HerbaceousVegetation", "Industrial", "PermanentCrop"),
)
COUNT, SIDE, METRES = 10, 64, 10  # images along a side of the scene, pixels along a side of an image, metres of a pixel
POLYGON_SHARE = 0.2  # of the images
LEFT, TOP, CRS = 500_000, 5_300_000, "EPSG:32632"


def write_scene(folder: pathlib.Path, classes: tuple[str, ...], seed: int) -> "geopandas.GeoDataFrame":
    """Writes scene.tif, with as many images of each class, and polygons.gpkg.

    Returns:
        The outlines of all images with their classes in `cover`, row by row from the upper left.
    """
    import geopandas
    import rasterio
    import shapely

    from resnetd_tf.data import datasets

    generator = np.random.default_rng(seed)
    dataset = datasets.load_dataset("eurosat/rgb", ("test",))
    split, each = dataset.splits["test"], COUNT**2 // len(classes)
    labels = [dataset.classes.index(name) for name in classes]
    chosen = np.concatenate([generator.permutation(np.flatnonzero(split.labels == label))[:each] for label in labels])
    order = generator.permutation(len(chosen))
    images = np.stack([split.images[index] for index in chosen[order]])
    pixels = images.reshape(COUNT, COUNT, SIDE, SIDE, 3).swapaxes(1, 2).reshape(COUNT * SIDE, COUNT * SIDE, 3)
    transform = rasterio.Affine(METRES, 0, LEFT, 0, -METRES, TOP)
    profile = {"height": COUNT * SIDE, "width": COUNT * SIDE, "count": 3, "dtype": "uint8", "photometric": "RGB"}
    with rasterio.open(folder / "scene.tif", "w", driver="GTiff", crs=CRS, transform=transform, **profile) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    length = SIDE * METRES
    corners = [(LEFT + length * column, TOP - length * row) for row in range(COUNT) for column in range(COUNT)]
    outlines = [shapely.box(x, y - length, x + length, y) for x, y in corners]
    covers = [dataset.classes[label] for label in split.labels[chosen[order]]]
    ground = geopandas.GeoDataFrame({"cover": covers}, geometry=outlines, crs=CRS)
    ground.groupby("cover").sample(frac=POLYGON_SHARE, random_state=seed).to_file(folder / "polygons.gpkg")
    return ground


def run_command(name: str, *arguments: object) -> str:
    """Runs a program of the top level, and returns what it printed."""
    command = [sys.executable, name, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise InputError(f"{name} ended with code {result.returncode}: {result.stderr.strip()[-500:]}")
    return result.stdout


def share_of_right_cells(map_path: pathlib.Path, ground: "geopandas.GeoDataFrame") -> float:
    """Returns the share of the cells of a map that have the class of the image below them; empty cells are wrong."""
    from resnetd_tf.imagery import assessment

    class_map = assessment.read_class_map(map_path)
    cells = len(class_map.classes) // COUNT
    expected = ground["cover"].to_numpy().reshape(COUNT, COUNT).repeat(cells, 0).repeat(cells, 1)
    index_by_name = {name: index for index, name in enumerate(class_map.names)}
    return float((class_map.classes == np.vectorize(index_by_name.get)(expected)).mean())


def measure_group(classes: tuple[str, ...], seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """Goes from polygons to a map with its assessment.

    Args:
        classes: Names of the classes.
        seed: Seed of the random numbers that choose and place the images.
        folder: Folder for all files.

    Returns:
        "training patches"; "right" and "right, packaged", shares of the cells; "assessed", the overall accuracy that
        `assess.py` prints; "seconds" of the four commands.
    """
    import geopandas

    ground = write_scene(folder, classes, seed)
    scene, model, maps = folder / "scene.tif", folder / "model", folder / "map"
    start = time.perf_counter()
    source = (f"--dataset=labels:{folder / 'polygons.gpkg'}", f"--scenes={scene}", "--label=cover", "--block_km=0")
    training = run_command("train.py", "--weights=eurosat", *source, f"--output_dir={model}")
    run_command("map.py", f"--model={model}", scene, f"--output={maps}")
    map_path = folder / "map_landcover.tif"
    run_command("assess.py", map_path, "--design", "--samples=200")
    sample_path = folder / "map_sample.gpkg"
    sample = geopandas.read_file(sample_path, layer="sample")
    centres = sample.to_crs(CRS).geometry.centroid
    columns, rows = ((centres.x - LEFT) // (SIDE * METRES), (TOP - centres.y) // (SIDE * METRES))
    sample["reference"] = ground["cover"].to_numpy()[(rows * COUNT + columns).astype(int)]
    sample.to_file(sample_path, layer="sample")
    assessed = run_command("assess.py", map_path, f"--reference={sample_path}")
    seconds = time.perf_counter() - start
    run_command("map.py", "--model=eurosat", scene, f"--output={folder / 'packaged'}")
    patches = re.search(r"images: (\d+) train", training)
    accuracy = re.search(r"overall accuracy: (.*) of the area", assessed)
    assert patches and accuracy
    return {
        "training patches": patches[1],
        "right": share_of_right_cells(map_path, ground),
        "right, packaged": share_of_right_cells(folder / "packaged_landcover.tif", ground),
        "assessed": accuracy[1],
        "seconds": seconds,
    }


def measure(arguments: list[str]) -> None:
    """Measures all groups of classes, prints a table and writes it."""
    program.import_tensorflow()
    lines = [
        "| classes | training patches | cells right | as assess.py estimates | packaged classifier | four commands |",
        "|---|---|---|---|---|---|",
    ]
    results = []
    for classes in GROUPS:
        for seed in range(FLAGS.seeds):
            with tempfile.TemporaryDirectory() as folder:
                row = measure_group(classes, seed, pathlib.Path(folder))
            results.append({"classes": classes, "seed": seed, **row})
            right, packaged = (f"{100 * row[name]:.1f} %" for name in ("right", "right, packaged"))
            cells = (", ".join(classes), row["training patches"], right, row["assessed"], packaged)
            lines.append(f"| {' | '.join(cells)} | {row['seconds']:.0f} s |")
            print("\n".join(lines[:2] * (len(lines) == 3) + lines[-1:]), flush=True)
    contest.keep("own_classes", lines, results)


def main() -> None:
    flags.DEFINE_integer("seeds", 1, "Number of scenes of each group of classes.", lower_bound=1)
    contest.define_output_dir()
    program.run_program(measure)


if __name__ == "__main__":
    main()
