"""From a Sentinel-2 product to a map, step by step: read it, run it, or paste its parts into a notebook.

    python docs/map_a_product.py S2B_MSIL1C_20240601T100029.SAFE june [MODEL]

MODEL is the path of a trained classifier of RGB, saved_models/resnet50d if it is not given.
"""

import sys

import numpy as np
import rasterio

import resnetd_tf
from resnetd_tf import imagery

if len(sys.argv) not in (3, 4):
    sys.exit(__doc__)
product, output, *model = sys.argv[1:]

# 1. A trained classifier, and the bands of the product that it takes: what was found and what is applied is said.
classifier = resnetd_tf.open_classifier(*model or ["saved_models/resnet50d"])
scene = imagery.scene_for(classifier, [product])
print(scene.words, scene.grid.crs, f"{scene.grid.width} x {scene.grid.height} pixels")

# 2. The map, as files that QGIS opens. A cell is stride x stride pixels of 10 m.
result = imagery.write_map(classifier, scene, output, imagery.Options(stride=32, probabilities=True))
for name, share in result["shares"].items():
    print(f"{name}: {100 * share:.1f} %")

# 3. Where is it least sure? Coordinates of the five cells whose best class is least probable.
with rasterio.open(f"{output}_probability.tif") as file:
    sure = np.nan_to_num(file.read().max(0), nan=np.inf)
    for place in np.argsort(sure, axis=None)[: min(5, np.isfinite(sure).sum())]:
        row, column = np.unravel_index(place, sure.shape)
        print("least sure at", *file.xy(row, column), f"{100 * sure[row, column]:.0f} %")

# 4. The land cover of an array: here the window in the middle of the scene. 255 is where nothing was mapped.
middle = rasterio.windows.Window(scene.grid.width // 2 - 32, scene.grid.height // 2 - 32, 64, 64)
pixels, _ = scene.read(middle)
print(imagery.map_scene(classifier, pixels, stride=16).classes)
