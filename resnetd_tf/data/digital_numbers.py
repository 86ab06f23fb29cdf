"""Whether numbers can be digital numbers: 10,000 times a reflectance, as EuroSAT has them.

A file seldom says what its numbers mean. What cannot be right is refused with the number that was seen and the flags
that make it right, after the advice was tried on the same numbers.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnetd_tf.sentinel2 import BANDS, BASELINE_OFFSET_DN, BRIGHTEST_DN, MEDIAN_DN, RGB_BANDS

# Measured on the raw patches and on scenes of twenty producers: at most 1.4 % of the pixels of pictures of snow and
# cloud are brighter than RENDERED_DN in all colours, of scenes with a wrong scale 45 % and more.
MAX_WHITE_SHARE = 0.4  # share of the pixels
MAX_DARK_SHARE = 0.25  # share of numbers that are not above 0, in the colour that has least: clear water has no red
LOW_PERCENTILE = 3  # per cent of the pixels: less than soft edges of clouds and of a swath make up
MAX_DARKEST_DN = 900  # DN of the darkest band's low percentile, of which the raw patches together have 5 to 290
MIN_BRIGHT_DN = (
    300  # DN: the 99th percentile of the brightest colour; L1C has more than 590 everywhere, from the air alone
)
MAX_MEDIAN_DN = 10_000  # DN of the near infrared: a reflectance of 1, more than snow has
WRAPPED_DN = 65_536 - BASELINE_OFFSET_DN  # what numbers below 0 become in 16 bits without sign
STEP_SCALES = (10_000.0, 4_000.0, 10_000 / 65_535, 4_000 / 65_535, 0.1)  # scales whose steps tell them
MIN_STEP_SHARE = 0.95  # share of numbers that must fit to a scale that they are said to be made with
IMPOSSIBLE_DN = (-2_000, -500, 25_000)  # DN: any band below, every band below, every band above

# What 1 stored is of a digital number, which files are of that kind, and the range of their largest number.
KNOWN_SCALES = (
    (1.0, "digital numbers", 255, np.inf),
    (10_000.0, "reflectances", 0, 2),
    (4_000.0, "true colours, 1 for a reflectance of 0.4", 0, 2),
    (10_000 / 65_535, "65535 for a reflectance of 1", 2_000, 65_535),
    (4_000 / 65_535, "65535 for a reflectance of 0.4", 2_000, 65_535),
    (0.1, "reflectances times 100,000", 2_000, np.inf),
    (10_000 / 255, "255 for a reflectance of 1", 2, 255),
    (4_000 / 255, "255 for a reflectance of 0.4", 2, 255),
    (100.0, "reflectances in per cent", 2, 200),
    (10.0, "reflectances times 1,000", 2, 2_000),
)


@dataclass(frozen=True)
class Sample:
    """Numbers of a file where there is data, and how they become digital numbers.

    Attributes:
        names: Names of the bands, (k,).
        stored: (n, k) float64, the numbers as they are stored.
        offset, gain: (k,) float64: a digital number is (stored + offset) * gain.
        dtype: Type that they are stored in.
    """

    names: tuple[str, ...]
    stored: np.ndarray
    offset: np.ndarray
    gain: np.ndarray
    dtype: np.dtype

    @functools.cached_property
    def dn(self) -> np.ndarray:
        return (self.stored + self.offset) * self.gain

    @functools.cached_property
    def medians(self) -> np.ndarray:
        return np.median(self.dn, axis=0)

    @functools.cached_property
    def visible(self) -> np.ndarray:
        """(n, c) the colours; all bands where none of them is known."""
        places = [place for place, name in enumerate(self.names) if name in RGB_BANDS]
        return self.dn[:, places] if places else self.dn

    @functools.cached_property
    def white(self) -> float:
        """Share of the pixels that become white: brighter than `RENDERED_DN` in every colour."""
        return float((self.visible > BRIGHTEST_DN).all(axis=1).mean())

    @functools.cached_property
    def dark(self) -> float:
        """Share of numbers that are not above 0, in the colour that has least of them."""
        return float((self.visible <= 0).mean(axis=0).min())

    @functools.cached_property
    def dimmest(self) -> float:
        """The 99th percentile of the brightest colour."""
        return float(np.percentile(self.visible, 99, axis=0).max())

    @functools.cached_property
    def darkest(self) -> float:
        """The third percentile of the darkest band, without stored zeros: edges of a swath are no dark ground."""
        if self.stored.all():
            return float(np.percentile(self.dn, LOW_PERCENTILE, axis=0).min())
        columns = [column[stored != 0] for column, stored in zip(self.dn.T, self.stored.T)]
        return min((float(np.percentile(column, LOW_PERCENTILE)) for column in columns if column.size), default=np.inf)

    @functools.cached_property
    def wrapped(self) -> float:
        """Share of numbers just below 65536, unless there are as many between those and the others."""
        if self.dtype != "uint16":
            return 0.0
        high = ((self.stored >= WRAPPED_DN) & (self.stored < 65_535)).mean()
        return float(high) if high > 10 * ((self.stored > 40_000) & (self.stored < WRAPPED_DN)).mean() else 0.0

    @property
    def near_infrared(self) -> float:
        """Median of band 8; 0 where it is not there."""
        return float(self.medians[self.names.index("B08")]) if "B08" in self.names else 0.0

    def on_grid(self, scale: float) -> bool:
        """Whether numbers are whole digital numbers divided by a scale, which then must have been it."""
        stored, are_whole = self._some
        if scale not in STEP_SCALES or are_whole != (scale < 1):
            return False
        values = stored * scale
        tolerance = 0.5 * scale + 1e-3 if are_whole else 0.01
        fits = (np.abs(values - np.rint(values)) <= tolerance).mean() >= MIN_STEP_SHARE and values.max() < 65_536
        return bool(fits) and len(np.unique(stored)) >= 20

    @functools.cached_property
    def _some(self) -> tuple[np.ndarray, bool]:
        """Stored numbers from everywhere, at most 10,000, and whether they are whole."""
        stored = self.stored.ravel()[:: max(1, self.stored.size // 5_000)]
        return stored, bool((stored == np.rint(stored)).mean() >= MIN_STEP_SHARE)

    @functools.cached_property
    def exported_as(self) -> str | None:
        """What numbers, taken as they are, were divided by to be stored; `None` if nothing shows it."""
        if (self.gain != 1).any():
            return None
        # Steps of ten tell nothing: digital numbers can be rounded.
        return next((text for scale, text, *_ in KNOWN_SCALES if scale != 0.1 and self.on_grid(scale)), None)


@dataclass(frozen=True)
class Check:
    """One way in which numbers cannot be right.

    Attributes:
        settled_by: The flag that says otherwise: "scale" or "offset"; "none" where no flag does.
        applies: Whether it is so.
        finding: What was seen and what it would mean.
        otherwise: What to do if the numbers are right all the same.
        doubts_flags: Whether it holds against what the user says too.
        can_be_bright_ground: Whether bright ground looks so too, in one patch.
    """

    settled_by: str
    applies: Callable[[Sample], bool]
    finding: Callable[[Sample], str]
    otherwise: str = ""
    doubts_flags: bool = False
    can_be_bright_ground: bool = False


@dataclass(frozen=True)
class Fault:
    """Why numbers cannot be digital numbers.

    Attributes:
        text: What was seen, what it would mean, and the flags that settle it.
        can_be_bright_ground: Whether it may be nothing, in one patch among others.
    """

    text: str
    can_be_bright_ground: bool = False


CHECKS = (
    Check(
        "scale",
        lambda s: s.stored.max() <= 0,
        lambda s: f"its numbers go from {s.stored.min():.6g} to {s.stored.max():.6g}, and digital numbers are above 0",
    ),
    Check(
        "none",
        lambda s: s.wrapped > 0.005,
        lambda s: (
            f"{100 * s.wrapped:.1f} % of its numbers are from {WRAPPED_DN} to 65534, as numbers below 0 become in 16 bits "
            "without sign when an offset is taken away; give the file as it was before"
        ),
    ),
    Check(
        "scale",
        lambda s: s.exported_as is not None,
        lambda s: f"its numbers, from {s.stored.min():.6g} to {s.stored.max():.6g}, have the steps of {s.exported_as}",
        "--scale=1 takes them as they are",
    ),
    Check(
        "scale",
        lambda s: s.dimmest < MIN_BRIGHT_DN,
        lambda s: (
            f"99 % of its numbers give less than {max(s.dimmest, 0):.4g} DN in every colour, and the air alone gives "
            f"more than {MIN_BRIGHT_DN}"
        ),
        "--scale=1 takes them as they are",
    ),
    Check(
        "scale",
        lambda s: s.near_infrared > MAX_MEDIAN_DN,
        lambda s: f"its B08 has the median {s.near_infrared:,.0f} DN, a reflectance above 1",
        "--scale=1 takes them as they are",
    ),
    Check(
        "scale",
        lambda s: s.white > MAX_WHITE_SHARE,
        lambda s: (
            f"{100 * s.white:.0f} % of its pixels have more than {BRIGHTEST_DN:,} DN in every colour, as only cloud and "
            f"snow have (medians {', '.join(f'{value:,.0f}' for value in s.medians[:3])})"
        ),
        "--scale=1 takes them as they are",
    ),
    Check(
        "offset",
        lambda s: s.dark > MAX_DARK_SHARE and bool((s.offset < 0).any()),
        lambda s: (
            f"{100 * s.dark:.0f} % of its numbers or more in each colour are not above 0 after the offset of "
            f"{s.offset.min():g}, as after one that was taken away twice"
        ),
        "--offset=0 leaves it out",
        doubts_flags=True,
    ),
    Check(
        "offset",
        lambda s: s.dark > MAX_DARK_SHARE,
        lambda s: (
            f"its numbers go from {s.stored.min():.6g} to {s.stored.max():.6g}, and in each colour "
            f"{100 * s.dark:.0f} % or more are not above 0, as after an offset that was taken away twice"
        ),
        "--offset=0 takes them as they are",
    ),
    Check(
        "offset",
        lambda s: s.darkest >= MAX_DARKEST_DN,
        lambda s: (
            f"its darkest band is at {s.darkest:,.0f} DN or more in {100 - LOW_PERCENTILE} % of the pixels, as with the "
            f"{BASELINE_OFFSET_DN:,} that products since baseline 04.00 add"
        ),
        "--offset=0 says that there is none",
        can_be_bright_ground=True,
    ),
)


def find_fault(sample: Sample, scale_known: bool = False, offset_known: bool = False) -> Fault | None:
    """What is wrong with numbers, with the flags that settle it; `None` if they can be digital numbers.

    Args:
        sample: The numbers.
        scale_known, offset_known: Whether the user or a product's metadata says them. They are not doubted then, but
            for an offset that leaves less than nothing.
    """
    known = {"scale": scale_known, "offset": offset_known, "none": False}
    for check in CHECKS:
        if (not known[check.settled_by] or check.doubts_flags) and check.applies(sample):
            advice = _advise_flags(sample, check, scale_known, offset_known)
            otherwise = "" if advice.split(" ")[0] == check.otherwise.split(" ")[0] else check.otherwise
            text = "; ".join(part for part in (check.finding(sample), advice, otherwise) if part)
            return Fault(text, check.can_be_bright_ground)
    return None


def pool_samples(samples: Sequence[Sample]) -> Sample:
    """The numbers of several files that are read alike, as one sample."""
    return replace(samples[0], stored=np.concatenate([sample.stored for sample in samples]))


def _advise_flags(sample: Sample, check: Check, scale_known: bool, offset_known: bool) -> str:
    """The flags under which the same numbers raise no doubt; empty where there are none."""
    if check.settled_by == "none":
        return ""
    now, highest = float(sample.gain.max()), float(sample.stored.max())
    scales = [(scale, text) for scale, text, least, most in KNOWN_SCALES if least < highest <= most]
    if sample.dtype == "uint8":
        scales = [(scale, text) for scale, text in scales if text.startswith("255 ")]
    if sample.exported_as:  # whose steps leave no other
        scales = [(scale, text) for scale, text in scales if text == sample.exported_as]
    if scale_known or check.settled_by == "offset":
        scales = [(now, "")]
    options: list[tuple[bool, float, int, str]] = []
    for place, (scale, text) in enumerate(scales):
        for added in _offsets_to_try(sample, check, scale == now, offset_known):
            if added < 0 and options and options[-1][2] == place:  # it is right without
                continue
            keeps_offset = offset_known and check.settled_by == "scale"
            offset = sample.offset if keeps_offset else np.full_like(sample.offset, added / scale)
            tried = replace(sample, gain=np.full_like(sample.gain, scale), offset=offset)
            problems = [each for each in CHECKS if each.applies(tried)]
            is_bright = any(problem.can_be_bright_ground for problem in problems)
            if len(problems) > is_bright or (is_bright and added > 0):
                continue
            flags = [f"--scale={scale:.5g}"] if scale != now else []
            flags += [f"--offset={added / scale:.5g}"] if added or not flags else []
            if is_bright and not added and not offset_known:
                flags += [
                    f"(and --offset={-BASELINE_OFFSET_DN / scale:.5g} if it holds the {BASELINE_OFFSET_DN:,} of baseline 04.00)"
                ]
            meaning = f" ({text})" if text and scale != now and text != sample.exported_as else ""
            unlike = sum(_distance(median, name) for median, name in zip(tried.medians, tried.names))
            options.append((sample.on_grid(scale), unlike + (added > 0), place, " ".join(flags) + meaning))
    if not options:
        return "" if check.otherwise else "give --scale and --offset"
    options.sort(key=lambda option: (not option[0], option[1], option[2]))  # the scale as it is comes first
    best = options[:1] if options[0][0] else [option for option in options if option[1] <= options[0][1] + 0.5][:2]
    return f"{' or '.join(option[3] for option in best)} would make digital numbers of them"


def _offsets_to_try(sample: Sample, check: Check, keeps_scale: bool, offset_known: bool) -> Sequence[int]:
    """Digital numbers that may have to be added, for a fault of the scale or of the offset."""
    if check.settled_by == "offset":
        return (
            (0, -BASELINE_OFFSET_DN, BASELINE_OFFSET_DN)
            if (sample.offset < 0).any()
            else (-BASELINE_OFFSET_DN, BASELINE_OFFSET_DN)
        )
    return (0, -BASELINE_OFFSET_DN) if (keeps_scale or sample.exported_as) and not offset_known else (0,)


def _distance(median: float, name: str) -> float:
    """How far a median lies outside those of EuroSAT's patches: the logarithm of a factor."""
    low, high = MEDIAN_DN.get(name, (1, MAX_MEDIAN_DN))
    return float(max(0.0, np.log(low / max(median, 1e-6)), np.log(max(median, 1e-6) / high)))


