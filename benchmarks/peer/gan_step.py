"""A whole training step of a tokenizer: both networks' losses and gradients, AdamW, EMA (SoftVQ-VAE, section 3).

Pixel loss, LPIPS, alignment with a DINOv2 teacher and entropy; a discriminator of heads on a frozen DINO, with hinge loss,
LeCam and consistency between weak and strong augmentation.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from peer.augment import augment
from peer.discriminator import Discriminator
from peer.lpips import LPIPS
from peer.tokenizer import Tokenizer
from peer.transformer import PlainViT, Trunk

WEAK, STRONG = 0.2, 0.5  # sides of the cutout, as a share of the image's


class Networks(nn.Module):
    """All networks of the step; only `tokenizer`, `alignment` and `discriminator` are trained."""

    def __init__(self, config):
        super().__init__()
        model, teacher, trunk = config["model"], config["teacher"], config["trunk"]
        self.tokenizer = Tokenizer(model)
        widths = (model["latent_dim"], config["hidden"], config["hidden"], teacher["width"])
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.alignment = nn.Module()
        self.alignment.projection = nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])
        self.teacher = PlainViT(**teacher)
        self.trunk = Trunk(**trunk)
        self.lpips, self.discriminator = LPIPS(), Discriminator(trunk["width"])
        frozen = (self.teacher, self.trunk, self.lpips, self.tokenizer.decoder.model.patch_embed)
        for parameter in (parameter for network in frozen for parameter in network.parameters()):
            parameter.requires_grad_(False)


class GanStep:
    """Networks, optimizers and averages; a call takes one step and returns its losses and gradient norms.

    Args:
      config: see `benchmarks/compared_step.py`.
      networks: with their weights.
      compiled: whether to use `torch.compile`.
    """

    def __init__(self, config, networks, *, compiled):
        self.config, self.networks, self.step = config, networks, 0
        wrap = (lambda function: torch.compile(function, dynamic=False)) if compiled else lambda function: function
        self.tokenize = wrap(networks.tokenizer.everything)
        self.teacher, self.trunk = wrap(networks.teacher), wrap(networks.trunk)
        self.lpips = wrap(networks.lpips)
        self.heads = wrap(networks.discriminator)
        self.latent_terms = wrap(self._latent_terms)
        tokenizer = [*networks.tokenizer.named_parameters(), *networks.alignment.named_parameters()]
        self.generator = _Trained(config, tokenizer)
        self.judge = _Trained(config, networks.discriminator.named_parameters())
        self.average = [parameter.detach().clone() for parameter in self.generator.parameters]
        self.lecam = {"real": 0.0, "fake": 0.0}

    def __call__(self, images, draws, learning_rates):
        """One step.

        Args:
          images: `[B, 3, H, W]` in [-1, 1].
          draws: random numbers of all augmentations, `[steps, augmentations, ...]`.
          learning_rates: a list, by step.
        """
        now = {name: values[self.step] for name, values in draws.items()}
        rate = learning_rates[self.step]
        terms, reconstructions = self._generator_gradients(images, now)
        more = self._discriminator_gradients(images, reconstructions, now)
        terms["generator_grad_norm"] = self.generator.update(rate)
        more["discriminator_grad_norm"] = self.judge.update(rate)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.generator.parameters, 1 - self.config["ema_decay"])
        self.step += 1
        return terms | more

    def _view(self, images, draws, index, *, strong=False):
        return augment(images, draws, index, self.config["trunk_size"], STRONG if strong else WEAK)

    def _latent_terms(self, latents, cosines, targets):
        """Alignment and entropy of the latents."""
        projected = self.networks.alignment.projection(latents)
        projected = projected.repeat_interleave(targets.shape[1] // projected.shape[1], dim=1)
        alignment = -(F.normalize(projected, dim=-1) * F.normalize(targets, dim=-1)).sum(-1).mean()
        log_q = (cosines.flatten(0, -2) / 0.01).log_softmax(-1)
        q = log_q.exp()
        mean = q.mean(0)
        entropy = -(q * log_q).sum(-1).mean() + (mean * (mean + 1e-6).log()).sum()
        return alignment, entropy

    def _generator_gradients(self, images, draws):
        """Gradients of the tokenizer. Losses of images end at a copy of the reconstructions; then one pass goes through."""
        weights = self.config["weights"]
        with torch.no_grad():
            targets = self.teacher(images)
        reconstructions, tokens, latents, cosines = self.tokenize(images)
        alignment, entropy = self.latent_terms(latents, cosines, targets)
        end = reconstructions.detach().requires_grad_()
        pixels, perceptual = F.mse_loss(end, images), self.lpips(images, end).mean()
        image_loss = weights["reconstruction"] * pixels + weights["perceptual"] * perceptual
        (cotangent,) = torch.autograd.grad(image_loss, end)
        self.networks.discriminator.requires_grad_(False)
        gan = -self.heads(self.trunk(self._view(end, draws, 0))).mean()
        (gan_cotangent,) = torch.autograd.grad(gan, end)
        weight = weights["gan"]
        if self.config["adaptive"]:
            weight = weight * self._adaptive(tokens.detach(), cotangent, gan_cotangent)
        latent_loss = weights["alignment"] * alignment + weights["entropy"] * entropy
        torch.autograd.backward([reconstructions, latent_loss], [cotangent + weight * gan_cotangent, None])
        terms = dict(reconstruction=pixels, perceptual=perceptual, alignment=alignment, entropy=entropy)
        return terms | {"gan_generator": gan}, end.detach()

    def _adaptive(self, tokens, cotangent, gan_cotangent):
        """VQGAN's adaptive weight, from the gradients of the last linear map's kernel."""
        to_pixel = self.networks.tokenizer.decoder.to_pixel

        def norm(gradient):
            patch, grid = to_pixel.patch, to_pixel.grid
            patches = gradient.reshape(len(gradient), 3, grid, patch, grid, patch).permute(0, 2, 4, 3, 5, 1)
            return (tokens.flatten(0, 1).T @ patches.reshape(-1, 3 * patch**2)).norm()

        return (norm(cotangent) / (norm(gan_cotangent) + 1e-4)).clamp(0, 1e4)

    def _discriminator_gradients(self, images, reconstructions, draws):
        """Gradients of the discriminator, which sees a weak and a strong augmentation of each image."""
        weights, decay = self.config["weights"], self.config["lecam_decay"]
        with torch.no_grad():
            views = [self._view(x, draws, 1 + i, strong=i > 1) for i, x in enumerate((images, reconstructions) * 2)]
            features = self.trunk(torch.cat(views))
        for name, parameter in self.networks.discriminator.named_parameters():
            parameter.requires_grad_(name in self.judge.names)
        real, fake, *strong = (self.heads(view) for view in features.chunk(4, dim=1))
        for name, logits in (("real", real), ("fake", fake)):
            self.lecam[name] = decay * self.lecam[name] + (1 - decay) * logits.detach().mean()
        hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        lecam = F.relu(real - self.lecam["fake"]).square().mean() + F.relu(self.lecam["real"] - fake).square().mean()
        consistency = (torch.stack([real, fake]) - torch.stack(strong)).square().mean()
        total = weights["gan"] * (hinge + weights["lecam"] * lecam) + weights["consistency"] * consistency
        total.backward()
        return dict(gan_discriminator=hinge, lecam=lecam, consistency=consistency)


class _Trained:
    """Parameters with their AdamW; weight decay only for tensors with two or more axes."""

    def __init__(self, config, named):
        named = [(name, parameter) for name, parameter in named if parameter.requires_grad]
        self.names, self.parameters = {name for name, _ in named}, [parameter for _, parameter in named]
        self.clip = config["clip_norm"]
        options = {name: config[name] for name in ("betas", "eps")}
        decayed = [parameter for parameter in self.parameters if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters if parameter.ndim <= 1]
        groups = [dict(params=decayed, weight_decay=config["weight_decay"]), dict(params=others, weight_decay=0.0)]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True, **options)

    def update(self, rate):
        """Clips, takes the optimizer's step and frees the gradients; returns their norm."""
        norm = nn.utils.clip_grad_norm_(self.parameters, self.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm
