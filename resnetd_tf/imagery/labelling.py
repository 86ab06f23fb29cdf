"""What `predict.py` does: tells patches, which get a label, from scenes, which become maps."""

import pathlib
import zipfile
from collections.abc import Sequence

from resnetd_tf.data import images
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import patches
from resnetd_tf.saved import open_classifier

PATCHES = 2  # sides of a training's patch, up to which an image is one


def run(
    model: str,
    paths: Sequence[str],
    *,
    top: int = 3,
    trust: bool = False,
    window: int | None = None,
    stride: int | None = None,
    output: str | None = None,
    bands: Sequence[str] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    missing: str = "refuse",
    area: str | None = None,
    keep_clouds: bool = False,
    **options,
) -> None:
    """Labels patches, or maps scenes.

    Args:
        model, trust: As for `saved.open_classifier`.
        paths: Images; or scenes, as `products.open_scene` takes each; or the files of one scene's bands.
        top: As for `patches.predict`.
        window: As in `scenes.Options`; `None` for the side of the training's patches, and for labels where images are
            not much larger.
        stride: As in `scenes.Options`; `None` for half a window.
        output: As for `scenes.map_scene`, of one scene; `None` for its name, in the current folder.
        bands, scale, offset, keep_clouds: As for `products.open_scene`.
        missing, area: As for `scenes.scene_for`.
        options: As in `scenes.Options`.

    Raises:
        InputError: Something given cannot be used.
    """
    classifier = open_classifier(model, trust=trust)
    side = (classifier.metadata.get("patch_shape") or [64])[0] or 64
    if window is None and all(is_patch(pathlib.Path(path), PATCHES * side) for path in paths):
        patches.predict(classifier, paths, top)
        return
    try:
        from resnetd_tf.imagery import products, scenes
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "rasterio":
            raise
        raise InputError(
            f"{paths[0]} is larger than a patch, or --window given: maps need rasterio, pip install 'resnetd_tf[geo]'"
        ) from error
    window = window or side
    chosen = scenes.Options(window=window, stride=stride or max(1, window // 2), **options)
    files = [pathlib.Path(path) for path in paths]
    together = len(files) > 1 and all(file.is_file() and products.band_of(file) for file in files)
    groups = [list(paths)] if together else [[path] for path in paths]
    if output and len(groups) > 1:
        raise InputError(f"--output={output} is of one map, {len(groups)} scenes are given")
    for group in groups:
        how = {"bands": bands, "scale": scale, "offset": offset, "keep_clouds": keep_clouds}
        scene = scenes.scene_for(classifier, group, missing, area, **how)
        print(f"{scene.name}: {scene.words}", flush=True)
        scenes.map_scene(classifier, scene, output or scene_name(group[0]), chosen)


def is_patch(path: pathlib.Path, largest: int) -> bool:
    """Whether a file is an image of at most `largest` pixels a side."""
    if path.is_dir() or path.suffix == ".xml" or (path.is_file() and zipfile.is_zipfile(path)):
        return False
    try:
        (height, width, _), _ = images.header(path, max_pixels=2**62)
    except InputError:
        if path.suffix.lower() in (".tif", ".tiff", ".jp2") and path.is_file():  # of other bands, or deeper
            return False
        raise
    return max(height, width) <= largest


def scene_name(path: str) -> str:
    """What a map is called if that is not said: its scene's name without suffix, in the current folder."""
    name = pathlib.Path(path).absolute().name
    return name.split(".")[0] if name else "scene"
