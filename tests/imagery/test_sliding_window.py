"""Windows over a scene, and the probabilities of its cells."""

import numpy as np
import pytest
from scenes import colour_classifier, draw_fields, predict_by_colour, write_scene

from resnetd_tf.imagery import landcover, sliding_window
from resnetd_tf.imagery.landcover import open_scene_for


def open_fields(folder, height: int, width: int):
    """A drawn scene, opened."""
    return open_scene_for(colour_classifier(), [write_scene(folder / "scene.tif", draw_fields(height, width))])


def classify(scene, predict=predict_by_colour, class_count: int = 4, stride: int = 32, first_row: int = 0):
    """Probabilities (rows, columns, classes) and valid pixels (rows, columns) of a scene's cells."""
    rows = sliding_window.classify_rows(
        lambda images: (predict(images), None), class_count, scene, 64, stride, first_row
    )
    probabilities, valid_pixels, _ = (np.stack(values) for values in zip(*rows))
    return probabilities, valid_pixels


@pytest.mark.parametrize(("height", "width"), [(200, 150), (64, 64), (30, 100), (1, 1), (130, 64)])
@pytest.mark.parametrize("stride", [64, 32, 16])
def test_a_constant_stays_constant(tmp_path, height, width, stride):
    constant = np.array((0.1, 0.2, 0.3, 0.4), "float32")
    scene = open_fields(tmp_path, height, width)
    probabilities, valid_pixels = classify(scene, lambda images: np.tile(constant, (len(images), 1)), stride=stride)
    assert probabilities.shape == (*sliding_window.map_shape(scene, stride), 4)
    assert probabilities.shape == (-(-height // stride), -(-width // stride), 4)
    np.testing.assert_allclose(probabilities, np.broadcast_to(constant, probabilities.shape), atol=1e-6)
    assert valid_pixels.all()


def test_cells_of_which_no_class_is_sure_keep_their_probabilities(tmp_path):
    scene = open_fields(tmp_path, 100, 100)
    unsure = classify(scene, lambda images: np.full((len(images), 100), 0.01, "float32"), 100)
    assert unsure[1].all()
    np.testing.assert_allclose(unsure[0], 0.01, atol=1e-6)


def test_cells_of_the_size_of_a_window_are_patches(tmp_path):
    pixels = draw_fields(256, 320)
    probabilities, _ = classify(open_fields(tmp_path, 256, 320), stride=64)
    patches = pixels.reshape(4, 64, 5, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)
    np.testing.assert_allclose(probabilities.reshape(-1, 4), predict_by_colour(patches), atol=1e-6)


def test_each_cell_is_the_mean_of_the_windows_over_it_by_their_confidence(tmp_path):
    pixels = draw_fields(300, 250)
    probabilities, _ = classify(open_fields(tmp_path, 300, 250))
    padded = np.pad(pixels, ((0, 20), (0, 6), (0, 0)), mode="symmetric")
    windows = np.stack(
        [predict_by_colour([padded[y : y + 64, x : x + 64] for x in range(0, 193, 32)]) for y in range(0, 257, 32)]
    )
    four = windows[2:4, 1:3].reshape(4, 4)
    expected = np.average(four, axis=0, weights=sliding_window.window_confidence(four))
    np.testing.assert_allclose(probabilities[3, 2], expected, atol=1e-6)
    np.testing.assert_allclose(probabilities[0, 0], windows[0, 0], atol=1e-6)
    np.testing.assert_allclose(probabilities[-1, -1], windows[-1, -1], atol=1e-6)


def test_the_number_of_rows_that_are_read_at_once_changes_nothing(tmp_path, monkeypatch):
    scene = open_fields(tmp_path, 300, 250)
    probabilities, valid_pixels = classify(scene)
    monkeypatch.setattr(sliding_window, "STRIP_ROWS", 48)
    in_short_strips = classify(scene)
    np.testing.assert_array_equal(in_short_strips[0], probabilities)
    np.testing.assert_array_equal(in_short_strips[1], valid_pixels)


def test_rows_can_begin_anywhere(tmp_path):
    scene = open_fields(tmp_path, 300, 250)
    probabilities, _ = classify(scene)
    np.testing.assert_allclose(classify(scene, first_row=5)[0], probabilities[5:], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(200, 150), (256, 192), (64, 64), (30, 100), (130, 64)])
@pytest.mark.parametrize("stride", [64, 32, 16])
def test_windows_over_a_cell_are_those_of_the_map(tmp_path, height, width, stride):
    scene = open_fields(tmp_path, height, width)
    rows, columns = sliding_window.map_shape(scene, stride)
    count, window_rows = 64 // stride, []
    classify(scene, lambda images: window_rows.append(images) or predict_by_colour(images), stride=stride)
    for cell in ((0, 0), (rows - 1, columns - 1), (rows // 2, columns // 3)):
        windows = sliding_window.windows_over_cell(scene, cell, 64, stride)
        expected = [
            image
            for row, images in enumerate(window_rows)
            for column, image in enumerate(images)
            if row <= cell[0] < row + count and column <= cell[1] < column + count
        ]
        assert len(windows) == len(expected) >= 1
        np.testing.assert_array_equal(windows, expected)


@pytest.mark.parametrize("stride", [64, 32, 16])
def test_windows_over_a_cell_with_too_little_data_are_left_out(tmp_path, stride):
    pixels = draw_fields(200, 150)
    pixels[:, 40:] = 0  # nodata
    scene = open_scene_for(colour_classifier(), [write_scene(tmp_path / "scene.tif", pixels)])
    windows = sliding_window.windows_over_cell(scene, (0, 0), 64, stride)
    assert all((image.min((0, 1)) > 0).all() for image in windows)


def test_a_scene_that_is_wider_than_a_jpeg_is_mapped():
    """Windows on both sides of where one picture ends and the next begins are the scene's."""
    width = 70_000
    pixels = np.random.default_rng(0).integers(300, 2500, (64, width, 3)).astype("uint16")
    scene = landcover._ArrayScene(pixels, np.ones(pixels.shape[:2], bool))
    reader = sliding_window._WindowReader(scene, 64, 32)
    images, *_ = reader.read_row(0)
    assert len(images) == reader.columns == -(-width // 32) - 1
    for index in (0, 2043, 2044, 2045, 2046, len(images) - 2):
        alone = sliding_window.render_window(pixels[:, index * 32 : index * 32 + 64], is_picture=False)
        np.testing.assert_array_equal(images[index][:, 1:-1], alone[:, 1:-1])
