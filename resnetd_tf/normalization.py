"""The means and standard deviations that images are normalised with, each with its source."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from resnetd_tf.errors import ForeignModelError
from resnetd_tf.sentinel2 import BANDS


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each band, in the units of the pixels.

    Attributes:
        name: The images that the statistics were computed from.
        mean: One value a band, in the order of the image's bands.
        std: Standard deviation of each band, in the same order.
        dtype: Type of the pixels: "uint8" for grey levels, "uint16" for digital numbers (DN).
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: str

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Subtracts the mean of each band and divides by its standard deviation.

        Args:
            pixels: Array (..., height, width, bands) of grey levels from 0 to 255 or of DN, according to `dtype`.

        Returns:
            A float32 array of the same shape.

        Raises:
            ValueError: The number of bands differs, or the pixels are scaled to 0..1 already.
        """
        pixels = np.asarray(pixels)
        if pixels.ndim < 3 or pixels.shape[-1] != len(self.mean):
            raise ValueError(f"pixels of shape {pixels.shape}; expected (..., height, width, {len(self.mean)})")
        if pixels.dtype.kind == "f" and pixels.size and 0 < pixels.max() <= 1 and (pixels % 1).any():
            raise ValueError(f"no pixel is above {pixels.max():.3g}; give {self.dtype} values, not scaled to 0..1")
        return ((pixels - np.array(self.mean)) / np.array(self.std)).astype("float32")


def _grey_levels(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Statistics:
    """Makes statistics of uint8 RGB pixels from values relative to 255."""
    return Statistics(name, tuple(255 * value for value in mean), tuple(255 * value for value in std), "uint8")


# The 27,000 JPEG patches of EuroSAT.
EUROSAT_RGB = _grey_levels("eurosat/rgb", (0.3444, 0.3803, 0.4078), (0.2027, 0.1369, 0.1156))
# The ImageNet weights of torchvision, GluonCV and timm.
IMAGENET = _grey_levels("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The original Caffe networks, which subtract a mean and do not divide.
CAFFE = Statistics("caffe", (123.68, 116.779, 103.939), (1.0, 1.0, 1.0), "uint8")

# Mean and standard deviation in DN of the 27,000 13-band patches, as TorchGeo's EuroSATDataModule has them.
EUROSAT_DN = {
    "B01": (1354.40546513, 245.71762908),
    "B02": (1118.24399958, 333.00778264),
    "B03": (1042.92983953, 395.09249139),
    "B04": (947.62620298, 593.75055589),
    "B05": (1199.47283961, 566.4170017),
    "B06": (1999.79090914, 861.18399006),
    "B07": (2369.22292565, 1086.63139075),
    "B08": (2296.82608323, 1117.98170791),
    "B8A": (2594.14080798, 1231.58581042),
    "B09": (732.08340178, 404.91978886),
    "B10": (12.11327804, 4.77584468),
    "B11": (1819.01027855, 1002.58768311),
    "B12": (1118.92391149, 761.30323499),
}
EUROSAT_ALL = Statistics(
    "eurosat/all",
    tuple(EUROSAT_DN[band][0] for band in BANDS),
    tuple(EUROSAT_DN[band][1] for band in BANDS),
    "uint16",
)


def statistics_from_metadata(metadata: dict) -> Statistics:
    """Returns the statistics in a classifier's metadata.

    Args:
        metadata: Metadata with an entry "normalization", as `metadata.check_metadata` returns them.

    Raises:
        ForeignModelError: The numbers of means and of standard deviations differ.
    """
    normalization = metadata["normalization"]
    mean, std = (tuple(normalization[name]) for name in ("mean", "std"))
    if not len(mean) == len(std) > 0:
        raise ForeignModelError(f"{len(mean)} means and {len(std)} standard deviations")
    return Statistics(normalization.get("of", ""), mean, std, "uint8" if len(mean) == 3 else "uint16")


def measure_statistics(name: str, images: Iterable[np.ndarray]) -> Statistics:
    """Measures the statistics of images, with the same weight for every pixel.

    A standard deviation below 1 becomes 1, so that a constant band is not divided by zero.

    Args:
        name: Name of the images.
        images: Arrays (height, width, bands) of one dtype; height and width may differ.
    """
    pixel_count, total, square_total = 0, np.zeros(()), np.zeros(())
    for image in images:
        values = image.reshape(-1, image.shape[-1]).astype("float64")
        pixel_count += len(values)
        total = total + values.sum(axis=0)
        square_total = square_total + np.square(values).sum(axis=0)
    mean = total / pixel_count
    std = np.sqrt(np.maximum(square_total / pixel_count - np.square(mean), 1.0))
    return Statistics(name, tuple(mean.tolist()), tuple(std.tolist()), image.dtype.name)
