"""Grad-CAM: where a network saw what speaks for a label."""

import keras
import numpy as np
import pytest
from PIL import Image

from resnetd_tf.data import synthetic
from resnetd_tf.errors import InputError
from resnetd_tf.imagery import landcover
from resnetd_tf.imagery.gradcam import GradCam
from resnetd_tf.networks import classifier
from resnetd_tf.normalization import EUROSAT_RGB


def network(image_size: int) -> keras.Model:
    keras.utils.set_random_seed(0)
    return classifier.build_classifier(10, "d", classes=4, statistics=EUROSAT_RGB, image_size=image_size)


def test_of_the_last_stage_it_is_the_class_activation_map():
    """Before average pooling and the head gradients are the head's weights (arXiv 1610.02391, section 3.1)."""
    model, image = network(224), synthetic.draw_scenes(1)[0][0]
    found, probabilities = GradCam(model)(image)
    np.testing.assert_allclose(probabilities, model(image[np.newaxis], training=False)[0], atol=1e-5)
    body = model.layers[-1]
    inputs = model.layers[2](model.layers[1](image[np.newaxis]), training=False)
    features = keras.Model(body.inputs, body.get_layer("stage4").output)(inputs, training=False)
    kernel = body.get_layer("predictions").kernel.numpy()[:, probabilities.argmax()]
    cells = np.maximum(np.asarray(features)[0] @ kernel, 0)
    assert cells.shape == (7, 7)
    expected = keras.ops.image.resize((cells / cells.max())[..., np.newaxis], (64, 64))[..., 0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_maps_are_fine_enough_at_every_size():
    for size, stage in ((32, 1), (64, 2), (128, 3), (224, 4)):
        model = network(size)
        cam = GradCam(model)
        assert cam.to_features.output is model.layers[-1].get_layer(f"stage{stage}").output
        found, _ = cam(synthetic.draw_scenes(1)[0][0][:50])
        assert found.shape == (50, 64) and found.min() >= 0 and found.max() <= 1


def test_other_networks_are_refused():
    inputs = keras.Input((None, None, 3))
    with pytest.raises(InputError, match="the model is no ResNet of this package"):
        GradCam(keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs)))


def test_pictures_of_patches_and_of_scenes(run, program, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    images = synthetic.draw_scenes(12, seed=3)[0]
    for index, image in enumerate(images[:7]):
        Image.fromarray(image).save(tmp_path / f"{index}$.png")
    scene = images.reshape(3, 4, 64, 64, 3).swapaxes(1, 2).reshape(192, 256, 3)
    Image.fromarray(scene).save(tmp_path / "scene.png")
    patches = sorted(path.name for path in tmp_path.glob("?$.png"))
    result = program("predict.py", f"--model={run}", *patches, "--explain=patches.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    landcover.label_or_map(run, ["scene.png"], stride=64, explain="why.jpg")
    sizes = {}
    for name in ("patches.png", "why.jpg"):
        with Image.open(tmp_path / name) as picture:
            sizes[name] = picture.size
            assert np.asarray(picture.convert("RGB")).std() > 20
    assert sizes["patches.png"][1] == 3 * 288  # seven pairs, three in a row
    with pytest.raises(InputError, match=r"--explain is of patches or of one scene: leave out 0\$\.png or scene\.png"):
        landcover.label_or_map(run, [patches[0], "scene.png"], explain="x.png", overwrite=True)
    for name in ("patches.png", patches[0]):
        with pytest.raises(InputError, match="it exists; give another name, or --overwrite"):
            landcover.label_or_map(run, [patches[0]], explain=name)
    with pytest.raises(InputError, match=r"--explain=b_landcover\.png is a file of the map"):
        landcover.label_or_map(run, ["scene.png"], output="b", explain="b_landcover.png")
    with pytest.raises(InputError, match=r"--picture and --explain are both x\.png"):
        landcover.label_or_map(run, [patches[0]], picture="x.png", explain="x.png")
    for name, told in (("missing/x.png", "No such file"), (f"{'x' * 250}.png", "File name too long")):
        with pytest.raises(InputError, match=f"cannot draw .*: {told}"):
            landcover.label_or_map(run, [patches[0]], explain=name)
    with pytest.raises(InputError, match=r"cannot draw x\.xyz: its name must end in one of \.avif"):
        landcover.label_or_map(run, [patches[0]], picture="x.xyz")
