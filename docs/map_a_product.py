"""From a Sentinel-2 product to a map, step by step: read it, run it, or paste its parts into a notebook.

    python docs/map_a_product.py S2B_MSIL1C_20240601T100029.SAFE june [MODEL]

MODEL is the path of a trained classifier of RGB, saved_models/resnet50d if it is not given.
"""

import sys

import numpy as np

import resnetd_tf
from resnetd_tf import imagery

product, output, model = [*sys.argv[1:], "saved_models/resnet50d"][:3]

# 1. A trained classifier, and the bands of the product that it takes: what was found and what is applied is said.
classifier = resnetd_tf.open_classifier(model)
scene = imagery.scene_for(classifier, [product])
print(scene.words, scene.grid.crs, f"{scene.grid.width} x {scene.grid.height} pixels")

# 2. The map as arrays. A cell is stride x stride pixels of 10 m; 255 is where nothing was mapped.
found = imagery.map_scene(classifier, scene, stride=32)
for index, name in enumerate(classifier.classes):
    print(f"{name}: {100 * (found.classes == index).mean():.1f} % of the cells")

# 3. Where is it least sure? Rows and columns of the five cells whose best class is least probable.
sure = np.where(found.classes == 255, np.inf, found.probabilities.max(-1))
for row, column in zip(*np.unravel_index(np.argsort(sure, axis=None)[:5], sure.shape)):
    name = classifier.classes[found.classes[row, column]]
    print(f"cell {row}, {column}: {name} at {100 * sure[row, column]:.0f} %")

# 4. The same as files that QGIS opens: OUTPUT_landcover.tif, .png and OUTPUT_areas.csv.
imagery.write_map(classifier, scene, output, imagery.Options(stride=32))
