"""Studies of runs of a few steps: their files, resuming, and error messages."""

import json
import pathlib
import runpy
import xml.etree.ElementTree as ElementTree

import jax
import numpy as np
import pytest
from PIL import Image

from softvq_jax.config.schemas import field_values
from softvq_jax.config.study import shortened, study_config, variant, variant_config
from softvq_jax.metrics import probes
from softvq_jax.models.functional import Functional
from softvq_jax.storage import files
from softvq_jax.studies import figure, measures, study, table
from softvq_jax.studies.crops import Crops
from softvq_jax.train import fid
from softvq_jax.weights.pretrained import MissingWeights
from tests.small_inception import SmallInception

CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "studies"


@pytest.fixture
def base(tiny_config):
    tiny_config.gan.discriminator = "none"
    return shortened(tiny_config, 3)


def small_study(base, variants, measures=("reconstruction", "codes", "posterior", "training"), **fields):
    columns = ("psnr", "rfid", "bits", "codebook_usage", "posterior_entropy", "grad_norm")
    config = study_config(
        "small",
        base,
        variants,
        measures=measures,
        x="Tokens",
        columns=columns,
        panels=("psnr", "codebook_usage"),
        **fields,
    )
    config.images.train = 40
    return config


@pytest.mark.heavy  # seven runs, about 110 s of CPU; the tests of the teacher and of rFID train one each
def test_variants_are_trained_measured_and_tabulated(base, tmp_path, monkeypatch, caplog):
    kinds = {"softvq": "SoftVQ", "vq": "VQ"}
    variants = {
        f"{name}_{tokens}": variant(words, tokens, model=dict(bottleneck=name, num_latent_tokens=tokens))
        for name, words in kinds.items()
        for tokens in (8, 4)
    }
    config = small_study(base, variants)
    caplog.set_level("INFO", "absl")
    printed = study.Study(config, tmp_path).run()
    assert "rFID is not measured; to measure it: --config.base.evals.fid.every_steps" in caplog.text
    assert "rFID" not in printed
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [(row["line"], row["x"]) for row in rows] == [("SoftVQ", 8), ("SoftVQ", 4), ("VQ", 8), ("VQ", 4)]
    by_name = {row["name"]: row for row in rows}
    assert by_name["vq_4"]["bits"] == 4 * 5 and "bits" not in by_name["softvq_4"]  # 32 codes
    assert 0 < by_name["softvq_8"]["posterior_entropy"] <= 1 and "posterior_entropy" not in by_name["vq_8"]
    for row in rows:
        metrics = [json.loads(line) for line in (tmp_path / row["name"] / "metrics.jsonl").read_text().splitlines()]
        np.testing.assert_allclose(row["psnr"], metrics[-1]["eval_psnr"], atol=0.01)  # the run's own evaluation
        assert 0 < row["codebook_usage"] <= 1
    assert printed == (tmp_path / "table.md").read_text()
    assert len(printed.splitlines()) == 6 and printed.splitlines()[2].startswith("| SoftVQ | 8 |")
    tree = ElementTree.parse(tmp_path / "figure.svg")
    lines = [group for group in tree.iter("{http://www.w3.org/2000/svg}g") if group.get("id", "").startswith("series")]
    assert len(lines) == 2 * 2  # lines times panels

    # The same command again trains nothing; a variant whose config changed is trained, which its folder refuses.
    monkeypatch.setattr(study, "Run", lambda *_: pytest.fail("a finished variant was trained again"))
    assert study.Study(config, tmp_path).run() == printed
    monkeypatch.undo()
    config.base.train.num_steps = 4
    with pytest.raises(ValueError, match=r"train\.num_steps: 3 in the checkpoint, 4 now"):
        study.Study(config, tmp_path).run()


