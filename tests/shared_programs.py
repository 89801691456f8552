"""Runs of equal configs share their compiled programs, because tests start the same few runs many times."""

import json

import jax
import pytest


@pytest.fixture(scope="session")
def shared_programs():
    """Keeps what runs compile, and gives PatchGAN an eighth of its channels.

    So the second run of a config in a process takes a fifth of the time. Its results are the same: initialization,
    training and evaluation are pure functions that config, number of samples and shapes of the arguments determine. The
    whole PatchGAN takes most of the time of a small run's steps.
    """
    from softvq_jax.models.discriminators import PatchGAN  # here, for tests without runs
    from softvq_jax.train import loop, tokenizer_networks
    from softvq_jax.train.task import data_of
    from softvq_jax.train.tokenizer_task import TokenizerTask

    class SmallPatchGAN(PatchGAN):
        def __init__(self, **options):
            super().__init__(width=8, **options)

    programs = {}

    def once(kind, task, arguments, make):
        without = ("checkpoint", "log") if kind == "evaluation" else ("checkpoint", "log", "evals")
        config = json.loads(task.config.to_json_best_effort())
        fields = json.dumps({name: part for name, part in config.items() if name not in without})
        step = (
            type(task.step).__call__,
            getattr(task.step, "pieces", 1),
        )  # a test replaces it; resumed runs set pieces
        shapes = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(arguments)]
        key = (kind, fields, len(data_of(task)), step, str(jax.tree.structure(arguments)), str(shapes))
        if key not in programs:
            programs[key] = make()
        return programs[key]

    compile_step, compile_evaluation = loop.Run._compile, TokenizerTask.compile_evaluation

    def compile_step_once(run, *args):
        return once("step", run.task, args, lambda: compile_step(run, *args))

    def init_once(init, mesh, *args, shardings):
        def make():
            return jax.jit(init, out_shardings=shardings)

        return once("init", init.__self__, args, make)(*args)

    def compile_evaluation_once(task, mesh, state):
        return once("evaluation", task, (state, task.frozen), lambda: compile_evaluation(task, mesh, state))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Run, "_compile", compile_step_once)
        patch.setattr(loop, "init_sharded", init_once)
        patch.setattr(TokenizerTask, "compile_evaluation", compile_evaluation_once)
        patch.setattr(tokenizer_networks, "PatchGAN", SmallPatchGAN)
        yield
