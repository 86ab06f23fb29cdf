"""Evaluation of classifiers on labelled images.

Read `run` first: it is what `evaluate.py` calls. `metrics` computes the numbers, `report` writes and draws them,
`corruptions` has the degraded images, and `imagenet` has what differs for ImageNet's 1000 classes.
"""
