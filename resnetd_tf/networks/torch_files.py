"""Reads the state dict in a .pth file without PyTorch, and without running code that the file may hold.

`torch.save` writes a zip archive: a pickle of the dictionary, and a file with the numbers of each storage, in which
tensors lie. A pickle can call any function by its name and change any object that it holds. This reader knows the names
that state dicts need, and gives the pickle nothing but text and tuples in their place. Arrays are made afterwards.
"""

import collections
import math
import pathlib
import pickle
import pickletools
import zipfile
from typing import Any

import numpy as np

from resnetd_tf.errors import ForeignModelError

STORAGE_DTYPES = {"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8", "LongStorage": "<i8"}
MAX_PICKLE_BYTES = 2**22  # that of ResNet-152 has 150 kB
MAX_STORAGE_BYTES = 2**30  # of all storages together; ResNet-152 has 240 MB
# Names under which those who train store the state dict beside other entries
STATE_DICT_NAMES = ("state_dict", "model", "model_state_dict")
ADVICE = "; save the weights alone: torch.save(model.float().state_dict(), PATH)"
TENSOR, STORAGE = "tensor", "storage"  # what the tuples stand for


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a .pth file by their names.

    Raises:
        ForeignModelError: The file holds more than tensors, or none, or is larger than any network of ours.
        Exception: zipfile or pickle finds the file damaged.
    """
    if not zipfile.is_zipfile(path):
        raise ForeignModelError("is no zip archive: it is incomplete, or PyTorch before 1.6 wrote it")
    with zipfile.ZipFile(path) as archive:
        (pickle_name,) = [name for name in archive.namelist() if name.count("/") <= 1 and name.endswith("data.pkl")]
        folder = pickle_name.removesuffix("data.pkl")
        content = _load_pickle(archive, pickle_name)
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise ForeignModelError("holds big-endian numbers" + ADVICE)
        for name in STATE_DICT_NAMES:
            if isinstance(content, dict) and isinstance(content.get(name), dict):
                content = content[name]
        is_dictionary = isinstance(content, dict) and len(content) > 0
        if not (is_dictionary and all(type(name) is str and _is_tagged(content[name], TENSOR) for name in content)):
            raise ForeignModelError("holds no dictionary of tensors alone" + ADVICE)
        storages = _Storages(archive, f"{folder}data/")
        return {name: _make_array(storages, *value[1:5]) for name, value in content.items()}


def _load_pickle(archive: zipfile.ZipFile, name: str) -> Any:
    """Loads a pickle in which tensors and storages are tagged tuples."""
    if archive.getinfo(name).file_size > MAX_PICKLE_BYTES:
        raise ForeignModelError("its pickle is larger than any network's")
    content = archive.read(name)
    for operation, argument, _ in pickletools.genops(content):
        # The unpickler reserves memory for all places up to this number.
        if "PUT" in operation.name and argument is not None and int(argument) > len(content):
            raise ForeignModelError(f"its pickle of {len(content)} bytes counts {argument} objects")
    with archive.open(name) as file:
        return _Unpickler(file).load()


class _TensorTag:
    """Stands for PyTorch's function that makes a tensor. It has no attributes, so that a pickle cannot change it."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> tuple:
        return (TENSOR, *arguments)


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors and storages as tagged tuples, and refuses all other names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _TensorTag()
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        raise ForeignModelError(f"names {module}.{name}, which is neither called nor read" + ADVICE)

    def persistent_load(self, pid: Any) -> tuple:
        return (STORAGE, pid)


def _is_tagged(value: Any, tag: str) -> bool:
    return type(value) is tuple and len(value) > 1 and type(value[0]) is str and value[0] == tag


class _Storages:
    """The storages of an archive, each of which is read once.

    Args:
        archive: The archive.
        folder: Their folder in it.
    """

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        self.archive, self.folder = archive, folder
        self.arrays: dict[tuple[str, str], np.ndarray] = {}
        self.read_bytes = 0

    def read(self, reference: Any) -> np.ndarray:
        """Returns the numbers that a reference in the pickle names, (n,)."""
        if not _is_tagged(reference, STORAGE) or type(reference[1]) is not tuple or len(reference[1]) != 5:
            raise ValueError("a tensor has no storage")
        kind, dtype, key, _location, count = reference[1]
        if not (type(kind) is type(dtype) is type(key) is str and kind == STORAGE and type(count) is int):
            raise ValueError("a storage has no key")
        if dtype not in STORAGE_DTYPES.values() or not key.isalnum():
            raise ValueError(f"a storage has the key {key[:30]!r}")
        if (dtype, key) not in self.arrays:
            info = self.archive.getinfo(f"{self.folder}{key}")
            if info.file_size != count * np.dtype(dtype).itemsize:
                raise ValueError(f"storage {key} has {info.file_size} bytes for {count} numbers")
            self.read_bytes += info.file_size
            if self.read_bytes > MAX_STORAGE_BYTES:
                raise ForeignModelError("is larger than any network")
            self.arrays[dtype, key] = np.frombuffer(self.archive.read(info), dtype)
        return self.arrays[dtype, key]


def _make_array(storages: _Storages, storage: Any, offset: Any, shape: Any, strides: Any) -> np.ndarray:
    """Returns the tensor that lies in a storage from an offset on, with strides in numbers."""
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides) or len(shape) > 8:
        raise ValueError("a tensor has no shape")
    # Python's own integers, which do not wrap.
    if not all(type(value) is int and value >= 0 for value in (offset, *shape, *strides)):
        raise ValueError("a tensor has a negative place or shape")
    numbers = storages.read(storage)
    end = offset + sum((size - 1) * stride for size, stride in zip(shape, strides)) + 1
    count = math.prod(shape)
    if count == 0 or end > len(numbers) or count > len(numbers):
        raise ValueError(f"a tensor of shape {shape} lies beyond its storage of {len(numbers)} numbers")
    byte_strides = [stride * numbers.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, byte_strides, writeable=False)