@pytest.mark.slow
def test_latents_are_probed_and_pictured_and_rfid_is_measured_with_weights(base, tmp_path, monkeypatch):
    inception = Functional(SmallInception)
    monkeypatch.setattr(fid, "load_inception", lambda name: (inception, inception.init(jax.random.key(0))[0]))
    base.evals.fid.update(every_steps=1000, weights="small")
    variants = {"kl": variant("KL", 8, model=dict(bottleneck="kl"))}
    config = small_study(base, variants, measures=("reconstruction", "latents", "latent_pictures"))
    printed = study.Study(config, tmp_path).run()
    [row] = json.loads((tmp_path / "table.json").read_text())["rows"]
    shares = {name: row[name] for name in row if name.startswith(("probe", "knn"))}
    assert len(shares) == 11 and all(0 <= share <= 1 for share in shares.values())
    assert row["probe_chance"] == 1 / 8  # one crop of each photograph
    last = json.loads((tmp_path / "kl" / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["rfid"] == last["eval_rfid"] > 0 and "| rFID |" in printed
    assert row["probe_all_before"] == row["probe_all_after"]  # KL keeps the mean
    shown = Image.open(tmp_path / "kl" / "neighbors_after.png")
    assert shown.height == 5 * 50 - 2 and (tmp_path / "kl" / "map_before.png").exists()

    resumed = study.Study(config, tmp_path)
    assert resumed.measured("kl") is not None
    resumed.config.map = "umap"
    assert resumed.measured("kl") is None  # another map was drawn


def test_latents_of_one_class_are_not_probed(caplog):
    crops = Crops(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int))
    assert measures.latents(measures.Trained(None, None, crops, crops)) == {}
    assert "all training crops have class 0" in caplog.text


@pytest.mark.slow
def test_a_teacher_is_used_if_its_weights_are_given(base, frozen_weights, tmp_path):
    base.weights.teacher, mode = frozen_weights["teacher"], "avg_1d_shuffle"
    change = dict(loss=dict(alignment_weight=0.1), alignment=dict(mode=mode, hidden=16))
    study.Study(small_study(base, {mode: variant(mode, 8, **change)}), tmp_path).run()
    first = json.loads((tmp_path / mode / "metrics.jsonl").read_text().splitlines()[0])
    assert -1 <= first["alignment"] <= 1


def test_missing_weights_stop_a_study_before_any_training(base, tmp_path):
    base.weights.teacher = "/nowhere/dinov2.safetensors"
    config = small_study(base, {"repeat": variant("repeat", 8, loss=dict(alignment_weight=0.1))})
    with pytest.raises(
        MissingWeights, match=r"variant repeat: missing: the DINOv2 [^$]*--config.base instead of --config"
    ):
        study.Study(config, tmp_path).run()
    assert not (tmp_path / "repeat" / "metrics.jsonl").exists()


def test_a_run_that_diverges_is_a_row(base, tmp_path, monkeypatch):
    class Diverges:
        def __init__(self, config, workdir, task):
            workdir.mkdir()

        def train(self):
            raise study.NonFinite("reconstruction is nan at step 3. The run stops", 3)

    monkeypatch.setattr(study, "Run", Diverges)
    printed = study.Study(small_study(base, {"a": variant("A", 1)}), tmp_path).run()
    assert "| A | 1 | reconstruction is nan at step 3 |" in printed and not (tmp_path / "figure.svg").exists()


@pytest.fixture
def counted_runs(monkeypatch):
    """Runs that train nothing and measure `10 x seed^2` dB; returns the names of the runs so far."""
    names = []

    class Counted:
        def __init__(self, config, workdir, task):
            self.workdir, self.seed = workdir, config.seed
            workdir.mkdir(parents=True)

        def train(self):
            names.append(self.workdir.name)
            files.write_json(self.workdir / "seed.json", self.seed)

    monkeypatch.setattr(study, "Run", Counted)
    crops = Crops(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int))
    monkeypatch.setattr(study, "held_out", lambda config: crops)
    monkeypatch.setattr(study, "training", lambda config, count: crops)

    def measure(trained):
        return {"psnr": 10.0 * json.loads((trained.workdir / "seed.json").read_text()) ** 2, "bits": 72}

    monkeypatch.setitem(study.MEASURES, "measure", measure)
    return names


def test_several_seeds_give_means_and_standard_errors(base, tmp_path, counted_runs):
    base.seed = 1
    variants = {"a": variant("A", 8), "b": variant("B", 8, model=dict(bottleneck="vq"))}
    config = small_study(base, variants, measures=("measure",))
    assert study.Study(config, tmp_path).run().splitlines()[2] == "| A | 8 | 10 | 72 |"
    config.seeds = 3  # a finished study goes on with more seeds
    printed = study.Study(config, tmp_path).run()
    assert counted_runs == ["a", "b", "a.seed1", "b.seed1", "a.seed2", "b.seed2"]
    # Values 10, 40, 90: their mean is 140/3, their standard deviation the root of 4900/3, the standard error 23.33.
    assert printed.splitlines()[0] == "|  | Tokens | Runs | PSNR (dB) | Bits per image |"
    assert printed.splitlines()[2:] == ["| A | 8 | 3 | 47 ± 23 | 72 |", "| B | 8 | 3 | 47 ± 23 | 72 |"]
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["finished"] == 2 and [run["psnr"] for run in content["rows"][0]["runs"]] == [10, 40, 90]
    np.testing.assert_allclose(content["rows"][0]["standard_errors"]["psnr"], np.std([10, 40, 90], ddof=1) / 3**0.5)


