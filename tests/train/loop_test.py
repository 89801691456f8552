"""The loop: files that a run writes, resuming, and stopping."""

import base64
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax import Tokenizer
from softvq_jax.data.embedded import FILES
from softvq_jax.data.shuffle import shuffled
from softvq_jax.metrics import image_quality
from softvq_jax.pixels import to_uint8
from softvq_jax.studies.crops import held_out
from softvq_jax.tools import report
from softvq_jax.train import checkpoint, compatibility, evaluators, loop, preemption, preflight
from softvq_jax.train.metrics import NonFinite
from softvq_jax.train.tasks import TASKS
from tests.train.conftest import tiny


def run(config, workdir):
    return loop.Run(config, workdir, TASKS["tokenizer"])


def final_state(config, workdir):
    """The state that a finished run's newest checkpoint holds."""
    again = run(config, workdir)
    with jax.set_mesh(again.mesh):
        state, record = again._restore_or_init()
    assert record["step"] == config.train.num_steps
    return jax.device_get(state)


@pytest.fixture(scope="module")
def finished_once(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, run(tiny(), workdir).train()


@pytest.fixture
def finished(finished_once, tiny_config, tmp_path):
    """A config, and a run of it in a folder of the test's own, with its results."""
    shutil.copytree(finished_once[0], tmp_path / "run")
    return tiny_config, tmp_path / "run", finished_once[1]


def test_a_run_writes_all_its_files(finished):
    config, workdir, results = finished
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "generator_total" in line]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert {"reconstruction", "entropy", "gan_generator", "codebook_usage", "images_per_second"} <= lines[0].keys()
    assert json.loads((workdir / "config.json").read_text())["train"]["num_steps"] == 6
    picture = np.asarray(Image.open(workdir / "images" / "reconstructions_0000006.png"))
    assert picture.shape == (2 * 50 - 2, 4 * 50 - 2, 3)
    assert np.isfinite(results["eval_psnr"]) and 0 < results["eval_codebook_usage"] <= 1

    tokenizer = Tokenizer.from_pretrained(workdir)
    latents = tokenizer.encode(np.zeros((1, 48, 48, 3), np.float32))
    assert latents.shape == (1, 8, 8)
    check_report(config, workdir, results)


def check_report(config, workdir, results):
    """What the last evaluation measured of each image, and the page with all its parts, without `tools.evaluate`."""
    out = workdir / "evaluations" / "step_0000006"
    evaluation = json.loads((out / "evaluation.json").read_text())
    np.testing.assert_allclose(evaluation["metrics"]["psnr"], results["eval_psnr"], atol=0.01)
    assert results["eval_ssim"] == evaluation["metrics"]["ssim_gauss"] and "eval_rfid" not in results
    assert evaluation["absent"]["fid"] == "needs the Inception weights"
    images = held_out(config).images
    psnr = image_quality.psnr(
        images, to_uint8(np.asarray(Tokenizer.from_pretrained(workdir).reconstruct(images / 127.5 - 1)))
    )
    shown = evaluation["pictures"]
    assert [image["index"] for image in shown["worst"]] == list(np.argsort(psnr))
    np.testing.assert_allclose([image["psnr"] for image in shown["best"]], np.sort(psnr)[::-1], atol=0.01)
    assert shown["worst"][0]["image"].startswith(FILES[int(np.argmin(psnr))])  # the first eight, one of each photograph
    assert not list(workdir.glob("measuring_*"))

    report.main(report.parse_flags(["report", "--workdir", str(workdir)]))
    page = (workdir / "report.html").read_text()
    assert f"Worst reconstructions by PSNR: {psnr.min():.2f} dB ({FILES[int(np.argmin(psnr))]}, from" in page
    for part in ("Best reconstructions by PSNR: ", "Map of the latents", "Tokens per code, over the mean"):
        assert part in page
    for name in ("worst", "best", "latent_map"):
        assert base64.b64encode((out / f"{name}.png").read_bytes()).decode() in page


