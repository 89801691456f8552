import jax
import numpy as np
import pytest
from flax import traverse_util

from softvq_jax.models.functional import functional
from softvq_jax.models.inception import FEATURES, Inception, tf1_bilinear_resize
from softvq_jax.weights import inception, layout, pretrained

NET = functional(Inception)


def _read_like_tensorflow(image, size):
    """TensorFlow 1's resize_bilinear, pixel by pixel in float64."""
    height, width, channels = image.shape
    out = np.empty((size, size, channels))
    for i in range(size):
        for j in range(size):
            y, x = i * height / size, j * width / size
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
            out[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return out


@pytest.mark.parametrize(("height", "width", "size"), [(7, 5, 12), (40, 64, 23), (9, 9, 9), (1, 3, 4)])
def test_tf1_resize_equals_tensorflows(height, width, size):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.float32)
    expected = _read_like_tensorflow(image.astype(np.float64), size)
    np.testing.assert_allclose(tf1_bilinear_resize(image[None], size)[0], expected, rtol=1e-5, atol=1e-3)


def test_an_image_of_the_networks_size_is_not_resized():
    image = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3)).astype(np.float32)
    np.testing.assert_array_equal(tf1_bilinear_resize(image, 299), image)


def test_features_have_the_declared_widths():
    shapes = jax.eval_shape(lambda p, x: NET(p)(x), NET.shapes, jax.ShapeDtypeStruct((2, 64, 48, 3), np.uint8))
    assert {name: feature.shape for name, feature in shapes.items()} == {n: (2, w) for n, w in FEATURES.items()}


@pytest.mark.parametrize(("dtype", "channels"), [(np.float32, 3), (np.uint8, 4)])
def test_only_8_bit_rgb_is_taken(dtype, channels):
    with pytest.raises(ValueError, match="takes uint8"):
        jax.eval_shape(lambda p, x: NET(p)(x), NET.shapes, jax.ShapeDtypeStruct((2, 64, 64, channels), dtype))


def test_weights_round_trip_bit_for_bit():
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.random(leaf.shape, np.float32), NET.shapes)
    tensors = layout.write(inception.inception_rules(NET.shapes), params)
    assert tensors["Mixed_6b.branch7x7_2.conv.weight"].shape == (128, 128, 1, 7)
    assert len(tensors) == 5 * 94 + 2  # convolutions, each with four of batch norm, and the classifier
    _, again = pretrained.from_tensors("inception", tensors, source="test")
    for path, leaf in traverse_util.flatten_dict(again).items():
        np.testing.assert_array_equal(leaf, traverse_util.flatten_dict(params)[path])


def test_another_inception_is_refused():
    tensors = layout.write(inception.inception_rules(NET.shapes), jax.tree.map(lambda s: np.zeros(s.shape), NET.shapes))
    tensors["fc.weight"] = np.zeros((1000, 2048))  # torchvision's
    with pytest.raises(layout.WeightsError, match=r"'fc.weight' has shape \(1000, 2048\)"):
        pretrained.from_tensors("inception", tensors, source="torchvision.pth")


def test_the_message_for_missing_weights_names_their_source():
    with pytest.raises(FileNotFoundError, match="mseitzer/pytorch-fid"):
        pretrained.load_inception("/nowhere/inception.safetensors")
