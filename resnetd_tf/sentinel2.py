"""Facts about Sentinel-2 and EuroSAT that models and data agree on."""

from dataclasses import dataclass

# EuroSAT's classes in TFDS's (alphabetical) order: the index is the label.
CLASSES = (
    "AnnualCrop",
    "Forest",
    "HerbaceousVegetation",
    "Highway",
    "Industrial",
    "Pasture",
    "PermanentCrop",
    "Residential",
    "River",
    "SeaLake",
)

# Bands of eurosat/all in file order (B8A is last, unlike in Sentinel-2 products).
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each band, in the units of the pixels they normalise."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str  # of the pixels


# Of the 27,000 JPEG patches, in grey levels 0 to 255.
EUROSAT_RGB = Statistics(
    name="eurosat/rgb",
    mean=tuple(255 * value for value in (0.3444, 0.3803, 0.4078)),
    std=tuple(255 * value for value in (0.2027, 0.1369, 0.1156)),
    dtype="uint8",
)

# Of the 27,000 13-band patches, in DN, as TorchGeo's EuroSATDataModule has them; order as in BANDS.
EUROSAT_ALL = Statistics(
    name="eurosat/all",
    mean=(
        *(1354.40546513, 1118.24399958, 1042.92983953, 947.62620298, 1199.47283961, 1999.79090914),
        *(2369.22292565, 2296.82608323, 732.08340178, 12.11327804, 1819.01027855, 1118.92391149),
        2594.14080798,
    ),
    std=(
        *(245.71762908, 333.00778264, 395.09249139, 593.75055589, 566.4170017, 861.18399006),
        *(1086.63139075, 1117.98170791, 404.91978886, 4.77584468, 1002.58768311, 761.30323499),
        1231.58581042,
    ),
    dtype="uint16",
)


def statistics(bands: int) -> Statistics:
    """The statistics that images of so many bands are normalised with.

    Raises:
        ValueError: There are none for this number of bands.
    """
    by_bands = {len(s.mean): s for s in (EUROSAT_RGB, EUROSAT_ALL)}
    if bands not in by_bands:
        raise ValueError(f"images have {bands} bands; expected 3 (RGB) or 13 (all of Sentinel-2's)")
    return by_bands[bands]
