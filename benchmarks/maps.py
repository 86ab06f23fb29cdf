"""Maps of scenes: windows a second beside the classifier's own rate, and time and memory of whole commands.

    python -m benchmarks.maps --model=saved_models/resnet50d
    python -m benchmarks.maps --model=saved_models/resnet50d --sides=2048,10980   # a whole tile of Sentinel-2

First, how often maps are right of patches that lie side by side, 20 x 20 of a split in a scene, where most windows
lie across several: at the centre of each, which is the mean of the four cells there, and in all cells.

Then scenes are drawn, a file of JPEG 2000 a band as products have them. The rates are those of the first: its map is
made and the classifier alone works on as many windows in memory, in turn. Last, `predict.py` maps each scene.
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


def draw(folder: pathlib.Path, side: int) -> list[str]:
    """Files of a scene's bands."""
    import rasterio

    from resnetd_tf.data import synthetic
    from resnetd_tf.sentinel2 import BRIGHTEST_DN, RENDERED_LEVELS

    images = synthetic.draw_scenes(200)[0]
    count = -(-side // synthetic.SIZE)
    chosen = np.random.default_rng(0).integers(0, len(images), (count, count))
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 399_960, 0, -10, 5_100_000)}
    profile = {"height": side, "width": side, "count": 1, "dtype": "uint16", "QUALITY": "100", "REVERSIBLE": "YES"}
    paths = []
    for channel, band in enumerate(reversed(BANDS)):
        dn = np.rint((images[..., channel] - 1.0) * BRIGHTEST_DN / RENDERED_LEVELS).clip(0).astype("uint16")
        pixels = dn[chosen].swapaxes(1, 2).reshape(count * synthetic.SIZE, -1)[:side, :side]
        paths.append(str(folder / f"T33TUL_{side}_{band}.jp2"))
        with rasterio.open(paths[-1], "w", driver="JP2OpenJPEG", **profile, **place) as file:
            file.write(pixels, 1)
    return paths


def rates(classifier, paths: list[str], rounds: int) -> tuple[list[float], list[float]]:
    """Windows a second of maps, and of the classifier alone, round after round."""
    from resnetd_tf.imagery import landcover, sliding_window

    scene = landcover.open_scene_for(classifier, paths)
    options = landcover.MapOptions.of(classifier, None, None)
    rows, columns = (
        count - options.window // options.stride + 1 for count in sliding_window.map_shape(scene, options.stride)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (columns, options.window, options.window, 3), "uint8")
    own, mapped = [], []
    classifier.predict(pixels)
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(rows):
            classifier.predict(pixels)
        own.append(rows * columns / (time.perf_counter() - start))
        start = time.perf_counter()
        for _ in sliding_window.classify_rows(
            classifier.predict, len(classifier.classes), scene, options.window, options.stride
        ):
            pass
        mapped.append(rows * columns / (time.perf_counter() - start))
    return mapped, own


def command(model: str, paths: list[str], folder: pathlib.Path) -> tuple[float, float]:
    """Seconds and peak memory in GiB of `predict.py`."""
    arguments = [f"--model={model}", *paths, f"--output={folder / 'map'}", "--overwrite"]
    # Its parent is a small process: a child's peak begins with its parent's.
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    start = time.perf_counter()
    program = [sys.executable, "predict.py", *arguments]
    used = subprocess.run([sys.executable, "-c", code, *program], stdout=subprocess.PIPE, text=True, check=True).stdout
    return time.perf_counter() - start, int(used) / 2**20


def mosaics(classifier, split: str) -> dict[str, float]:
    """The share of a split's images that is right one by one, at their centres in maps, and of the cells of those."""
    from resnetd_tf import imagery
    from resnetd_tf.deployment import export

    ((images, labels),) = export.load_comparison_images(classifier, {split: None})
    count, side = min(20, math.isqrt(len(images))), min(images.shape[1:3]) // 2 * 2
    images, right = images[:, :side, :side], {"alone": [], "centres": [], "cells": []}
    for start in range(0, len(images) - count**2 + 1, count**2):
        part, true = images[start : start + count**2], labels[start : start + count**2]
        scene = part.reshape(count, count, side, side, -1).swapaxes(1, 2).reshape(count * side, count * side, -1)
        found = imagery.map_scene(classifier, scene, window=side, stride=side // 2)
        of_patches = found.probabilities.reshape(count, 2, count, 2, -1).mean((1, 3)).reshape(count**2, -1)
        right["alone"] += list(classifier.predict(part).argmax(1) == true)
        right["centres"] += list(of_patches.argmax(1) == true)
        right["cells"] += list((found.classes == true.reshape(count, count).repeat(2, 0).repeat(2, 1)).flat)
    return {"images": len(right["alone"]), **{name: float(np.mean(each)) for name, each in right.items()}}


def maps(arguments: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf.saved import open_classifier

    model = program.model_path_from_flags()
    classifier = open_classifier(model)
    of_mosaics = mosaics(classifier, FLAGS.split)
    alone, centres, cells = (100 * of_mosaics[name] for name in ("alone", "centres", "cells"))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        drawn = {side: draw(folder, side) for side in map(int, FLAGS.sides)}
        mapped, own = rates(classifier, next(iter(drawn.values())), FLAGS.rounds)
        of_map, of_model = statistics.median(mapped), statistics.median(own)
        lines = [
            f"Of {of_mosaics['images']} {FLAGS.split} images right one by one {alone:.1f} %, at their centres in maps "
            f"{centres:.1f} %, of the maps' cells {cells:.1f} %.",
            "",
            f"Windows/s of a map {of_map:.0f}, of the classifier alone {of_model:.0f}: {100 * of_map / of_model:.0f} % "
            f"(medians of {FLAGS.rounds} rounds in turn).",
            "",
            "| pixels a side | km² | `predict.py` | km²/s | peak memory |",
            "|---|---|---|---|---|",
        ]
        print("\n".join(lines), flush=True)
        results = {"model": str(model), "map": mapped, "classifier": own, "mosaics": of_mosaics, "commands": {}}
        for side, paths in drawn.items():
            seconds, peak = command(model, paths, folder)
            area = (side / 100) ** 2
            lines.append(f"| {side} | {area:.0f} | {seconds:.0f} s | {area / seconds:.0f} | {peak:.2f} GiB |")
            print(lines[-1], flush=True)
            results["commands"][side] = {"seconds": seconds, "peak_gib": peak}
    contest.keep("maps", lines, results)


def main() -> None:
    program.define_model_flags()
    flags.DEFINE_list("sides", ["2048", "8192"], "Sides of the scenes in pixels.")
    flags.DEFINE_enum("split", "test", ["validation", "test"], "Whose patches are laid side by side.")
    flags.DEFINE_integer("rounds", 5, "Rounds of the rates.", lower_bound=1)
    contest.define_output_dir()
    program.run_program(maps, takes_arguments=True)


if __name__ == "__main__":
    main()
