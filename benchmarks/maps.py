"""Maps of scenes: windows a second beside the classifier's own rate, and time and memory of whole commands.

    python -m benchmarks.maps --model=saved_models/resnet50d
    python -m benchmarks.maps --model=saved_models/resnet50d --sides=2048,10980   # a whole tile of Sentinel-2

First, 20 x 20 patches of a split are laid side by side in a scene, so that most windows lie across several patches. The
benchmark prints how often maps are right at the centre of each patch, the mean of the four cells there, and in all
cells that have a class, and how many cells are left empty as unlike the training images.

Then scenes are drawn, one file of JPEG 2000 for each band, as in products. The rates are measured on the first scene:
it is mapped, and the classifier alone works on as many windows in memory, in turn. Last, `map.py` maps each scene.
"""

import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

from benchmarks import contest
from resnetd_tf.cli import program

FLAGS = flags.FLAGS
BANDS = ("B02", "B03", "B04")


def draw_scene(folder: pathlib.Path, side: int) -> list[str]:
    """Draws a scene, one file of JPEG 2000 for each band.

    Args:
        folder: Where the files go.
        side: Side of the scene in pixels.

    Returns:
        The paths of the files.
    """
    import rasterio

    from resnetd_tf.data import synthetic
    from resnetd_tf.sentinel2 import BRIGHTEST_DN, RENDERED_LEVELS

    images = synthetic.draw_scenes(200)[0]
    count = -(-side // synthetic.SIZE)
    tiles = np.random.default_rng(0).integers(0, len(images), (count, count))
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 399_960, 0, -10, 5_100_000)}
    profile = {"height": side, "width": side, "count": 1, "dtype": "uint16", "QUALITY": "100", "REVERSIBLE": "YES"}
    paths = []
    for channel, band in enumerate(reversed(BANDS)):
        dn = np.rint((images[..., channel] - 1.0) * BRIGHTEST_DN / RENDERED_LEVELS).clip(0).astype("uint16")
        pixels = dn[tiles].swapaxes(1, 2).reshape(count * synthetic.SIZE, -1)[:side, :side]
        paths.append(str(folder / f"T33TUL_{side}_{band}.jp2"))
        with rasterio.open(paths[-1], "w", driver="JP2OpenJPEG", **profile, **place) as file:
            file.write(pixels, 1)
    return paths