def test_an_interrupted_study_shows_the_runs_so_far(base, tmp_path, counted_runs, monkeypatch):
    config = small_study(base, {"a": variant("A", 8), "b": variant("B", 4)}, measures=("measure",), seeds=2)
    full = study.Study(config, tmp_path)
    train = full.train_and_measure
    monkeypatch.setattr(full, "train_and_measure", lambda name: 1 / 0 if name == "b.seed1" else train(name))
    with pytest.raises(ZeroDivisionError):
        full.run()
    assert "| A | 8 | 2 | 5.0 ± 5.0 | 72 |" in (tmp_path / "table.md").read_text()
    assert "| B | 4 | 1 | 0 | 72 |" in (tmp_path / "table.md").read_text()
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["finished"] == 1 and content["seeds"] == 2
    del counted_runs[:]
    assert "| B | 4 | 2 | 5.0 ± 5.0 | 72 |" in study.Study(config, tmp_path).run()
    assert counted_runs == ["b.seed1"]
    assert 'id="LineCollection_1"' in (tmp_path / "figure.svg").read_text()  # error bars


def test_a_row_with_a_diverged_run_has_no_mean():
    assert table.mean([{"psnr": 20.0}, {"diverged": "loss is nan"}]) == {"diverged": "loss is nan"}


def test_invalid_configs_are_refused_at_once(base, tmp_path):
    with pytest.raises(ValueError, match=r"variant a changes a field .* does not have: .*num_tokens"):
        study.Study(small_study(base, {"a": variant("A", 1, model=dict(num_tokens=3))}), tmp_path)
    with pytest.raises(ValueError, match=r"variant a: config\.optim\.beta1=2\.0: expected a number of at least 0"):
        study.Study(small_study(base, {"a": variant("A", 1, optim=dict(beta1=2.0))}), tmp_path)
    with pytest.raises(ValueError, match=r"config\.measures must be among reconstruction.*; got beauty"):
        study.Study(small_study(base, {"a": variant("A", 1)}, measures=("beauty",)), tmp_path)
    config = small_study(base, {"a": variant("A", 1)}, measures=("latent_pictures",))
    config.map = "tsne"
    with pytest.raises(ValueError, match=r"config\.map must be one of pca, umap; got 'tsne'"):
        study.Study(config, tmp_path)


def test_probes_without_scikit_learn_are_refused_at_once(base, tmp_path, monkeypatch):
    monkeypatch.setattr(probes.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"linear probes need: pip install 'softvq-jax\[studies\]'"):
        study.Study(small_study(base, {"a": variant("A", 1)}, measures=("latents",)), tmp_path)


def test_the_figure_has_a_panel_for_each_measure_with_values(base):
    config = small_study(base, {"a": variant("A", 8), "b": variant("B", 8)})
    rows = [{"line": name, "x": x, "psnr": x * scale} for name, scale in (("A", 1), ("B <2>", 2)) for x in (4, 8)]
    rows.append({"line": "diverged", "x": 4, "diverged": "reconstruction is nan"})
    svg = figure.draw(config, rows)
    texts = [text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert {"A", "B <2>", "Tokens", "PSNR (dB)", "4", "8"} <= set(texts) and not {"Codebook usage", "diverged"} & set(
        texts
    )
    assert figure.draw(config, [{"line": "A", "x": 8}]) is None


def test_the_runs_of_latents_are_runs_of_bottlenecks():
    ours, theirs = (runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]() for name in ("latents", "bottlenecks"))
    for name in ours.variants:
        assert variant_config(ours, name).to_dict() == variant_config(theirs, name).to_dict()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_study_is_consistent(path):
    config = runpy.run_path(str(path))["get_config"]()
    assert config.study == path.stem and config.is_locked
    assert set(config.measures) <= study.MEASURES.keys()
    assert set(config.table.columns) | set(config.figure.panels) <= table.LABELS.keys()
    lines = [fields.line for fields in config.variants.values()]
    assert len(set(lines)) <= figure.MAX_LINES
    seen = set()
    for name in config.variants:
        changed = variant_config(config, name)
        added = dict(field_values(changed)).keys() - dict(field_values(config.base)).keys()
        assert all(field.startswith("model.bottleneck_args.") for field in added)  # each bottleneck has its own
        seen.add(changed.to_json_best_effort())
    assert len(seen) == len(lines)  # no variant twice
