"""The training config of a tokenizer: every field, its default, and where the default comes from.

The defaults are the released recipe at SoftVQ-L-64 (SPEC of SoftVQ-VAE, arXiv 2412.10958, appendix). A file in `configs/`
starts from `tokenizer_config()` and changes what its experiment changes. Nothing here imports jax.
"""

import difflib
import pathlib
import runpy
import sys
from collections.abc import Iterator, Sequence

from ml_collections import ConfigDict

from softvq_jax.config.data import default_data_config
from softvq_jax.config.evals import default_evals

VIT_SIZES = {  # width, depth, heads
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
}
TIMM_SIZES = {"S": "small", "B": "base", "L": "large"}


def vit(size: str, patch_size: int = 16) -> ConfigDict:
    """The fields of a ViT-S, -B or -L."""
    width, depth, num_heads = VIT_SIZES[size]
    return ConfigDict(
        dict(
            width=width,
            depth=depth,
            num_heads=num_heads,
            patch_size=patch_size,
            mlp_ratio=4.0,
            activation="gelu",
            layer_scale=1e-5,
            drop_path=0.0,
            num_registers=0,
        )
    )


def dinov2_weights(size: str) -> str:
    """Where the DINOv2 of this size is: in timm's naming, on the Hugging Face Hub."""
    return f"hf://timm/vit_{TIMM_SIZES[size]}_patch14_dinov2.lvd142m/model.safetensors"


def tokenizer_config(encoder: str = "L", decoder: str = "L") -> ConfigDict:
    """A tokenizer's whole training config, locked: fields can be set, not added.

    Args:
      encoder, decoder: "S", "B" or "L"; the teacher and the encoder's initialisation are the encoder's size.
    """
    config = ConfigDict()
    config.task = "tokenizer"
    config.seed = 0
    config.model = dict(
        encoder=vit(encoder),
        decoder=vit(decoder),
        image_size=256,
        num_latent_tokens=64,
        latent_dim=32,
        bottleneck="softvq",  # "softvq", "vq", "simvq", "kl", "ae"
        codebook_size=8192,
        num_codebooks=4,
        temperature=0.07,
        l2_normalize=True,
        posterior="released",  # or "paper"
        train_codebook=False,  # SimVQ: train the matrix too
        local_init=False,  # start as a linear code of every patch: small networks from scratch learn many times faster
        dtype="bfloat16",
        remat="none",  # "dots" or "full" trade speed for memory
    )
    config.weights = dict(  # of networks that are not trained from scratch: a path, or hf://owner/name/file
        encoder=dinov2_weights(encoder),  # the encoder's initialisation; "" starts from scratch
        teacher=dinov2_weights(encoder),
        lpips_trunk="hf://timm/vgg16.tv_in1k/model.safetensors",
        lpips_heads="weights/lpips_vgg_heads.pth",
        dino="hf://timm/vit_small_patch16_224.dino/model.safetensors",
    )
    config.loss = dict(
        reconstruction_weight=1.0,
        perceptual_weight=1.0,
        perceptual_warmup_steps=10_000,
        alignment_weight=0.1,
        entropy_weight=0.01,
        codebook_weight=1.0,  # VQ, SimVQ
        commitment_weight=0.25,  # VQ, SimVQ
        kl_weight=1e-6,
    )
    config.alignment = dict(mode="repeat", hidden=1024)  # "repeat", "global", "avg_1d", "avg_1d_shuffle"
    config.gan = dict(
        discriminator="dino",  # "dino", "patchgan", "none"
        loss="hinge",  # "hinge", "vanilla", "non_saturating"
        weight=0.2,
        start_step=20_000,
        adaptive=False,
        lecam_weight=0.001,
        lecam_decay=0.999,
        diff_augment=True,
        random_crop=True,
        consistency_weight=4.0,
    )
    config.optim = optim_section(
        schedule="cosine",  # or "constant"
        warmup_epochs=1.0,
        codebook_schedule="cosine",  # "constant": the codebook keeps the peak rate while the rest anneals
        beta2=0.95,
        weight_decay=1e-4,  # 0 is plain Adam, which is what the release really ran
    )
    config.update(run_sections())
    config.lock()
    return config


def optim_section(**fields) -> dict:
    """`config.optim`: what the tasks share, and `fields`, which differ."""
    return dict(
        learning_rate=1e-4,  # at batch 256; the rate used is learning_rate * batch / 256
        final_factor=0.1,  # of the peak, at the end of a cosine
        beta1=0.9,
        eps=1e-8,
        clip_norm=1.0,
        ema_decay=0.9999,
        accumulate=1,
        **fields,
    )


def run_sections() -> dict:
    """The sections that every task has: how long, on what, where, and what is written down."""
    return dict(
        train=dict(batch_size=256, num_epochs=50.0, num_steps=0),  # num_steps, where not 0, overrides epochs
        data=default_data_config(),
        mesh=dict(slices=-1, data=-1, fsdp=1),  # -1: what is left of the devices
        # best_metric: of the held-out numbers, as "eval_psnr" or "eval_rfid"; its best step is kept in `best/`.
        checkpoint=dict(every_steps=1000, keep=3, keep_every_steps=0, best_metric=""),
        log=dict(every_steps=50, tensorboard=False),
        evals=default_evals("held_out", "fid"),
    )


def nearest_field(config: ConfigDict, name: str) -> str | None:
    """The field that was probably meant by `name`, None where `name` is one."""
    known = list(fields(config))
    sections = {field[:end] for field in known for end in range(len(field)) if field[end] == "."}
    if name in known or name in sections:
        return None

    def likeness(field):
        last = difflib.SequenceMatcher(None, name.rsplit(".", 1)[-1], field.rsplit(".", 1)[-1]).ratio()
        return last, difflib.SequenceMatcher(None, name, field).ratio()

    return max(known, key=likeness)


def explain_config_flags(argv: Sequence[str]) -> None:
    """Ends the program where --config names no file, or --config.FIELD no field: with the nearest known name.

    For command lines whose flags could not be parsed.
    """
    names = [argument.lstrip("-").split("=")[0] for argument in argv]
    if "config" not in names:
        return
    place = names.index("config")
    path = argv[place].partition("=")[2] or "".join(argv[place + 1 : place + 2])
    if not pathlib.Path(path).is_file():
        sys.exit(f"error: --config={path}: there is no such file; those that come with the package lie in configs/")
    config = runpy.run_path(path)["get_config"]()
    for name in names:
        if name.startswith("config.") and (nearest := nearest_field(config, name.removeprefix("config."))):
            sys.exit(f"error: the config has no field {name!r}; the nearest is --config.{nearest}")


def fields(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields that hold a value."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def steps(config: ConfigDict, num_images: int) -> tuple[int, int]:
    """Steps of the whole run, and of one epoch over `num_images`."""
    per_epoch = max(1, num_images // config.train.batch_size)
    return config.train.num_steps or max(
        1, round(config.train.num_epochs * num_images / config.train.batch_size)
    ), per_epoch
