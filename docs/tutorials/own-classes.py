# %% [markdown]
# # Own classes
#
# This tutorial goes from a few polygons to a map of your own classes and to areas with their uncertainty, in four
# commands. Training takes about two minutes on two cores. It needs the extra `geo` (`pip install '.[geo]'`).
#
# ## 1. Polygons
#
# Draw polygons over your scene in QGIS and write each one's class into an attribute. Here the next cell writes them:
# places in the scene of Wachapreague that were picked by eye, as columns and rows of its pixels.

# %%
import pathlib
import shutil

import geopandas
import rasterio.features
import shapely
from IPython.display import Image

work = pathlib.Path("saved_models/tutorials/own-classes")
shutil.rmtree(work, ignore_errors=True)
work.mkdir(parents=True)

places = {  # left, top, right, bottom
    "forest": [
        (0, 160, 60, 240),
        (10, 35, 55, 75),
        (0, 260, 60, 315),
        (80, 285, 115, 315),
        (150, 105, 235, 135),
        (5, 90, 40, 125),
        (150, 145, 175, 175),
    ],
    "fields": [
        (185, 325, 225, 365),
        (150, 370, 180, 415),
        (210, 70, 260, 105),
        (310, 108, 350, 145),
        (150, 233, 212, 280),
        (205, 285, 250, 320),
        (265, 130, 300, 155),
        (80, 50, 105, 75),
    ],
    "water": [
        (240, 38, 310, 60),
        (260, 360, 440, 440),
        (325, 230, 370, 300),
        (400, 130, 445, 165),
        (355, 45, 420, 85),
        (280, 290, 300, 310),
    ],
}
with rasterio.open("samples/scene.tif") as file:
    scene, names, transform, crs = file.read().astype(float), file.descriptions, file.transform, file.crs
boxes = [
    (name, shapely.box(*(transform @ (left, bottom)), *(transform @ (right, top))))
    for name, corners in places.items()
    for left, top, right, bottom in corners
]
polygons = geopandas.GeoDataFrame({"cover": [name for name, _ in boxes]}, geometry=[box for _, box in boxes], crs=crs)
polygons.to_file(work / "polygons.gpkg")
print(polygons["cover"].value_counts())

# %% [markdown]
# ## 2. Train
#
# `train.py` cuts patches of 24 x 24 pixels inside the polygons, from the scene as `map.py` would read it. Patches of
# one polygon stay in one split, so that no test patch has a neighbour among the training patches. The packaged
# classifier's weights (`--weights=eurosat`) already know what forests and fields look like.

# %% language="bash"
# python train.py --weights=eurosat --dataset=labels:saved_models/tutorials/own-classes/polygons.gpkg --label=cover \
#   --scenes=samples/scene.tif --patch_size=24 --block_km=0.2 --epochs=20 \
#   --output_dir=saved_models/tutorials/own-classes/model

# %% [markdown]
# With so few patches the run chose the recipe `few` by itself. The test accuracy at its end comes from a handful of
# places of the same scene: its interval is wide, and it says nothing about other scenes or seasons.
#
# ## 3. Map
#
# The windows of the map have the size of the training patches.

# %% language="bash"
# python map.py --model=saved_models/tutorials/own-classes/model samples/scene.tif --window=24 --stride=12 \
#   --output=maps/own-classes --overwrite

# %% alt="Left: the scene of Wachapreague. Right: its map of fields, forest and water"
Image("maps/own-classes_landcover.png", width=900)

# %% [markdown]
# ## 4. Draw places to check
#
# The map's own areas are pixel counts, and its errors are counted with them. `assess.py --design` draws places at
# random within each class, writes them into a table and makes a picture of each.

# %% language="bash"
# python assess.py maps/own-classes_landcover.tif --design --samples=120 --scene=samples/scene.tif \
#   --output=saved_models/tutorials/own-classes/check

# %% [markdown]
# Now you would look at each picture, or go there, and write what you see into the column `reference`
# ([how to label them](../explanation/reference-data.md)). So that this page needs nobody, a rule decides in
# the next cell: water is darker in the near infrared, which the classifier did not see, than in green, and fields are
# brighter in red than a winter forest. The reference is what most of the outlined place is.

# %%
sample = geopandas.read_file(work / "check_sample.gpkg", layer="sample")
red, green, infrared = (scene[names.index(band)] for band in ("B04", "B03", "B08"))
covers = {"water": green > infrared, "fields": (green <= infrared) & (red > 700)}
covers["forest"] = ~(covers["water"] | covers["fields"])
for index, outline in sample.geometry.items():
    inside = rasterio.features.geometry_mask([outline], red.shape, transform, invert=True)
    sample.loc[index, "reference"] = max(covers, key=lambda name: covers[name][inside].sum())
sample.to_file(work / "check_sample.gpkg", layer="sample")
print(sample["reference"].value_counts())

# %% [markdown]
# ## 5. State the areas

# %% language="bash"
# python assess.py maps/own-classes_landcover.tif --reference=saved_models/tutorials/own-classes/check_sample.gpkg \
#   --output=saved_models/tutorials/own-classes/check

# %% alt="User's and producer's accuracy of each class, and mapped beside estimated areas with their intervals"
Image(work / "check_accuracy.png", width=900)

# %% [markdown]
# The last columns are the result: the area of each class with its 95 % confidence interval. A poor map
# does not bias these areas; it widens their intervals.
#
# ## Next
#
# To keep EuroSAT's ten classes and add your own, give `--keep_classes`
# ([Train](../how-to/train.md#few-images-of-own-classes)). [Reference data](../explanation/reference-data.md) explains
# how many places you need and how to label them. The appendix on [few images](../appendix/few-images.md) measures how
# accuracy grows with the number of patches.
