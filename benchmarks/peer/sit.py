"""SiT."""

import math

import torch
from torch import nn

from peer.transformer import MLP, Attention


class DiTBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.attn, self.mlp = Attention(width, heads), MLP(width, "tanh")
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x, condition):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class FinalLayer(nn.Module):
    def __init__(self, width, channels):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x, condition):
        shift, scale = self.adaLN_modulation(condition)[:, None].chunk(2, dim=-1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


class TimeEmbedder(nn.Module):
    def __init__(self, width, channels=256):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))
        half = channels // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, t):
        angles = t[:, None] * self.frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))


class LabelEmbedder(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)


class SiT(nn.Module):
    def __init__(self, case):
        super().__init__()
        width = case["width"]
        self.x_embedder = nn.Linear(case["channels"], width)
        self.register_buffer("pos_embed", torch.zeros(1, case["num_tokens"], width))
        self.t_embedder, self.y_embedder = TimeEmbedder(width), LabelEmbedder(case["num_classes"], width)
        self.blocks = nn.ModuleList(DiTBlock(width, case["num_heads"]) for _ in range(case["depth"]))
        self.final_layer = FinalLayer(width, case["channels"])

    def forward(self, x, t, labels):
        condition = self.t_embedder(t) + self.y_embedder.embedding_table(labels)
        x = self.x_embedder(x) + self.pos_embed
        for block in self.blocks:
            x = block(x, condition)
        return self.final_layer(x, condition)
