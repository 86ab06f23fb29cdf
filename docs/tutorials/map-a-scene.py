# %% [markdown]
# # Map a scene
#
# This tutorial turns a Sentinel-2 scene into a land-cover map, reads the areas of its classes, and shows where the
# map is wrong. It takes less than a minute on two cores and uses files of this repository.
#
# ## The scene
#
# `samples/scene.tif` shows Wachapreague, Virginia, in winter: 448 x 448 pixels of 10 m. Its numbers are digital
# numbers (DN), 10,000 times the reflectance.

# %%
import csv
import pathlib

import numpy as np
import rasterio
from IPython.display import Image

import resnetd_tf
from resnetd_tf import imagery

with rasterio.open("samples/scene.tif") as file:
    print(file.crs, file.res, file.dtypes[0])
    for name, band in zip(file.descriptions, file.read()):
        print(f"{name}: {band.min()} to {band.max()} DN, median {np.median(band):.0f}")

# %% [markdown]
# Water absorbs the near infrared (B08), so its smallest numbers are those of the sea. The blue band (B02) never falls
# below 800 DN, because air scatters blue light into the picture.
#
# A file whose darkest band begins above 900 DN may still contain the offset that products add since January 2022.
# `map.py` refuses such a file and says which flag helps.
#
# ## The map
#
# One command maps the scene. `--probabilities` also writes the probability of each class.

# %% language="bash"
# python map.py --model=eurosat samples/scene.tif --output=maps/tutorial --probabilities --overwrite

# %% alt="Left: the scene of Wachapreague. Right: its land-cover map, with a legend"
Image("maps/tutorial_landcover.png", width=900)

# %% [markdown]
# ## The areas
#
# `map.py` writes the table that it prints to a file as well.

# %%
with pathlib.Path("maps/tutorial_areas.csv").open(newline="") as file:
    for row in csv.DictReader(file):
        print(f"{row['class']:20} {float(row['hectares']):8.2f} ha {float(row['share']):6.1%}")

# %% [markdown]
# These areas count pixels of the map. They are not estimates of the true areas, because the map has errors, and
# errors of one class do not cancel those of another. [Assess a map](../how-to/assess-a-map.md) shows how to estimate
# areas with their uncertainty from places that you label.
#
# ## Where the map is uncertain
#
# The probability of the best class shows where the classifier hesitates. Coordinates let you look the places up.

# %%
with rasterio.open("maps/tutorial_probability.tif") as file:
    certainty = file.read().max(0)
    for cell in np.argsort(certainty, axis=None)[:5]:
        row, column = np.unravel_index(cell, certainty.shape)
        easting, northing = file.xy(row, column)
        print(f"{certainty[row, column]:.0%} at {easting:.0f} E, {northing:.0f} N")
print(f"{np.mean(certainty < 0.7):.0%} of the cells have a best class below 70 %")

# %% [markdown]
# High certainty does not make a cell correct. The marsh east of the town is a plain example. EuroSAT has no wetlands,
# so the classifier must choose among its ten classes, and it calls much of the marsh a river. `--min_probability=0.7`
# leaves uncertain cells empty, but not this marsh.
#
# ## A product, in Python
#
# The same steps work on a Sentinel-2 product, here from Python. The product in `samples/` is composed of EuroSAT
# patches whose classes are known. Products since January 2022 add 1,000 to each DN; the package reads the offset from
# the metadata and removes it.

# %%
product = next(pathlib.Path("samples").glob("S2A_MSIL1C_2024*.SAFE"))
classifier = resnetd_tf.eurosat()
scene = imagery.open_scene_for(classifier, [str(product)])
print(f"{scene.grid.crs}, {scene.grid.width} x {scene.grid.height} pixels")

land_cover = imagery.map_scene(classifier, scene, window=64, stride=32)
print("Probability of the best class in each cell:", land_cover.probabilities.max(-1).round(2), sep="\n")

# %% [markdown]
# `samples/product_classes.csv` has the true class of each of the 16 patches, which lie 4 x 4 in the product. A patch
# covers 2 x 2 cells of the map.

# %%
with pathlib.Path("samples/product_classes.csv").open(newline="") as file:
    patch_classes = np.array(list(csv.reader(file)))
true_classes = patch_classes.repeat(2, axis=0).repeat(2, axis=1)
mapped_classes = np.array(classifier.classes)[land_cover.classes]
correct = mapped_classes == true_classes
print(f"{correct.sum()} of {correct.size} cells are correct")
for row, column in np.argwhere(~correct):
    print(f"row {row}, column {column}: {true_classes[row, column]} was mapped as {mapped_classes[row, column]}")

# %% [markdown]
# Do not take this share for an accuracy. Nine of the 16 patches were among the training images, and a composed
# product has no mixed or cloudy land. [Accuracy](../explanation/accuracy.md) reports measurements on images that
# training never saw.
#
# ## Next
#
# [Map scenes](../how-to/map-scenes.md) explains the files that `map.py` reads and writes, and its flags.
