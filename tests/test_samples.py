"""The images in samples/: small, licensed, and what the packaged classifier makes of them."""

import csv
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from conftest import NO_HUB, ROOT

from resnetd_tf.sentinel2 import CLASSES

SAMPLES = ROOT / "samples"
BEFORE, SINCE = sorted(SAMPLES.glob("S2A_MSIL1C_*.SAFE"))  # baseline 04.00, which adds 1,000 to digital numbers


def test_size():
    """Small enough for every clone; paths short enough for Windows, which allows 260 characters."""
    files = [path for path in SAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3e6
    assert max(len(str(path.relative_to(ROOT))) for path in files) <= 160


def test_licences():
    """The README has a row with a licence for everything in the folder."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\| (MIT|CC0 1\.0) \|$", (SAMPLES / "README.md").read_text(), flags=re.M)
    licensed = {path for pattern, _ in rows for path in SAMPLES.glob(pattern.rstrip("/"))}
    assert licensed == set(SAMPLES.iterdir()) - {SAMPLES / "README.md", SAMPLES / "EUROSAT_LICENSE"}
    assert "Permission is hereby granted" in (SAMPLES / "EUROSAT_LICENSE").read_text()


def test_patches_get_their_class(program):
    result = program("predict.py", "--model=eurosat", SAMPLES / "patches", "--format=csv", "--top=1")
    assert result.returncode == 0, result.stderr
    labels = list(csv.DictReader(result.stdout.splitlines()))
    assert sorted(row["path"].split("/")[-2] for row in labels) == sorted(CLASSES)
    assert sum(row["class_1"] == row["path"].split("/")[-2] for row in labels) >= 9


def test_products_hold_the_same_reflectance():
    for path in BEFORE.rglob("IMG_DATA/*.jp2"):
        (twin,) = SINCE.rglob(f"*{path.stem[-4:]}.jp2")
        with rasterio.open(path) as before, rasterio.open(twin) as since:
            np.testing.assert_array_equal(before.read() + 1000, since.read())
            assert before.transform == since.transform and before.crs == since.crs
    assert "RADIO_ADD_OFFSET" not in (BEFORE / "MTD_MSIL1C.xml").read_text()
    assert (SINCE / "MTD_MSIL1C.xml").read_text().count(">-1000</RADIO_ADD_OFFSET>") == 13


@pytest.fixture(scope="module")
def maps_folder(program, tmp_path_factory):
    """Folder of the maps of both products, with what `map.py` printed in stdout.txt."""
    folder = tmp_path_factory.mktemp("maps")
    products = [path.relative_to(ROOT) for path in (BEFORE, SINCE)]
    flags = ("--window=64", "--stride=32", f"--output={folder}/")
    result = program("map.py", "--model=eurosat", *products, *flags, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    (folder / "stdout.txt").write_text(result.stdout)
    return folder


@pytest.fixture(scope="module")
def maps(maps_folder) -> list[np.ndarray]:
    """Classes of the cells, (8, 8) uint8, of the maps of both products."""
    classes = []
    for product in (BEFORE, SINCE):
        with rasterio.open(maps_folder / f"{product.stem}_landcover.tif") as file:
            classes.append(file.read(1))
    return classes


def test_docs_show_what_is_printed_of_a_product(maps_folder):
    """The line in docs/how-to/map-scenes.md, which is broken there, is the one that the command prints."""
    page = (ROOT / "docs/how-to/map-scenes.md").read_text()
    (shown,) = re.findall(r"^    samples/S2A.*(?:\n    .*)*", page, flags=re.M)
    shown, printed = (  # the precision depends on the processor
        re.sub("classified in (float32|bfloat16)", "", text)
        for text in (" ".join(shown.split()), (maps_folder / "stdout.txt").read_text())
    )
    assert shown in printed.splitlines()


def test_products_give_the_same_map(maps):
    np.testing.assert_array_equal(*maps)


def test_map_has_the_classes_of_the_patches(maps):
    with (SAMPLES / "product_classes.csv").open(newline="") as file:
        layout = np.array([[CLASSES.index(name) for name in row] for row in csv.reader(file)])
    patches = np.minimum((np.arange(8) * 32 + 16) // 63, 3)  # what the middle of a cell lies in
    assert (maps[0] == layout[np.ix_(patches, patches)]).mean() >= 0.9


def test_code_of_the_docs_maps_the_sample(tmp_path):
    """The example in docs/how-to/use-in-python.md, run where samples/ is."""
    page = (ROOT / "docs/how-to/use-in-python.md").read_text()
    (code,) = (
        block for block in re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S) if "write_map(" in block
    )
    (tmp_path / "samples").symlink_to(SAMPLES)
    script = f"import resnetd_tf\nfrom resnetd_tf import imagery\n{code}"
    environment = os.environ | NO_HUB | {"PYTHONPATH": os.pathsep.join((str(ROOT), os.environ["PYTHONPATH"]))}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "maps/june_landcover.tif").is_file() and "Exception ignored" not in result.stderr
    assert re.search(r"SeaLake: 1[23]\.\d %", result.stdout)
