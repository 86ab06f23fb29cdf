"""New Sentinel-2 images: labels of patches, maps of scenes.

Read `labelling` (what `predict.py` does) first, then `patches` (labels for images of one class) and `scenes`
(maps). `products` opens what people have, `safe` the products as they are downloaded, `clouds` their cloud masks,
`layers` reads their bands on one grid, `pixels` is a scene, `areas` cuts it; `names` has what files' names tell,
`rendering` shows bands as EuroSAT's pictures are; `windows` goes over a scene, `progress` keeps how far that has come,
`maps` writes what comes of it. `explain` shows what speaks for a label. In a notebook: `predict` and `map_scene`, with
arrays in and out.
"""

import lazy_loader

# On demand: labels need no rasterio.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arrays": ["LandCover", "map_scene"],
        "patches": ["predict"],
        "scenes": ["Options", "scene_for", "write_map"],
    },
)
