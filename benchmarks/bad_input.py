"""Damages files of every kind that the programs read, and checks that each gives a result or an error in one line.

    python -m benchmarks.bad_input --count=1000     # files of every kind; ten minutes on two cores
    python -m benchmarks.bad_input --count=50 --only=PNG,SavedModel --seed=7
    python -m benchmarks.bad_input --count=250 --only=scenes     # the kinds that maps read; minutes

One valid file of each kind is damaged --count times. A damage flips bits, truncates, swaps blocks, writes zeros or
doubles a length, once or several times. In text files, every second damage exchanges numbers or names instead, so that
the file can still be parsed.

A process with a limit on time and memory reads the damaged file with the functions that the programs call. The outcome
must be a result or an InputError. A picture in a request to a server may also give InvalidArgumentError. Scenes are
opened and all their pixels are read, as for a map, but nothing is classified. Files with any other outcome are kept in
--output_dir.
"""

import collections
import concurrent.futures
import contextlib
import gc
import io
import itertools
import json
import multiprocessing
import os
import pathlib
import queue
import random
import re
import shutil
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable

from absl import flags

from resnetd_tf.cli import program
from resnetd_tf.errors import InputError

FLAGS = flags.FLAGS
flags.DEFINE_integer("count", 1000, "Number of damaged files of every kind.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Seed for the damage.")
flags.DEFINE_list("only", None, "Kinds to try, or scenes for those that maps read; default all.")
flags.DEFINE_string("output_dir", "bad_input", "Folder for files that led to a failure.")

RECORD = "tfds/eurosat/rgb/2.0.0/eurosat-train.tfrecord-00000-of-00001"
KINDS = {  # kind of file: the file that is damaged
    "JPEG": "picture.jpg",
    "PNG": "picture.png",
    "WebP": "picture.webp",
    "TIFF": "picture.tif",
    "TIFF of 13 bands": "bands.tif",
    "JPEG in a request": "picture.jpg",
    "PNG in a request": "picture.png",
    "EuroSAT zip": "EuroSAT.zip",
    "TFRecord": RECORD,
    ".keras": "model.keras",
    ".weights.h5": "network.weights.h5",
    ".safetensors": "network.safetensors",
    "SavedModel": "savedmodel/saved_model.pb",
    "labels.txt": "savedmodel/assets.extra/labels.txt",
    "metadata.json": "savedmodel/assets.extra/metadata.json",
    "TFLite": "model.tflite",
}
SCENE_KINDS = {  # kind of file: the file that is damaged, and the scene that it is or belongs to
    "GeoTIFF": ("scene.tif", "scene.tif"),
    "GeoTIFF in degrees": ("degrees.tif", "degrees.tif"),
    "JP2 of a band": ("bands/x_B04.jp2", "bands"),
    "MTD": ("l1c/MTD_MSIL1C.xml", "l1c"),
    "MTD of L2A": ("l2a/MTD_MSIL2A.xml", "l2a"),
    "MTD_TL": ("l1c/GRANULE/L1C_T33TUM/MTD_TL.xml", "l1c"),
    "JP2 of a product": ("l1c/GRANULE/L1C_T33TUM/IMG_DATA/T33TUM_20220601T100031_B04.jp2", "l1c"),
    "MSK_CLASSI": ("l1c/GRANULE/L1C_T33TUM/QI_DATA/MSK_CLASSI_B00.jp2", "l1c"),
    "MSK_CLOUDS": ("old/GRANULE/L1C_T33TUM/QI_DATA/MSK_CLOUDS_B00.gml", "old"),
    "SCL": ("l2a/GRANULE/L2A_T33TUM/IMG_DATA/R20m/T33TUM_20220601T100031_SCL_20m.jp2", "l2a"),
    "product zip": ("product.zip", "product.zip"),
    "GeoJSON": ("area.geojson", "scene.tif"),
}
KINDS |= {kind: file for kind, (file, _) in SCENE_KINDS.items()}
TEXTS = (".json", ".txt", ".xml", ".gml", ".geojson")
SPAWN = multiprocessing.get_context("spawn")
SECONDS, GIBIBYTES = 60, 4  # limits of time and of further memory for one file


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Damages the content of a file one to three times, every second time near its start or end."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        end = len(data)
        if not end:
            break
        edge_size = min(end, 512)
        position = rng.randrange(end)
        if rng.random() < 0.5:
            position = rng.choice((0, end - edge_size)) + position % edge_size
        match rng.choice(("bits", "truncation", "swap", "zeros", "length")):
            case "bits":
                for _ in range(rng.choice((1, 2, 8))):
                    data[min(end - 1, position + rng.randrange(16))] ^= 1 << rng.randrange(8)
            case "truncation":
                del data[position:]
            case "swap":
                size, second = rng.choice((4, 64, 512)), rng.randrange(end)
                data[position : position + size], data[second : second + size] = (
                    data[second : second + size],
                    data[position : position + size],
                )
            case "zeros":
                size = min(rng.choice((1, 8, 256)), end - position)
                data[position : position + size] = bytes(size)
            case "length":
                size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
                value = 2 * int.from_bytes(data[position : position + size], order) % 256**size
                data[position : position + size] = value.to_bytes(size, order)[: end - position]
    return bytes(data)


