"""The rules of the FID Inception-v3 in the naming of its PyTorch port.

The port circulates as `pt_inception-2015-12-05-6726825d.pth` (pytorch-fid) and, with the same names inside, as
`weights-inception-2015-12-05-6726825d.pth` (torch-fidelity). The weights of torchvision's own Inception-v3 are others:
their classifier has 1,000 classes, and reading them fails there.
"""

from collections.abc import Mapping

from flax import traverse_util

from softvq_jax.models.functional import Functional
from softvq_jax.models.inception import Inception
from softvq_jax.weights import files
from softvq_jax.weights.layout import CONV2D, SAME, Rule, linear, read

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_SOURCE = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_FILE}"

# Leaves of our convolution -> names in theirs, with its batch norm.
_LEAVES = {
    "kernel": ("conv.weight", CONV2D),
    "scale": ("bn.weight", SAME),
    "bias": ("bn.bias", SAME),
    "mean": ("bn.running_mean", SAME),
    "var": ("bn.running_var", SAME),
}


def inception_rules(params: Mapping) -> list[Rule]:
    """Rules of the whole network; our modules are named as theirs, in lower case."""
    rules = linear("fc", "fc")
    for path in traverse_util.flatten_dict(dict(params)):
        *modules, leaf = path
        if modules != ["fc"]:
            name, layout = _LEAVES[leaf]
            block, *branch = modules
            rules.append(Rule("/".join(path), ".".join([block.capitalize(), *branch, name]), layout))
    return rules


def load_inception(name: str) -> tuple[Functional, dict]:
    """The network and its parameters from a file: `net(params)(images)`.

    Args:
      name: a path or `hf://owner/name/file`.

    Raises:
      FileNotFoundError: no such file; the message says where it comes from.
      WeightsError: a file of another network.
    """
    try:
        path = files.resolve(name, purpose="Inception-v3 weights")
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. The FID network's weights are {WEIGHTS_SOURCE}") from error
    return from_tensors(files.read_tensors(path), source=str(path))


def from_tensors(tensors: Mapping, *, source: str) -> tuple[Functional, dict]:
    """The network and its parameters from a PyTorch state dict; `source` names it in messages."""
    net = Functional(lambda rngs: Inception(rngs=rngs))
    return net, read(inception_rules(net.shapes), tensors, net.shapes, source=source)
