# %% [markdown]
# # Own classes
#
# This tutorial teaches the packaged classifier classes that EuroSAT does not have, from fewer than 200 small patches.
# Training takes about a minute on two cores.
#
# ## The patches
#
# A dataset is a folder with one folder of images for each class. Pictures (JPEG, PNG) and raster files with several
# bands (GeoTIFF) both work; `samples/patches` is such a folder.

# %% language="bash"
# ls samples/patches | head -3
# ls samples/patches/Forest

# %% [markdown]
# The three classes of this tutorial are *land*, *shore* and *water*. To have patches of them, the next cell cuts
# `samples/scene.tif` into squares of 32 x 32 pixels. The normalised difference water index (NDWI), computed from
# green and near infrared, decides the class: a square is shore where 10 to 90 % of its pixels have a positive index.
# With your own data, you would draw polygons by hand, and `patches.py` would cut the patches
# ([Prepare data](../how-to/prepare-data.md#patches-from-polygons)).

# %%
import pathlib
import shutil

import rasterio
from IPython.display import Image

work = pathlib.Path("saved_models/tutorials/own-classes")
shutil.rmtree(work, ignore_errors=True)

with rasterio.open("samples/scene.tif") as file:
    scene, names, profile = file.read(), file.descriptions, file.profile
green, infrared = scene[names.index("B03")].astype(float), scene[names.index("B08")].astype(float)
is_water = (green - infrared) / (green + infrared) > 0

counts = {"land": 0, "shore": 0, "water": 0}
for top in range(0, 448, 32):
    for left in range(0, 448, 32):
        square = (slice(top, top + 32), slice(left, left + 32))
        share = is_water[square].mean()
        name = "land" if share < 0.1 else "water" if share > 0.9 else "shore"
        counts[name] += 1
        path = work / "patches" / name / f"{top}_{left}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        transform = profile["transform"] * rasterio.Affine.translation(left, top)
        with rasterio.open(path, "w", **profile | {"width": 32, "height": 32, "transform": transform}) as patch:
            patch.write(scene[:, square[0], square[1]])
            patch.descriptions = names
print(counts)

# %% [markdown]
# ## Train
#
# `--weights=eurosat` starts from the packaged classifier, so the network already knows what fields, forests and water
# look like. The program splits the patches 70/20/10 into training, validation and test images.

# %% language="bash"
# python train.py --dataset=folder:saved_models/tutorials/own-classes/patches --weights=eurosat --image_size=64 \
#   --epochs=4 --batch_size=16 --output_dir=saved_models/tutorials/own-classes/model

# %% [markdown]
# ## Evaluate
#
# `train.py` ended with the accuracy on the test images. Twenty images say little, as the width of the interval shows.
# The validation images are twice as many, but training chose its best epoch on them, so their accuracy is too high.

# %% language="bash"
# python evaluate.py --model=saved_models/tutorials/own-classes/model --split=validation \
#   --output_dir=saved_models/tutorials/own-classes/validation

# %% alt="Confusion matrix of land, shore and water on the validation images"
Image(work / "validation/confusion_matrix.png", width=420)

# %% [markdown]
# There is a second reason for caution. All patches come from one scene, and each test patch has neighbours among the
# training patches. The figure says how well the network continues the rule in this scene. It does not say how well
# the network does in another scene or season. For that, keep patches from other scenes, and name them with
# `--split_files`.
#
# ## Use it
#
# The new classifier maps scenes like the packaged one. Its windows have the size of its training patches.

# %% language="bash"
# python map.py --model=saved_models/tutorials/own-classes/model samples/scene.tif --window=32 --stride=16 \
#   --output=maps/own-classes --overwrite

# %% alt="Left: the scene of Wachapreague. Right: its map of land, shore and water"
Image("maps/own-classes_landcover.png", width=900)

# %% [markdown]
# The packaged classifier called the flooded marsh east of the town a river, because it knows no wetland. The new
# classifier calls it water, because its patches say so: the index is positive there. A classifier is as good as the
# rule behind its patches. `map.py` colours own classes in the order of their names, so water is not blue.
#
# ## Next
#
# [Prepare data](../how-to/prepare-data.md) lists the folders and files that training reads. The appendix on [few
# images](../appendix/few-images.md) measures how accuracy grows with the number of patches.
