"""13 bands in the colours of EuroSAT's JPEGs."""

import io

import numpy as np
from conftest import needs_eurosat, needs_sentinel2, sentinel2_dir
from PIL import Image

from resnetd_tf.data import images
from resnetd_tf.sentinel2 import render_true_colour


def test_levels():
    dn = np.zeros((3, 13), "uint16")
    dn[:, 3], dn[:, 2], dn[:, 1] = [0, 1375, 60000], [2750, 0, 11], [5, 6, 2749]
    np.testing.assert_array_equal(render_true_colour(dn), [[1, 255, 1], [128, 1, 2], [255, 2, 255]])


@needs_eurosat
@needs_sentinel2
def test_patches_are_their_jpegs(eurosat_pictures):
    """Pixel for pixel, after the JPEG compression that EuroSAT's authors chose: quality 100, colours at half size."""
    paths = list((sentinel2_dir() / "eurosat_all").rglob("*.tif"))
    assert len(paths) == 80
    for path in paths:
        file = io.BytesIO()
        Image.fromarray(render_true_colour(images.read_image(path))).save(
            file, "JPEG", quality=100, subsampling="4:2:0"
        )
        np.testing.assert_array_equal(np.asarray(Image.open(file)), eurosat_pictures[f"{path.stem}.jpg"])
