"""The published sizes of the generators. Nothing here imports jax: configs read it too."""

DIT = {  # SiT and DiT
    "B": dict(width=768, depth=12, num_heads=12),
    "L": dict(width=1024, depth=24, num_heads=16),
    "XL": dict(width=1152, depth=28, num_heads=16),
}
# size -> (width, depth of encoder and of decoder, heads, width and depth of the head)
MAR = {"base": (768, 12, 12, 1024, 6), "large": (1024, 16, 16, 1280, 8), "huge": (1280, 20, 16, 1536, 12)}
