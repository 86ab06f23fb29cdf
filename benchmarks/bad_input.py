"""Damages files of every kind that is read, and sees what becomes of it.

    python -m benchmarks.bad_input --count=1000     # of every kind; about an hour on two cores
    python -m benchmarks.bad_input --count=50 --only=PNG,SavedModel --seed=7

One valid file of a kind is damaged --count times, each time in one or several of five ways: bits flipped, truncated,
blocks swapped, zeros, a length doubled. What the programs call reads it, in a process with a limit on time and memory.
Its outcome must be a result or an InputError; for a picture in a request to a server a result or InvalidArgumentError.
Files that led to anything else are kept in --output_dir.
"""

import collections
import concurrent.futures
import contextlib
import io
import multiprocessing
import os
import pathlib
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

KINDS = (
    "JPEG",
    "PNG",
    "WebP",
    "TIFF",
    "TIFF of 13 bands",
    "JPEG in a request",
    "PNG in a request",
    "EuroSAT zip",
    "TFRecord",
    ".keras",
    ".weights.h5",
    ".safetensors",
    "SavedModel",
    "labels.txt",
    "metadata.json",
    "TFLite",
)
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


class Files:
    """A valid file of every kind in a folder, and what reads it."""

    def __init__(self, folder: pathlib.Path):
        import numpy as np
        import PIL.Image
        import safetensors.numpy
        import tensorflow as tf

        from resnetd_tf.data import images, sources, synthetic
        from resnetd_tf.deployment import savedmodel, tflite
        from resnetd_tf.evaluation import run
        from resnetd_tf.networks import checkpoints
        from resnetd_tf.networks.copies import portable
        from resnetd_tf.saved import open_classifier
        from resnetd_tf.sentinel2 import CLASSES

        pixels = synthetic.draw(1, seed=1)[0][0]
        model = portable(small_classifier())
        network = model.layers[-1]
        for suffix in ("jpg", "png", "webp", "tif"):
            PIL.Image.fromarray(pixels).save(folder / f"picture.{suffix}")
        bands = np.random.default_rng(0).integers(0, 3000, (16, 16, 13)).astype("uint16")
        import tifffile

        tifffile.imwrite(folder / "bands.tif", bands)
        with zipfile.ZipFile(folder / "EuroSAT.zip", "w") as archive:
            for index in range(20):
                name = CLASSES[index % 2]
                content = io.BytesIO()
                PIL.Image.fromarray(synthetic.draw(1, seed=index)[0][0]).save(content, "JPEG")
                archive.writestr(f"2750/{name}/{name}_{index}.jpg", content.getvalue())
        sources.load("eurosat/rgb", ("test",), data_dir=str(folder / "tfds"), eurosat_zip=str(folder / "EuroSAT.zip"))
        (record,) = (folder / "tfds").rglob("*.tfrecord*")
        model.save(folder / "model.keras")
        network.save_weights(folder / "network.weights.h5")
        tensors = {name: np.asarray(value) for name, value in checkpoints.state_dict_names(network).items()}
        order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}  # PyTorch's
        tensors = {name: np.ascontiguousarray(value.transpose(order[value.ndim])) for name, value in tensors.items()}
        safetensors.numpy.save_file(tensors, folder / "network.safetensors")
        described = {"dataset": "synthetic", "data_dir": None, "patch_shape": (64, 64, 3), "weights_source": "random"}
        savedmodel.write(model, CLASSES, described, folder / "savedmodel")
        extra = folder / "savedmodel/assets.extra"
        (folder / "model.tflite").write_bytes(tflite._flatbuffer(folder / "savedmodel", pixels.shape))
        served = tf.saved_model.load(str(folder / "savedmodel")).signatures["encoded"]

        def request(path):
            with contextlib.suppress(tf.errors.InvalidArgumentError):
                served(image_bytes=tf.constant([path.read_bytes()]))

        def weights(path):
            try:
                checkpoints.assign(network, checkpoints.read(path, 50, "d"))
            except ValueError as error:  # which `training.preparation` and `evaluation.imagenet` turn into it
                raise InputError(str(error)) from error

        def classify(path):
            open_classifier(path).predict(pixels[None])

        def prepare(path):
            place = tempfile.mkdtemp(dir=folder)
            try:
                sources.load("eurosat/rgb", ("test",), data_dir=place, eurosat_zip=str(path))
            finally:
                shutil.rmtree(place)

        def evaluate(path):
            place = pathlib.Path(tempfile.mkdtemp(dir=folder))
            try:
                run.evaluate(str(folder / "savedmodel"), output_dir=str(place / "out"))
                tflite.convert(str(folder / "savedmodel"), "float32", str(place / "model.tflite"))
            finally:
                shutil.rmtree(place)

        self.kinds: dict[str, tuple[pathlib.Path, Callable]] = {
            "JPEG": (folder / "picture.jpg", images.read),
            "PNG": (folder / "picture.png", images.read),
            "WebP": (folder / "picture.webp", images.read),
            "TIFF": (folder / "picture.tif", images.read),
            "TIFF of 13 bands": (folder / "bands.tif", images.read),
            "JPEG in a request": (folder / "picture.jpg", request),
            "PNG in a request": (folder / "picture.png", request),
            "EuroSAT zip": (folder / "EuroSAT.zip", prepare),
            "TFRecord": (record, lambda path: sources.load("eurosat/rgb", data_dir=str(folder / "tfds"))),
            ".keras": (folder / "model.keras", classify),
            ".weights.h5": (folder / "network.weights.h5", weights),
            ".safetensors": (folder / "network.safetensors", weights),
            "SavedModel": (folder / "savedmodel/saved_model.pb", lambda path: classify(path.parent)),
            "labels.txt": (extra / "labels.txt", lambda path: classify(folder / "savedmodel")),
            "metadata.json": (extra / "metadata.json", evaluate),
            "TFLite": (folder / "model.tflite", lambda path: tflite.run(path.read_bytes(), pixels[None])),
        }


