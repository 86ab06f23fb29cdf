"""New Sentinel-2 images: labels of patches and maps of scenes.

`patches` labels images of one class each, `landcover` maps scenes: read these two first. `products` finds and opens the
files of scenes, `clouds` reads their cloud masks, `grid` places their pixels, and `scene` reads them by windows.
`sliding_window` classifies the windows, and `gradcam` shows which parts of an image speak for a class.

A notebook uses `predict` and `map_scene`, which take and return arrays.
"""

import lazy_loader

# On demand, because importing TensorFlow takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "landcover": ["LandCover", "MapOptions", "map_scene", "open_scene_for", "write_map"],
        "patches": ["predict"],
    },
)
