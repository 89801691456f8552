"""The networks of this package in plain PyTorch, for comparing speed: SDPA, `torch.compile`, bfloat16 autocast.

Modules have the published names, so that a state dict in the published layout loads unchanged. Images are channels-first,
as in PyTorch's convolutions. Nothing here imports jax: `benchmarks/side_by_side.py` runs it in a separate process.
"""