def work(folder: str, kind: str, connection) -> None:
    """Reads the damaged files of one kind that come through a connection, and answers what came of each."""
    log = os.open(f"{folder}/log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    program.import_tensorflow()
    from resnetd_tf.environment import free_memory

    path, read = Files(pathlib.Path(folder)).kinds[kind]
    valid = path.read_bytes()
    read(path)
    limit_memory()
    read(path)  # of the limit is no damage to be found
    connection.send(valid)
    while content := connection.recv():
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
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


class Reader:
    """A process that reads files of one kind, started anew when one has ended it."""

    def __init__(self, kind: str):
        self.kind, self.process = kind, None

    def start(self) -> bytes:
        """Starts it; returns the valid file."""
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.connection, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=work, args=(self.folder.name, self.kind, other), daemon=True)
        self.process.start()
        other.close()
        try:
            return self.connection.recv()
        except EOFError:
            sys.exit(pathlib.Path(self.folder.name, "log.txt").read_text())

    def stop(self) -> None:
        """Ends it, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.folder.cleanup()

    def read(self, content: bytes) -> str:
        """What came of a file: "result", "InputError", or what should not have happened."""
        try:
            self.connection.send(content)
            if self.connection.poll(SECONDS):
                return self.connection.recv()
            failure = f"no answer in {SECONDS} s"
        except (EOFError, ConnectionError):
            self.process.join()
            failure = f"the process ended with {self.process.exitcode}"
        self.stop()
        self.start()
        return failure


def try_kind(kind: str) -> tuple[str, collections.Counter, list[str]]:
    """Damages a file of one kind as often as was asked for; what came of it, and the failures."""
    outcomes, failures, reader = collections.Counter(), [], Reader(kind)
    valid = reader.start()
    for number in range(FLAGS.count):
        content = damaged(valid, random.Random(f"{FLAGS.seed} {kind} {number}"))
        outcome = reader.read(content) if content else "InputError"
        if outcome not in ("result", "InputError"):
            kept = pathlib.Path(FLAGS.output_dir, f"{re.sub(r'[^a-zA-Z0-9]+', '_', kind)}-{FLAGS.seed}-{number}")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)
            kept.with_name(f"{kept.name}.txt").write_text(outcome)
            failures.append(f"{kept}: {outcome.strip().splitlines()[-1]}")
            outcome = "failure"
        outcomes[outcome] += 1
    reader.stop()
    return kind, outcomes, failures


def bad_input(arguments: list[str]) -> None:
    if unknown := set(FLAGS.only or KINDS) - set(KINDS):
        raise InputError(f"--only={','.join(sorted(unknown))}: not among {', '.join(KINDS)}")
    failures = []
    print("| kind | result | InputError | failure |\n|---|---|---|---|", flush=True)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for kind, outcomes, found in pool.map(try_kind, FLAGS.only or KINDS):
            failures += found
            print(f"| {kind} | {outcomes['result']} | {outcomes['InputError']} | {outcomes['failure']} |", flush=True)
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    program.run(bad_input)
