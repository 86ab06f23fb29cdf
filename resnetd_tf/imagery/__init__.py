"""New Sentinel-2 images: labels of patches, maps of scenes.

Read `patches` (labels for images of one class) and `landcover` (maps) first. `products` finds and opens the files of
scenes, `data.rasters` reads bands and their numbers, `clouds` reads the cloud masks of products. `grid` says where pixels
lie, `scene` reads them by windows, `sliding_window` classifies them, `gradcam` shows where the network looked.

A notebook uses `predict` and `map_scene`, with arrays in and out.
"""

import lazy_loader

# On demand: TensorFlow takes seconds to import.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "landcover": ["LandCover", "MapOptions", "map_scene", "open_scene_for", "write_map"],
        "patches": ["predict"],
    },
)