def measure_rates(classifier, paths: list[str], rounds: int) -> tuple[list[float], list[float]]:
    """Measures windows a second, round after round.

    Returns:
        The rates of maps, and the rates of the classifier alone on as many windows in memory.
    """
    from resnetd_tf.imagery import landcover, sliding_window
    from resnetd_tf.saved import open_window_classifier

    scene = landcover.open_scene_for(classifier, paths, level="L1C")  # drawn ground has no air
    options = landcover.MapOptions.for_classifier(classifier)
    rows, columns = (
        count - options.window // options.stride + 1 for count in sliding_window.map_shape(scene, options.stride)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (columns, options.window, options.window, 3), "uint8")
    map_rates, classifier_rates = [], []
    window_classifier = open_window_classifier(classifier, options.runtime)
    window_classifier.classify(pixels)
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(rows):
            window_classifier.classify(pixels)
        classifier_rates.append(rows * columns / (time.perf_counter() - start))
        start = time.perf_counter()
        for _ in sliding_window.classify_rows(
            window_classifier.classify, len(classifier.classes), scene, options.window, options.stride
        ):
            pass
        map_rates.append(rows * columns / (time.perf_counter() - start))
    return map_rates, classifier_rates


def measure_command(model: str, paths: list[str], folder: pathlib.Path) -> tuple[float, float]:
    """Measures seconds and peak memory in GiB of `map.py`."""
    arguments = [f"--model={model}", *paths, f"--output={folder / 'map'}", "--overwrite"]
    arguments += ["--level=L1C", "--applicability=off"]  # drawn ground has no air, and is unlike any other
    # Its parent is a small process: a child's peak begins with its parent's.
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    start = time.perf_counter()
    command = [sys.executable, "-c", code, sys.executable, "map.py", *arguments]
    peak = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return time.perf_counter() - start, int(peak) / 2**20


def measure_mosaics(classifier, split: str) -> dict[str, float]:
    """Measures how often maps are right on a split's images, which lie side by side.

    Returns:
        "images", their number; shares that are right: "alone" one by one, "centres" at the images' centres in maps,
        and "cells" of all cells with a class; and "empty", the share of cells without a class.
    """
    from resnetd_tf.deployment import export
    from resnetd_tf.imagery import landcover

    ((images, labels),) = export.load_comparison_images(classifier, {split: None})
    count, side = min(20, math.isqrt(len(images))), min(images.shape[1:3]) // 2 * 2
    images = images[:, :side, :side]
    correct: dict[str, list] = {"alone": [], "centres": [], "cells": [], "empty": []}
    for start in range(0, len(images) - count**2 + 1, count**2):
        patches, patch_labels = images[start : start + count**2], labels[start : start + count**2]
        scene = patches.reshape(count, count, side, side, -1).swapaxes(1, 2).reshape(count * side, count * side, -1)
        land_cover = landcover.map_scene(classifier, scene, window=side, stride=side // 2)
        means = land_cover.probabilities.reshape(count, 2, count, 2, -1).mean((1, 3)).reshape(count**2, -1)
        cell_labels = patch_labels.reshape(count, count).repeat(2, 0).repeat(2, 1)
        correct["alone"] += list(classifier.predict(patches).argmax(1) == patch_labels)
        correct["centres"] += list(means.argmax(1) == patch_labels)
        has_class = land_cover.classes != landcover.NODATA
        correct["cells"] += list((land_cover.classes == cell_labels)[has_class])
        correct["empty"] += list(~has_class.ravel())
    return {"images": len(correct["alone"]), **{name: float(np.mean(each)) for name, each in correct.items()}}


def benchmark_maps(arguments: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf.saved import open_classifier

    model = program.model_path_from_flags()
    classifier = open_classifier(model)
    mosaics = measure_mosaics(classifier, FLAGS.split)
    alone, centres, cells, empty = (100 * mosaics[name] for name in ("alone", "centres", "cells", "empty"))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        scenes = {side: draw_scene(folder, side) for side in map(int, FLAGS.sides)}
        map_rates, classifier_rates = measure_rates(classifier, next(iter(scenes.values())), FLAGS.rounds)
        map_rate, classifier_rate = statistics.median(map_rates), statistics.median(classifier_rates)
        lines = [
            f"{mosaics['images']} {FLAGS.split} images: right one by one {alone:.1f} %, at their centres in maps "
            f"{centres:.1f} %, and {cells:.1f} % of the maps' cells; {empty:.1f} % of the cells are left empty.",
            "",
            f"Windows/s of a map {map_rate:.0f}, of the classifier alone {classifier_rate:.0f}: "
            f"{100 * map_rate / classifier_rate:.0f} % (medians of {FLAGS.rounds} rounds in turn).",
            "",
            "| pixels a side | km² | `map.py` | km²/s | peak memory |",
            "|---|---|---|---|---|",
        ]
        print("\n".join(lines), flush=True)
        results = {"model": str(model), "map": map_rates, "classifier": classifier_rates, "mosaics": mosaics}
        results["commands"] = {}
        for side, paths in scenes.items():
            seconds, peak = measure_command(model, paths, folder)
            area = (side / 100) ** 2
            lines.append(f"| {side} | {area:.0f} | {seconds:.0f} s | {area / seconds:.0f} | {peak:.2f} GiB |")
            print(lines[-1], flush=True)
            results["commands"][side] = {"seconds": seconds, "peak_gib": peak}
    contest.keep("maps", lines, results)


def main() -> None:
    program.define_model_flags()
    flags.DEFINE_list("sides", ["2048", "8192"], "Sides of the scenes in pixels.")
    flags.DEFINE_enum("split", "test", ["validation", "test"], "Split whose patches are laid side by side.")
    flags.DEFINE_integer("rounds", 5, "Rounds in which the rates are measured.", lower_bound=1)
    contest.define_output_dir()
    program.run_program(benchmark_maps, takes_arguments=True)


if __name__ == "__main__":
    main()