def test_gan_factors_are_zero_before_the_start_step(finished):
    _, workdir, _ = finished
    first, second = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()][:2]
    assert first["discriminator_total"] == 0 and first["discriminator_grad_norm"] == 0
    assert second["discriminator_total"] > 0 and second["discriminator_grad_norm"] > 0
    weighted = first["reconstruction"] + 0.01 * first["entropy"]
    np.testing.assert_allclose(first["generator_total"], weighted, rtol=1e-5)


@pytest.mark.slow  # the default tests have one kill and resume, in survival_test.py
@pytest.mark.parametrize(
    ("question", "eval_every", "saved"),
    [(3, 0, 3), (4, 3, 3), (7, 0, 6)],
    ids=["after step 3, where no checkpoint is due", "in the evaluation of step 3", "in the last evaluation"],
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(finished, tmp_path, preempt_at, question, eval_every, saved):
    config, workdir, _ = finished
    whole = final_state(config, workdir)
    config.evals.held_out.every_steps, cut = eval_every, tmp_path / "cut"
    with preempt_at(question), pytest.raises(preemption.Preempted) as stop:
        run(config, cut).train()
    assert stop.value.code == preemption.EXIT_CODE
    assert max(int(path.name) for path in (cut / "checkpoints").iterdir() if path.name.isdigit()) == saved
    assert "eval_psnr" not in (cut / "metrics.jsonl").read_text()
    run(config, cut).train()
    resumed = final_state(config, cut)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    steps = [json.loads(line)["step"] for line in (cut / "metrics.jsonl").read_text().splitlines()]
    # The last step and its evaluation; and that of step 3, which is made up.
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6] and len(steps) == 7 + bool(eval_every)


def test_another_config_is_refused_with_the_fields_that_differ(finished):
    config, workdir, _ = finished
    config.optim.learning_rate = 5e-4
    config.log.every_steps, config.data.max_unreadable_share, config.model.remat = 3, 0.5, "full"  # compute the same
    with pytest.raises(
        compatibility.ConfigMismatch, match=r"optim\.learning_rate: 0\.0001 in the checkpoint, 0\.0005 now"
    ) as error:
        run(config, workdir).train()
    assert len(str(error.value).splitlines()) == 3  # the field above, and what to do


def test_a_record_whose_position_is_not_that_of_its_step_is_refused(finished):
    config, workdir, _ = finished
    path = workdir / "checkpoints" / "6" / "record" / "metadata"
    record = json.loads(path.read_text())
    del record[checkpoint.RECORD_DIGEST]  # as in checkpoints of older versions; with it, an edited record is damaged
    path.write_text(json.dumps(record | {"next_sample": 40}))
    with pytest.raises(ValueError, match=r"step 6 continues with sample 40, .*train\.batch_size=8 samples lead to 48"):
        run(config, workdir).train()
    del record["weights"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="older version: their record lacks weights"):
        run(config, workdir).train()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(finished, caplog):
    config, workdir, _ = finished
    data = sorted((workdir / "checkpoints" / "6" / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
    data[-1].write_bytes(data[-1].read_bytes()[:100])
    again = run(config, workdir)
    with jax.set_mesh(again.mesh):
        _, record = again._restore_or_init()
    assert record["step"] == 4
    assert [path.name.split("_")[0] for path in (workdir / "damaged").iterdir()] == ["6"]
    assert any("checkpoint 6 cannot be read" in message for message in caplog.messages)


def test_silent_zeros_are_detected(finished, monkeypatch):
    config, workdir, _ = finished
    right = checkpoint._digest
    wrong_once = iter([True])

    def digest(state):
        return right(jax.tree.map(np.zeros_like, state)) if next(wrong_once, False) else right(state)

    monkeypatch.setattr(checkpoint, "_digest", digest)
    again = run(config, workdir)
    with jax.set_mesh(again.mesh):
        _, record = again._restore_or_init()
    assert record["step"] == 4


def test_a_run_whose_checkpoints_are_all_damaged_stops(finished):
    config, workdir, _ = finished
    for state in (workdir / "checkpoints").glob("*/state"):
        shutil.rmtree(state)
    with pytest.raises(checkpoint.NoReadableCheckpoint, match="none of the checkpoints"):
        run(config, workdir).train()


@pytest.mark.slow
def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_checkpoint(tiny_config, tmp_path):
    tiny_config.optim.learning_rate = 1e30
    tiny_config.train.num_steps = 20
    with pytest.raises(NonFinite, match=r"is (nan|-?inf) at step \d+"):
        run(tiny_config, tmp_path / "run").train()
    values = [path.name for path in (tmp_path / "run" / "checkpoints").glob("*") if path.name.isdigit()]
    again = run(tiny_config, tmp_path / "run")
    with jax.set_mesh(again.mesh):
        state, record = again._restore_or_init()
    assert not values or record["step"] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state)))


