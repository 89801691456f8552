"""The task of training a latent generator."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict

import softvq_jax.generators.config  # noqa: F401 (registers the schema of the configs of generators)
from softvq_jax.config import tokenizer as configs
from softvq_jax.evaluate.image_sampler import ImageSampler, draw_labels
from softvq_jax.evaluate.predictions import Samples
from softvq_jax.generator import CLASS_NAMES_FIELD, TOKENIZER_FIELD, Generator
from softvq_jax.generators import training
from softvq_jax.generators.family import find_family
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.parallel.mesh import batch_sharding, replicated
from softvq_jax.parallel.sharding import shardings_for
from softvq_jax.pixels import to_uint8
from softvq_jax.report import image_grid
from softvq_jax.train import init_from, optim
from softvq_jax.train.data import Data
from softvq_jax.train.freeze import frozen_paths
from softvq_jax.train.generator_step import GeneratorStep
from softvq_jax.train.latent_source import LatentSource, open_source
from softvq_jax.train.repa import open_repa
from softvq_jax.train.state import GeneratorState, Network
from softvq_jax.train.task import Better, Summary, Task

EVALUATION_SEED = 0  # seed of noise and times, which are the same in every evaluation


class GeneratorTask(Task):
    """The task of a generator run.

    Attributes:
      config: the run's config.
      network: the generator.
      latents: the source of its latents.
    """

    better: Mapping[str, Better] = {"eval_loss": "lower"}
    protocol = "adm"
    metric_names: Mapping[str, str] = {"fid": "eval_gfid", "sfid": "eval_gsfid", "is_mean": "eval_is_mean"}
    codebook_size = None

    def __init__(
        self,
        config: ConfigDict,
        latents: LatentSource,
        *,
        num_steps: int,
        steps_per_epoch: int,
        data: Data | None = None,
    ):
        """Builds the network and the optimizer; raises ValueError if parts of the config do not fit together."""
        self.config, self.latents, self.data, self.num_steps = config, latents, data, num_steps
        self.network, self.draws_images = training.build(config), latents.tokenizer is not None
        self.inputs = latents.inputs(self.network.config.num_tokens, self.network.config.channels)
        kind = config.optim.schedule
        run = dict(batch_size=config.train.batch_size, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
        schedules = {kind: optim.learning_rate(config.optim, kind, **run)}
        shapes = self.network.functional.shapes
        is_frozen = frozen_paths(config.freeze, traverse_util.flatten_dict(shapes, sep="/"))
        self.optimizer = optim.optimizer(config.optim, schedules, lambda path: "frozen" if is_frozen(path) else kind)
        head_optimizer = optim.optimizer(config.optim, schedules, lambda path: kind)
        self.repa = open_repa(config, self.network.config, latents.tokenizer, head_optimizer)
        self.frozen, self.initial = latents.frozen | ({"teacher": self.repa.params} if self.repa else {}), {}
        self.learning_rate = schedules[kind]
        self.step = GeneratorStep(
            config, self.network, latents.to_latents, self.optimizer, self.learning_rate, is_frozen, self.repa
        )
        self._generator = self.export({})  # its parameters are set when it samples
        self._generator.check_options(**config.sampling.to_dict())
        self._sampler = None  # draws the samples for FID; made at first use

    @classmethod
    def open(cls, config: ConfigDict, source: Any = None) -> "GeneratorTask":
        """With the tokenizer and the latents or images that the config names, or the images of `source`."""
        training.build(config)  # reports errors of the config before anything is read
        latents, data = open_source(config, source)
        if config.evals.fid.every_steps and latents.tokenizer is None:
            raise ValueError(
                "FID needs images: set config.tokenizer, which decodes the samples, or evals.fid.every_steps=0"
            )
        num_steps, steps_per_epoch = configs.steps(config, len(data))
        return cls(config, latents, num_steps=num_steps, steps_per_epoch=steps_per_epoch, data=data)

    @classmethod
    def abstract(cls, config: ConfigDict, num_samples: int) -> "GeneratorTask":
        """Makes a task on stored latents, without a tokenizer; raises ValueError if the config encodes images."""
        if config.data.source != "latents":
            raise ValueError(f"data.source={config.data.source!r}: without weights only 'latents' can be compiled")
        num_steps, steps_per_epoch = configs.steps(config, num_samples)
        statistics = None if find_family(config.model.family).discrete else LatentStatistics(0.0, 1.0)
        latents = LatentSource(statistics, None, False, "")
        return cls(config, latents, num_steps=num_steps, steps_per_epoch=steps_per_epoch)

    def init(self, key: jax.Array, initial) -> GeneratorState:
        """A new state; `initial["init_from"]`, if present, are parameters that `start` returned."""
        params, _ = self.network.functional.init(key)
        params = init_from.overlay(params, initial.get("init_from", {}))
        # A copy: the state is donated, and each buffer can be donated only once.
        ema = jax.tree.map(jnp.copy, params)
        repa = None
        if self.repa is not None:
            head, _ = self.repa.head.init(jax.random.fold_in(key, 1))
            repa = Network(head, self.repa.optimizer.init(head))
        return GeneratorState(jnp.zeros((), jnp.int32), Network(params, self.optimizer.init(params)), ema, repa)

    def start(self) -> dict:
        """The parameters that `config.init_from` gives a new run; see `init_from.start_from`."""
        return init_from.start_from(self.config, self.network.config, self.network.functional.shapes)

    # --- evaluation --------------------------------------------------------------------------------------------------

    def compile_evaluation(self, mesh: Mesh, state_shapes: GeneratorState):
        """Returns the jitted `evaluate(ema, frozen, batch) -> (sums, shown)`; see `_evaluate`."""
        self._mesh, frozen, rows = mesh, shardings_for(self.frozen, mesh), batch_sharding(mesh)
        copies = replicated(mesh)
        self._to_levels = jax.jit(self._draw, in_shardings=(frozen, rows), out_shardings=copies)
        self._reconstruct = jax.jit(self._draw_batch, in_shardings=(frozen, rows), out_shardings=copies)
        params = shardings_for(state_shapes.ema, mesh)
        return jax.jit(self._evaluate, in_shardings=(params, frozen, rows), out_shardings=(copies, copies))

    def _evaluate(self, params, frozen, batch):
        """Returns sums of the losses over the valid samples of a batch, and nothing to show."""
        key = jax.random.fold_in(jax.random.key(EVALUATION_SEED), batch["index"][0])
        latents = self.latents.to_latents(frozen, batch)
        losses = self.network.losses(self.network(params), latents, batch["label"], key, False)
        valid = batch["valid"].astype(jnp.float32)
        return {"samples": jnp.sum(valid)} | {name: jnp.sum(loss * valid) for name, loss in losses.items()}, ()

    def summarize(self, ema, frozen, sums, shown) -> Summary:
        """Returns held-out losses and, with a tokenizer, a picture of samples of evenly spaced classes."""
        count, num_pictures = float(sums.pop("samples")), self.config.evals.held_out.num_pictures
        metrics = {f"eval_{name}": float(total) / count for name, total in sums.items()}
        pictures = {}
        if self.draws_images and num_pictures and shown is not None:
            images, labels = self.samples(ema, frozen, num_pictures)
            names = self._generator.class_names
            pictures["samples"] = [image_grid.captioned(images, [names[label] for label in labels])]
        return metrics | {"eval_samples": int(count)}, pictures

    def samples(self, ema, frozen, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns `count` samples, uint8 `[n, H, W, 3]`, in every process, and their classes, which are evenly spaced."""
        padded, classes = -(-count // self._mesh.size) * self._mesh.size, self.config.model.num_classes
        labels = (np.arange(padded) * classes // count % classes).astype(np.int32)
        self._generator.params = ema | self.network.fixed_params
        rows = jax.make_array_from_callback(labels.shape, batch_sharding(self._mesh), lambda index: labels[index])
        options = self.config.sampling.to_dict()
        latents = self._generator.sample(rows, key=jax.random.key(EVALUATION_SEED), **options)
        levels = self._to_levels(frozen, self.latents.from_tokenizer(latents))
        return np.asarray(levels)[:count], labels[:count]

    def decode_batch(self, frozen, batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns reconstructions of a batch (uint8), its labels, and which samples are valid."""
        return self._reconstruct(frozen, batch)

    def _draw(self, frozen, latents):
        return to_uint8(self.latents.to_images(frozen, latents))

    def _draw_batch(self, frozen, batch):
        return self._draw(frozen, self.latents.to_latents(frozen, batch)), batch["label"], batch["valid"]

    def predictions(self, params, *, images, count, extractor, devices) -> Samples:
        """Returns samples of random classes for gFID; noise and classes are the same every time."""
        options, classes = self.config.sampling.to_dict(), self.config.model.num_classes
        settings = {"num": count, "labels": "uniform", "seed": EVALUATION_SEED}
        if self._sampler is None:
            labels = draw_labels("uniform", count, classes, EVALUATION_SEED)
            nets = self.export(params), self.latents.require_tokenizer()
            self._sampler = ImageSampler(*nets, labels, seed=EVALUATION_SEED, options=options, devices=devices)
        self._sampler.load(params | self.network.fixed_params)
        return Samples(self._sampler, settings | options, extractor)

    # --- export ------------------------------------------------------------------------------------------------------

    def parameters(self, state: GeneratorState):
        """Returns the trained parameters of a state, for the table in the log."""
        return state.generator.params

    def export(self, params) -> Generator:
        """Returns the generator with the averaged parameters, its latent statistics and its tokenizer's fingerprint."""
        network, statistics = self.network, self.latents.statistics
        fields = self._published_fields()
        return Generator(
            network.config, params | network.fixed_params, statistics, process=network.process, published=fields
        )

    @property
    def published(self) -> dict:
        """The content of `config.json` of an exported generator, with its statistics."""
        statistics = self.latents.statistics
        return self._published_fields() | ({} if statistics is None else statistics.to_fields())

    def _published_fields(self):
        network = self.network
        fields = network.family.published_fields(network.config, network.process)
        fields[TOKENIZER_FIELD] = self.latents.fingerprint
        names = () if self.data is None else self.data.source.class_names
        return fields | ({CLASS_NAMES_FIELD: list(names)} if any(names) else {})
