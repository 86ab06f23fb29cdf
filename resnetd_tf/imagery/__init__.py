"""New Sentinel-2 images: labels of patches, maps of scenes.

Read `labelling` (what `predict.py` does) first, then `patches` (labels for images of one class) and `scenes`
(maps). `products` opens what people have, `safe` the products as they are downloaded, `layers` reads their bands on
one grid, `pixels` is a scene, `areas` cuts it; `names` has what files' names tell, `rendering` shows bands as EuroSAT's
pictures are; `windows` goes over a scene, `maps` writes what comes of it.
"""
