"""What `predict.py` does: tells patches, which get a label, from scenes, which become maps."""

import contextlib
import functools
import os
import pathlib
import sys
from collections.abc import Sequence

from resnetd_tf import figures, metadata
from resnetd_tf.data import images, rasters
from resnetd_tf.data.rasters import Reading
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import explain as why
from resnetd_tf.imagery import patches, scenes, windows
from resnetd_tf.imagery.grid import grid_of
from resnetd_tf.imagery.products import RASTERS, Source, find_sources
from resnetd_tf.saved import SavedClassifier, open_classifier, open_network


def run(
    model: str | SavedClassifier,
    paths: Sequence[str],
    *,
    top: int = 3,
    format: str = "table",
    picture: str | None = None,
    explain: str | None = None,
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
        model, trust: As for `saved.open_classifier`; or a server's classifier.
        paths: Images, or folders of them; scenes, as `products.open_scene` takes each; the files of one scene's bands.
        top, format, picture: As for `patches.label`.
        explain: Where to draw what in the images speaks for their label, or in a scene for each class of its map.
        window: As in `scenes.Options`; `None` for the side of the training's patches, and for labels where images are
            not much larger.
        stride: As in `scenes.Options`; `None` for half a window.
        output: As for `scenes.write_map`, of one scene; with a / at its end a folder for scenes' names; `None` for
            their names in the current folder.
        bands, scale, offset, keep_clouds: As for `products.open_scene`.
        missing, area: As for `scenes.scene_for`.
        options: As in `scenes.Options`.

    Raises:
        InputError: Something given cannot be used.
    """
    pictures = [path for path in (picture, explain) if path]
    for path in pictures:
        figures.check_path(path, bool(options.get("overwrite")))
    if len({pathlib.Path(path).absolute() for path in pictures}) < len(pictures):
        raise InputError(f"--picture and --explain are both {picture}; give another name to one")
    classifier = model if isinstance(model, SavedClassifier) else open_classifier(model, trust=trust)
    reading = Reading(tuple(bands) if bands else None, scale, offset, scenes.fill_of(classifier, missing))
    largest = metadata.largest_patch(classifier.metadata)
    small: list[pathlib.Path] = []
    large: list[Source] = []
    for source in find_sources(paths):
        if window is None and is_patch(source, largest):
            small += source.files
        else:
            large.append(source)
    of_scenes = {"output": output, "area": area, "stride": stride}
    of_scenes |= {name: options.get(name) for name in ("probabilities", "min_probability")}
    of_scenes |= {"resolution": options.get("whole"), "clouds": keep_clouds}
    if not large and any(of_scenes.values()):
        name = next(name for name, value in of_scenes.items() if value)
        raise InputError(f"--{name} is of maps, and no image has more than {largest} pixels a side; --window maps them")
    if not small and (picture or format != "table"):
        raise InputError(f"--{'picture' if picture else 'format'} is of labels, and only scenes are given")
    draw = None
    if explain:
        if small and large:
            raise InputError(f"--explain is of patches or of one scene: leave out {small[0]} or {large[0].name}")
        draw = functools.partial(
            why.draw, explain, why.GradCam(open_network(classifier.path, trust)[1]), classifier.classes
        )
    failed = patches.label(classifier, small, top, format, picture, draw, reading) if small else []
    if large:
        options |= {"window": window, "stride": stride}
        # Labels as JSON or CSV are to stay such.
        with contextlib.redirect_stdout(sys.stdout if format == "table" else sys.stderr):
            failed += _map(classifier, large, output, draw, reading, area, keep_clouds, options)
    if failed:
        raise InputError("; ".join(failed))


def _map(
    classifier: SavedClassifier,
    sources: list[Source],
    output: str | None,
    explain: functools.partial | None,
    reading: Reading,
    area: str | None,
    keep_clouds: bool,
    options: dict,
) -> list[str]:
    """Maps scenes; what went wrong with those that could not be, told when all others are done."""
    chosen = scenes.Options.of(classifier, **options)
    folder = output if output and output.endswith(("/", os.sep)) else ""
    if output and not folder and len(sources) > 1:
        raise InputError(
            f"--output={output} is of one map, {len(sources)} scenes are given; --output={output}/ is a folder"
        )
    if explain and len(sources) > 1:
        raise InputError(f"--explain is of one scene, {len(sources)} are given; map one at a time")
    outputs = [output if output and not folder else folder + scene_name(source.name) for source in sources]
    targets = scenes.targets_of(pathlib.Path(outputs[0]), chosen.probabilities).values()
    if explain and pathlib.Path(explain.args[0]).absolute() in {path.absolute() for path in targets}:
        raise InputError(f"--explain={explain.args[0]} is a file of the map; give another name")
    if twice := {name for name in outputs if outputs.count(name) > 1}:
        raise InputError(f"several scenes would be called {', '.join(sorted(twice))}; map one at a time, with --output")
    failed = []
    for source, name in zip(sources, outputs):
        try:
            scene = scenes.open_for(classifier, source, reading, area, keep_clouds)
            print(f"{scene.name}: {scene.words}", flush=True)
            mapped = scenes.write_map(classifier, scene, name, chosen)
            if explain:
                shown = []
                for kind, cell in mapped["strongest"].items():
                    over = windows.over(scene, cell, chosen.window, chosen.stride)
                    surest = classifier.predict(over)[:, classifier.classes.index(kind)].argmax()
                    shown.append((f"row {cell[0]}, column {cell[1]}", over[surest]))
                explain(shown, list(mapped["strongest"]))
        except InputError as error:
            failed.append(str(error))
    return failed


def is_patch(source: Source, largest: int) -> bool:
    """Whether a source is an image of at most `largest` pixels of 10 m a side.

    So is what is no image at all: `patches` says what is wrong with it.
    """
    if source.metadata or len(source.files) > 1:
        return False
    (file,) = source.files
    try:
        (height, width, _), _ = images.header(file, max_pixels=2**62)
    except InputError:  # its bands are not known, if it is an image
        height = width = 0
    if height and file.suffix.lower() not in RASTERS:
        return max(height, width) <= largest
    try:
        dataset = rasters.open_raster(str(file))
        height, width = max(height, dataset.height), max(width, dataset.width)
        if dataset.crs or dataset.gcps[0]:  # pixels of 20 m are no patch of half the side
            grid = grid_of([dataset])
            height, width = max(height, grid.height), max(width, grid.width)
    except InputError:
        pass
    return max(height, width) <= largest


def scene_name(name: str) -> str:
    """What a map is called if that is not said: its scene's name without suffix; it goes into the current folder."""
    path = pathlib.Path(name)
    name = (path.resolve() if path.exists() else path).name
    for suffix in (".zip", ".SAFE", ".xml", path.suffix if path.is_file() else ""):
        name = name.removesuffix(suffix)
    return name.lstrip(".") or "scene"
