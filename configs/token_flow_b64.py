"""TokenFlow's shared index in place of SoftVQ in SoftVQ-B-64: 64 tokens of a semantic and a pixel code at 256 px.

    python -m softvq_jax.main --config=configs/token_flow_b64.py --workdir=... --config.data.path=.../imagenet/train

32,768 pairs of codes with 32 semantic and 8 pixel channels, and a commitment weight of 1, are as in the release (arXiv
2412.03069). A transformer of 3 blocks maps the semantic channels alone to the teacher's features. The release has two
encoders and 2-D tokens; here one encoder gives both halves of 1-D tokens.

Cost: 351 GFLOP per image for the tokenizer alone, forward and backward; 22 EFLOP for the 50 epochs of
ImageNet. Teacher, LPIPS and discriminator add to that.
Expected score: nothing is published for 1-D tokens; not run at this size here.
"""

from softvq_jax.config.tokenizer import tokenizer_config


def get_config():
    config = tokenizer_config("B", "B")
    config.model.update(bottleneck="token_flow", latent_dim=40, codebook_size=32_768, num_codebooks=1)
    config.model.bottleneck_args = dict(semantic_dim=32, pixel_weight=1.0)
    config.alignment.update(head="vit", depth=3, channels=32, hidden=768)
    config.loss.update(commitment_weight=1.0, entropy_weight=0.0, alignment_weight=1.0)
    return config
