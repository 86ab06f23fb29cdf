"""New Sentinel-2 images: labels of patches, maps of scenes.

Read `labelling` (what `predict.py` does) first, then `patches` (labels for images of one class) and `scenes`
(maps). `products` finds and opens what people have, `data.rasters` reads bands and their numbers, `clouds` the masks of
products. `grid` is where pixels lie, `pixels` a scene, `areas` a part of it. `windows` goes over a scene, `progress`
keeps how far that has come, `maps` writes the result. `explain` shows where the network looked. In a notebook:
`predict` and `map_scene`, with arrays in and out.
"""

import lazy_loader

# On demand: TensorFlow takes seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arrays": ["LandCover", "map_scene"],
        "patches": ["predict"],
        "scenes": ["Options", "scene_for", "write_map"],
    },
)
