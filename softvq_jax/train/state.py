"""What a training run carries from step to step, as plain trees of arrays."""

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class Network:
    """A trained network: its parameters, and what its optimiser remembers."""

    params: Any
    opt: Any


@flax.struct.dataclass
class Discriminator:
    """The discriminator: `buffers` are BatchNorm's running statistics and spectral norm's vectors."""

    params: Any
    buffers: Any
    opt: Any


@flax.struct.dataclass
class TokenizerState:
    """The state of a tokenizer run.

    Attributes:
      step: int32, steps done.
      tokenizer: trained parameters `{"model", "alignment"}`; the second only where a teacher is used.
      ema: moving average of `tokenizer.params`.
      discriminator: None where there is no adversarial loss.
      lecam: moving averages of the mean logits, `{"real", "fake"}`.
      code_age: `[C, K]` int32: tokens seen by a codebook since each code was last the most probable one. None without
        a codebook.
    """

    step: jax.Array
    tokenizer: Network
    ema: Any
    discriminator: Discriminator | None
    lecam: dict[str, jax.Array]
    code_age: jax.Array | None


@flax.struct.dataclass
class GeneratorState:
    """The state of a latent generator's run.

    Attributes:
      step: int32, steps done.
      generator: trained parameters of the network.
      ema: moving average of `generator.params`.
    """

    step: jax.Array
    generator: Network
    ema: Any
