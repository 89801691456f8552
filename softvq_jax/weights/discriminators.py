"""Weight rules of the discriminators, in the naming of the released training code."""

from softvq_jax.models.dino_trunk import NUM_FEATURES
from softvq_jax.weights.layout import CONV1D, CONV2D, SAME, Layout, Rule, norm

_HEAD_CONVS = {"pointwise/conv": ("0.0", 1), "circular/conv": ("1.fn.0", 9), "logit": ("2", 1)}
_HEAD_NORMS = {"pointwise/norm": "0.1", "circular/norm": "1.fn.1"}


def head_rules() -> list[Rule]:
    """Returns the rules of `DinoDiscriminator`'s parameters."""
    rules = []
    for path, (key, _) in _HEAD_CONVS.items():
        path, key = f"heads/{path}", f"heads.{{i}}.{key}"
        rules += [
            Rule(f"{path}/kernel", f"{key}.weight_orig", CONV1D, NUM_FEATURES),
            Rule(f"{path}/bias", f"{key}.bias", SAME, NUM_FEATURES),
        ]
    for path, key in _HEAD_NORMS.items():
        rules += norm(f"heads/{path}", f"heads.{{i}}.{key}", NUM_FEATURES)
    return rules


def head_buffer_rules() -> list[Rule]:
    """Returns the rules of `DinoDiscriminator`'s buffers: spectral norm's vectors and BatchNorm's running statistics."""
    rules = []
    for path, (key, size) in _HEAD_CONVS.items():
        path, key = f"heads/{path}", f"heads.{{i}}.{key}"
        rules += [
            Rule(f"{path}/u", f"{key}.weight_u", SAME, NUM_FEATURES),
            Rule(f"{path}/v", f"{key}.weight_v", _flat_windows(size), NUM_FEATURES),
        ]
    for path, key in _HEAD_NORMS.items():
        rules += _running(f"heads/{path}", f"heads.{{i}}.{key}", NUM_FEATURES)
    return rules


def _flat_windows(size):
    """Returns the layout of a spectral vector, `[in * size] <-> [size, in]`, since PyTorch flattens the kernel's axes."""
    return Layout(lambda v: v.reshape(-1, size).T, lambda v: v.T.reshape(-1))


def _running(path, key, count=None):
    return [Rule(f"{path}/{name}", f"{key}.running_{name}", SAME, count) for name in ("mean", "var")]


def patchgan_rules(num_layers: int = 3) -> list[Rule]:
    """Returns the rules of `PatchGAN`'s parameters."""
    first, last = "main.0", f"main.{3 * num_layers + 2}"
    rules = []
    for path, key in (("conv0", first), ("logit", last)):
        rules += [Rule(f"{path}/kernel", f"{key}.weight", CONV2D), Rule(f"{path}/bias", f"{key}.bias")]
    for i in range(1, num_layers + 1):
        rules += [Rule(f"conv{i}/kernel", f"main.{3 * i - 1}.weight", CONV2D), *norm(f"norm{i}", f"main.{3 * i}")]
    return rules


def patchgan_buffer_rules(num_layers: int = 3) -> list[Rule]:
    """Returns the rules of `PatchGAN`'s buffers: BatchNorm's running statistics."""
    return [rule for i in range(1, num_layers + 1) for rule in _running(f"norm{i}", f"main.{3 * i}")]
