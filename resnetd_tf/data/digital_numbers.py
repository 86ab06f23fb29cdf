"""Checks whether numbers can be digital numbers (DN), 10,000 times the reflectance, as EuroSAT has them.

A file seldom states what its numbers mean. Impossible numbers are refused with the values that were seen and with the
flags that would make them right, after those flags were tried on the same numbers.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from resnetd_tf.sentinel2 import BANDS, BASELINE_OFFSET_DN, BRIGHTEST_DN, MEDIAN_DN, RGB_BANDS

# Measured on raw EuroSAT patches and on scenes of twenty producers: in pictures of snow and cloud at most 1.4 % of the
# pixels are brighter than BRIGHTEST_DN in all colours, in scenes with a wrong scale at least 45 %.
MAX_WHITE_SHARE = 0.4  # share of the pixels
# Share of numbers not above 0, in the colour that has fewest of them: clear water has no red.
MAX_DARK_SHARE = 0.25
LOW_PERCENTILE = 3  # per cent of the pixels: more than the soft edges of clouds and of a swath
MAX_DARKEST_DN = 900  # DN: the darkest band's low percentile; the raw patches together have 5 to 290
# DN: the 99th percentile of the brightest colour. In L1C the atmosphere alone gives more than 590 everywhere.
MIN_BRIGHT_DN = 300
MAX_MEDIAN_DN = 10_000  # DN of the near infrared: a reflectance of 1, more than snow has
WRAPPED_DN = 65_536 - BASELINE_OFFSET_DN  # unsigned 16-bit numbers above were negative
STEP_SCALES = (10_000.0, 4_000.0, 10_000 / 65_535, 4_000 / 65_535, 0.1)  # scales whose steps show in the numbers
MIN_STEP_SHARE = 0.95  # share of the numbers that must fit the steps of a scale
IMPOSSIBLE_DN = (-2_000, -500, 25_000)  # DN: any band below, every band below, every band above

# For each known way to store reflectances: digital numbers for a stored 1, a phrase, and the range (above, up to) of
# the largest stored number.
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
    """Numbers of n pixels with data in k bands, and how they become digital numbers.

    Attributes:
        names: Names of the bands, (k,).
        stored: Stored numbers, (n, k) float64.
        offset: Number that is added to stored numbers, (k,) float64.
        gain: Factor by which the sum becomes digital numbers, (k,) float64.
        dtype: Type of the stored numbers in the file.
    """

    names: tuple[str, ...]
    stored: np.ndarray
    offset: np.ndarray
    gain: np.ndarray
    dtype: np.dtype

    @functools.cached_property
    def dn(self) -> np.ndarray:
        """Digital numbers, (n, k) float64."""
        return (self.stored + self.offset) * self.gain

    @functools.cached_property
    def medians(self) -> np.ndarray:
        """Median of each band in DN, (k,) float64."""
        return np.median(self.dn, axis=0)

    @functools.cached_property
    def visible_dn(self) -> np.ndarray:
        """Digital numbers of the colours, or of all bands if there are no colours, (n, c) float64."""
        positions = [position for position, name in enumerate(self.names) if name in RGB_BANDS]
        return self.dn[:, positions] if positions else self.dn

    @functools.cached_property
    def white_share(self) -> float:
        """Share of the pixels that are rendered white: brighter than `BRIGHTEST_DN` in every colour."""
        return float((self.visible_dn > BRIGHTEST_DN).all(axis=1).mean())

    @functools.cached_property
    def dark_share(self) -> float:
        """Share of the numbers that are not above 0, in the colour that has fewest of them."""
        return float((self.visible_dn <= 0).mean(axis=0).min())

    @functools.cached_property
    def brightest_colour_dn(self) -> float:
        """99th percentile of the brightest colour in DN."""
        return float(np.percentile(self.visible_dn, 99, axis=0).max())

    @functools.cached_property
    def darkest_dn(self) -> float:
        """Low percentile of the darkest band in DN, without stored zeros, which the edges of a swath have."""
        if self.stored.all():
            return float(np.percentile(self.dn, LOW_PERCENTILE, axis=0).min())
        columns = [column[stored != 0] for column, stored in zip(self.dn.T, self.stored.T)]
        return min((float(np.percentile(column, LOW_PERCENTILE)) for column in columns if column.size), default=np.inf)

    @functools.cached_property
    def wrapped_share(self) -> float:
        """Share of the numbers just below 65536; 0 unless few numbers lie between those and the others."""
        if self.dtype != "uint16":
            return 0.0
        high = ((self.stored >= WRAPPED_DN) & (self.stored < 65_535)).mean()
        return float(high) if high > 10 * ((self.stored > 40_000) & (self.stored < WRAPPED_DN)).mean() else 0.0

    @property
    def near_infrared_dn(self) -> float:
        """Median of B08 in DN; 0 without B08."""
        return float(self.medians[self.names.index("B08")]) if "B08" in self.names else 0.0

    def has_steps_of(self, scale: float) -> bool:
        """Returns whether stored numbers are whole digital numbers divided by a scale, which then was the scale."""
        stored, are_whole = self._steps_sample
        if scale not in STEP_SCALES or are_whole != (scale < 1):
            return False
        values = stored * scale
        tolerance = 0.5 * scale + 1e-3 if are_whole else 0.01
        fits = (np.abs(values - np.rint(values)) <= tolerance).mean() >= MIN_STEP_SHARE and values.max() < 65_536
        return bool(fits) and len(np.unique(stored)) >= 20

    @functools.cached_property
    def _steps_sample(self) -> tuple[np.ndarray, bool]:
        """At most 10,000 stored numbers, evenly spread, and whether they are whole."""
        stored = self.stored.ravel()[:: max(1, self.stored.size // 5_000)]
        return stored, bool((stored == np.rint(stored)).mean() >= MIN_STEP_SHARE)

    @functools.cached_property
    def step_scale_text(self) -> str | None:
        """Phrase for the scale whose steps the numbers show; `None` without such steps, or if a scale is set."""
        if (self.gain != 1).any():
            return None
        # Steps of ten show nothing, because digital numbers can be rounded.
        return next((text for scale, text, *_ in KNOWN_SCALES if scale != 0.1 and self.has_steps_of(scale)), None)


@dataclass(frozen=True)
class Check:
    """One way in which numbers cannot be digital numbers.

    Attributes:
        settled_by: The flag that settles it, "scale" or "offset"; "none" if no flag does.
        applies: Function that returns whether a sample has this fault.
        finding: Function that returns the finding in a sample and its meaning.
        override_advice: Advice for a user whose numbers are right nevertheless.
        doubts_flags: Whether the check also applies to numbers that the user's flags explain.
        can_be_bright_ground: Whether a single patch of bright ground may look the same.
    """

    settled_by: str
    applies: Callable[[Sample], bool]
    finding: Callable[[Sample], str]
    override_advice: str = ""
    doubts_flags: bool = False
    can_be_bright_ground: bool = False


@dataclass(frozen=True)
class Fault:
    """The reason why numbers can hardly be digital numbers.

    Attributes:
        text: The finding, its meaning, and the flags that settle it.
        can_be_bright_ground: Whether a single patch of bright ground may look the same.
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
        lambda s: s.wrapped_share > 0.005,
        lambda s: (
            f"{100 * s.wrapped_share:.1f} % of its numbers are from {WRAPPED_DN} to 65534, as numbers below 0 become "
            "in 16 bits without sign when an offset is taken away; give the file as it was before"
        ),
    ),
    Check(
        "scale",
        lambda s: s.step_scale_text is not None,
        lambda s: (
            f"its numbers, from {s.stored.min():.6g} to {s.stored.max():.6g}, have the steps of {s.step_scale_text}"
        ),
        "--scale=1 takes them as they are",
    ),
    Check(
        "scale",
        lambda s: s.brightest_colour_dn < MIN_BRIGHT_DN,
        lambda s: (
            f"99 % of its numbers give less than {max(s.brightest_colour_dn, 0):.4g} DN in every colour, and the air "
            f"alone gives more than {MIN_BRIGHT_DN}"
        ),
        "--scale=1 takes them as they are",
    ),
    Check(
        "scale",
        lambda s: s.near_infrared_dn > MAX_MEDIAN_DN,
        lambda s: f"its B08 has the median {s.near_infrared_dn:,.0f} DN, a reflectance above 1",
        "--scale=1 takes them as they are",
    ),
    Check(
        "scale",
        lambda s: s.white_share > MAX_WHITE_SHARE,
        lambda s: (
            f"{100 * s.white_share:.0f} % of its pixels have more than {BRIGHTEST_DN:,} DN in every colour, as only "
            f"cloud and snow have (medians {', '.join(f'{value:,.0f}' for value in s.medians[:3])})"
        ),
        "--scale=1 takes them as they are",
    ),
    Check(
        "offset",
        lambda s: s.dark_share > MAX_DARK_SHARE and bool((s.offset < 0).any()),
        lambda s: (
            f"{100 * s.dark_share:.0f} % of its numbers or more in each colour are not above 0 after the offset of "
            f"{s.offset.min():g}, as after one that was taken away twice"
        ),
        "--offset=0 leaves it out",
        doubts_flags=True,
    ),
    Check(
        "offset",
        lambda s: s.dark_share > MAX_DARK_SHARE,
        lambda s: (
            f"its numbers go from {s.stored.min():.6g} to {s.stored.max():.6g}, and in each colour "
            f"{100 * s.dark_share:.0f} % or more are not above 0, as after an offset that was taken away twice"
        ),
        "--offset=0 takes them as they are",
    ),
    Check(
        "offset",
        lambda s: s.darkest_dn >= MAX_DARKEST_DN,
        lambda s: (
            f"its darkest band is at {s.darkest_dn:,.0f} DN or more in {100 - LOW_PERCENTILE} % of the pixels, as with "
            f"the {BASELINE_OFFSET_DN:,} that products since baseline 04.00 add"
        ),
        "--offset=0 says that there is none",
        can_be_bright_ground=True,
    ),
)


