"""Small sets of images, and a small network in place of Inception."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from softvq_jax.models.functional import Functional
from softvq_jax.tools import evaluation_inputs
from tests.small_inception import SmallInception
from tests.tools.evaluations import SIZE


@pytest.fixture
def small_inception(monkeypatch):
    """`tools.evaluate` loads this network; returns its function of images."""
    net = Functional(SmallInception)
    params, _ = net.init(jax.random.key(0))
    monkeypatch.setattr(evaluation_inputs, "load_inception", lambda name: (net, params))
    return lambda images: nnx.merge(*nnx.split(net(params)))(images)


@pytest.fixture
def images():
    """Smooth pictures, and noisy copies of them."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    smooth = np.stack([Image.fromarray(x).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for x in coarse])
    noisy = np.clip(smooth + rng.normal(0, np.linspace(5, 25, 24)[:, None, None, None], smooth.shape), 0, 255)
    return smooth, noisy.astype(np.uint8)
