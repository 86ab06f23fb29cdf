"""How good a classifier is.

Read `run` first (what `evaluate.py` does): `metrics` measures, `report` writes and draws, `imagenet` has what differs
for ImageNet's 1000 classes.
"""