def edit_text(content: bytes, rng: random.Random) -> bytes:
    """Replaces one to three numbers or names of a text, each with its sign and point, by others."""
    text = content.decode()
    for _ in range(rng.choice((1, 1, 2, 3))):
        tokens = list(re.finditer(r"[\w.+-]+", text))
        token, replacement = rng.choice(tokens), rng.choice(tokens)
        value = rng.choice((replacement[0], replacement[0], "", "0", "-1", "1e300", "nan", "null", "[]", "{}"))
        text = text[: token.start()] + value + text[token.end() :]
    return text.encode()


def build_small_classifier():
    """Builds a classifier of one convolution, so that not only weights are damaged."""
    import keras

    from resnetd_tf.networks import classifier, resnet
    from resnetd_tf.normalization import EUROSAT_RGB

    images = keras.Input((32, 32, 3))
    x = resnet.norm(resnet.conv(images, 4, 3, "stem_1_conv", stride=2), "stem_1_bn")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    probabilities = keras.layers.Dense(10, activation="softmax", name="predictions")(x)
    return classifier.add_preprocessing(keras.Model(images, probabilities, name="small"), EUROSAT_RGB, "bilinear")


def build_smallest_network():
    """Builds a network of the package, for files of weights that are compared with its layers."""
    from resnetd_tf.networks.resnet import resnet

    return resnet(10, "d", input_shape=(32, 32, 3), classes=10)


def write_scenes(folder: pathlib.Path) -> None:
    """Writes a valid file of each kind that maps read: scenes of 120 x 120 pixels."""
    import numpy as np
    import rasterio

    from tests.imagery import products

    numbers, side = np.random.default_rng(0), 120
    bands = {
        name: numbers.integers(1, 2700, (side * 10 // metres,) * 2).astype("uint16")
        for metres, names in products.RESOLUTION.items()
        for name in names
    }
    colours = {name: bands[name] for name in ("B04", "B03", "B02")}
    for name, dn in colours.items():
        products.write_band(folder / f"bands/x_{name}.jp2", dn, driver="JP2OpenJPEG")
    degrees = rasterio.Affine(1e-4, 0, 15, 0, -1e-4, 45)
    metres = rasterio.transform.from_origin(*products.ORIGIN, 10, 10)
    for name, crs, transform in (("degrees", "EPSG:4326", degrees), ("scene", products.CRS, metres)):
        profile = {"driver": "GTiff", "count": 3, "dtype": "uint16", "width": side, "height": side, "nodata": 0}
        with rasterio.open(folder / f"{name}.tif", "w", crs=crs, transform=transform, **profile) as file:
            file.write(np.stack(list(colours.values())))
            file.descriptions = tuple(colours)
    masks = (numbers.random((20, 20, 3)) < 0.1).astype("uint8")
    products.write_safe(folder / "l1c", bands, offset=0, clouds=masks)
    classes = numbers.integers(0, 12, (60, 60)).astype("uint8")
    products.write_safe(folder / "l2a", {name: bands[name] for name in bands if name != "B10"}, "2A", 0, classes)
    (left, top), (right, bottom) = metres * (0, 0), metres * (60, 40)
    rings = [[(left, top), (right, top), (right, bottom), (left, bottom)]]
    products.write_safe(folder / "old", bands, clouds=products.cloud_gml([rings] * 4))
    products.pack_product(folder / "old", folder / "product.zip")
    corners = [(15.0005, 45.1502), (15.01, 45.1502), (15.01, 45.142), (15.0005, 45.142), (15.0005, 45.1502)]
    (folder / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [corners]}))