def find_fault(sample: Sample, scale_known: bool = False, offset_known: bool = False) -> Fault | None:
    """Finds out why numbers can hardly be digital numbers.

    Args:
        sample: The numbers.
        scale_known: Whether the user or a product's metadata state the scale, which is then not doubted.
        offset_known: Whether they state the offset, which is then doubted only if it leaves numbers below 0.

    Returns:
        The first fault with the flags that settle it; `None` if the numbers can be digital numbers.
    """
    is_stated = {"scale": scale_known, "offset": offset_known, "none": False}
    for check in CHECKS:
        if (not is_stated[check.settled_by] or check.doubts_flags) and check.applies(sample):
            advice = _advise_flags(sample, check, scale_known, offset_known)
            parts = [check.finding(sample), advice]
            if advice.split(" ")[0] != check.override_advice.split(" ")[0]:  # not the same flag
                parts.append(check.override_advice)
            text = "; ".join(filter(None, parts))
            return Fault(text, check.can_be_bright_ground)
    return None


def pool_samples(samples: Sequence[Sample]) -> Sample:
    """Joins samples of files that are read alike."""
    return replace(samples[0], stored=np.concatenate([sample.stored for sample in samples]))


@dataclass(frozen=True)
class FlagOption:
    """Flags that would make digital numbers of stored numbers.

    Attributes:
        text: The flags and what they mean.
        shows_steps: Whether the numbers show the steps of the scale.
        distance: How unlike EuroSAT's the digital numbers would be; 0 for not at all.
        scale_index: Position of the scale among those tried.
    """

    text: str
    shows_steps: bool
    distance: float
    scale_index: int


