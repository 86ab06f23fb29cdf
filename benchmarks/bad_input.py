"""Damages files of every kind that is read, and sees what becomes of it.

    python -m benchmarks.bad_input --count=1000     # of every kind; ten minutes on two cores
    python -m benchmarks.bad_input --count=50 --only=PNG,SavedModel --seed=7
    python -m benchmarks.bad_input --count=250 --only=scenes     # of every kind that maps read; minutes

One valid file of a kind is damaged --count times, each time in one or several of five ways: bits flipped, truncated,
blocks swapped, zeros, a length doubled. Of texts every second file has numbers or names exchanged instead, so that it
can still be parsed. What the programs call reads it, in a process with a limit on time and memory. Its outcome must be
a result or an InputError; for a picture in a request to a server a result or InvalidArgumentError.
Scenes are opened and all their pixels are read, as for a map; nothing is classified.
Files that led to anything else are kept in --output_dir.
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
KINDS = {  # the file that is damaged
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
SCENE_KINDS = {  # likewise, with what is opened, which the file is or belongs to
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
SECONDS, GIBIBYTES = 60, 4  # limits for one file; of memory, beside what the process starts with


def damaged(content: bytes, chance: random.Random) -> bytes:
    """A file's content with one to three kinds of damage, every second time near its start or end."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        end = len(data)
        if not end:
            break
        near = min(end, 512)
        place = chance.randrange(end)
        if chance.random() < 0.5:
            place = chance.choice((0, end - near)) + place % near
        match chance.choice(("bits", "truncation", "swap", "zeros", "length")):
            case "bits":
                for _ in range(chance.choice((1, 2, 8))):
                    data[min(end - 1, place + chance.randrange(16))] ^= 1 << chance.randrange(8)
            case "truncation":
                del data[place:]
            case "swap":
                size, other = chance.choice((4, 64, 512)), chance.randrange(end)
                data[place : place + size], data[other : other + size] = (
                    data[other : other + size],
                    data[place : place + size],
                )
            case "zeros":
                size = min(chance.choice((1, 8, 256)), end - place)
                data[place : place + size] = bytes(size)
            case "length":
                size, order = chance.choice((1, 2, 4, 8)), chance.choice(("little", "big"))
                value = 2 * int.from_bytes(data[place : place + size], order) % 256**size
                data[place : place + size] = value.to_bytes(size, order)[: end - place]
    return bytes(data)


def edited(content: bytes, chance: random.Random) -> bytes:
    """A text in which one to three numbers or names, each with its sign and point, have others in their place."""
    text = content.decode()
    for _ in range(chance.choice((1, 1, 2, 3))):
        tokens = list(re.finditer(r"[\w.+-]+", text))
        token, another = chance.choice(tokens), chance.choice(tokens)
        value = chance.choice((another[0], another[0], "", "0", "-1", "1e300", "nan", "null", "[]", "{}"))
        text = text[: token.start()] + value + text[token.end() :]
    return text.encode()


def small_classifier():
    """A classifier of one convolution, so that the damage meets more than weights."""
    import keras

    from resnetd_tf.networks import classifier, resnet
    from resnetd_tf.normalization import EUROSAT_RGB

    images = keras.Input((32, 32, 3))
    x = resnet.norm(resnet.conv(images, 4, 3, "stem_1_conv", stride=2), "stem_1_bn")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    probabilities = keras.layers.Dense(10, activation="softmax", name="predictions")(x)
    return classifier.add_preprocessing(keras.Model(images, probabilities, name="small"), EUROSAT_RGB, "bilinear")


def smallest_network():
    """A network of the package, for kinds of weights that are compared with its layers."""
    from resnetd_tf.networks.resnet import resnet

    return resnet(10, "d", input_shape=(32, 32, 3), classes=10)


