"""Weight rules of the FID Inception-v3, in the naming of its PyTorch port.

The port is available as `pt_inception-2015-12-05-6726825d.pth` (pytorch-fid) and, with the same names inside, as
`weights-inception-2015-12-05-6726825d.pth` (torch-fidelity). torchvision's Inception-v3 is another network with 1,000
classes, and its weights are rejected.
"""

from collections.abc import Mapping

from flax import traverse_util

from softvq_jax.weights.layout import CONV2D, SAME, Rule, linear

# Maps parameters of our convolution, including its batch norm, to the port's names.
_LEAVES = {
    "kernel": ("conv.weight", CONV2D),
    "scale": ("bn.weight", SAME),
    "bias": ("bn.bias", SAME),
    "mean": ("bn.running_mean", SAME),
    "var": ("bn.running_var", SAME),
}


def inception_rules(params: Mapping) -> list[Rule]:
    """Returns the rules of the whole network; our modules have the port's names in lower case."""
    rules = linear("fc", "fc")
    for path in traverse_util.flatten_dict(dict(params)):
        *modules, leaf = path
        if modules != ["fc"]:
            name, layout = _LEAVES[leaf]
            block, *branch = modules
            rules.append(Rule("/".join(path), ".".join([block.capitalize(), *branch, name]), layout))
    return rules