@pytest.mark.slow
def test_unreadable_images_are_counted_over_a_resume_and_changed_data_are_refused(
    tiny_config, photographs, tmp_path, preempt_at
):
    tiny_config.data.update(source="folder", path=str(photographs), augment="random_crop", max_unreadable_share=1.0)
    for i in range(0, 24, 4):
        (photographs / "class0" / f"{i}.png").write_bytes(b"not an image")
    with preempt_at(2), pytest.raises(preemption.Preempted):
        run(tiny_config, tmp_path / "run").train()
    again = run(tiny_config, tmp_path / "run")
    again.train()
    source = again.data.source
    read = [source[shuffled(sample, len(source), tiny_config.seed)] for sample in range(6 * 8)]
    broken = np.cumsum([pathlib.Path(image.where).read_bytes()[:3] == b"not" for image in read])[7::8].tolist()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["unreadable_images"] for line in lines if "unreadable_images" in line] == broken
    assert 0 < broken[1] < broken[5]

    (photographs / "class0" / "0.png").write_bytes((photographs / "class1" / "1.png").read_bytes())
    with pytest.raises(compatibility.DataMismatch, match=r"class0: (12-\w+) in the checkpoint, (?!\1)12-\w+ now"):
        run(tiny_config, tmp_path / "run").train()


def test_an_unwritable_workdir_is_refused_before_anything_is_read(tiny_config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(TASKS["tokenizer"], "open", lambda *_: pytest.fail("data was opened first"))
    with pytest.raises(PermissionError, match=r"cannot write to .*run: Not a directory"):
        run(tiny_config, tmp_path / "file" / "run")


def test_microbatches_that_do_not_divide_are_refused(tiny_config, tmp_path):
    tiny_config.optim.accumulate = 3
    with pytest.raises(ValueError, match=r"optim\.accumulate=3 does not divide the 8 images per device"):
        run(tiny_config, tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"evals.held_out.batch_size": 3},
            r"evals\.held_out\.batch_size=3: .* 2 devices .* use 2 or 4, or 0 for that of training",
        ),
        (
            {"optim.accumulate": 3},
            r"optim\.accumulate=3 .*8 images per device of train\.batch_size=16 .*: .* 1, 2, 4, 8",
        ),
        ({"optim.accumulate": 0}, r"optim\.accumulate=0"),
    ],
)
def test_other_batches_that_do_not_divide_are_refused_by_name(tiny_config, fields, says):
    two_devices = jax.sharding.AbstractMesh((1, 2, 1), ("slice", "data", "fsdp"))
    tiny_config.update_from_flattened_dict({"train.batch_size": 16} | fields)
    with pytest.raises(ValueError, match=says):
        preflight.check_batches(tiny_config, two_devices)
        evaluators.check_batch_size(tiny_config, two_devices)
