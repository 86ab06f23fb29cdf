"""Maps of real scenes of many producers, as a newcomer makes them: what was read, water and land, and the time.

    python -m benchmarks.scenes --scenes_dir=../shared/scenes --model=eurosat
    python -m benchmarks.scenes --scenes_dir=my_scenes --output_dir=maps

Each folder of `--scenes_dir` is a scene, or several if it holds several pictures. `map.py` maps it with
`--resolution=scene`. A folder may hold a file `flags.txt` with the flags that its source prescribes, such as the names
of bands that a file does not state. Where `masks/NAME_mask.png` has 0 for water and 1 for land on the same pixels, the
table says how much of the land became water, and of the water land. The pictures are drawn on one sheet, scenes.png.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys
import time

import numpy as np
from absl import flags
from PIL import Image

from resnetd_tf.cli import program

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).parent.parent
IMAGE_SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".zip")
SHEET_WIDTH, SHEET_COLUMNS = 700, 3  # pixels of a picture on the sheet, and pictures in a row
# What the sources of the scenes in `scenes_dir` say of files that do not say it themselves.
SOURCE_FLAGS = {"ftw": "--bands=B04,B03,B02,B08,x,x,x,x", "eems": "--bands=B04,B03,B02,B08"}


def find_scenes(folder: pathlib.Path) -> dict[str, tuple[list[str], list[str]]]:
    """Returns the files and the flags of each scene, by its name."""
    scenes = {}
    for path in sorted(folder.iterdir()):
        if path.name == "masks" or not path.is_dir():
            if path.suffix in IMAGE_SUFFIXES:
                scenes[path.stem] = ([str(path)], [])
            continue
        files = sorted(file for file in path.iterdir() if file.suffix in IMAGE_SUFFIXES and "CLC" not in file.name)
        flags_file = path / "flags.txt"
        text = flags_file.read_text() if flags_file.is_file() else SOURCE_FLAGS.get(path.name, "")
        if all(file.suffix in (".png", ".jpg") for file in files):
            scenes |= {f"{path.name}_{file.stem}": ([str(file)], shlex.split(text)) for file in files}
        else:
            scenes[path.name] = ([str(file) for file in files], shlex.split(text))
    return scenes


def compare_with_mask(map_path: pathlib.Path, mask_path: pathlib.Path) -> tuple[float, float]:
    """Returns the shares of a mask's land that became water, and of its water that became land, of what has a class."""
    import rasterio

    with rasterio.open(map_path) as file:
        classes, nodata = file.read(1), file.nodata
        names = json.loads(file.tags()["classes"])
    mask = np.asarray(Image.open(mask_path))
    height, width = np.minimum(classes.shape, mask.shape)
    classes, mask = classes[:height, :width], mask[:height, :width]
    is_water = np.isin(classes, [int(index) for index, name in names.items() if name in ("River", "SeaLake")])
    land, water = ((mask == value) & (classes != nodata) for value in (1, 0))
    return float(is_water[land].mean()), float((~is_water)[water].mean())


def map_scene(
    name: str, files: list[str], scene_flags: list[str], output: pathlib.Path, masks: pathlib.Path
) -> list[str]:
    """Maps a scene, and returns its row of the table."""
    command = [sys.executable, str(ROOT / "map.py"), f"--model={FLAGS.model}", *files, *scene_flags]
    command += [f"--output={output}", "--resolution=scene", "--overwrite"]
    start = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True)
    seconds = f"{time.perf_counter() - start:.0f}"
    if result.returncode:
        return [name, "refused", "", "", seconds, result.stderr.strip().partition(": ")[2]]
    (unlike,) = re.findall(r"([\d.]+) % of the cells are unlike", result.stdout) or ("",)
    mask = masks / f"{name}_mask.png"
    shares = compare_with_mask(output.with_name(f"{output.name}_landcover.tif"), mask) if mask.is_file() else ()
    land, water = (f"{100 * share:.1f} %" for share in shares) if shares else ("", "")
    reading = next(line for line in result.stdout.splitlines() if "; " in line and not line.startswith("Model"))
    return [name, f"{unlike} %" if unlike else "no score", land, water, seconds, reading.partition(": ")[2]]


def draw_sheet(pictures: list[pathlib.Path], path: pathlib.Path) -> None:
    """Draws the pictures of the maps on one sheet."""
    images = [Image.open(picture).convert("RGB") for picture in pictures]
    images = [image.resize((SHEET_WIDTH, image.height * SHEET_WIDTH // image.width)) for image in images]
    rows = [images[start : start + SHEET_COLUMNS] for start in range(0, len(images), SHEET_COLUMNS)]
    heights = [max(image.height for image in row) for row in rows]
    sheet = Image.new("RGB", (SHEET_WIDTH * SHEET_COLUMNS, sum(heights)), "white")
    for row, top in zip(rows, np.cumsum([0, *heights])):
        for column, image in enumerate(row):
            sheet.paste(image, (column * SHEET_WIDTH, int(top)))
    sheet.save(path)


def main(arguments: list[str]) -> None:
    scenes_folder, folder = pathlib.Path(FLAGS.scenes_dir), pathlib.Path(FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    print("| scene | unlike training | land as water | water as land | seconds | what was read |")
    print("|---|---|---|---|---|---|")
    pictures = []
    for name, (files, scene_flags) in find_scenes(scenes_folder).items():
        row = map_scene(name, files, scene_flags, folder / name, scenes_folder / "masks")
        print(f"| {' | '.join(row)} |", flush=True)
        if row[1] != "refused":
            pictures.append(folder / f"{name}_landcover.png")
    if pictures:
        draw_sheet(pictures, folder / "scenes.png")
        print(f"\nThe maps: {folder / 'scenes.png'}")


if __name__ == "__main__":
    flags.DEFINE_string("scenes_dir", None, "Folder of scenes.", required=True)
    flags.DEFINE_string("model", "eurosat", "Classifier that maps them.")
    flags.DEFINE_string("output_dir", "maps/scenes", "Folder of the maps.")
    program.run_program(main, takes_arguments=True)
