"""SavedModels in processes without our package, and what they are made from."""

import io
import shutil
import struct
import subprocess
import sys
import zlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from pictures import encode
from PIL import Image

from benchmarks import parity
from resnetd_tf.data import images, synthetic
from resnetd_tf.deployment import export, savedmodel
from resnetd_tf.errors import InputError
from resnetd_tf.networks import classifier
from resnetd_tf.networks.layers import fold_batch_norm
from resnetd_tf.normalization import EUROSAT_ALL, EUROSAT_RGB
from resnetd_tf.saved import open_classifier


def test_savedmodel_equals_keras_model_without_our_package(run, tmp_path):
    np.save(tmp_path / "images.npy", synthetic.draw_scenes(20, seed=5)[0])
    script = """
import sys; sys.modules["resnetd_tf"] = None
import numpy as np, tensorflow as tf
images = np.load("images.npy")
signature = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
np.save("savedmodel.npy", signature(pixels=tf.constant(images))["probabilities"])
import keras
np.save("keras.npy", keras.saving.load_model(sys.argv[2], compile=False).predict(images, verbose=0))
"""
    command = [sys.executable, "-c", script, str(run / "1"), str(run / "run-1/model.keras")]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=200)
    exported, ours = np.load(tmp_path / "savedmodel.npy"), np.load(tmp_path / "keras.npy")
    np.testing.assert_allclose(exported, ours, atol=1e-5)
    np.testing.assert_allclose(exported.sum(axis=1), 1, atol=1e-5)
    assert exported.std(axis=0).max() > 0.01  # not the same answer to everything


def test_encoded_signature_takes_files_of_any_size(small_classifier, signatures, tmp_path):
    encoded = []
    for index, (image, name) in enumerate(zip(synthetic.draw_scenes(3)[0], ("a.jpg", "b.png", "c.jpg"))):
        Image.fromarray(image[: 64 - 10 * index]).save(tmp_path / name)
        encoded.append((tmp_path / name).read_bytes())
    answers = signatures["encoded"](image_bytes=tf.constant(encoded))["probabilities"].numpy()
    trained = small_classifier
    for name, probabilities in zip(("a.jpg", "b.png", "c.jpg"), answers):
        pixels = np.asarray(Image.open(tmp_path / name))
        np.testing.assert_allclose(probabilities, trained.predict(pixels[np.newaxis])[0], atol=1e-5)


def png_header(width, height, depth=8):
    """The start of a PNG file of that size, and no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + bytes(20)


@pytest.fixture(scope="module")
def signatures(run):
    """The signatures of the small classifier's SavedModel, which lives as long as they are used."""
    loaded = tf.saved_model.load(str(run / "1"))
    yield loaded.signatures


@pytest.fixture(scope="module")
def good_picture():
    return encode(synthetic.draw_scenes(1)[0][0], "JPEG")


@pytest.fixture(scope="module")
def good_answer(small_classifier, good_picture):
    return small_classifier.predict(np.asarray(Image.open(io.BytesIO(good_picture)))[np.newaxis])[0]


def bad_pictures(good_picture):
    """Files that have no answer, and part of the error of each."""
    image, rotated = Image.open(io.BytesIO(good_picture)), Image.Exif()
    rotated[0x0112] = 6
    return {
        b"GIF89a" + bytes(40): "not a JPEG or PNG file",
        b"": "not a JPEG or PNG file",
        png_header(1, 1)[:20]: "not a JPEG or PNG file",
        png_header(20_000, 20_000): "picture of 20000 x 20000 pixels: more than 67108864",
        png_header(2**31, 2): "more than 67108864",
        png_header(8, 0): "or none",
        png_header(8, 8, 16): "16 bits a colour",
        b"\xff\xd8\xff" + bytes(40): "damaged",
        good_picture[:900]: "damaged",
        encode(image, "JPEG", exif=rotated): "to be turned",
        encode(image, "PNG", exif=rotated): "to be turned",
        encode(image, "JPEG", exif=rotated, icc_profile=bytes(200_000)): "to be turned",
    }


def test_a_bad_picture_does_not_disturb_the_others(signatures, good_picture, good_answer):
    """Servers merge requests. The header says what is wrong, before memory is taken for the pixels."""
    bad = bad_pictures(good_picture)
    answer = signatures["encoded"](image_bytes=tf.constant([good_picture, *bad, good_picture]))
    errors, probabilities = answer["error"].numpy(), answer["probabilities"].numpy()
    assert errors[0] == errors[-1] == b""
    for error, expected_error in zip(errors[1:-1], bad.values()):
        assert expected_error in error.decode()
    np.testing.assert_allclose(probabilities[[0, -1]], [good_answer, good_answer], atol=1e-6)
    assert not probabilities[1:-1].any()


def test_a_bad_picture_has_labels_and_no_class(signatures, good_picture, good_answer):
    bad = bad_pictures(good_picture)
    answer = signatures["encoded"](image_bytes=tf.constant([good_picture, *bad]))
    names = [name.encode() for name in synthetic.CLASSES]
    assert answer["labels"].numpy().tolist() == [names] * (len(bad) + 1)
    assert answer["top_class"].numpy()[0] == names[good_answer.argmax()]
    assert set(answer["top_class"].numpy()[1:]) == {b""}


