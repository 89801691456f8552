"""The fields of a tokenizer's networks: `config.model` and `config.weights`."""

import dataclasses

from softvq_jax.config.fields import BOOLEAN, Field, Schema, integer, number, one_of, optional, text

VIT_SIZES = {  # width, depth, heads
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
}
TIMM_SIZES = {"S": "small", "B": "base", "L": "large"}
DTYPE = Field(
    "bfloat16",
    "Type of the matmuls. Parameters, norms, softmaxes and losses are float32.",
    one_of("bfloat16", "float32"),
)
REMAT = Field(
    "none",
    'Recomputation in the backward pass: "dots" keeps only results of matmuls, "attention" only queries, keys, values and '
    'what attention makes of them, "full" only the input of each block. '
    "They trade speed for memory.",
    one_of("none", "dots", "attention", "full"),
)


def vit_schema(size: str, patch_size: int = 16) -> Schema:
    """Returns the fields of a ViT-S, -B or -L."""
    width, depth, num_heads = VIT_SIZES[size]
    return {
        "width": Field(width, "Channels of each token.", integer(1), "channels"),
        "depth": Field(depth, "Number of transformer blocks.", integer(1), "blocks"),
        "num_heads": Field(num_heads, "Attention heads; must divide `width`.", integer(1)),
        "patch_size": Field(patch_size, "Side of a square patch; must divide `image_size`.", integer(1), "pixels"),
        "mlp_ratio": Field(4.0, "Hidden width of the MLP, as a multiple of `width`.", number(above=0)),
        "activation": Field("gelu", 'Activation of the MLP; "gelu" is exact.', one_of("gelu", "gelu_tanh", "swiglu")),
        "layer_scale": Field(1e-5, "Initial gain of LayerScale; None: no LayerScale.", optional(number(0))),
        "drop_path": Field(
            0.0, "Stochastic depth rate of the last block; grows linearly from 0.", number(0, below=1), "probability"
        ),
        "num_registers": Field(0, "Register tokens of DINOv2 with registers.", integer(0), "tokens"),
        "norm_eps": Field(1e-6, "Epsilon of LayerNorm.", number(above=0)),
    }


def model_schema(encoder: str = "L", decoder: str = "L") -> Schema:
    """Returns the fields of `config.model`.

    Args:
      encoder: "S", "B" or "L".
      decoder: "S", "B" or "L".
    """
    return {
        "encoder": vit_schema(encoder),
        "decoder": vit_schema(decoder),
        "image_size": Field(256, "Side of the square images.", integer(1), "pixels"),
        "num_latent_tokens": Field(64, "Latent tokens of each image, L in the paper.", integer(1), "tokens"),
        "latent_dim": Field(32, "Channels of each latent token, D in the paper.", integer(1), "channels"),
        "bottleneck": Field(
            "softvq",
            'Bottleneck: "softvq", "vq", "simvq", "kl", "ae" (none), "gumbel", "token_flow", "fsq", or the name of a '
            "registered one.",
            text(empty=False),
        ),
        "codebook_size": Field(8192, "Codes of each codebook, K in the paper.", integer(1), "codes"),
        "num_codebooks": Field(
            4, "Codebooks; each is used by the same number of consecutive tokens.", integer(1), "codebooks"
        ),
        "temperature": Field(
            0.07, "Temperature of the softmax over codes of SoftVQ and Gumbel-softmax.", number(above=0)
        ),
        "l2_normalize": Field(True, "Whether SoftVQ, Gumbel-softmax and VQ compare and return unit vectors.", BOOLEAN),
        "posterior": Field(
            "released",
            'Posterior of SoftVQ: "released" is the softmax of cosines, "paper" that of negative distances.',
            one_of("released", "paper"),
        ),
        "train_codebook": Field(False, "Whether SimVQ trains its codebook as well as the linear map.", BOOLEAN),
        "bottleneck_args": {},  # open section for further arguments of the bottleneck's class
        "local_init": Field(
            False,
            "Whether networks start as a linear code of each patch. Small networks from scratch learn many times faster.",
            BOOLEAN,
        ),
        "unit_init": Field(
            False,
            "Whether networks start with kernels of standard deviation 1/sqrt(inputs), and positions and tokens of 0.5, "
            "in place of 0.02, and with codes that turn slowly. Small networks from scratch learn faster.",
            BOOLEAN,
        ),
        "grid_init": Field(
            False,
            "Whether positions of patches and latents start as sines and cosines of places in the image, and keys equal to "
            "queries, so that tokens attend to near ones at first. Small networks from scratch learn faster.",
            BOOLEAN,
        ),
        "dtype": DTYPE,
        "remat": REMAT,
    }


def dinov2_weights(size: str) -> str:
    """Returns the name of DINOv2-S, -B or -L on the Hugging Face Hub, in timm's format."""
    return f"hf://timm/vit_{TIMM_SIZES[size]}_patch14_dinov2.lvd142m/model.safetensors"


def weights_schema(encoder: str = "L") -> Schema:
    """Returns the fields of `config.weights`, pretrained weights by path or `hf://owner/name/file`."""
    schema = {
        "encoder": Field(
            dinov2_weights(encoder),
            "Initial weights of the encoder, unless `init_from` is set; empty: from scratch.",
            text(),
        ),
        "teacher": Field(
            dinov2_weights(encoder),
            "DINOv2 teacher of the alignment loss, and of a MAETok's auxiliary decoder.",
            text(),
        ),
        "lpips_trunk": Field("hf://timm/vgg16.tv_in1k/model.safetensors", "VGG-16 of the perceptual loss.", text()),
        "lpips_heads": Field("weights/lpips_vgg_heads.pth", "Linear layers of LPIPS on VGG-16.", text()),
        "dino": Field(
            "hf://timm/vit_small_patch16_224.dino/model.safetensors", "DINO-S backbone of the discriminator.", text()
        ),
    }
    return {
        name: dataclasses.replace(field, doc=f"{field.doc} A path, or hf://owner/name/file.")
        for name, field in schema.items()
    }
