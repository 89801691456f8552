"""The networks of this package in plain PyTorch, for comparing speed: SDPA, `torch.compile`, bfloat16 autocast.

Modules have the published names, so that a state dict in the published layout loads unchanged. Images are channels-first,
as in PyTorch's convolutions. This file does not import jax: `benchmarks/side_by_side.py` runs it in a separate process, and
sends it commands.

    python benchmarks/peer_torch.py FOLDER      # serves the case in FOLDER; commands on stdin, responses on stdout
"""

import contextlib
import json
import math
import pathlib
import resource
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

# --- Transformers ----------------------------------------------------------------------------------------------------


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


# --- Tokenizer -------------------------------------------------------------------------------------------------------


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

    def forward(self, embedded):
        count = self.to_pixel.grid**2
        masks = self.mask_token.expand(len(embedded), count, -1)
        return self.to_pixel(self.model(masks, embedded + self.latent_pos_embed)[:, 1 : 1 + count])


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
        batch, length, dim = z.shape
        count = len(self.embedding)
        z, codes = F.normalize(z.float(), dim=-1), F.normalize(self.embedding, dim=-1)
        z = z.view(batch, count, length // count, dim)
        weights = (torch.einsum("bcld,ckd->bclk", z, codes.detach()) / self.temperature).softmax(-1)
        return torch.einsum("bclk,ckd->bcld", weights, codes).reshape(batch, length, dim)


class Tokenizer(nn.Module):
    def __init__(self, case):
        super().__init__()
        self.encoder, self.decoder = Encoder(case), Decoder(case)
        self.quant_conv = nn.Linear(case["encoder"]["width"], case["latent_dim"])
        self.post_quant_conv = nn.Linear(case["latent_dim"], case["decoder"]["width"])
        self.quantize = SoftVQ(case["num_codebooks"], case["codebook_size"], case["latent_dim"], case["temperature"])

    def encode(self, images):
        return self.quantize(self.quant_conv(self.encoder(images)))

    def decode(self, latents):
        return self.decoder(self.post_quant_conv(latents))

    def forward(self, images):
        return self.decode(self.encode(images))


# --- SiT -------------------------------------------------------------------------------------------------------------


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


# --- LPIPS and discriminator -----------------------------------------------------------------------------------------

VGG_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class Head(nn.Module):
    """A head of LPIPS: a positive combination of squared differences."""

    def __init__(self, width):
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(width, 1, 1, bias=False))


class LPIPS(nn.Module):
    def __init__(self):
        super().__init__()
        layers, self.taps, inputs = [], [], 3
        for stage, (width, depth) in enumerate(VGG_STAGES):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(depth):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                inputs = width
            self.taps.append(len(layers))
            setattr(self, f"lin{stage}", Head(width))
        self.features = nn.Sequential(*layers)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None], persistent=False)

    def unit_features(self, images):
        x, start = (images - self.shift) / self.scale, 0
        for end in self.taps:
            x = self.features[start:end](x)
            y = x.float()
            yield y / (torch.sqrt((y * y).sum(1, keepdim=True)) + 1e-10)
            start = end

    def forward(self, a, b):
        distance = 0.0
        for stage, (x, y) in enumerate(zip(self.unit_features(a), self.unit_features(b), strict=True)):
            weights = getattr(self, f"lin{stage}").model[1].weight[0, :, 0, 0]
            distance = distance + torch.einsum("bchw,c->bhw", (x - y) ** 2, weights).mean((1, 2))
        return distance


