"""Values that a config may not have are refused in one line; the defaults of all configs pass."""

import math

import pytest
from ml_collections import ConfigDict

from softvq_jax.config import check_values, load_config, schema_of, tokenizer_config
from softvq_jax.config.fields import flatten
from softvq_jax.config.names import config_names, find_config, takes_argument
from softvq_jax.config.reference import REFERENCE_CONFIGS
from softvq_jax.config.schemas import field_values

NAN, INF = math.nan, math.inf
SINGLE = [name for name in config_names() if not takes_argument(find_config(name).path)]
FAMILIES = [name for name in REFERENCE_CONFIGS if ":" in name and name.partition(":")[0] in config_names()]
WRONG = {
    "seed": (-1, 2**32),
    "model.encoder.width": (0,),
    "model.encoder.depth": (0,),
    "model.encoder.num_heads": (0,),
    "model.encoder.patch_size": (0, -16),
    "model.encoder.mlp_ratio": (0.0, NAN),
    "model.encoder.activation": ("relu",),
    "model.encoder.layer_scale": (-1e-5, NAN),
    "model.decoder.drop_path": (2.0, 1.0, -0.1, NAN),
    "model.decoder.num_registers": (-1,),
    "model.image_size": (0, -256),
    "model.num_latent_tokens": (0,),
    "model.latent_dim": (0,),
    "model.bottleneck": ("",),
    "model.codebook_size": (0,),
    "model.num_codebooks": (0,),
    "model.temperature": (0.0, -1.0, NAN, INF),
    "model.posterior": ("prior",),
    "model.dtype": ("float8", "int32"),
    "model.remat": ("all",),
    "loss.reconstruction_weight": (-1.0, NAN),
    "loss.perceptual_weight": (-0.1,),
    "loss.perceptual_warmup_steps": (-1,),
    "loss.alignment_weight": (NAN,),
    "loss.entropy_weight": (-0.01,),
    "loss.kl_weight": (INF,),
    "alignment.mode": ("mean",),
    "alignment.hidden": (0,),
    "alignment.head": ("linear",),
    "alignment.depth": (0,),
    "alignment.channels": (-1,),
    "gan.discriminator": ("stylegan", ""),
    "gan.loss": ("wasserstein",),
    "gan.weight": (-0.2,),
    "gan.start_step": (-1,),
    "gan.lecam_decay": (1.5,),
    "gan.consistency_weight": (-4.0,),
    "optim.optimizer": ("sgd", ""),
    "optim.learning_rate": (-1e-4, NAN, INF),
    "optim.muon_learning_rate": (-0.1, NAN),
    "optim.final_factor": (-0.1, 1.1),
    "optim.beta1": (1.0, -0.1),
    "optim.beta2": (2.0,),
    "optim.eps": (0.0,),
    "optim.clip_norm": (0.0, -1.0),
    "optim.ema_decay": (2.0, 1.0, NAN),
    "optim.accumulate": (0,),
    "optim.schedule": ("linear",),
    "optim.codebook_schedule": ("linear",),
    "optim.warmup_epochs": (-1.0,),
    "optim.weight_decay": (-1e-4,),
    "train.batch_size": (0, -8),
    "train.num_epochs": (0.0, NAN),
    "train.num_steps": (-1, 2**31),
    "data.source": ("web",),
    "data.holdout": (1.0, -0.1, NAN),
    "data.augment": ("center",),
    "data.classes": ("subfolders",),
    "data.exif": ("yes", "rotate"),
    "data.background": ("", "mauv", "#12", "7"),
    "data.max_pixels": (0, -5),
    "data.num_workers": (-1, 10**12),
    "data.prefetch": (-1, 10**12),
    "data.max_unreadable_share": (1.5,),
    "mesh.slices": (0, -2),
    "mesh.data": (0,),
    "mesh.fsdp": (0, -2),
    "checkpoint.every_steps": (-1,),
    "checkpoint.keep": (0,),
    "checkpoint.keep_every_steps": (-1,),
    "log.every_steps": (-1,),
}


def config_with(name: str, value: object) -> ConfigDict:
    config = tokenizer_config("S", "S")
    config.update_from_flattened_dict({name: value})
    return config


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_wrong_value_is_refused(name, value):
    allowed = flatten(schema_of(tokenizer_config()))[name].allowed.text
    with pytest.raises(ValueError) as caught:
        check_values(config_with(name, value))
    assert str(caught.value) == f"config.{name}={value!r}: expected {allowed}"


def test_at_least_sixty_wrong_values():
    assert sum(map(len, WRONG.values())) >= 60


@pytest.mark.parametrize("name", ["model.encoder.drop_path", "data.holdout", "optim.weight_decay", "data.prefetch"])
def test_lower_limit_is_allowed(name):
    check_values(config_with(name, 0))


@pytest.mark.parametrize("name", [*SINGLE, *FAMILIES])
def test_defaults_pass(name):
    check_values(load_config(name))


@pytest.mark.parametrize("value", [NAN, (0.0, NAN), [[NAN]]])
def test_nan_is_refused_in_undeclared_fields(value):
    config = tokenizer_config("S", "S")
    with config.unlocked():
        config.mine = ConfigDict({"field": value})
    with pytest.raises(ValueError, match=r"config\.mine\.field=.*: expected a number"):
        check_values(config)


def test_unknown_task():
    config = tokenizer_config("S", "S")
    config.task = "tokenize"
    with pytest.raises(ValueError, match=r"config\.task='tokenize': expected one of .*tokenizer"):
        check_values(config)


def test_every_tokenizer_field_is_declared():
    config = tokenizer_config("B", "S")
    assert dict(field_values(config)).keys() == flatten(schema_of(config)).keys()
