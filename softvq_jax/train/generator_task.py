"""Training a latent generator, as the loop sees it: a state, a step, an evaluation, something to save at the end."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from softvq_jax.config import tokenizer as configs
from softvq_jax.evaluate.image_sampler import ImageSampler, draw_labels
from softvq_jax.evaluate.predictions import Samples
from softvq_jax.generator import TOKENIZER_FIELD, Generator
from softvq_jax.generators import training
from softvq_jax.latent_statistics import LatentStatistics
from softvq_jax.parallel.mesh import batch_sharding, global_batch, replicated
from softvq_jax.parallel.sharding import shardings_for
from softvq_jax.pixels import to_uint8
from softvq_jax.train import optim
from softvq_jax.train.data import Data
from softvq_jax.train.generator_step import GeneratorStep
from softvq_jax.train.latent_source import LatentSource, open_source
from softvq_jax.train.nearest_class import nearest_labels
from softvq_jax.train.quality import Quality
from softvq_jax.train.state import GeneratorState, Network
from softvq_jax.train.task import Report

EVALUATION_SEED = 0  # of noise and times: every evaluation draws the same
REFERENCES = 512  # training samples that the samples' colors are compared with


class GeneratorTask:
    """What a generator run does: a `task.Task`.

    Attributes:
      config: the run's config.
      network: the generator.
      latents: where its latents come from.
    """

    def __init__(
        self,
        config: ConfigDict,
        latents: LatentSource,
        *,
        num_steps: int,
        steps_per_epoch: int,
        data: Data | None = None,
    ):
        """Builds network and optimizer; raises ValueError if parts of the config do not fit together."""
        self.config, self.latents, self.data, self.num_steps = config, latents, data, num_steps
        self.network = training.build(config)
        self.inputs = latents.inputs(config.model.num_tokens, config.model.channels)
        self.frozen, self.initial = latents.frozen, {}
        kind = config.optim.schedule
        run = dict(batch_size=config.train.batch_size, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
        schedules = {kind: optim.learning_rate(config.optim, kind, **run)}
        self.optimizer = optim.adamw(config.optim, schedules, lambda path: kind)
        self.step = GeneratorStep(config, self.network, latents.to_latents, self.optimizer)
        self._generator = self.export({})  # its parameters are set when it samples
        self._generator.check_options(**config.sampling.to_dict())
        self._sampler = None  # of FID's samples, made when first measured

    @classmethod
    def open(cls, config: ConfigDict) -> "GeneratorTask":
        """With the tokenizer and the latents or images that the config names."""
        training.build(config)  # reports errors of the config before anything is read
        latents, data = open_source(config)
        if config.fid.every_steps and latents.tokenizer is None:
            raise ValueError("FID needs images: set config.tokenizer, which decodes the samples, or fid.every_steps=0")
        num_steps, steps_per_epoch = configs.steps(config, len(data))
        return cls(config, latents, num_steps=num_steps, steps_per_epoch=steps_per_epoch, data=data)

    @classmethod
    def abstract(cls, config: ConfigDict, num_samples: int) -> "GeneratorTask":
        """On stored latents, which need no tokenizer; ValueError for a config that encodes images on the fly."""
        if config.data.source != "latents":
            raise ValueError(f"data.source={config.data.source!r}: without weights only 'latents' can be compiled")
        num_steps, steps_per_epoch = configs.steps(config, num_samples)
        latents = LatentSource(LatentStatistics(0.0, 1.0), None, False, "")
        return cls(config, latents, num_steps=num_steps, steps_per_epoch=steps_per_epoch)

    def init(self, key: jax.Array, initial) -> GeneratorState:
        """A fresh state."""
        params, _ = self.network.functional.init(key)
        # A copy: the state is donated, and a buffer can be given away only once.
        ema = jax.tree.map(jnp.copy, params)
        return GeneratorState(jnp.zeros((), jnp.int32), Network(params, self.optimizer.init(params)), ema)

    # --- evaluation --------------------------------------------------------------------------------------------------

    def compile_evaluation(self, mesh: Mesh, state_shapes: GeneratorState):
        """`evaluate(ema, frozen, batch) -> (sums, shown)`, jitted; see `_evaluate`."""
        self._mesh, frozen, rows = mesh, shardings_for(self.frozen, mesh), batch_sharding(mesh)
        copies = replicated(mesh)
        self._to_levels = jax.jit(self._draw, in_shardings=(frozen, rows), out_shardings=copies)
        self._reconstruct = jax.jit(self._draw_batch, in_shardings=(frozen, rows), out_shardings=copies)
        params = shardings_for(state_shapes.ema, mesh)
        return jax.jit(self._evaluate, in_shardings=(params, frozen, rows), out_shardings=(copies, copies))

    def _evaluate(self, params, frozen, batch):
        """Sums of the losses over the valid samples of a batch; nothing is shown."""
        key = jax.random.fold_in(jax.random.key(EVALUATION_SEED), batch["index"][0])
        latents = self.latents.to_latents(frozen, batch)
        losses = self.network.losses(self.network(params), latents, batch["label"], key, False)
        valid = batch["valid"].astype(jnp.float32)
        return {"samples": jnp.sum(valid)} | {name: jnp.sum(loss * valid) for name, loss in losses.items()}, ()

    def report(self, ema, frozen, sums, shown) -> Report:
        """Held-out losses; with a tokenizer, samples of classes evenly spread."""
        count = float(sums.pop("samples"))
        values = {f"eval_{name}": float(total) / count for name, total in sums.items()}
        if self.latents.tokenizer is None or not self.config.eval.num_pictures:
            return Report(values | {"eval_samples": int(count)}, {})
        images, labels = self.samples(ema, frozen, self.config.eval.num_pictures)
        if self.config.eval.nearest_class:
            values |= self._right_class(frozen, images, labels)
        return Report(values | {"eval_samples": int(count)}, {"samples": [images]})

    def samples(self, ema, frozen, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`count` samples, uint8 `[n, H, W, 3]`, in every process, and their classes, evenly spread."""
        padded, classes = -(-count // self._mesh.size) * self._mesh.size, self.config.model.num_classes
        labels = np.int32(np.arange(padded) * classes // count % classes)
        self._generator.params = ema | self.network.fixed
        rows = jax.make_array_from_callback(labels.shape, batch_sharding(self._mesh), lambda index: labels[index])
        options = self.config.sampling.to_dict()
        latents = self._generator.sample(rows, key=jax.random.key(EVALUATION_SEED), **options)
        levels = self._to_levels(frozen, self.latents.statistics.normalize(latents))
        return np.asarray(levels)[:count], labels[:count]

    def _draw(self, frozen, latents):
        return to_uint8(self.latents.to_images(frozen, latents))

    def _draw_batch(self, frozen, batch):
        return self._draw(frozen, self.latents.to_latents(frozen, batch)), batch["label"], batch["valid"]

    def _right_class(self, frozen, images, labels) -> dict[str, float]:
        """How often the training image of the nearest colours has the class that was asked for: of samples and, to
        compare with, of held-out images."""

        def decoded(batches, count):
            parts = itertools.islice(batches, -(-count // self.config.train.batch_size))
            inputs = ({name: part[name] for name in (*self.inputs, "valid")} for part in parts)
            drawn = [self._reconstruct(frozen, global_batch(part, self._mesh)) for part in inputs]
            levels, classes, valid = (
                np.concatenate(list(map(np.asarray, arrays))) for arrays in zip(*drawn, strict=True)
            )
            return levels[valid], classes[valid]

        with self.data.train_batches(0, self._mesh) as training, self.data.eval_batches(self._mesh) as held_out:
            references = decoded(training, REFERENCES)
            real = decoded(held_out, self.config.eval.num_images)

        def share(images, labels):
            return float(np.mean(nearest_labels(images, *references) == labels))

        return {
            "eval_right_class": share(images, labels),
            "eval_right_class_of_real": share(*real),
            "eval_right_class_by_chance": 1 / self.config.model.num_classes,
        }

    def measure_quality(self, quality: Quality, step: int, params) -> dict[str, float]:
        """gFID of samples of random classes (protocol `adm`), the same noise and classes every time."""
        if quality.extractor is None:  # everything that is measured of samples is made of its features
            return {}
        config = self.config
        options, classes = config.sampling.to_dict(), config.model.num_classes
        settings = {"num": config.fid.num_images, "labels": "uniform", "seed": EVALUATION_SEED}
        if self._sampler is None:
            labels = draw_labels("uniform", config.fid.num_images, classes, EVALUATION_SEED)
            given = dict(seed=EVALUATION_SEED, options=options, devices=quality.devices)
            self._sampler = ImageSampler(self.export(params), self.latents.tokenizer, labels, **given)
        self._sampler.load(params | self.network.fixed)
        found = quality(step, Samples(self._sampler, settings | options, quality.extractor), "adm")
        names = {"fid": "eval_gfid", "sfid": "eval_gsfid", "is_mean": "eval_is_mean"}
        return {names[name]: value for name, value in found.items()}

    # --- what the run leaves -----------------------------------------------------------------------------------------

    def parameters(self, state: GeneratorState):
        """The trained parameters of a state, for the table at the start."""
        return state.generator.params

    def export(self, params) -> Generator:
        """The generator that averaged parameters `ema` make, with its statistics and its tokenizer's fingerprint."""
        network = self.network
        fields = network.family.published_fields(network.config, network.process) | {
            TOKENIZER_FIELD: self.latents.fingerprint
        }
        statistics, process = self.latents.statistics, network.process
        return Generator(network.config, params | network.fixed, statistics, process=process, published=fields)
