"""Accuracy on patches as other products and viewers render the same ground.

    python -m benchmarks.renderings --model=eurosat
    python -m benchmarks.renderings --model=saved_models/resnet50d --split=test

Two sets of patches are rendered anew: the JPEG patches of a EuroSAT split, and the raw patches of 13 bands that lie in
`$SENTINEL2_DIR/eurosat_all`, in folders of their classes. JPEG patches are turned back into digital numbers, which end
at 2,750. The renderings are computed here, not by the code that varies training images.
"""

import io
import os
import pathlib

import numpy as np
import PIL.Image
from absl import flags

from benchmarks import contest
from resnetd_tf.cli import program

FLAGS = flags.FLAGS
LARGEST_DN = 2750  # of EuroSAT's patches: grey level 255
AIR = np.array((23.0, 42.0, 70.0))  # grey levels of red, green and blue that L2A lacks


def _as_levels(dn: np.ndarray) -> np.ndarray:
    return 1 + dn * 254 / LARGEST_DN


# By name, a function from digital numbers (..., 3) to grey levels before they are rounded.
RENDERINGS = {
    "as EuroSAT": _as_levels,
    "TCI: 255 is 3,558 DN": lambda dn: dn * 255 / 3558,
    "EO Browser: 255 is 4,000 DN": lambda dn: dn * 255 / 4000,
    "1.3 times as bright": lambda dn: 1.3 * _as_levels(dn),
    "twice as bright": lambda dn: 2 * _as_levels(dn),
    "hazier": lambda dn: _as_levels(dn) + AIR / 2,
    "half of the air taken away": lambda dn: _as_levels(dn) - AIR / 2,
    "as L2A": lambda dn: _as_levels(dn) - AIR,
}


def render(dn: np.ndarray, name: str) -> np.ndarray:
    """Renders digital numbers (n, height, width, 3) as grey levels, uint8, compressed as EuroSAT's JPEG files."""
    levels = np.clip(np.rint(RENDERINGS[name](dn)), 0, 255).astype("uint8")
    return np.stack([_compress(image) for image in levels])


def _compress(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "JPEG", quality=100, subsampling="4:2:0")
    with PIL.Image.open(file) as picture:
        return np.asarray(picture)


def read_raw_patches(folder: pathlib.Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Reads raw patches: digital numbers of red, green and blue (n, 64, 64, 3), and labels (n,)."""
    import rasterio

    paths = sorted(path for path in folder.rglob("*.tif") if path.name.partition("_")[0] in classes)
    patches = []
    for path in paths:
        with rasterio.open(path) as file:
            patches.append(np.moveaxis(file.read((4, 3, 2)), 0, -1))
    return np.stack(patches).astype("float64"), np.array([classes.index(path.name.partition("_")[0]) for path in paths])


def benchmark_renderings(arguments: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf.deployment import export
    from resnetd_tf.saved import open_classifier

    classifier = open_classifier(program.model_path_from_flags())
    classifier.check_bands("EuroSAT's pictures", 3)
    ((images, labels),) = export.load_comparison_images(classifier, {FLAGS.split: FLAGS.images or None})
    patches = {FLAGS.split: ((images - 1.0) * LARGEST_DN / 254, labels)}
    if "SENTINEL2_DIR" in os.environ:
        folder = pathlib.Path(os.environ["SENTINEL2_DIR"]) / "eurosat_all"
        patches["raw patches"] = read_raw_patches(folder, classifier.classes)
    names = [f"{name} ({len(each[1])})" for name, each in patches.items()]
    lines = [f"| rendering | {' | '.join(f'{name}: right | unlike' for name in names)} |"]
    lines.append("|---" * (1 + 2 * len(names)) + "|")
    print("\n".join(lines), flush=True)
    results = {}
    for name in RENDERINGS:
        cells = []
        for set_name, (dn, set_labels) in patches.items():
            probabilities, dissimilarity = classifier.classify(render(dn, name))
            accuracy = float((probabilities.argmax(1) == set_labels).mean())
            unlike = "no score" if dissimilarity is None else f"{100 * (dissimilarity > 1).mean():.1f} %"
            cells += [f"{100 * accuracy:.2f} %", unlike]
            results[f"{name}, {set_name}"] = accuracy
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    contest.keep("renderings", lines, results)


def main() -> None:
    program.define_model_flags()
    flags.DEFINE_enum("split", "validation", ["validation", "test"], "Split whose patches are rendered anew.")
    flags.DEFINE_integer("images", 0, "Number of its patches; 0 for all.", lower_bound=0)
    contest.define_output_dir()
    program.run_program(benchmark_renderings, takes_arguments=True)


if __name__ == "__main__":
    main()