def _advise_flags(sample: Sample, check: Check, scale_known: bool, offset_known: bool) -> str:
    """Returns advice on the flags under which the same numbers raise no doubt; empty if there are none.

    Args:
        sample: The numbers.
        check: The check that they failed.
        scale_known: Whether the scale is stated, and kept.
        offset_known: Whether the offset is stated, and kept in a fault of the scale.
    """
    if check.settled_by == "none":
        return ""
    options: list[FlagOption] = []
    for scale_index, (scale, meaning) in enumerate(_scales_to_try(sample, check, scale_known)):
        for added_dn in _offsets_to_try(sample, check, scale == sample.gain.max(), offset_known):
            if added_dn < 0 and options and options[-1].scale_index == scale_index:  # the scale suffices
                continue
            option = _try_flags(sample, check, (scale, meaning, scale_index), added_dn, offset_known)
            if option:
                options.append(option)
    if not options:
        return "" if check.override_advice else "give --scale and --offset"
    options.sort(key=lambda option: (not option.shows_steps, option.distance, option.scale_index))
    best = options[:1]
    if not options[0].shows_steps:
        best = [option for option in options if option.distance <= options[0].distance + 0.5][:2]
    return f"{' or '.join(option.text for option in best)} would make digital numbers of them"


def _scales_to_try(sample: Sample, check: Check, scale_known: bool) -> list[tuple[float, str]]:
    """Returns scales that may be right, with phrases for their meaning."""
    if scale_known or check.settled_by == "offset":
        return [(float(sample.gain.max()), "")]
    highest = float(sample.stored.max())
    scales = [(scale, text) for scale, text, above, up_to in KNOWN_SCALES if above < highest <= up_to]
    if sample.dtype == "uint8":
        scales = [(scale, text) for scale, text in scales if text.startswith("255 ")]
    if sample.step_scale_text:
        scales = [(scale, text) for scale, text in scales if text == sample.step_scale_text]
    return scales


