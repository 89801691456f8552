"""A kind of tokenizer of user code: registered, trained, saved and opened again, with no change to the package."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from softvq_jax.config import check_values
from softvq_jax.config.fields import Field, number
from softvq_jax.config.kinds import SCHEMAS, from_scratch
from softvq_jax.config.tokenizer import tokenizer_config
from softvq_jax.models.tokenizer import Decoder, TokenizerConfig, TokenizerModel
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.weights import tokenizer
from softvq_jax.weights.layout import Rule
from softvq_jax.weights.tokenizer_kinds import KINDS, SOFTVQ, TokenizerKind, register_kind
from tests.train.tokenizer_step_test import make_task, take_steps


@dataclasses.dataclass(frozen=True)
class ToyConfig(TokenizerConfig):
    gain: float = 1.0


class ToyDecoder(Decoder):
    """Ends with a learned gain for each color."""

    def __init__(self, config: ToyConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.gain = nnx.Param(jnp.full(3, config.gain))

    def to_pixels(self, decoded):
        return super().to_pixels(decoded) * self.gain[...]


class ToyModel(TokenizerModel):
    decoder_class = ToyDecoder
    ends_linear = False


def toy_config_of(tensors, published, *, source, **compute):
    inferred = tokenizer.config_of(tensors, published, source=source, **compute)
    fields = {field.name: getattr(inferred, field.name) for field in dataclasses.fields(inferred)}
    return ToyConfig(**fields, gain=published["gain"])


def toy_schema(schema):
    schema = from_scratch(schema)
    schema["model"] = {**schema["model"], "gain": Field(0.5, "First gain of all colors.", number(above=0))}
    return schema


TOY = TokenizerKind(
    name="toy",
    title="a toy tokenizer",
    config=ToyConfig,
    network=ToyModel,
    recognizes=lambda tensors: "decoder.gain" in tensors,
    anchors=tokenizer.ANCHORS,
    config_of=toy_config_of,
    weight_rules=lambda config: [*tokenizer.tokenizer_rules(config), Rule("decoder/gain", "decoder.gain")],
    published_fields=lambda config: tokenizer.published_fields(config) | {"gain": config.gain},
    unused_tensors=tokenizer.unused_patch_embed,
    schema=toy_schema,
)


@pytest.fixture(autouse=True)
def registered():
    register_kind(TOY)
    yield
    del KINDS["toy"], SCHEMAS["toy"]


def toy_run():
    """A run of one narrow block on each side."""
    config = tokenizer_config("S", "S", kind="toy")
    for side in (config.model.encoder, config.model.decoder):
        side.update(width=32, depth=1, num_heads=1, patch_size=8)
    sizes = dict(image_size=16, num_latent_tokens=4, latent_dim=4, codebook_size=8, num_codebooks=1)
    config.model.update(**sizes, dtype="float32")
    config.loss.perceptual_weight = 0.0
    config.gan.discriminator = "none"
    config.optim.update(warmup_epochs=0.0, learning_rate=0.1)
    config.train.batch_size = 2
    return config


@pytest.mark.slow
def test_a_user_kind_trains_and_opens_again(tmp_path):
    config = toy_run()
    assert config.model.gain == 0.5 and "encoder" not in config.weights and config.loss.alignment_weight == 0
    check_values(config)
    task, state, logs = take_steps(config, 1)
    assert np.isfinite(logs[0]["generator_total"])
    gain = state.tokenizer.params["model"]["decoder"]["gain"]
    assert np.all(gain != 0.5)
    ours = task.export(state.tokenizer.params)
    ours.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.kind == "toy" and again.config.gain == 0.5
    jax.tree.map(np.testing.assert_array_equal, again.params, ours.params)


def test_what_a_user_kind_cannot_do_is_refused():
    config = toy_run()
    config.gan.adaptive = True
    with pytest.raises(ValueError, match=r"gan\.adaptive is for .* a linear map; that of a toy tokenizer does not"):
        make_task(config)
    config = tokenizer_config("S", "S")  # without the gain
    config.model.kind, config.loss.perceptual_weight, config.gan.discriminator = "toy", 0.0, "none"
    config.loss.alignment_weight, config.weights.encoder = 0.0, ""
    with pytest.raises(
        ValueError, match=r"model\.kind is 'toy', but .* of another kind \(see model\.gain\): start from"
    ):
        make_task(config)
    with pytest.raises(
        ValueError, match=r"config\.model\.kind='titoc': expected one of softvq, titok, maetok, toy, or"
    ):
        tokenizer_config(kind="titoc")


def test_kinds_of_the_package_have_the_same_schemas_in_both_tables():
    assert {name: kind.schema for name, kind in KINDS.items() if kind is not SOFTVQ} == {
        name: schema for name, schema in SCHEMAS.items() if name != "softvq"
    }