def test_a_bad_example_does_not_disturb_the_others(signatures, good_picture, good_answer):
    examples = [tf.train.Example() for _ in range(5)]
    features = [example.features.feature["image/encoded"] for example in examples[:4]]
    features[0].bytes_list.value.append(good_picture)
    features[1].bytes_list.value.append(good_picture[:900])
    features[2].int64_list.value.append(3)
    features[3].bytes_list.value.extend([good_picture, good_picture])
    serialized = [*(example.SerializeToString() for example in examples), b"no example"]
    classified = signatures["classify"](inputs=tf.constant(serialized))
    np.testing.assert_allclose(classified["scores"], [good_answer, *[0 * good_answer] * 5], atol=1e-6)
    assert classified["classes"].numpy().tolist() == [[name.encode() for name in synthetic.CLASSES]] * 6


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK"])
def test_kinds_of_pictures_have_one_answer(small_classifier, signatures, tmp_path, mode):
    """TensorFlow reads them in a request as Pillow does for predict.py."""
    image = Image.fromarray(synthetic.draw_scenes(4)[0][3]).convert(mode)
    path = tmp_path / "image"
    image.save(path, "JPEG" if mode == "CMYK" else "PNG")
    served = signatures["encoded"](image_bytes=tf.constant([path.read_bytes()]))["probabilities"]
    np.testing.assert_allclose(served[0], small_classifier.predict([images.read_image(path)])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("statistics", "precision", "interpolation"),  # each pair of values of two of them is there
    [
        (EUROSAT_RGB, "float32", "bilinear"),
        (EUROSAT_RGB, "bfloat16", "bicubic"),
        (EUROSAT_ALL, "float32", "bicubic"),
        (EUROSAT_ALL, "bfloat16", "bilinear"),
    ],
    ids=["rgb", "rgb in bfloat16", "all", "all in bfloat16"],
)
def test_every_export_can_be_opened(tmp_path, statistics, precision, interpolation):
    classes = ("a", "b", "c")
    built = classifier.build_classifier(
        10, "base", classes=3, statistics=statistics, image_size=32, interpolation=interpolation
    )
    savedmodel.write_savedmodel(built, classes, {}, tmp_path / "model", precision)
    opened, bands = open_classifier(tmp_path / "model"), len(statistics.mean)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, bands)).astype(statistics.dtype)
    assert opened.classes == classes and opened.bands == bands
    np.testing.assert_allclose(opened.predict(images), built.predict(images, verbose=0), atol=0.05)


def test_an_empty_batch_is_refused_by_name(signatures):
    with pytest.raises(tf.errors.InvalidArgumentError, match="pixels: no image is given"):
        signatures["serving_default"](pixels=tf.zeros((0, 64, 64, 3), tf.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match="image_bytes: no image is given"):
        signatures["encoded"](image_bytes=tf.constant([], tf.string))


def test_an_empty_batch_has_an_empty_answer_here(run):
    assert open_classifier(run).predict(np.zeros((0, 64, 64, 3), "uint8")).shape == (0, 10)


@pytest.mark.long
def test_a_run_that_died_can_be_deployed(run, small_classifier, program, tmp_path):
    """Its model.keras becomes the SavedModel that was not written, with the names of the classes."""
    base = tmp_path / "small"
    shutil.copytree(run / "run-1", base / "run-1")
    model, path = base / "run-1/model.keras", base / "1"
    result = program("export.py", f"--model={model}", "--format=savedmodel", f"--output={path}")
    assert result.returncode == 0, result.stderr
    assert "256 validation images: same class for 100.0 %" in result.stdout
    shutil.move(path, tmp_path / "alone")
    alone, images = open_classifier(tmp_path / "alone"), synthetic.draw_scenes(20, seed=5)[0]
    assert alone.classes == synthetic.CLASSES and alone.metadata["patch_shape"] == [64, 64, 3]
    for values, expected in zip(*(each.classify(images) for each in (alone, small_classifier))):
        np.testing.assert_allclose(values, expected, atol=1e-5)
    Image.fromarray(images[0]).save(tmp_path / "scene.png")
    assert synthetic.CLASSES[alone.predict(images[:1]).argmax()] in program(
        "predict.py", f"--model={model}", "--top=1", tmp_path / "scene.png"
    ).stdout  # fmt: skip


def test_savedmodel_in_bfloat16(run, tmp_path, capsys):
    export.export_classifier(str(run), "savedmodel", "bfloat16", str(tmp_path / "bfloat16"))
    assert "validation images: same class for" in capsys.readouterr().out
    images = synthetic.draw_scenes(40, seed=7)[0]
    probabilities, expected = (open_classifier(path).predict(images) for path in (tmp_path / "bfloat16", run))
    np.testing.assert_allclose(probabilities, expected, atol=0.05)
    assert (probabilities != expected).any()
    sizes = [(path / "saved_model.pb").stat().st_size for path in (tmp_path / "bfloat16", run / "1")]
    assert sizes[0] < 0.6 * sizes[1]  # the weights, in half the bytes


def test_a_folder_that_exists_is_not_replaced(run):
    with pytest.raises(InputError, match="exists already"):
        export.export_classifier(str(run), "savedmodel", output=str(run / "1"))


def test_folded_batch_norm_computes_the_same():
    case = ("timm", 50, "d", (97, 129), 8, 3)
    model, images = parity.ours(*case), parity.images((97, 129), 3)
    copy = fold_batch_norm(model)
    assert not any(isinstance(layer, keras.layers.BatchNormalization) for layer in copy.layers)
    np.testing.assert_allclose(copy(images), model(images), atol=1e-5)
