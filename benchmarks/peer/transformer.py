"""The vision transformer of the tokenizer, the teacher and the discriminator's trunk."""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    def __init__(self, width, approximate="none"):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.approximate = approximate

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class LayerScale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, width, heads, layer_scale=True, approximate="none"):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), MLP(width, approximate)
        self.ls1, self.ls2 = (LayerScale(width) if layer_scale else nn.Identity() for _ in range(2))

    def forward(self, x):
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, images):
        return self.proj(images).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """Vision transformer on a class token, the patches of images or given tokens, and extra tokens."""

    def __init__(self, width, depth, heads, patch, grid, layer_scale=True, approximate="none"):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width, heads, layer_scale, approximate) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def embed(self, tokens):
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.pos_embed

    def forward(self, tokens, more):
        x = torch.cat([self.embed(tokens), more.expand(len(tokens), -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def normalized(images):
    """Images in [-1, 1], normalized by ImageNet's statistics."""
    mean = torch.tensor([0.485, 0.456, 0.406], device=images.device)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], device=images.device)[:, None, None]
    return ((images + 1) / 2 - mean) / std


class PlainViT(ViT):
    """A ViT of images without extra tokens: a teacher, or the discriminator's trunk."""

    def blocks_of(self, images):
        """Yields the tokens before the first block and after each block."""
        x = self.embed(self.patch_embed(normalized(images)))
        yield x
        for block in self.blocks:
            x = block(x)
            yield x

    def forward(self, images):
        """Patch tokens after the last norm."""
        *_, x = self.blocks_of(images)
        return self.norm(x)[:, 1:]


class Trunk(PlainViT):
    """The frozen DINO of the discriminator."""

    def forward(self, images):
        """Patch tokens plus the class token before the first block and after each quarter of the blocks."""
        depths = list(self.blocks_of(images))[:: len(self.blocks) // 4]
        return torch.stack([x[:, 1:] + x[:, :1] for x in depths])
