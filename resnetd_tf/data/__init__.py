"""Labelled images: from their files to splits in memory, and from splits to batches.

Start with `datasets.load_dataset`, which returns a `splits.Dataset` for a name. Images come from TFDS (`tfds`), from
folders (`datasets`) or are drawn (`synthetic`). `images` reads image files; `rasters` and `digital_numbers` read
Sentinel-2 bands in them. `batches` makes batches for training and evaluation, with `augmentation`.
"""
