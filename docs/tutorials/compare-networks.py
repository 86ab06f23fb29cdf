# %% [markdown]
# # Compare the four networks
#
# This tutorial trains the base network and its refinements B, C and D on 1,000 small images. It compares them on images
# that none of them has seen, and looks at their mistakes. It takes about two minutes on two cores.
#
# Two things make that possible, and both limit the conclusions. The networks have 18 layers instead of 50, and they
# train for six epochs instead of ten to fifty. [Results](../explanation/results.md) compares ResNet-50, B, C and D
# after ten epochs of all training images.
#
# ## The images
#
# The tutorial reads a share of EuroSAT from `$TFDS_DATA_DIR`. Where EuroSAT is not prepared, it draws images of ten
# invented classes instead, and the figures below mean nothing for satellite images.

# %%
import os
import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow_datasets as tfds
from IPython.display import Image

import resnetd_tf
from resnetd_tf.data import synthetic
from resnetd_tf.sentinel2 import CLASSES

has_eurosat = (pathlib.Path(os.environ.get("TFDS_DATA_DIR", "")) / "eurosat/rgb/2.0.0").is_dir()
if has_eurosat:
    builder = tfds.builder("eurosat/rgb")
    images, labels = tfds.as_numpy(builder.as_dataset("train[:1000]", batch_size=-1, as_supervised=True))
    new_images, new_labels = tfds.as_numpy(builder.as_dataset("train[70%:72%]", batch_size=-1, as_supervised=True))
else:
    images, labels = synthetic.draw_scenes(1000, seed=0)
    new_images, new_labels = synthetic.draw_scenes(540, seed=1)

print("EuroSAT" if has_eurosat else "Drawn images")
print(f"{len(images)} images to train on, {len(new_images)} to compare on, {images.shape[1:]} {images.dtype}")

# %% [markdown]
# The second group comes from EuroSAT's validation split. The test split stays untouched, because a comparison is a
# choice, and nobody should choose on test images.
#
# ## Train
#
# `resnetd_tf.resnet` builds a network of any depth and variant as a Keras model, which takes normalised images. A
# quarter of the pixels, 32 x 32 instead of 64 x 64, makes training four times as fast.
#
# Refinement B moves a stride inside the bottleneck block. ResNet-18 has no bottleneck blocks, so its B equals the
# base network, and one training stands for both.


# %%
def prepare(pixels):
    """Halves the images and gives each channel mean 0 and standard deviation 1 over the training images."""
    return (halve(pixels) - halve(images).mean((0, 1, 2))) / halve(images).std((0, 1, 2))


def halve(pixels):
    """Averages squares of 2 x 2 pixels."""
    count, height, width, channels = pixels.shape
    return pixels.reshape(count, height // 2, 2, width // 2, 2, channels).mean((2, 4), dtype=np.float32)


EPOCHS, BATCH_SIZE = 6, 32
steps = EPOCHS * -(-len(images) // BATCH_SIZE)
probabilities = {}
for name, variant in {"base, B": "base", "C": "c", "D": "d"}.items():
    keras.utils.set_random_seed(0)
    network = resnetd_tf.resnet(18, variant, classes=len(CLASSES), input_shape=(32, 32, 3))
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=0.05, warmup_steps=steps // 10)
    network.compile(
        optimizer=keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True),
        loss="sparse_categorical_crossentropy",
        jit_compile=False,  # on a CPU, compiling with XLA takes longer than this training
    )
    history = network.fit(prepare(images), labels, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    probabilities[name] = network.predict(prepare(new_images), batch_size=135, verbose=0)
    print(f"{name:7} {network.count_params():,} parameters, loss by epoch:", *np.round(history.history["loss"], 2))

# %% [markdown]
# ## Compare
#
# Chance alone moves an accuracy on 540 images by about four points to either side: the [95 %
# interval](../glossary.md#confidence-interval) of each network is printed beside its accuracy.

# %%
for name, values in probabilities.items():
    accuracy = np.mean(values.argmax(1) == new_labels)
    margin = 1.96 * np.sqrt(accuracy * (1 - accuracy) / len(new_labels))
    print(f"{name:7} {100 * accuracy:.1f} % ± {100 * margin:.1f}")

# %% [markdown]
# Read these figures with care. One run of each network cannot separate a better network from a luckier seed, and 192
# steps from random weights are only a beginning.
#
# ## Look at the mistakes
#
# A confusion matrix counts how often each class was taken for each other class. A row is a true class, a column is a
# predicted class.

# %% alt="Confusion matrix of ResNet-18-D after six epochs on 1,000 images"
predicted = probabilities["D"].argmax(1)
matrix = np.zeros((len(CLASSES), len(CLASSES)), int)
np.add.at(matrix, (new_labels, predicted), 1)

figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
axes.imshow(matrix, cmap="Blues")
axes.set_xticks(range(len(CLASSES)), CLASSES, rotation=90)
axes.set_yticks(range(len(CLASSES)), CLASSES)
axes.set(xlabel="predicted", ylabel="true")
for row, column in np.ndindex(matrix.shape):
    axes.text(column, row, matrix[row, column], ha="center", va="center", fontsize=8)
plt.show()

# %% [markdown]
# The next picture shows the eight wrong answers of which the network was surest.

# %% alt="Eight images that ResNet-18-D labels wrongly with the highest probability, with true and predicted class"
certainty = probabilities["D"].max(1)
mistakes = np.flatnonzero(predicted != new_labels)
surest = mistakes[np.argsort(certainty[mistakes])[::-1][:8]]

figure, grid = plt.subplots(2, 4, figsize=(9, 5.5), layout="constrained")
for axes, index in zip(grid.flat, surest):
    axes.imshow(new_images[index])
    axes.set_title(
        f"{CLASSES[predicted[index]]} {100 * certainty[index]:.0f} %\ntrue: {CLASSES[new_labels[index]]}", fontsize=8
    )
    axes.axis("off")
plt.show()

# %% [markdown]
# ## What more training brings
#
# `evaluate.py` measures the packaged classifier on the same 540 images. This ResNet-50-D trained on all 18,900 training
# images. Without EuroSAT, the command measures it on the ten images in `samples/patches`.

# %%
os.environ["IMAGES"] = "--split=train[70%:72%]" if has_eurosat else "--dataset=folder:samples/patches --split=all"

# %% language="bash"
# rm -rf saved_models/tutorials/compare
# python evaluate.py --model=eurosat $IMAGES --output_dir=saved_models/tutorials/compare

# %% alt="The images that the packaged classifier labels wrongly, with true and predicted class"
Image("saved_models/tutorials/compare/mistakes.png", width=700)

# %% [markdown]
# The classifier that learned from every training image makes a few mistakes where the small networks make many.
#
# ## Next
#
# `python train.py --variant=d --image_size=64 --weights=none` trains one network properly, in about 17 minutes on two
# cores. [Your first training](../get-started/first-training.md) explains what it prints.
