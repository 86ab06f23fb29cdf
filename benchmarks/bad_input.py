"""Damages files of every kind that is read, and sees what becomes of it.

    python -m benchmarks.bad_input --count=1000     # of every kind; ten minutes on two cores
    python -m benchmarks.bad_input --count=50 --only=PNG,SavedModel --seed=7

One valid file of a kind is damaged --count times, each time in one or several of five ways: bits flipped, truncated,
blocks swapped, zeros, a length doubled. What the programs call reads it, in a process with a limit on time and memory.
Its outcome must be a result or an InputError; for a picture in a request to a server a result or InvalidArgumentError.
Files that led to anything else are kept in --output_dir.
"""

import collections
import concurrent.futures
import contextlib
import gc
import io
import itertools
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
flags.DEFINE_list("only", None, "Kinds to try; default all.")
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


def small_classifier():
    """A classifier of one convolution, so that the damage meets more than weights."""
    import keras

    from resnetd_tf.networks import classifier, resnet
    from resnetd_tf.normalization import EUROSAT_RGB

    images = keras.Input((32, 32, 3))
    x = resnet.norm(resnet.conv(images, 4, 3, "stem_1_conv", stride=2), "stem_1_bn")
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    probabilities = keras.layers.Dense(10, activation="softmax", name="predictions")(x)
    return classifier.with_preprocessing(keras.Model(images, probabilities, name="small"), EUROSAT_RGB, "bilinear")


def write_files(folder: pathlib.Path) -> None:
    """Writes a valid file of every kind."""
    import numpy as np
    import PIL.Image
    import safetensors.numpy
    import tifffile

    from resnetd_tf.data import sources, synthetic
    from resnetd_tf.deployment import savedmodel, tflite
    from resnetd_tf.networks import checkpoints
    from resnetd_tf.networks.copies import portable
    from resnetd_tf.sentinel2 import CLASSES

    pictures = [PIL.Image.fromarray(pixels) for pixels in synthetic.draw(20, seed=1)[0]]
    for suffix in ("jpg", "png", "webp", "tif"):
        pictures[0].save(folder / f"picture.{suffix}")
    bands = np.random.default_rng(0).integers(0, 3000, (16, 16, 13)).astype("uint16")
    tifffile.imwrite(folder / "bands.tif", bands)

    with zipfile.ZipFile(folder / "EuroSAT.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index, picture in enumerate(pictures):
            name, content = CLASSES[index % 2], io.BytesIO()
            picture.save(content, "JPEG")
            archive.writestr(f"2750/{name}/{name}_{index}.jpg", content.getvalue())
    sources.load("eurosat/rgb", ("test",), data_dir=str(folder / "tfds"), eurosat_zip=str(folder / "EuroSAT.zip"))

    model = portable(small_classifier())
    network = model.layers[-1]
    model.save(folder / "model.keras")
    network.save_weights(folder / "network.weights.h5")
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # PyTorch's
    tensors = {name: np.asarray(value) for name, value in checkpoints.state_dict_names(network).items()}
    tensors = {name: np.ascontiguousarray(value.transpose(order[value.ndim])) for name, value in tensors.items()}
    safetensors.numpy.save_file(tensors, folder / "network.safetensors")
    described = {"dataset": "synthetic", "data_dir": None, "patch_shape": (64, 64, 3), "weights_source": "random"}
    savedmodel.write(model, CLASSES, described, folder / "savedmodel")
    tflite.write(folder / "savedmodel", (64, 64, 3), CLASSES, described, folder / "model.tflite")


def reader(kind: str, folder: pathlib.Path) -> Callable[[pathlib.Path], object]:
    """What reads a file of this kind, among the others that it belongs to."""
    import tensorflow as tf

    from resnetd_tf.data import images, sources, synthetic
    from resnetd_tf.deployment import conversion
    from resnetd_tf.evaluation import run
    from resnetd_tf.networks import checkpoints
    from resnetd_tf.saved import open_classifier

    pixels, model, records = synthetic.draw(1, seed=1)[0], folder / "savedmodel", str(folder / "tfds")
    if kind.endswith("request"):
        served = tf.saved_model.load(str(model)).signatures["encoded"]
    network = small_classifier().layers[-1] if kind in (".weights.h5", ".safetensors") else None

    def request(path):
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            served(image_bytes=tf.constant([path.read_bytes()]))

    def assign(path):
        try:
            checkpoints.assign(network, checkpoints.read(path, 50, "d"))
        except ValueError as error:  # as `training.preparation` and `evaluation.imagenet` do
            raise InputError(str(error)) from error

    def prepare(path):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            sources.load("eurosat/rgb", ("test",), data_dir=place, eurosat_zip=str(path))

    def evaluate_and_export(path):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            run.evaluate(str(model), output_dir=f"{place}/evaluation")
            conversion.convert(str(model), output=f"{place}/model.tflite")

    return {
        "JPEG in a request": request,
        "PNG in a request": request,
        "EuroSAT zip": prepare,
        "TFRecord": lambda path: sources.load("eurosat/rgb", data_dir=records),
        ".keras": lambda path: open_classifier(path).predict(pixels),
        ".weights.h5": assign,
        ".safetensors": assign,
        "SavedModel": lambda path: open_classifier(model).predict(pixels),
        "labels.txt": lambda path: open_classifier(model),
        "metadata.json": evaluate_and_export,
        "TFLite": lambda path: open_classifier(path).predict(pixels),
    }.get(kind, images.read)


def silence(folder: str) -> None:
    """Sends what this process prints to a file."""
    log = os.open(f"{folder}/log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    program.import_tensorflow()


def write(folder: str) -> None:
    """What a process does that writes the valid files."""
    silence(folder)
    write_files(pathlib.Path(folder))


def work(folder: str, connection) -> None:
    """What a process does that reads damaged files, which come through a connection with their kinds."""
    silence(folder)
    from resnetd_tf.environment import free_memory

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
        free_memory()
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
        content = damaged(valid, random.Random(f"{FLAGS.seed} {kind} {number}"))
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
    from resnetd_tf.environment import cores

    if unknown := set(FLAGS.only or KINDS) - set(KINDS):
        raise InputError(f"--only={','.join(sorted(unknown))}: not among {', '.join(KINDS)}")
    failures = []
    with tempfile.TemporaryDirectory() as files:
        writer = SPAWN.Process(target=write, args=(files,))
        writer.start()
        writer.join()
        if writer.exitcode:
            sys.exit(pathlib.Path(files, "log.txt").read_text())
        print("| kind | result | InputError | failure |\n|---|---|---|---|", flush=True)
        readers: queue.Queue = queue.Queue()
        for _ in range(cores()):
            readers.put(Reader(files))
        tasks = (FLAGS.only or KINDS, itertools.repeat(files), itertools.repeat(readers))
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
    program.run(bad_input)
