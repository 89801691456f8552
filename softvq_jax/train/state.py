"""The state of a training run, carried from step to step, as plain trees of arrays."""

from typing import Any

import flax.struct
import jax


@flax.struct.dataclass
class Network:
    """Parameters and optimizer state of one network."""

    params: Any
    opt: Any


@flax.struct.dataclass
class Discriminator:
    """The discriminator: a `Network` with buffers.

    `buffers` are BatchNorm's running statistics and spectral norm's singular vectors.
    """

    params: Any
    buffers: Any
    opt: Any


@flax.struct.dataclass
class RunningStatistics:
    """Everything that a tokenizer's step updates without gradients.

    Attributes:
      buffers: the discriminator's buffers; None without a discriminator.
      lecam: moving averages of the discriminator's mean logits, `{"real", "fake"}`.
      code_age: as in `TokenizerState`.
    """

    buffers: Any
    lecam: dict[str, jax.Array]
    code_age: jax.Array | None


@flax.struct.dataclass
class TokenizerState:
    """The state of a tokenizer run.

    Attributes:
      step: int32, number of completed steps.
      tokenizer: trained parameters `{"model", "alignment"}`; the latter only with an alignment teacher.
      ema: moving average of `tokenizer.params`.
      discriminator: None without an adversarial loss.
      lecam: moving averages of the discriminator's mean logits, `{"real", "fake"}`.
      code_age: `[C, K]` int32, number of tokens since each code was last the most probable code of a token, at most
        `tokenizer_step.CODE_USAGE_WINDOW`; None without a codebook.
    """

    step: jax.Array
    tokenizer: Network
    ema: Any
    discriminator: Discriminator | None
    lecam: dict[str, jax.Array]
    code_age: jax.Array | None

    @property
    def params(self) -> Any:
        """The trained parameters that `ema` averages."""
        return self.tokenizer.params

    @property
    def running_statistics(self) -> RunningStatistics:
        """The fields updated without gradients. They are separate in the state to keep the paths of old checkpoints."""
        buffers = None if self.discriminator is None else self.discriminator.buffers
        return RunningStatistics(buffers, self.lecam, self.code_age)


@flax.struct.dataclass
class GeneratorState:
    """The state of a latent generator's run.

    Attributes:
      step: int32, number of completed steps.
      generator: trained parameters of the network.
      ema: moving average of `generator.params`.
      repa: the projection of REPA; None without it.
    """

    step: jax.Array
    generator: Network
    ema: Any
    repa: Network | None = None

    @property
    def params(self) -> Any:
        """The trained parameters that `ema` averages."""
        return self.generator.params
