"""Labelled patches: from where they are kept to splits in memory, and from those to batches.

Read `sources` first (`load` makes a `Dataset` of `splits` from a name), then `tfds`, `folder` or `synthetic` for one
kind of source, `eurosat` for how its archive is fetched, `images` for how files become pixels, `batches` and
`augmentation`.
"""