def impossible_mask(dn: np.ndarray) -> np.ndarray:
    """Where digital numbers (..., k) stand for missing data that no file declares: -9999, 65535; (...) bool."""
    any_below, all_below, all_above = IMPOSSIBLE_DN
    columns = [dn[..., place] for place in range(dn.shape[-1])]  # one by one: much faster than along the last axis
    above = functools.reduce(np.logical_and, (column > all_above for column in columns))
    if dn.dtype.kind == "u":
        return above
    below = functools.reduce(np.logical_and, (column < all_below for column in columns))
    return above | below | functools.reduce(np.logical_or, (column < any_below for column in columns))


def find_order_fault(stored: np.ndarray) -> str | None:
    """What shows that 13 bands without names are not in EuroSAT's order: B10, of cirrus, is the darkest; else `None`.

    Args:
        stored: (n, 13), the numbers where there is data.
    """
    medians = np.median(stored, axis=0)
    darkest = int(medians.argmin())
    if medians[darkest] > 0.7 * medians[BANDS.index("B10")]:
        return None
    order = _band_order_with_cirrus_at(darkest)
    naming = f"name them, as --bands={','.join(order)} if that is their order" if order else "name them with --bands"
    return (
        f"its 13 bands have no names, and band {darkest + 1} is the darkest, not band 10 as in EuroSAT's order "
        f"(median {medians[darkest]:.4g} and {medians[9]:.4g}); {naming}"
    )


def _band_order_with_cirrus_at(darkest: int) -> Sequence[str]:
    """The order of 13 bands in which B10 has this place: of products, or one of the two reversed; else none."""
    product = sorted(BANDS, key=lambda name: (int(name[1:].rstrip("A")), name))
    orders = (product, product[::-1], BANDS[::-1])
    return next((order for order in orders if order.index("B10") == darkest), ())
