"""MaskGIT on the codes of a published TiTok: L-32 (32 tokens), B-64 (64) or S-128 (128), 4,096 codes each.

    python -m softvq_jax.tools.encode_latents --from=yucornetto/tokenizer_titok_b64_imagenet --data=imagenet/train \
        --out=imagenet-vq64
    python -m softvq_jax.main --config=configs/maskgit.py:b_vq64 --workdir=... --config.data.path=imagenet-vq64

The argument is SIZE_CODES: b is ImageBert, u is UViTBert. Another discrete tokenizer, such as a VQ or SimVQ trained here,
needs its `model.num_tokens`, `model.codebook_size` and `model.num_codebooks`. gFID is published (arXiv 2406.07550, 50
images of each class) for the network with the same tokenizer; not reproduced here.

| argument | parameters | gFID |
| -------- | ---------- | ---- |
| b_vq32   |      177 M | 2.77 |
| b_vq64   |      177 M | 2.48 |
| b_vq128  |      177 M |      |
| u_vq32   |      295 M |      |
| u_vq64   |      295 M |      |
| u_vq128  |      295 M | 1.97 |
"""

from softvq_jax.generators.config import config_from_argument


def get_config(argument: str = ""):
    return config_from_argument("maskgit", argument)