class SpectralConv1d(nn.Module):
    """Circular convolution with spectral norm; buffers and names as in `torch.nn.utils.spectral_norm`."""

    def __init__(self, inputs, outputs, size):
        super().__init__()
        self.weight_orig = nn.Parameter(torch.zeros(outputs, inputs, size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("weight_u", torch.zeros(outputs))
        self.register_buffer("weight_v", torch.zeros(inputs * size))

    def forward(self, x):
        matrix = self.weight_orig.flatten(1)
        with torch.no_grad():
            v = F.normalize(matrix.T @ self.weight_u, dim=0, eps=1e-12)
            u = F.normalize(matrix @ v, dim=0, eps=1e-12)
            if self.training:
                self.weight_u.copy_(u), self.weight_v.copy_(v)
        sigma = u @ matrix @ v
        reach = self.weight_orig.shape[-1] // 2
        x = F.pad(x, (reach, reach), mode="circular") if reach else x
        return F.conv1d(x, self.weight_orig / sigma, self.bias)


def spectral_block(width, size):
    return nn.Sequential(SpectralConv1d(width, width, size), nn.BatchNorm1d(width, eps=1e-6), nn.LeakyReLU(0.2))


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


# --- Cases -----------------------------------------------------------------------------------------------------------


class Case:
    """A network with its weights and inputs, and the functions to time, each of which returns a tensor."""

    def __init__(self, folder: pathlib.Path):
        self.case = json.loads((folder / "case.json").read_text())
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        network = {"tokenizer": Tokenizer, "sit": SiT, "lpips": lambda _: LPIPS(), "discriminator": _discriminator}
        self.network = network[self.case["kind"]](self.case["config"]).to(self.device)
        missing = self.network.load_state_dict(self._tensors(folder / "weights.npz"), strict=False).missing_keys
        unused = [name for name in missing if "decoder.model.patch_embed" not in name and "num_batches" not in name]
        if unused:
            raise SystemExit(f"weights.npz lacks {unused}")
        self.inputs = self._tensors(folder / "inputs.npz")
        if self.case["kind"] in ("tokenizer", "lpips"):
            self.inputs = {
                name: x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x for name, x in self.inputs.items()
            }

    def _tensors(self, path):
        with np.load(path) as arrays:
            return {name: torch.from_numpy(arrays[name]).to(self.device) for name in arrays}

    def functions(self):
        """Returns `(function, arguments, gradient)` by name; `Runner` compiles the functions."""
        net, x = self.network, self.inputs
        kind = self.case["kind"]
        if kind == "tokenizer":
            return {
                "encode": (net.encode, (x["images"],), False),
                "decode": (net.decode, (x["latents"],), False),
                "forward + backward": (lambda images: F.mse_loss(net(images), images), (x["images"],), True),
            }
        if kind == "sit":
            arguments = (x["x"], x["t"], x["labels"])

            def loss(noisy, t, labels, target):
                return F.mse_loss(net(noisy, t, labels), target)

            return {
                "evaluation": (net, arguments, False),
                "forward + backward": (loss, (*arguments, x["target"]), True),
            }
        if kind == "lpips":
            images = x["b"].requires_grad_()
            for parameter in net.parameters():
                parameter.requires_grad_(False)
            return {
                "distance": (net, (x["a"], x["b"].detach()), False),
                "distance + gradient": (lambda a, b: net(a, b).mean(), (x["a"], images), True),
            }
        net.train()
        return {"forward + backward": (lambda features: net(features).mean(), (x["features"],), True)}


def _discriminator(config):
    return Discriminator(config["width"])


class Runner:
    """Runs the functions of a case, eagerly or compiled."""

    def __init__(self, case: Case, *, compiled: bool):
        self.case = case
        self.functions = {}
        for name, (function, arguments, gradient) in case.functions().items():
            self.functions[name] = (torch.compile(function) if compiled else function, arguments, gradient)

    def __call__(self, name):
        """Runs a function and waits for it; returns the result. The gradient, if there is one, is then in `.grad`."""
        function, arguments, gradient = self.functions[name]
        bfloat16 = self.case.case["dtype"] == "bfloat16"
        context = torch.autocast(self.case.device, torch.bfloat16) if bfloat16 else contextlib.nullcontext()
        with context, torch.set_grad_enabled(gradient):
            result = function(*arguments)
        if gradient:
            for tensor in (*self.case.network.parameters(), *self.case.inputs.values()):
                tensor.grad = None
            result.backward()
        if self.case.device == "cuda":
            torch.cuda.synchronize()
        return result

    def numbers(self, name):
        """Returns the result, and the norm of the gradient of all parameters and inputs, if there is one."""
        result = self(name).detach().float()
        found = {"result": result.cpu().numpy()}
        if self.functions[name][2]:
            gradients = [x.grad for x in (*self.case.network.parameters(), *self.case.inputs.values())]
            squares = sum(float((g.double() ** 2).sum()) for g in gradients if g is not None)
            found["gradient_norm"] = np.asarray(squares**0.5)
        return found


def serve(folder: pathlib.Path) -> None:
    """Serves commands, one JSON object per line: `check NAME` saves numbers.npz, `time VARIANT NAME` returns seconds."""
    if not torch.cuda.is_available():
        torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    case = Case(folder)
    runners = {variant: Runner(case, compiled=variant == "compiled") for variant in case.case["variants"]}
    version = f"torch {torch.__version__}, {torch.cuda.get_device_name() if case.device == 'cuda' else 'CPU'}"
    print(json.dumps({"version": version, "functions": list(runners["eager"].functions)}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        runner, name = runners[command["variant"]], command["name"]
        if command["do"] == "check":
            np.savez(folder / "numbers.npz", **runner.numbers(name))
            answer = {}
        else:
            began = time.perf_counter()
            runner(name)
            answer = {"seconds": time.perf_counter() - began}
        answer["peak_mib"] = (
            torch.cuda.max_memory_allocated() / 2**20
            if case.device == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        )
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve(pathlib.Path(sys.argv[1]))
