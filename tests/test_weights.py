"""Our networks against timm's logits, stored by `python -m benchmarks.parity --write`; weights are redrawn."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks import parity
from resnetd_tf import resnet
from resnetd_tf.weights import load_state_dict, state_dict_names

OF_PYTORCH = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def state_dict(model):
    """Drawn tensors under PyTorch's names and in its layouts."""
    tensors = {}
    for layer, name in state_dict_names(model).items():
        for weight in model.get_layer(layer).weights:
            full = f"{name}.{OF_PYTORCH.get(weight.name, weight.name.replace('kernel', 'weight'))}"
            shape = tuple(weight.shape)
            shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
            tensors[full] = parity.draw(full, shape)
    return tensors


@pytest.mark.parametrize("case", parity.STORED, ids=lambda case: parity.key(*case))
def test_logits_are_timms(case):
    depth, variant, size, stride, bands = case
    shape = (*size, bands)
    model = resnet(depth, variant, input_shape=shape, classes=10, classifier_activation=None, output_stride=stride)
    load_state_dict(model, state_dict(model))
    logits = np.asarray(model(parity.images(size, bands)))
    with np.load(parity.GOLDEN) as golden:
        np.testing.assert_allclose(logits, golden[parity.key(*case)], atol=1e-4)
    assert np.abs(logits).max() > 0.1


def test_names_are_pytorchs():
    names = set(state_dict(resnet(50, "d", classes=10)))
    assert len(names) == 55 * 5 + 2  # 55 convolutions, each with a batch normalisation of four, and the head
    assert {"conv1.0.weight", "conv1.4.running_var", "bn1.bias", "layer1.0.downsample.1.weight", "fc.bias"} <= names
    assert {"layer4.0.downsample.2.running_mean", "layer3.5.conv3.weight"} <= names
    plain = set(state_dict(resnet(18, "b", classes=10)))
    assert {"conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias"} <= plain
    assert "layer1.0.downsample.0.weight" not in plain


def test_safetensors(tmp_path):
    tensors = state_dict(resnet(18, "d", classes=10))
    path = tmp_path / "weights.safetensors"
    save_file({**tensors, "bn1.num_batches_tracked": np.array(7)}, path)
    model = resnet(18, "d", classes=10, weights=path)
    np.testing.assert_array_equal(model.get_layer("stem_3_bn").moving_mean, tensors["bn1.running_mean"])
    kernel = tensors["layer1.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.get_layer("stage1_block1_1_conv").kernel, kernel)
    np.testing.assert_array_equal(model.get_layer("predictions").kernel, tensors["fc.weight"].T)

    with pytest.raises(ValueError, match=r"do not fit resnet34d: layer\d.*is missing"):
        resnet(34, "d", classes=10, weights=path)
    with pytest.raises(ValueError, match="is not in the network"):
        resnet(18, "d", include_top=False, weights=path)
    with pytest.raises(ValueError, match=r"fc\.\w+ becomes .*10.*expected .*7"):
        resnet(18, "d", classes=7, weights=path)
    path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(ValueError, match=r"weights\.safetensors do not fit"):
        resnet(18, "d", classes=10, weights=path)


def test_pickles_are_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="loading a pickle runs code"):
        resnet(18, "d", weights=tmp_path / "weights.pth")
