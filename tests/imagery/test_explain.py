"""Grad-CAM: where a network sees what speaks for a label."""

import keras
import numpy as np
import pytest
from PIL import Image

from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import gradcam
from resnetd_tf.imagery.gradcam import GradCam
from resnetd_tf.imagery.landcover import MapOptions, map_scenes
from resnetd_tf.imagery.patches import label_patches
from resnetd_tf.networks import classifier
from resnetd_tf.normalization import EUROSAT_RGB
from resnetd_tf.saved import SavedClassifier


def build_network(image_size: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    return classifier.build_classifier(10, "d", classes=4, statistics=EUROSAT_RGB, image_size=image_size)


def test_of_the_last_stage_it_is_the_class_activation_map():
    """Before average pooling and the head gradients are the head's weights (arXiv 1610.02391, section 3.1)."""
    model, image = build_network(224), synthetic.draw_scenes(1)[0][0]
    heat_map, probabilities = GradCam(model)(image)
    np.testing.assert_allclose(probabilities, model(image[np.newaxis], training=False)[0], atol=1e-5)
    body = model.layers[-1]
    inputs = model.layers[2](model.layers[1](image[np.newaxis]), training=False)
    features = keras.Model(body.inputs, body.get_layer("stage4").output)(inputs, training=False)
    kernel = body.get_layer("predictions").kernel.numpy()[:, probabilities.argmax()]
    cells = np.maximum(np.asarray(features)[0] @ kernel, 0)
    assert cells.shape == (7, 7)
    expected = keras.ops.image.resize((cells / cells.max())[..., np.newaxis], (64, 64))[..., 0]
    np.testing.assert_allclose(heat_map, expected, atol=1e-4)


@pytest.mark.parametrize(("size", "stage"), [(32, 1), (64, 2), (128, 3), (224, 4)])
def test_heat_maps_are_fine_enough_at_every_size(size, stage):
    model = build_network(size)
    cam = GradCam(model)
    assert cam.to_features.output is model.layers[-1].get_layer(f"stage{stage}").output
    heat_map, _ = cam(synthetic.draw_scenes(1)[0][0][:50])
    assert heat_map.shape == (50, 64) and heat_map.min() >= 0 and heat_map.max() <= 1


def test_other_networks_are_refused():
    inputs = keras.Input((None, None, 3))
    with pytest.raises(InputError, match="the model is no ResNet of this package"):
        GradCam(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)))


@pytest.fixture(scope="module")
def saved_classifier(tmp_path_factory) -> SavedClassifier:
    """A network that is not trained, as a classifier."""
    model = build_network(32)
    path = tmp_path_factory.mktemp("model") / "model.keras"
    return SavedClassifier(path, path.parent, tuple("abcd"), 3, lambda images: np.asarray(model(np.stack(images))))


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """The current folder, with seven patches and a scene; Grad-CAM opens the network of `saved_classifier`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gradcam, "open_keras_model", lambda path, trust: (path, build_network(32)))
    images = synthetic.draw_scenes(12, seed=3)[0]
    for index, image in enumerate(images[:7]):
        Image.fromarray(image).save(f"{index}$.png")
    Image.fromarray(images.reshape(3, 4, 64, 64, 3).swapaxes(1, 2).reshape(192, 256, 3)).save("scene.png")
    return tmp_path


def size_of_picture(path) -> tuple[int, int]:
    """Width and height of a picture that shows something."""
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("RGB")).std() > 20
        return picture.size


def test_a_picture_of_patches(folder, saved_classifier):
    label_patches(saved_classifier, sorted(folder.glob("?$.png")), explain="patches.png")
    assert size_of_picture("patches.png")[1] == 3 * 288  # seven pairs, three in a row


def test_a_picture_of_a_map_has_each_of_its_classes(folder, saved_classifier):
    map_scenes(saved_classifier, ["scene.png"], MapOptions(stride=64), output="map", explain="why.jpg")
    classes = sum(float(row.split(",")[1]) > 0 for row in (folder / "map_areas.csv").read_text().splitlines()[1:])
    assert size_of_picture("why.jpg")[1] == -(-classes // 3) * 288


def test_several_scenes_are_not_explained(folder, saved_classifier):
    Image.open("scene.png").save("other.png")
    with pytest.raises(InputError, match="--explain draws one scene, but 2 are given; map one at a time"):
        map_scenes(saved_classifier, ["scene.png", "other.png"], MapOptions(), explain="why.png")


def test_a_file_of_the_map_is_no_explanation(folder, saved_classifier):
    with pytest.raises(InputError, match=r"--explain=b_landcover\.png is a file of the map"):
        map_scenes(saved_classifier, ["scene.png"], MapOptions(), output="b", explain="b_landcover.png")


def test_an_output_without_a_name_is_refused_beside_an_explanation(folder, saved_classifier):
    with pytest.raises(InputError, match=r"--output=\.: give what the names of files begin with"):
        map_scenes(saved_classifier, ["scene.png"], MapOptions(), output=".", explain="why.png")


def test_an_explanation_is_not_replaced_unasked(folder, saved_classifier):
    with pytest.raises(InputError, match="it exists; give another name, or --overwrite"):
        map_scenes(saved_classifier, ["scene.png"], MapOptions(), output="b", explain="0$.png")