def _offsets_to_try(sample: Sample, check: Check, keeps_scale: bool, offset_known: bool) -> Sequence[int]:
    """Returns digital numbers that may have to be added, for a fault of the scale or of the offset."""
    if check.settled_by == "offset":
        both_signs = (-BASELINE_OFFSET_DN, BASELINE_OFFSET_DN)
        return (0, *both_signs) if (sample.offset < 0).any() else both_signs
    return (0, -BASELINE_OFFSET_DN) if (keeps_scale or sample.step_scale_text) and not offset_known else (0,)


def _try_flags(
    sample: Sample, check: Check, scale_option: tuple[float, str, int], added_dn: int, offset_known: bool
) -> FlagOption | None:
    """Tries a scale and an offset on numbers.

    Args:
        sample: The numbers.
        check: The check that they failed.
        scale_option: The scale, a phrase for its meaning, and its position among those tried.
        added_dn: Digital numbers that the offset adds.
        offset_known: Whether the offset is stated.

    Returns:
        The flags; `None` if the numbers would still raise doubts.
    """
    scale, meaning, scale_index = scale_option
    current_scale = float(sample.gain.max())
    keeps_offset = offset_known and check.settled_by == "scale"
    offset = sample.offset if keeps_offset else np.full_like(sample.offset, added_dn / scale)
    trial = replace(sample, gain=np.full_like(sample.gain, scale), offset=offset)
    failed_checks = [each_check for each_check in CHECKS if each_check.applies(trial)]
    is_bright = any(failed_check.can_be_bright_ground for failed_check in failed_checks)
    if len(failed_checks) > is_bright or (is_bright and added_dn > 0):
        return None
    flags = [f"--scale={scale:.5g}"] if scale != current_scale else []
    flags += [f"--offset={added_dn / scale:.5g}"] if added_dn or not flags else []
    if is_bright and not added_dn and not offset_known:
        baseline_flag = f"--offset={-BASELINE_OFFSET_DN / scale:.5g}"
        flags.append(f"(and {baseline_flag} if it holds the {BASELINE_OFFSET_DN:,} of baseline 04.00)")
    if meaning and scale != current_scale and meaning != sample.step_scale_text:
        flags.append(f"({meaning})")
    distance = sum(_distance_from_eurosat(median, name) for median, name in zip(trial.medians, trial.names))
    return FlagOption(" ".join(flags), sample.has_steps_of(scale), distance + (added_dn > 0), scale_index)


def _distance_from_eurosat(median: float, name: str) -> float:
    """Returns how far a band's median in DN lies outside those of EuroSAT's patches, as the logarithm of a factor."""
    low, high = MEDIAN_DN.get(name, (1, MAX_MEDIAN_DN))
    return float(max(0.0, np.log(low / max(median, 1e-6)), np.log(max(median, 1e-6) / high)))


def impossible_mask(dn: np.ndarray) -> np.ndarray:
    """Returns where numbers can only stand for undeclared missing data, such as -9999 or 65535.

    Args:
        dn: (..., k) digital numbers.

    Returns:
        (...) bool.
    """
    any_below, all_below, all_above = IMPOSSIBLE_DN
    columns = [dn[..., band] for band in range(dn.shape[-1])]  # much faster than reducing the last axis
    above = functools.reduce(np.logical_and, (column > all_above for column in columns))
    if dn.dtype.kind == "u":
        return above
    below = functools.reduce(np.logical_and, (column < all_below for column in columns))
    return above | below | functools.reduce(np.logical_or, (column < any_below for column in columns))


def find_order_fault(stored: np.ndarray) -> str | None:
    """Finds out whether 13 bands without names are in another order than EuroSAT's, in which B10 (cirrus) is darkest.

    Args:
        stored: (n, 13), the stored numbers of pixels with data.

    Returns:
        The finding that shows another order, with advice; `None` if nothing does.
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


def _band_order_with_cirrus_at(index: int) -> Sequence[str]:
    """Returns the common order of 13 bands in which B10 has an index: that of products, or reversed; else none."""
    product_order = sorted(BANDS, key=lambda name: (int(name[1:].rstrip("A")), name))
    orders = (product_order, product_order[::-1], BANDS[::-1])
    return next((order for order in orders if order.index("B10") == index), ())