def read_scene(path: pathlib.Path, area: pathlib.Path | None) -> None:
    """Opens a scene for a classifier of RGB, and reads its pixels as a map does."""
    import numpy as np
    from rasterio.windows import Window

    from resnetd_tf.imagery import landcover, sliding_window
    from resnetd_tf.imagery.scene import area_coverage
    from resnetd_tf.saved import SavedClassifier
    from resnetd_tf.sentinel2 import CLASSES

    classifier = SavedClassifier(pathlib.Path("model"), path.parent, CLASSES, 3, np.asarray, {})
    scene = landcover.open_scene_for(classifier, [path], area=None if area is None else str(area))
    for row in range(0, scene.grid.height, sliding_window.STRIP_ROWS):
        window = Window(0, row, scene.grid.width, min(sliding_window.STRIP_ROWS, scene.grid.height - row))
        scene.read(window)
        area_coverage(scene.outlines, window)


def write_files(folder: pathlib.Path) -> None:
    """Writes a valid file of each kind that is not part of a scene."""
    import numpy as np
    import PIL.Image
    import safetensors.numpy
    import tifffile

    from resnetd_tf.data import datasets, synthetic
    from resnetd_tf.deployment import converters, savedmodel
    from resnetd_tf.networks import checkpoints
    from resnetd_tf.networks.layers import portable_copy
    from resnetd_tf.sentinel2 import CLASSES

    pictures = [PIL.Image.fromarray(pixels) for pixels in synthetic.draw_scenes(20, seed=1)[0]]
    for suffix in ("jpg", "png", "webp", "tif"):
        pictures[0].save(folder / f"picture.{suffix}")
    bands = np.random.default_rng(0).integers(0, 3000, (16, 16, 13)).astype("uint16")
    tifffile.imwrite(folder / "bands.tif", bands)

    with zipfile.ZipFile(folder / "EuroSAT.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index, picture in enumerate(pictures):
            name, content = CLASSES[index % 2], io.BytesIO()
            picture.save(content, "JPEG")
            archive.writestr(f"2750/{name}/{name}_{index}.jpg", content.getvalue())
    datasets.load_dataset(
        "eurosat/rgb", ("test",), data_dir=str(folder / "tfds"), eurosat_zip=str(folder / "EuroSAT.zip")
    )

    model = portable_copy(build_small_classifier())
    network = build_smallest_network()
    model.save(folder / "model.keras")
    network.save_weights(folder / "network.weights.h5")
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # PyTorch's
    tensors = {name: np.asarray(value) for name, value in checkpoints.pytorch_names(network).items()}
    tensors = {name: np.ascontiguousarray(value.transpose(order[value.ndim])) for name, value in tensors.items()}
    safetensors.numpy.save_file(tensors, folder / "network.safetensors")
    metadata = {"dataset": "synthetic", "data_dir": None, "patch_shape": (64, 64, 3), "weights_source": "random"}
    savedmodel.write_savedmodel(model, CLASSES, metadata, folder / "savedmodel")
    converters.write_tflite(folder / "savedmodel", (64, 64, 3), CLASSES, metadata, folder / "model.tflite")


def choose_reader(kind: str, folder: pathlib.Path) -> Callable[[pathlib.Path], object]:
    """Returns the function that reads a file of this kind.

    Args:
        kind: Kind of file.
        folder: Folder of the valid files, which may be needed to read this one.
    """
    if kind in SCENE_KINDS:
        scene = folder / SCENE_KINDS[kind][1]
        return lambda path: read_scene(scene, path if kind == "GeoJSON" else None)
    import tensorflow as tf

    from resnetd_tf.data import datasets, images, synthetic
    from resnetd_tf.deployment import export
    from resnetd_tf.evaluation import run
    from resnetd_tf.networks import checkpoints
    from resnetd_tf.saved import open_classifier

    pixels, model, records = synthetic.draw_scenes(1, seed=1)[0], folder / "savedmodel", str(folder / "tfds")
    if kind.endswith("request"):
        signature = tf.saved_model.load(str(model)).signatures["encoded"]
    network = build_smallest_network() if kind in (".weights.h5", ".safetensors") else None

    def answer_request(path):
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            signature(image_bytes=tf.constant([path.read_bytes()]))

    def assign_weights(path):
        try:
            checkpoints.assign_weights(network, checkpoints.read_checkpoint(path, 10, "d"))
        except ValueError as error:  # as training and `evaluation.imagenet` do
            raise InputError(str(error)) from error

    def prepare_dataset(path):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            datasets.load_dataset("eurosat/rgb", ("test",), data_dir=scratch, eurosat_zip=str(path))

    def evaluate_and_export(path):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            run.evaluate(str(model), output_dir=f"{scratch}/evaluation")
            export.export_classifier(str(model), output=f"{scratch}/model.tflite")

    return {
        "JPEG in a request": answer_request,
        "PNG in a request": answer_request,
        "EuroSAT zip": prepare_dataset,
        "TFRecord": lambda path: datasets.load_dataset("eurosat/rgb", data_dir=records),
        ".keras": lambda path: open_classifier(path).predict(pixels),
        ".weights.h5": assign_weights,
        ".safetensors": assign_weights,
        "SavedModel": lambda path: open_classifier(model).predict(pixels),
        "labels.txt": lambda path: open_classifier(model),
        "metadata.json": evaluate_and_export,
        "TFLite": lambda path: open_classifier(path).predict(pixels),
    }.get(kind, images.read_image)


def silence(folder: str) -> None:
    """Redirects the output of this process to a file."""
    log = os.open(f"{folder}/log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    program.import_tensorflow()


def write_valid_files(folder: str, kinds: list[str]) -> None:
    """Writes the valid files of these kinds, and perhaps of others, in a process of its own."""
    silence(folder)
    if not SCENE_KINDS.keys().isdisjoint(kinds):
        write_scenes(pathlib.Path(folder))
    if not SCENE_KINDS.keys() >= set(kinds):
        write_files(pathlib.Path(folder))


def read_damaged_files(folder: str, connection) -> None:
    """Reads damaged files and sends back the outcomes, in a process of its own.

    Args:
        folder: A copy of the folder of the valid files.
        connection: Sends pairs of a kind and a damaged content, and receives the outcomes.
    """
    silence(folder)
    from resnetd_tf.environment import release_memory

    last_kind = None
    while True:
        kind, content = connection.recv()
        path = pathlib.Path(folder, KINDS[kind])
        if kind != last_kind:
            last_kind, valid_content, read = kind, path.read_bytes(), choose_reader(kind, pathlib.Path(folder))
            read(path)
            limit_memory()
            read(path)  # the limit alone must not lead to a failure
            gc.freeze()  # the garbage collector need not look at objects that stay
        path.write_bytes(content)
        try:
            read(path)
            outcome = "result"
        except InputError as error:
            outcome = "InputError"
            print(error)
        except BaseException:
            outcome = traceback.format_exc()
        path.write_bytes(valid_content)
        release_memory()
        connection.send(outcome)


def limit_memory() -> None:
    """Limits the memory that this process may still take."""
    import resource

    import psutil

    size = psutil.Process().memory_info().vms + GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


class ReaderProcess:
    """A process that reads damaged files. It is started anew when a file has ended it.

    Args:
        valid_files: Folder of the valid files. The process reads a copy.
    """

    def __init__(self, valid_files: str):
        self.valid_files = valid_files
        self.start()

    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        shutil.copytree(self.valid_files, self.folder.name, dirs_exist_ok=True)
        self.connection, process_connection = multiprocessing.Pipe()
        self.process = SPAWN.Process(
            target=read_damaged_files, args=(self.folder.name, process_connection), daemon=True
        )
        self.process.start()
        process_connection.close()

    def stop(self) -> None:
        """Kills the process and deletes its folder."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.folder.cleanup()

    def read(self, kind: str, content: bytes) -> str:
        """Reads a damaged file and returns the outcome: "result", "InputError", or a description of the failure."""
        try:
            self.connection.send((kind, content))
            if self.connection.poll(SECONDS):
                return self.connection.recv()
            failure = f"no answer in {SECONDS} s"
        except (EOFError, ConnectionError):
            self.process.join()
            failure = f"the process ended with {self.process.exitcode}"
        self.stop()
        self.start()
        return failure


def try_kind(kind: str, valid_files: str, readers: queue.Queue) -> tuple[str, collections.Counter, list[str]]:
    """Damages the file of one kind --count times.

    Args:
        kind: Kind of file.
        valid_files: Folder of the valid files.
        readers: Idle `ReaderProcess`es. One is taken and put back.

    Returns:
        The kind, the number of files with each outcome, and a line for each failure.
    """
    outcomes, failures, reader = collections.Counter(), [], readers.get()
    valid_content = pathlib.Path(valid_files, KINDS[kind]).read_bytes()
    for number in range(FLAGS.count):
        damage = edit_text if number % 2 and KINDS[kind].endswith(TEXTS) else damage_bytes
        content = damage(valid_content, random.Random(f"{FLAGS.seed} {kind} {number}"))
        outcome = reader.read(kind, content)
        if outcome not in ("result", "InputError"):
            failed_path = pathlib.Path(FLAGS.output_dir, f"{re.sub(r'[^a-zA-Z0-9]+', '_', kind)}-{FLAGS.seed}-{number}")
            failed_path.parent.mkdir(parents=True, exist_ok=True)
            failed_path.write_bytes(content)
            failed_path.with_name(f"{failed_path.name}.txt").write_text(outcome)
            failures.append(f"{failed_path}: {outcome.strip().splitlines()[-1]}")
            outcome = "failure"
        outcomes[outcome] += 1
    readers.put(reader)
    return kind, outcomes, failures


def bad_input(arguments: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf.environment import core_count

    kinds = list(SCENE_KINDS if FLAGS.only == ["scenes"] else FLAGS.only or KINDS)
    if unknown := set(kinds) - set(KINDS):
        raise InputError(f"--only={','.join(sorted(unknown))}: not among {', '.join(KINDS)}")
    failures = []
    with tempfile.TemporaryDirectory() as valid_files:
        writer = SPAWN.Process(target=write_valid_files, args=(valid_files, kinds))
        writer.start()
        writer.join()
        if writer.exitcode:
            sys.exit(pathlib.Path(valid_files, "log.txt").read_text())
        print("| kind | result | InputError | failure |\n|---|---|---|---|", flush=True)
        readers: queue.Queue = queue.Queue()
        for _ in range(core_count()):
            readers.put(ReaderProcess(valid_files))
        tasks = (kinds, itertools.repeat(valid_files), itertools.repeat(readers))
        with concurrent.futures.ThreadPoolExecutor(readers.qsize()) as pool:
            for kind, outcomes, kind_failures in pool.map(try_kind, *tasks):
                failures += kind_failures
                counts = (outcomes[name] for name in ("result", "InputError", "failure"))
                print(f"| {kind} |", " | ".join(map(str, counts)), "|", flush=True)
        while not readers.empty():
            readers.get().stop()
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    program.run_program(bad_input)
