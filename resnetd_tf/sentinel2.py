"""Facts about Sentinel-2 and EuroSAT that models and data agree on."""

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
# What EuroSAT's JPEGs show as red, green and blue.
RGB_BANDS = ("B04", "B03", "B02")

# How EuroSAT's authors turned DN (digital numbers, 10,000 times the reflectance) into grey levels: DN from 0 to
# RENDERED_DN became 1 to 1 + RENDERED_LEVELS. Read off 270 pairs of patches, which this reproduces pixel for pixel.
RENDERED_DN = 2750
RENDERED_LEVELS = 254