def write_scenes(folder: pathlib.Path) -> None:
    """Writes a valid file of every kind that maps read: scenes of 120 x 120 pixels."""
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
    with zipfile.ZipFile(folder / "product.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((folder / "old").rglob("*")):
            archive.write(file, f"S2A.SAFE/{file.relative_to(folder / 'old')}")
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
    """Writes a valid file of every other kind."""
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

    model = portable_copy(small_classifier())
    network = smallest_network()
    model.save(folder / "model.keras")
    network.save_weights(folder / "network.weights.h5")
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # PyTorch's
    tensors = {name: np.asarray(value) for name, value in checkpoints.pytorch_names(network).items()}
    tensors = {name: np.ascontiguousarray(value.transpose(order[value.ndim])) for name, value in tensors.items()}
    safetensors.numpy.save_file(tensors, folder / "network.safetensors")
    described = {"dataset": "synthetic", "data_dir": None, "patch_shape": (64, 64, 3), "weights_source": "random"}
    savedmodel.write_savedmodel(model, CLASSES, described, folder / "savedmodel")
    converters.write_tflite(folder / "savedmodel", (64, 64, 3), CLASSES, described, folder / "model.tflite")


def reader(kind: str, folder: pathlib.Path) -> Callable[[pathlib.Path], object]:
    """What reads a file of this kind, among the others that it belongs to."""
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
        served = tf.saved_model.load(str(model)).signatures["encoded"]
    network = smallest_network() if kind in (".weights.h5", ".safetensors") else None

    def request(path):
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            served(image_bytes=tf.constant([path.read_bytes()]))

    def assign(path):
        try:
            checkpoints.assign_weights(network, checkpoints.read_checkpoint(path, 10, "d"))
        except ValueError as error:  # as `training.preparation` and `evaluation.imagenet` do
            raise InputError(str(error)) from error

    def prepare(path):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            datasets.load_dataset("eurosat/rgb", ("test",), data_dir=place, eurosat_zip=str(path))

    def evaluate_and_export(path):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            run.evaluate(str(model), output_dir=f"{place}/evaluation")
            export.export_classifier(str(model), output=f"{place}/model.tflite")

    return {
        "JPEG in a request": request,
        "PNG in a request": request,
        "EuroSAT zip": prepare,
        "TFRecord": lambda path: datasets.load_dataset("eurosat/rgb", data_dir=records),
        ".keras": lambda path: open_classifier(path).predict(pixels),
        ".weights.h5": assign,
        ".safetensors": assign,
        "SavedModel": lambda path: open_classifier(model).predict(pixels),
        "labels.txt": lambda path: open_classifier(model),
        "metadata.json": evaluate_and_export,
        "TFLite": lambda path: open_classifier(path).predict(pixels),
    }.get(kind, images.read_image)


def silence(folder: str) -> None:
    """Sends what this process prints to a file."""
    log = os.open(f"{folder}/log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    program.import_tensorflow()


def write(folder: str, kinds: list[str]) -> None:
    """What a process does that writes the valid files of some kinds, and perhaps of others."""
    silence(folder)
    if not SCENE_KINDS.keys().isdisjoint(kinds):
        write_scenes(pathlib.Path(folder))
    if not SCENE_KINDS.keys() >= set(kinds):
        write_files(pathlib.Path(folder))


def work(folder: str, connection) -> None:
    """What a process does that reads damaged files, which come through a connection with their kinds."""
    silence(folder)
    from resnetd_tf.environment import release_memory

    known = None
    while True:
        kind, content = connection.recv()
        path = pathlib.Path(folder, KINDS[kind])
        if kind != known:
            known, valid, read = kind, path.read_bytes(), reader(kind, pathlib.Path(folder))
            read(path)
            limit_memory()
            read(path)  # of the limit is no damage to be found
            gc.freeze()  # what will stay need not be looked through after each file
        path.write_bytes(content)
        try:
            read(path)
            outcome = "result"
        except InputError as error:
            outcome = "InputError"
            print(error)
        except BaseException:
            outcome = traceback.format_exc()
        path.write_bytes(valid)
        release_memory()
        connection.send(outcome)


def limit_memory() -> None:
    """Limits what this process may still take."""
    import resource

    import psutil

    size = psutil.Process().memory_info().vms + GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


class Reader:
    """A process that reads damaged files, started anew when one has ended it.

    Args:
        files: The folder of the valid files, of which it has a copy.
    """

    def __init__(self, files: str):
        self.files = files
        self.start()

    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        shutil.copytree(self.files, self.folder.name, dirs_exist_ok=True)
        self.connection, other = multiprocessing.Pipe()
        self.process = SPAWN.Process(target=work, args=(self.folder.name, other), daemon=True)
        self.process.start()
        other.close()

    def stop(self) -> None:
        """Ends it, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.folder.cleanup()

    def read(self, kind: str, content: bytes) -> str:
        """What came of a file: "result", "InputError", or what should not have happened."""
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


def try_kind(kind: str, files: str, readers: queue.Queue) -> tuple[str, collections.Counter, list[str]]:
    """Damages a file of one kind as often as was asked for; what came of it, and the failures."""
    outcomes, failures, process = collections.Counter(), [], readers.get()
    valid = pathlib.Path(files, KINDS[kind]).read_bytes()
    for number in range(FLAGS.count):
        damage = edited if number % 2 and KINDS[kind].endswith(TEXTS) else damaged
        content = damage(valid, random.Random(f"{FLAGS.seed} {kind} {number}"))
        outcome = process.read(kind, content)
        if outcome not in ("result", "InputError"):
            kept = pathlib.Path(FLAGS.output_dir, f"{re.sub(r'[^a-zA-Z0-9]+', '_', kind)}-{FLAGS.seed}-{number}")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
            kept.with_name(f"{kept.name}.txt").write_text(outcome)
            failures.append(f"{kept}: {outcome.strip().splitlines()[-1]}")
            outcome = "failure"
        outcomes[outcome] += 1
    readers.put(process)
    return kind, outcomes, failures


def bad_input(arguments: list[str]) -> None:
    program.import_tensorflow()
    from resnetd_tf.environment import core_count

    kinds = list(SCENE_KINDS if FLAGS.only == ["scenes"] else FLAGS.only or KINDS)
    if unknown := set(kinds) - set(KINDS):
        raise InputError(f"--only={','.join(sorted(unknown))}: not among {', '.join(KINDS)}")
    failures = []
    with tempfile.TemporaryDirectory() as files:
        writer = SPAWN.Process(target=write, args=(files, kinds))
        writer.start()
        writer.join()
        if writer.exitcode:
            sys.exit(pathlib.Path(files, "log.txt").read_text())
        print("| kind | result | InputError | failure |\n|---|---|---|---|", flush=True)
        readers: queue.Queue = queue.Queue()
        for _ in range(core_count()):
            readers.put(Reader(files))
        tasks = (kinds, itertools.repeat(files), itertools.repeat(readers))
        with concurrent.futures.ThreadPoolExecutor(readers.qsize()) as pool:
            for kind, outcomes, found in pool.map(try_kind, *tasks):
                failures += found
                counts = (outcomes[name] for name in ("result", "InputError", "failure"))
                print(f"| {kind} |", " | ".join(map(str, counts)), "|", flush=True)
        while not readers.empty():
            readers.get().stop()
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    program.run_program(bad_input)
