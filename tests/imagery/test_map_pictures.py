"""The picture of a map, and its areas as text."""

import pathlib

import numpy as np
import pytest
from PIL import Image
from scenes import colour_classifier, draw_fields, write_scene

from resnetd_tf.imagery import landcover
from resnetd_tf.imagery.landcover import open_scene_for, write_map


@pytest.mark.parametrize(
    ("longest", "length"), [(999, 500), (1000, 1000), (1999, 1000), (2100, 2000), (49_000, 20_000), (0.7, 0.5)]
)
def test_scale_bars_are_of_round_lengths(longest, length):
    assert landcover.round_scale_length(longest) == pytest.approx(length)


def write_picture(folder: pathlib.Path, pixels: np.ndarray) -> None:
    """Writes the map of a scene, with its picture."""
    scene = open_scene_for(colour_classifier(), [write_scene(folder / "scene.tif", pixels)])
    write_map(colour_classifier(), scene, folder / "map")


@pytest.mark.parametrize("shape", [(64, 640), (640, 640), (640, 128)])
def test_scene_and_map_fill_their_sheet(tmp_path, shape):
    write_picture(tmp_path, draw_fields(*shape))
    with Image.open(tmp_path / "map_landcover.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels != 255).any(-1)[:, :-250].mean() > 0.45  # the legend has the last two inches


def test_the_scale_bar_is_seen_on_white_ground(tmp_path):
    pixels = np.full((320, 320, 3), 255, "uint8")
    write_picture(tmp_path, pixels)
    with Image.open(tmp_path / "map_landcover.png") as picture:
        dark = np.asarray(picture.convert("L"))[:, : picture.width // 3] < 50
    # The frame is 1 row at the top and at the bottom; the bar's edge and its label are more.
    assert dark[20:-20, 30:].sum() > 200


def test_the_table_is_printed_with_its_sum():
    text = landcover.format_areas(np.array([1234.5, 0, 0.5]), ("Forest", "River", "SeaLake"), True)
    *rows, note = text.splitlines()
    assert [line.split() for line in rows] == [
        ["Forest", "1,234.50", "ha", "100.0", "%"],
        ["SeaLake", "0.50", "ha", "0.0", "%"],
        ["all", "1,235.00", "ha", "100.0", "%"],
    ]
    assert "assess.py estimates" in note
