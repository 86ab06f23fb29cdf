"""Numbers that cannot be digital numbers are refused, with flags that make digital numbers of them."""

import re

import numpy as np
import pytest
import rasterio
from conftest import ROOT, needs_sentinel2, sentinel2_dir

from resnetd_tf.data.digital_numbers import Sample, find_fault, find_order_fault, impossible_mask
from resnetd_tf.sentinel2 import BANDS, RGB_BANDS


@pytest.fixture(scope="module")
def dn() -> np.ndarray:
    """Digital numbers (n, 13) of the patches in samples/."""
    pixels = []
    for path in sorted((ROOT / "samples/patches_13_bands").rglob("*.tif")):
        with rasterio.open(path) as file:
            pixels.append(file.read().reshape(13, -1).T)
    return np.concatenate(pixels)


def make_sample(numbers: np.ndarray, dtype: str, names=RGB_BANDS, scale: float = 1, offset: float = 0) -> Sample:
    stored = numbers[:, [BANDS.index(name) for name in names]].astype(dtype)
    count = len(names)
    return Sample(
        tuple(names),
        stored.astype("float64"),
        np.full(count, float(offset)),
        np.full(count, float(scale)),
        stored.dtype,
    )


@pytest.mark.parametrize("names", [RGB_BANDS, (*RGB_BANDS, "B08"), BANDS], ids=["colours", "four", "all"])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "float64"])
def test_digital_numbers_raise_no_doubt(dn, names, dtype):
    assert find_fault(make_sample(dn, dtype, names)) is None


STORED = {
    "offset left in": (lambda dn: dn + 1000, "uint16"),
    "offset left in, with a lake": (
        lambda dn: np.concatenate([dn[len(dn) // 9 :] + 1000, dn[::9] * 0 + 985]),
        "uint16",
    ),
    "offset taken away twice": (lambda dn: dn - 1000.0, "int16"),
    "reflectance": (lambda dn: dn / 1e4, "float32"),
    "reflectance with the offset": (lambda dn: (dn + 1000) / 1e4, "float32"),
    "true colour of floats": (lambda dn: np.minimum(dn / 4e3, 1), "float32"),
    "65535 for a reflectance of 1": (lambda dn: np.rint(dn * 6.5535), "uint16"),
    "65535 for 1, with the offset": (lambda dn: np.rint((dn + 1000) * 6.5535), "uint16"),
    "true colour of 16 bits": (lambda dn: np.minimum(np.rint(dn * 16.38375), 65535), "uint16"),
    "255 for a reflectance of 1": (lambda dn: np.rint(dn / 1e4 * 255), "uint8"),
    "per cent": (lambda dn: dn / 100, "float32"),
    "times 1,000": (lambda dn: dn / 10, "float32"),
    "times 100,000": (lambda dn: dn * 10.0, "int32"),
}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("names", [RGB_BANDS, (*RGB_BANDS, "B08")], ids=["colours", "four"])
def test_the_advice_gives_the_digital_numbers_back(dn, kind, names):
    store, dtype = STORED[kind]
    fault = find_fault(make_sample(store(dn), dtype, names))
    assert fault, kind
    advice = next(part for part in fault.text.split("; ") if part.endswith("would make digital numbers of them"))
    options = [dict(re.findall(r"--(scale|offset)=(\S+)", option)) for option in advice.split(" or ")]
    scale, offset = (float(options[0].get(name, default)) for name, default in (("scale", 1), ("offset", 0)))
    advised = make_sample(store(dn), dtype, names, scale, offset)
    assert find_fault(advised, "scale" in options[0], "offset" in options[0]) is None
    expected = make_sample(dn, "float64", names).dn
    below = expected < 3900  # true colours end at 4,000
    if "lake" not in kind:
        np.testing.assert_allclose(advised.dn[below], expected[below], atol=25)
    else:
        assert (scale, offset) == (1, -1000)


@needs_sentinel2
@pytest.mark.parametrize("kind", [kind for kind in STORED if "reflectance" in kind or "colour" in kind])
def test_the_advice_is_right_for_each_patch_alone(kind):
    """Bright ground without water is no reason to take an offset away, nor to take another scale."""
    store, dtype = STORED[kind]
    wrong = []
    for path in sorted((sentinel2_dir() / "eurosat_all").rglob("*.tif")):
        with rasterio.open(path) as file:
            dn = file.read().reshape(13, -1).T
        fault = find_fault(make_sample(store(dn), dtype))
        advice = next(part for part in fault.text.split("; ") if part.endswith("would make digital numbers of them"))
        options = advice.replace("(and ", "(").split(" or ")
        scales = {float(scale) for option in options for scale in re.findall(r"--scale=(\S+)", option)} or {1.0}
        definite = re.search(r"--offset", re.sub(r"\(.*?\)", "", advice)) is not None
        true_scale = {
            "reflectance": 10_000,
            "true colour of floats": 4_000,
            "65535 for": 0.15259,
            "true colour of 16": 0.061036,
            "255": 39.216,
            "per cent": 100,
            "times 1,000": 10,
            "times 100,000": 0.1,
            "offset": 1,
        }[
            next(
                name
                for name in (
                    "true colour of floats",
                    "true colour of 16",
                    "65535 for",
                    "255",
                    "per cent",
                    "times 1,000",
                    "times 100,000",
                    "reflectance",
                    "offset",
                )
                if kind.startswith(name)
            )
        ]
        if true_scale not in scales or (definite and "offset" not in kind):
            wrong.append((path.name, fault.text))
    assert not wrong, (len(wrong), wrong[0])


def test_an_offset_that_leaves_nothing_is_refused_although_it_is_given(dn):
    fault = find_fault(make_sample(dn, "uint16", offset=-1000), offset_known=True)
    assert re.search(r"not above 0 after the offset of -1000.*--offset=0", fault.text)


def test_what_the_user_says_is_not_doubted(dn):
    assert find_fault(make_sample(dn + 1000, "uint16"), offset_known=True) is None
    assert find_fault(make_sample(dn * 6.5535, "uint16"), scale_known=True, offset_known=True) is None
    with_offset = make_sample(dn * 6.5535 + 6553.5, "uint16", scale=0.15259)
    assert find_fault(with_offset, scale_known=True)  # the offset is doubted all the same


def test_numbers_below_zero_without_sign_are_named(dn):
    fault = find_fault(make_sample((dn.astype(int) - 1000) % 65536, "uint16"))
    assert re.search(r"of its numbers are from 64536 to 65534, .* give the file as it was before", fault.text)


def test_rounding_to_tens_tells_nothing(dn):
    assert find_fault(make_sample(np.rint(dn / 10) * 10, "uint16")) is None


@pytest.mark.parametrize("order", ["products", "reversed", "products reversed"])
def test_another_order_of_13_bands_is_seen(dn, order):
    product = sorted(BANDS, key=lambda name: (int(name[1:].rstrip("A")), name))
    names = {"products": product, "reversed": BANDS[::-1], "products reversed": product[::-1]}[order]
    assert find_order_fault(dn) is None
    message = find_order_fault(dn[:, [BANDS.index(name) for name in names]])
    assert f"name them, as --bands={','.join(names)}" in message


def test_numbers_that_no_reflectance_has_stand_for_missing_data():
    numbers = np.array([[-9999, 5, 5], [65535, 64535, 65535], [-1000, -1000, -1000], [-300, -200, 9], [65535, 900, 9]])
    assert impossible_mask(numbers).tolist() == [True, True, True, False, False]
