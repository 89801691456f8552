"""What a new run starts from (`init_from`), which parameters it trains (`freeze`), and how its checkpoints are opened."""

import logging
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from softvq_jax import Generator, Tokenizer
from softvq_jax.models import dinov2
from softvq_jax.train import init_from, loop, optim
from softvq_jax.train.freeze import frozen_paths
from softvq_jax.train.state import Network
from softvq_jax.train.tasks import TASKS
from tests import small_generators
from tests.train.conftest import tiny


def small():
    """A run without a discriminator: its step compiles in seconds."""
    config = tiny()
    config.gan.discriminator = "none"
    config.train.num_steps = 4
    return config


def run(config, workdir, **options):
    return loop.Run(config, workdir, TASKS[config.task], **options)


def initial_params(config, workdir):
    """The parameters that a new run starts from, by path."""
    started = run(config, workdir)
    with jax.set_mesh(started.mesh):
        state, _ = started._restore_or_init()
    jax.tree.map(np.testing.assert_array_equal, state.params, state.ema)
    params = jax.device_get(state.params)
    return traverse_util.flatten_dict(params.get("model", params), sep="/")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The workdir of a finished run."""
    workdir = tmp_path_factory.mktemp("source") / "run"
    run(small(), workdir).train()
    return workdir


def weights_of(workdir):
    return traverse_util.flatten_dict(jax.device_get(Tokenizer.from_pretrained(workdir).params), sep="/")


# --- init_from ------------------------------------------------------------------------------------------------------------


def shapes(**arrays):
    return {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in arrays.items()}


def test_equal_shapes_are_taken_and_others_are_resized_or_fresh():
    rng = np.random.default_rng(0)
    given = {
        "encoder/vit/pos_embed": rng.normal(size=(1 + 16, 3)),
        "encoder/latent_tokens": rng.normal(size=(4, 3)),
        "to_latents/bias": rng.normal(size=5),
        "bottleneck/codebook": rng.normal(size=(1, 7, 5)),
        "label_embeddings": rng.normal(size=(6, 3)),
        "same": rng.normal(size=(2, 2)),
        "old": rng.normal(size=2),
    }
    given = {path: array.astype(np.float32) for path, array in given.items()}
    wanted = {
        "encoder/vit/pos_embed": (1 + 36, 3),
        "encoder/latent_tokens": (7, 3),
        "to_latents/bias": (10,),
        "bottleneck/codebook": (1, 8, 5),
        "label_embeddings": (4, 3),
        "same": (2, 2),
        "new": (2,),
    }
    found = init_from.fit(given, shapes(**wanted))
    params = found.params
    np.testing.assert_array_equal(params["same"], given["same"])
    np.testing.assert_array_equal(
        params["encoder/vit/pos_embed"], dinov2.resample_positions(given["encoder/vit/pos_embed"], 6)
    )
    tokens = params["encoder/latent_tokens"]  # every second one is an old one, the others are in the middle
    np.testing.assert_array_equal(tokens[::2], given["encoder/latent_tokens"])
    np.testing.assert_allclose(tokens[1], given["encoder/latent_tokens"][:2].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(params["to_latents/bias"], [*given["to_latents/bias"], *[-6] * 5])
    labels = given["label_embeddings"]
    np.testing.assert_array_equal(params["label_embeddings"][-1], labels[-1])
    np.testing.assert_allclose(params["label_embeddings"][:3], np.stack([labels[:5].mean(0)] * 3), rtol=1e-6)
    assert set(found.fresh) == {"bottleneck/codebook", "new"} and found.unused == ["old"]
    text = "\n".join(found.lines())
    assert "resized: label_embeddings, 6 x 3 to 4 x 3: each class starts at the mean" in text
    assert "fresh (1 x 7 x 5 in the source, 1 x 8 x 5 here): bottleneck/codebook" in text
    assert "fresh (the source has none): new" in text and "not used: old" in text
    assert f"{found.taken} of {sum(int(np.prod(s)) for s in wanted.values())} values" in text


@pytest.mark.slow
def test_a_run_starts_from_the_workdir_of_another(source, tmp_path):
    config = small()
    config.init_from = str(source)
    params, theirs = initial_params(config, tmp_path / "same"), weights_of(source)
    assert params.keys() == theirs.keys()
    for path in params:
        np.testing.assert_array_equal(params[path], theirs[path], err_msg=path)


@pytest.mark.slow
def test_another_image_size_number_of_tokens_and_bottleneck(source, tmp_path, caplog):
    config = small()
    config.init_from = str(source)
    config.model.update(image_size=60, num_latent_tokens=4, bottleneck="ae")
    with caplog.at_level(logging.INFO):
        params = initial_params(config, tmp_path / "other")
    theirs = weights_of(source)
    for name in ("encoder/vit/pos_embed", "decoder/pos_embed"):
        np.testing.assert_array_equal(params[name], dinov2.resample_positions(theirs[name], 5))
    np.testing.assert_array_equal(params["encoder/latent_tokens"][[0, -1]], theirs["encoder/latent_tokens"][[0, -1]])
    np.testing.assert_array_equal(params["to_latents/kernel"], theirs["to_latents/kernel"])
    assert "image_size 48 -> 60" in caplog.text and "bottleneck softvq -> ae" in caplog.text
    assert "not used: bottleneck/codebook" in caplog.text
    results = run(config, tmp_path / "other").train()
    assert np.isfinite(results["eval_psnr"])


@pytest.mark.slow
def test_a_source_that_cannot_be_is_refused(source, tmp_path):
    config = small()
    config.init_from = str(source)
    config.model.encoder.num_heads = 2
    with pytest.raises(ValueError, match=r"encoder\.num_heads is 1 there and 2 here: set --config\.model\.encoder"):
        initial_params(config, tmp_path / "heads")
    config.init_from = str(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        initial_params(config, tmp_path / "nothing")


@pytest.mark.slow
def test_a_generator_starts_from_one_with_other_classes(tmp_path):
    old, new = small_generators.config(), small_generators.config()
    task = small_generators.abstract_task(old)
    params = jax.device_get(task.init(jax.random.key(1), {}).params)
    task.export(params).save_pretrained(tmp_path / "old")
    new.model.num_classes, new.init_from = 3, str(tmp_path / "old")
    task = small_generators.abstract_task(new)
    started = jax.device_get(task.init(jax.random.key(2), {"init_from": task.start()}).params)
    theirs = params["label_embeddings"]
    np.testing.assert_array_equal(started["label_embeddings"][3], theirs[8])
    np.testing.assert_allclose(started["label_embeddings"][:3], np.stack([theirs[:8].mean(0)] * 3), rtol=1e-5)
    del started["label_embeddings"], params["label_embeddings"]
    jax.tree.map(np.testing.assert_array_equal, started, params)
    new.init_from, new.model.num_heads = str(tmp_path / "old"), 4
    with pytest.raises(ValueError, match="num_heads is 2 there and 4 here"):
        small_generators.abstract_task(new).start()


def test_a_maskgit_with_other_classes_keeps_its_codes(tmp_path, caplog):
    """Its embeddings are those of 16 codes, the mask, 8 classes and "no class", in one table."""
    old, new = (small_generators.config("maskgit", source="latents") for _ in range(2))
    old.model.num_codebooks = new.model.num_codebooks = 1
    task = small_generators.abstract_task(old)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), task.network.functional.shapes)
    task.export(params).save_pretrained(tmp_path / "old")
    new.model.update(num_classes=3, num_tokens=15)
    new.init_from = str(tmp_path / "old")
    with caplog.at_level(logging.INFO):
        started = small_generators.abstract_task(new).start()
    theirs, ours = params["embeddings"], started["embeddings"]
    np.testing.assert_array_equal(ours[:17], theirs[:17])
    np.testing.assert_allclose(ours[17:20], np.stack([theirs[17:25].mean(0)] * 3), rtol=1e-5)
    np.testing.assert_array_equal(ours[20], theirs[25])
    positions = started["positions"]  # the class's, then twice as many tokens but one
    np.testing.assert_array_equal(positions[[0, *range(1, 16, 2)]], params["positions"])
    np.testing.assert_array_equal(started["to_logits"]["kernel"], params["to_logits"]["kernel"])
    assert (
        "resized: embeddings, 26 x 32 to 21 x 32: codes and mask are kept; each class starts at the mean" in caplog.text
    )
    new.model.codebook_size = 12  # other codes: nothing of the table means the same
    assert "embeddings" not in small_generators.abstract_task(new).start()


# --- freeze ---------------------------------------------------------------------------------------------------------------

PATHS = ("encoder/vit/pos_embed", "encoder/latent_tokens", "decoder/pos_embed", "decoder/to_patches/kernel")


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ("", ()),
        ("encoder", PATHS[:2]),
        ("encoder/vit, */pos_embed", (PATHS[0], PATHS[2])),
        ("*,!decoder", PATHS[:2]),
        ("decoder,!decoder/to_patches", PATHS[2:3]),
    ],
)
def test_patterns_freeze_whole_parts_of_paths(patterns, frozen):
    assert tuple(filter(frozen_paths(patterns, PATHS), PATHS)) == frozen


def test_patterns_that_match_nothing_or_everything_are_refused():
    with pytest.raises(ValueError, match="'encod' matches no parameter; their paths start with decoder, encoder"):
        frozen_paths("encod", PATHS)
    with pytest.raises(ValueError, match=r"freezes all parameters"):
        frozen_paths("*", PATHS)


def test_frozen_parameters_are_not_part_of_the_norm_and_have_no_state():
    section = ConfigDict(dict(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1))
    optimizer = optim.adamw(section, {"a": lambda count: 0.1}, lambda path: "frozen" if path == "x" else "a")
    params = {"x": np.float32([-0.0, 3.0]), "y": np.float32([1.0, 2.0])}
    grads = {"x": np.float32([np.nan, 9.0]), "y": np.float32([3.0, 4.0])}
    state = optimizer.init(params)
    assert sorted(leaf.shape for leaf in jax.tree.leaves(state)) == [(), (), (2,), (2,)]  # two counts, moments of y
    network, norm = optim.apply(optimizer, Network(params, state), grads, 1.0, lambda path: path == "x")
    assert norm == 5.0
    np.testing.assert_array_equal(np.asarray(network.params["x"]).view(np.uint32), params["x"].view(np.uint32))
    assert np.all(np.asarray(network.params["y"]) != params["y"])


@pytest.mark.slow
def test_the_decoder_alone_is_trained(source, tmp_path):
    config = small()
    config.update(init_from=str(source), freeze="*,!decoder")
    results = run(config, tmp_path / "run").train()
    assert np.isfinite(results["eval_psnr"])
    before, after = weights_of(source), weights_of(tmp_path / "run")
    raw = Tokenizer.from_checkpoint(tmp_path / "run", raw=True).params
    raw = traverse_util.flatten_dict(jax.device_get(raw), sep="/")
    for path in before:
        for now in (after[path], raw[path]):
            same = np.array_equal(np.asarray(before[path]).view(np.uint32), np.asarray(now).view(np.uint32))
            assert same != path.startswith("decoder/"), path
    again = run(config, tmp_path / "run")  # resumes: its state has the same parts
    with jax.set_mesh(again.mesh):
        state, record = again._restore_or_init()
    assert record["step"] == 4
    moments = [path for path, _ in jax.tree_util.tree_leaves_with_path(state.tokenizer.opt)]
    assert not any("encoder" in jax.tree_util.keystr(path) for path in moments)


@pytest.mark.slow
def test_equal_latents_for_all_images_are_warned_about(source, tmp_path, caplog):
    healthy = Tokenizer.from_pretrained(source)
    params = jax.device_get(healthy.params)
    params["to_latents"]["kernel"] = np.zeros_like(params["to_latents"]["kernel"])
    Tokenizer(healthy.config, params).save_pretrained(tmp_path / "collapsed")
    config = small()
    config.init_from, config.optim.learning_rate = str(tmp_path / "collapsed"), 0.0
    results = run(config, tmp_path / "run").train()
    assert results["eval_latent_spread"] < 1e-6
    assert "nearly the same latents" in caplog.text and "local_init=True" in caplog.text
    assert results["eval_psnr_raw"] == results["eval_psnr"]  # nothing was trained


@pytest.mark.slow
def test_a_stopped_run_and_its_checkpoints_open(source, tmp_path):
    workdir = tmp_path / "stopped"
    shutil.copytree(source, workdir)
    exported = jax.device_get(Tokenizer.from_pretrained(workdir).params)
    shutil.rmtree(workdir / "tokenizer")
    opened = Tokenizer.from_pretrained(workdir)
    assert opened.config == Tokenizer.from_pretrained(source).config
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(opened.params), exported)
    earlier = Tokenizer.from_pretrained(workdir / "checkpoints" / "2")
    assert not np.array_equal(earlier.params["to_latents"]["kernel"], opened.params["to_latents"]["kernel"])
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 3; it has 2, 4"):
        Tokenizer.from_checkpoint(workdir, step=3)
    with pytest.raises(ValueError, match=r"is a checkpoint of a tokenizer; expected that of a generator"):
        Generator.from_checkpoint(workdir)
