"""SoftVQ-VAE."""

import torch
import torch.nn.functional as F
from torch import nn

from peer.transformer import ViT


class Encoder(nn.Module):
    def __init__(self, case):
        super().__init__()
        width = case["encoder"]["width"]
        self.latent_tokens = nn.Parameter(torch.zeros(1, case["num_latent_tokens"], width))
        self.latent_pos_embed = nn.Parameter(torch.zeros(1, case["num_latent_tokens"], width))
        self.model = _vit(case["encoder"], case["image_size"])

    def forward(self, images):
        latents = self.latent_tokens + self.latent_pos_embed
        tokens = self.model(self.model.patch_embed(images), latents)
        return tokens[:, -latents.shape[1] :]


class ToPixel(nn.Module):
    def __init__(self, width, patch, grid):
        super().__init__()
        self.patch, self.grid = patch, grid
        self.model = nn.Linear(width, 3 * patch**2)

    def forward(self, tokens):
        """Images `[B, 3, H, W]` of the patches' tokens."""
        x = self.model(tokens).view(len(tokens), self.grid, self.grid, self.patch, self.patch, 3)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), 3, self.grid * self.patch, -1)


class Decoder(nn.Module):
    def __init__(self, case):
        super().__init__()
        sizes = case["decoder"]
        self.latent_pos_embed = nn.Parameter(torch.zeros(1, case["num_latent_tokens"], sizes["width"]))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, sizes["width"]))
        self.model = _vit(sizes, case["image_size"])
        self.to_pixel = ToPixel(sizes["width"], sizes["patch_size"], case["image_size"] // sizes["patch_size"])

    def tokens(self, embedded):
        """The patches' tokens `[B, N, width]` before the last linear map."""
        count = self.to_pixel.grid**2
        masks = self.mask_token.expand(len(embedded), count, -1)
        return self.model(masks, embedded + self.latent_pos_embed)[:, 1 : 1 + count]

    def forward(self, embedded):
        return self.to_pixel(self.tokens(embedded))


def _vit(sizes, image_size):
    return ViT(
        sizes["width"],
        sizes["depth"],
        sizes["num_heads"],
        sizes["patch_size"],
        image_size // sizes["patch_size"],
        layer_scale=sizes["layer_scale"] is not None,
    )


class SoftVQ(nn.Module):
    def __init__(self, codebooks, size, dim, temperature):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(codebooks, size, dim))
        self.temperature = temperature

    def forward(self, z):
        """Returns the latents `[B, L, D]`, and the cosines of tokens and codes `[B, C, L/C, K]`."""
        batch, length, dim = z.shape
        count = len(self.embedding)
        z, codes = F.normalize(z.float(), dim=-1), F.normalize(self.embedding, dim=-1)
        z = z.view(batch, count, length // count, dim)
        cosines = torch.einsum("bcld,ckd->bclk", z, codes.detach())
        weights = (cosines / self.temperature).softmax(-1)
        return torch.einsum("bclk,ckd->bcld", weights, codes).reshape(batch, length, dim), cosines


class Tokenizer(nn.Module):
    def __init__(self, case):
        super().__init__()
        self.encoder, self.decoder = Encoder(case), Decoder(case)
        self.quant_conv = nn.Linear(case["encoder"]["width"], case["latent_dim"])
        self.post_quant_conv = nn.Linear(case["latent_dim"], case["decoder"]["width"])
        self.quantize = SoftVQ(case["num_codebooks"], case["codebook_size"], case["latent_dim"], case["temperature"])

    def encode(self, images):
        return self.quantize(self.quant_conv(self.encoder(images)))[0]

    def decode(self, latents):
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, images):
        return self.decode(self.encode(images))

    def everything(self, images):
        """Returns what a training step needs: images, the tokens before the last linear map, latents, and cosines."""
        latents, cosines = self.quantize(self.quant_conv(self.encoder(images)))
        tokens = self.decoder.tokens(self.post_quant_conv(latents))
        return self.decoder.to_pixel(tokens), tokens, latents, cosines
