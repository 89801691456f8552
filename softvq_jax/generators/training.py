"""The network and the loss of a generator run, for all families."""

import dataclasses

from flax import nnx
from ml_collections import ConfigDict

from softvq_jax.config.schemas import check_values
from softvq_jax.generators.family import Family, GeneratorConfig, Losses, find_family
from softvq_jax.models.functional import Functional


@dataclasses.dataclass(frozen=True)
class GeneratorNetwork:
    """The network of a generator in training.

    Attributes:
      family: family of the generator.
      config: shape of the network.
      process: SiT's path, or the noise schedule of DiT or MAR.
      functional: the network as a function of its trained parameters and `fixed_params`.
      losses: the loss function, see `generators.family.Losses`.
      fixed_params: parameters that are not trained, such as the positions of SiT and DiT.
    """

    family: Family
    config: GeneratorConfig
    process: str
    functional: Functional
    losses: Losses
    fixed_params: dict

    def __call__(self, params) -> nnx.Module:
        """Returns the network with these trained parameters."""
        return self.functional(params, self.fixed_params)


def build(config: ConfigDict) -> GeneratorNetwork:
    """Builds the network of a training config.

    Raises:
      ValueError: a field has a value that is not allowed.
    """
    check_values(config)
    family = find_family(config.model.family)
    fields = config.model.to_dict()
    del fields["family"]
    shape = family.make_config(fields)
    losses = family.losses(config.objective)
    return GeneratorNetwork(
        family, shape, config.objective.process, family.network(shape), losses, family.fixed_params(shape)
    )
