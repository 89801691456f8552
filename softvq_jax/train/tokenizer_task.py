"""The task of training a tokenizer."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

from softvq_jax.config import tokenizer as configs
from softvq_jax.evaluate.predictions import Reconstructions
from softvq_jax.evaluate.reconstructor import Reconstructor
from softvq_jax.models.codebook import code_counts
from softvq_jax.models.quantizers import bottleneck_class
from softvq_jax.parallel.mesh import batch_sharding, replicated
from softvq_jax.parallel.sharding import shardings_for
from softvq_jax.pixels import as_float, to_uint8
from softvq_jax.tokenizer import Tokenizer
from softvq_jax.train import init_from, optim, tokenizer_networks
from softvq_jax.train.data import Data
from softvq_jax.train.freeze import frozen_paths
from softvq_jax.train.state import Discriminator, Network, TokenizerState
from softvq_jax.train.task import Better, Summary, Task
from softvq_jax.train.tokenizer_step import CODE_USAGE_WINDOW, TokenizerStep
from softvq_jax.weights import pretrained


class TokenizerTask(Task):
    """The task of a tokenizer run.

    Attributes:
      config: the run's config.
      nets: the run's networks.
    """

    better: Mapping[str, Better] = {"eval_psnr": "higher", "eval_codebook_usage": "higher"}
    protocol = "softvq-rfid"
    metric_names: Mapping[str, str] = {
        "fid": "eval_rfid",
        "sfid": "eval_rsfid",
        "is_mean": "eval_is_mean",
        "ssim_gauss": "eval_ssim",
    }
    draws_images = False

    def __init__(
        self,
        config: ConfigDict,
        pretrained: pretrained.Pretrained,
        *,
        num_steps: int,
        steps_per_epoch: int,
        data: Data | None = None,
    ):
        """Builds the networks and optimizers; raises ValueError if parts of the config do not fit together."""
        self.config, self.data, self.num_steps = config, data, num_steps
        size = config.model.image_size
        self.inputs = {"image": jax.ShapeDtypeStruct((size, size, 3), jnp.uint8)}
        # The encoder's pretrained parameters initialize the state; all others are arguments of every step.
        self.frozen = {name: params for name, params in pretrained.params.items() if name != "encoder"}
        self.initial = {name: params for name, params in pretrained.params.items() if name == "encoder"}
        self.nets = tokenizer_networks.build(config, pretrained.arguments)
        run = dict(batch_size=config.train.batch_size, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
        kinds = {config.optim.schedule, "constant"}
        if self.nets.config.has_codebook:
            kinds.add(config.optim.codebook_schedule)
        # Sorted: in the order of a set, which changes with each process, the step would be another program for each.
        self.schedules = {kind: optim.learning_rate(config.optim, kind, **run) for kind in sorted(kinds)}
        trained = {"model": self.nets.model.shapes} | (
            {} if self.nets.alignment is None else {"alignment": self.nets.alignment.shapes}
        )
        if self.nets.auxiliary:
            trained["auxiliary"] = {name: decoder.shapes for name, decoder in self.nets.auxiliary.items()}
        paths = [path.removeprefix("model/") for path in traverse_util.flatten_dict(trained, sep="/")]
        self.is_frozen = frozen_paths(config.freeze, paths)
        self.generator_optimizer = optim.optimizer(config.optim, self.schedules, self._group)
        self.discriminator_optimizer = optim.adamw(config.optim, self.schedules, lambda path: config.optim.schedule)
        self.codebook_size = config.model.codebook_size
        self.reconstruct = None  # compiled once, for FID
        self.learning_rate = self.schedules[config.optim.schedule]
        self.step = TokenizerStep(
            config,
            self.nets,
            self.generator_optimizer,
            self.discriminator_optimizer,
            self.learning_rate,
            lambda path: self._group(path) == "frozen",
            self._codebook_learning_rate(),
        )

    @classmethod
    def open(cls, config: ConfigDict, source: Any = None) -> "TokenizerTask":
        """Opens the images, or takes those of `source`, and reads the pretrained weights in the config."""
        data = Data.open(config, config.model.image_size, source=source)
        num_steps, steps_per_epoch = configs.steps(config, len(data))
        return cls(config, pretrained.load(config), num_steps=num_steps, steps_per_epoch=steps_per_epoch, data=data)

    @classmethod
    def abstract(cls, config: ConfigDict, num_samples: int) -> "TokenizerTask":
        """Makes a task with shapes instead of weights: a teacher of the encoder's size, DINO ViT-S/16, LPIPS."""
        num_steps, steps_per_epoch = configs.steps(config, num_samples)
        return cls(config, pretrained.abstract(config), num_steps=num_steps, steps_per_epoch=steps_per_epoch)

    def _codebook_learning_rate(self):
        """Returns the learning rate of a trained codebook; None without one, or if it is that of all parameters."""
        section, model = self.config.optim, self.nets.config
        differs = model.has_codebook and section.codebook_schedule != section.schedule
        return self.schedules[section.codebook_schedule] if differs else None

    def _group(self, path: str) -> str:
        """Returns the optimizer's group of a generator parameter, given its path."""
        optimizer, prefix = self.config.optim, "model/bottleneck/"
        if self.is_frozen(path.removeprefix("model/")):
            return "frozen"
        if not path.startswith(prefix):
            return optimizer.schedule
        model = self.nets.config
        frozen = path.removeprefix(prefix) in bottleneck_class(model.bottleneck).frozen_parameters(model)
        return "frozen" if frozen else optimizer.codebook_schedule

    def init(self, key: jax.Array, initial) -> TokenizerState:
        """A new state.

        Args:
          key: of the fresh parameters.
          initial: pretrained parameters, where there are any: `encoder`, those of the encoder's ViT, and `init_from`,
            those that `start` returned.
        """
        keys = jax.random.split(key, 3)
        params = {"model": self.nets.model.init(keys[0])[0]}
        if "encoder" in initial:
            params["model"]["encoder"]["vit"] = initial["encoder"]
        params["model"] = init_from.overlay(params["model"], initial.get("init_from", {}))
        if self.nets.alignment is not None:
            params["alignment"] = self.nets.alignment.init(keys[1])[0]
        if self.nets.auxiliary:
            params["auxiliary"] = {
                name: decoder.init(jax.random.fold_in(keys[1], number))[0]
                for number, (name, decoder) in enumerate(self.nets.auxiliary.items())
            }
        discriminator = None
        if self.nets.discriminator is not None:
            weights, buffers = self.nets.discriminator.init(keys[2])
            discriminator = Discriminator(weights, buffers, self.discriminator_optimizer.init(weights))
        model, code_age = self.nets.config, None
        if model.has_codebook:
            code_age = jnp.full((model.num_codebooks, model.codebook_size), CODE_USAGE_WINDOW, jnp.int32)
        return TokenizerState(
            step=jnp.zeros((), jnp.int32),
            tokenizer=Network(params, self.generator_optimizer.init(params)),
            # A copy: the state is donated, and each buffer can be donated only once.
            ema=jax.tree.map(jnp.copy, params),
            discriminator=discriminator,
            lecam={"real": jnp.zeros(()), "fake": jnp.zeros(())},
            code_age=code_age,
        )

    def start(self) -> dict:
        """The parameters that `config.init_from` gives a new run; see `init_from.start_from`."""
        return init_from.start_from(self.config, self.nets.config, self.nets.model.shapes)

    # --- evaluation --------------------------------------------------------------------------------------------------

    def compile_evaluation(self, mesh: Mesh, state_shapes: TokenizerState):
        """Returns the jitted `evaluate(ema, frozen, batch) -> (sums, shown)`; see `_evaluate`."""
        params = shardings_for(state_shapes.ema, mesh)
        return jax.jit(
            self._evaluate,
            in_shardings=(params, shardings_for(self.frozen, mesh), batch_sharding(mesh)),
            out_shardings=(replicated(mesh), replicated(mesh)),
        )

    def _evaluate(self, params, frozen, batch):
        """Returns sums over the valid images of a batch, and the first originals and reconstructions as uint8."""
        images, valid = as_float(batch["image"]), batch["valid"].astype(jnp.float32)
        model = self.nets.model(params["model"])
        out = model(images)
        pair = [to_uint8(x) for x in (images, model.decoder.to_pixels(out.decoded))]
        originals, reconstructions = (x.astype(jnp.float32) for x in pair)
        error = jnp.mean(jnp.square(originals - reconstructions), axis=(1, 2, 3))
        psnr = 10 * jnp.log10(255.0**2 / jnp.maximum(error, 1e-10))
        sums = {"images": jnp.sum(valid), "psnr": jnp.sum(psnr * valid), "squared_error": jnp.sum(error * valid)}
        latents, weight = out.bottlenecked.latents.astype(jnp.float32), valid[:, None, None]
        sums |= {"latents": jnp.sum(latents * weight, 0), "squared_latents": jnp.sum(jnp.square(latents) * weight, 0)}
        if out.bottlenecked.indices is not None:
            sums["codes"] = code_counts(out.bottlenecked.indices, self.nets.config.codebook_size, valid)
        shown = [x[: self.config.evals.held_out.num_pictures] for x in pair]
        return sums, shown

    def summarize(self, ema, frozen, sums, shown) -> Summary:
        """Returns PSNR and codebook usage, and a picture of the first originals above their reconstructions.

        `eval_latent_spread` is the variance of the latents between images, as a share of their mean square.
        """
        count = float(sums["images"])
        metrics = {"eval_psnr": float(sums["psnr"]) / count, "eval_images": int(count)}
        if count > 1:
            square = np.asarray(sums["squared_latents"], np.float64) / count
            variance = square - np.square(np.asarray(sums["latents"], np.float64) / count)
            metrics["eval_latent_spread"] = float(np.mean(variance) / np.maximum(np.mean(square), 1e-30))
        if "codes" in sums:
            metrics["eval_codebook_usage"] = float(np.mean(np.asarray(sums["codes"]) > 0))
        return metrics, {} if shown is None or not len(shown[0]) else {"reconstructions": shown}

    def predictions(self, params, *, images, count, extractor, devices) -> Reconstructions:
        """Returns reconstructions of held-out images, for rFID and SSIM."""
        assert images is not None, "the samples of a tokenizer's run are images"
        if self.reconstruct is None:
            self.reconstruct = Reconstructor(self.nets.config, params["model"], devices=devices)
        self.reconstruct.load(params["model"])
        return Reconstructions(images, self.reconstruct, extractor, None)

    # --- export ------------------------------------------------------------------------------------------------------

    def parameters(self, state: TokenizerState):
        """Returns the trained parameters of a state, for the table in the log."""
        trained = dict(state.tokenizer.params)
        return trained | ({"discriminator": state.discriminator.params} if state.discriminator else {})

    @property
    def published(self) -> dict:
        """Nothing: the config determines what is exported."""
        return {}

    def export(self, params) -> Tokenizer:
        """Returns the tokenizer with the averaged parameters (host arrays)."""
        return Tokenizer(self.nets.config, params["model"])
