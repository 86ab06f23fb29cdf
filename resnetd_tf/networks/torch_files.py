"""Reads the state dict in a .pth file without PyTorch, and without running code that the file may hold.

`torch.save` writes a zip archive: a pickle of the dictionary, and a file with the numbers of each tensor. A pickle can
call any function by its name. This reader knows the names that state dicts need, and refuses all others.
"""

import collections
import math
import pathlib
import pickle
import zipfile
from typing import Any

import numpy as np

from resnetd_tf.errors import ForeignModelError

STORAGES = {"FloatStorage": "float32", "HalfStorage": "float16", "DoubleStorage": "float64", "LongStorage": "int64"}
MAX_PICKLE_BYTES = 2**24  # that of ResNet-152 has 150 kB
MAX_STORAGE_BYTES = 2**30
# Names under which those who train store the state dict beside other entries
STATE_DICT_NAMES = ("state_dict", "model", "model_state_dict")


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a .pth file by their names.

    Raises:
        ForeignModelError: The file holds more than tensors, or none, or is larger than any network of ours.
        Exception: zipfile or pickle finds the file damaged.
    """
    if not zipfile.is_zipfile(path):
        raise ForeignModelError("is no zip archive, as PyTorch 1.6 and later write it; save it anew")
    with zipfile.ZipFile(path) as archive:
        (pickle_name,) = [name for name in archive.namelist() if name.count("/") <= 1 and name.endswith("data.pkl")]
        if archive.getinfo(pickle_name).file_size > MAX_PICKLE_BYTES:
            raise ForeignModelError("its pickle is larger than any network's")
        with archive.open(pickle_name) as file:
            content = _Unpickler(file, archive, pickle_name.removesuffix("data.pkl")).load()
    for name in STATE_DICT_NAMES:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    tensors = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
    if not tensors or len(tensors) < len(content):
        raise ForeignModelError(f"holds {len(content) - len(tensors)} entries that are no tensors, no state dict alone")
    return tensors


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors as arrays.

    Args:
        file: The pickle.
        archive: The archive that it is in.
        folder: The folder in the archive.
    """

    def __init__(self, file, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in STORAGES:
            return np.dtype(STORAGES[name]).newbyteorder("<")
        raise ForeignModelError(f"names {module}.{name}, which no state dict needs and which may run code")

    def persistent_load(self, pid: tuple) -> np.ndarray:
        kind, dtype, key, _location, count = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or not str(key).isalnum():
            raise ForeignModelError(f"refers to {str(kind)[:30]!r}, which is no storage of numbers")
        info = self.archive.getinfo(f"{self.folder}data/{key}")
        if info.file_size != count * dtype.itemsize or info.file_size > MAX_STORAGE_BYTES:
            raise ValueError(f"storage {key} has {info.file_size} bytes for {count} numbers")
        return np.frombuffer(self.archive.read(info), dtype)


def _rebuild_tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_unused) -> np.ndarray:
    """Returns the tensor that lies in a storage from an offset on, with strides in numbers."""
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if min((offset, *shape, *strides)) < 0 or (math.prod(shape) and end > len(storage)):
        raise ValueError(f"a tensor of shape {shape} lies beyond its storage of {len(storage)} numbers")
    byte_strides = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides, writeable=False)
