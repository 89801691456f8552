"""The heads of the DINO discriminator."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class SpectralConv1d(nn.Module):
    """Circular convolution with spectral norm; buffers and names as in `torch.nn.utils.spectral_norm`."""

    def __init__(self, inputs, outputs, size, learn_bias=True):
        super().__init__()
        self.weight_orig = nn.Parameter(torch.zeros(outputs, inputs, size))
        # BatchNorm cancels the bias of a convolution before it, which is therefore fixed.
        self.bias = nn.Parameter(torch.zeros(outputs), requires_grad=learn_bias)
        self.register_buffer("weight_u", torch.zeros(outputs))
        self.register_buffer("weight_v", torch.zeros(inputs * size))

    def forward(self, x):
        matrix = self.weight_orig.flatten(1)
        with torch.no_grad():
            v = F.normalize(matrix.T @ self.weight_u, dim=0, eps=1e-12)
            u = F.normalize(matrix @ v, dim=0, eps=1e-12)
            if self.training:
                # Not in place: the backward pass of the call before may need the old ones.
                self.weight_u, self.weight_v = u, v
        sigma = u @ matrix @ v
        reach = self.weight_orig.shape[-1] // 2
        x = F.pad(x, (reach, reach), mode="circular") if reach else x
        return F.conv1d(x, self.weight_orig / sigma, self.bias)


def spectral_block(width, size):
    return nn.Sequential(
        SpectralConv1d(width, width, size, learn_bias=False), nn.BatchNorm1d(width, eps=1e-6), nn.LeakyReLU(0.2)
    )


class Residual(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, x):
        return (self.fn(x) + x) / math.sqrt(2)


class Discriminator(nn.Module):
    """Discriminator heads; their inputs are the features `[5, B, N, width]` of the frozen DINO."""

    def __init__(self, width=384):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(spectral_block(width, 1), Residual(spectral_block(width, 9)), SpectralConv1d(width, 1, 1))
            for _ in range(5)
        )

    def forward(self, features):
        logits = [head(x.transpose(1, 2)).flatten(1) for head, x in zip(self.heads, features, strict=True)]
        return torch.cat(logits, dim=1).float()
