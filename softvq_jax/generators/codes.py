"""The codes that a discrete generator makes and a discrete tokenizer decodes."""

from typing import Any, NamedTuple

from softvq_jax.models.tokenizer import TokenizerConfig
from softvq_jax.plurals import counted


class Codes(NamedTuple):
    """The codes of an image: `num_codebooks` groups of equally many indices, `num_tokens` in all, one codebook for each."""

    num_tokens: int
    num_codebooks: int
    codebook_size: int

    def __str__(self) -> str:
        books = counted(self.num_codebooks, "codebook")
        return f"{counted(self.num_tokens, 'index', 'indices')} into {books} of {counted(self.codebook_size, 'code')}"

    @property
    def shape(self) -> tuple[int, int]:
        """`(C, L/C)`, the shape of an image's indices in `Tokenizer`; a generator takes them as one sequence of `L`."""
        return self.num_codebooks, self.num_tokens // self.num_codebooks


def codes_of(config: Any) -> Codes:
    """Returns the codes of a discrete generator, or of metadata with the same fields."""
    return Codes(config.num_tokens, config.num_codebooks, config.codebook_size)


def codes_of_tokenizer(config: TokenizerConfig) -> Codes:
    """Returns the codes of a tokenizer; raises ValueError if its latents are continuous."""
    if not config.discrete:
        raise ValueError(
            f"the {config.bottleneck} bottleneck of the tokenizer has continuous latents, and this generator makes code "
            "indices: use a discrete tokenizer, such as VQ, or a generator of latents, such as a SiT"
        )
    return Codes(config.num_latent_tokens, config.num_codebooks, config.codebook_size)
