"""From a Sentinel-2 product to a map, step by step: read it, run it, or paste its parts into a notebook.

python docs/map_a_product.py
python docs/map_a_product.py PRODUCT.SAFE --output=maps/june --model=saved_models/resnet50d
"""

import argparse
import pathlib
import sys

import numpy as np
import rasterio

import resnetd_tf
from resnetd_tf import imagery
from resnetd_tf.errors import InputError

SAMPLES = pathlib.Path(__file__).parent.parent / "samples"


def map_product(product: str, output: str, model: str, overwrite: bool) -> None:
    """Maps a product, and prints shares of the classes, the least certain cells, and the classes of one window.

    Args:
        product: Path of a .SAFE folder or its .zip.
        output: Start of the paths of the files to write.
        model: Path of a trained classifier of RGB, or "eurosat".
        overwrite: Whether files of the same names are replaced.
    """
    # 1. A trained classifier, and the bands of the product that it takes; what is applied to them is printed.
    classifier = resnetd_tf.open_classifier(model)
    scene = imagery.open_scene_for(classifier, [product])
    print(scene.words, scene.grid.crs, f"{scene.grid.width} x {scene.grid.height} pixels")

    # 2. The map, as files that QGIS opens. A cell is stride x stride pixels of 10 m.
    options = imagery.MapOptions(stride=32, probabilities=True, overwrite=overwrite)
    result = imagery.write_map(classifier, scene, output, options)
    for name, share in result["shares"].items():
        print(f"{name}: {100 * share:.1f} %")

    # 3. Where is the classifier least certain? Coordinates of the five cells whose best class is least probable.
    with rasterio.open(f"{output}_probability.tif") as file:
        highest = np.nan_to_num(file.read().max(0), nan=np.inf)
        for cell in np.argsort(highest, axis=None)[: min(5, np.isfinite(highest).sum())]:
            row, column = np.unravel_index(cell, highest.shape)
            print("least certain at", *file.xy(row, column), f"{100 * highest[row, column]:.0f} %")

    # 4. The land cover of an array: here the window in the middle of the scene. 255 is where nothing was mapped.
    middle = rasterio.windows.Window(scene.grid.width // 2 - 32, scene.grid.height // 2 - 32, 64, 64)
    pixels, _ = scene.read(middle)
    print(imagery.map_scene(classifier, pixels, stride=16).classes)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sample = next(SAMPLES.glob("S2A_MSIL1C_2024*.SAFE"))
    parser.add_argument("product", nargs="?", default=str(sample), help="default: the product of 2024 in samples/")
    parser.add_argument("--output", default="maps/june", help="start of the files' paths; default %(default)s")
    parser.add_argument("--model", default="eurosat", help="a classifier of RGB; default %(default)s, the packaged one")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names")
    arguments = parser.parse_args()
    try:
        map_product(**vars(arguments))
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
