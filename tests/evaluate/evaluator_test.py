"""One `evaluate`: its metrics come from a registry, its rows from a cache, its reference may have been measured before."""

import jax
import numpy as np
import pytest

from softvq_jax.evaluate.devices import DeviceFunction, LocalDevices
from softvq_jax.evaluate.evaluated_set import measure_set
from softvq_jax.evaluate.evaluator import evaluate
from softvq_jax.evaluate.extractors import FeatureExtractor
from softvq_jax.evaluate.image_sets import ArrayImages
from softvq_jax.evaluate.predictions import ImageSet, Predictions
from softvq_jax.evaluate.protocols import PROTOCOLS
from softvq_jax.metrics.metric import Metric, NotMeasured
from softvq_jax.metrics.registry import METRICS
from softvq_jax.models.functional import Functional
from tests.small_inception import SmallInception

BATCH = 8


@pytest.fixture(scope="module")
def sets():
    """Two sets of random images of different brightness."""
    net = Functional(SmallInception)
    extractor = FeatureExtractor(net, net.init(jax.random.key(0))[0], devices=LocalDevices(BATCH))
    images = (np.random.default_rng(0).integers(0, high, (30, 16, 16, 3), dtype=np.uint8) for high in (200, 256))
    return [ImageSet(ArrayImages(x), extractor) for x in images]


def test_image_sets_are_predictions(sets):
    assert isinstance(sets[0], Predictions)


def test_a_registered_metric_is_computed(sets, tmp_path, monkeypatch):
    def compute(samples, reference, protocol, on_progress):
        means = (np.mean(side.rows("f2048"), axis=0) for side in (samples, reference))
        return {"mean_distance": float(np.linalg.norm(next(means) - next(means)))}, samples.image_counts

    def refuse(samples, reference, protocol, on_progress):
        raise NotMeasured("needs more than there is")

    titles = {"mean_distance": "Distance of means"}
    metric = Metric("distance of means", titles, "lower", compute, lambda _: "Euclidean", every_protocol=True)
    monkeypatch.setitem(METRICS, "mean_distance", metric)
    monkeypatch.setitem(METRICS, "refused", Metric("refused", {}, "lower", refuse, every_protocol=True))
    content = evaluate(*sets, PROTOCOLS["adm"], folder=tmp_path, batch_size=BATCH).content
    rows = [side.rows(side.read(0, 30))["f2048"].mean(axis=0) for side in sets]
    np.testing.assert_allclose(content["metrics"]["mean_distance"], np.linalg.norm(rows[0] - rows[1]), rtol=1e-5)
    assert content["metric_counts"]["mean_distance"] == {"samples": 30}
    assert content["absent"]["refused"] == "needs more than there is"
    assert content["protocol"]["settings"]["distance of means"] == "Euclidean"


def test_a_reference_that_was_measured_before_gives_the_same_fid(sets, tmp_path):
    whole = evaluate(*sets, PROTOCOLS["softvq-rfid"], folder=tmp_path / "whole", batch_size=BATCH)
    reference = measure_set("reference", sets[1], folder=tmp_path / "first", batch_size=BATCH).without_rows()
    again = evaluate(sets[0], reference, PROTOCOLS["softvq-rfid"], folder=tmp_path / "again", batch_size=BATCH)
    assert again.metrics == whole.metrics and again.content["counts"] == whole.content["counts"]


def test_an_exception_between_batches_ends_it_and_the_next_call_resumes(sets, tmp_path):
    seen = []

    def interrupt():
        raise KeyboardInterrupt

    def run(**hooks):
        return evaluate(*sets, PROTOCOLS["adm"], folder=tmp_path, batch_size=BATCH, **hooks)

    with pytest.raises(KeyboardInterrupt):
        run(on_batch=interrupt)
    run(on_progress=lambda *line: seen.append(line))
    assert seen[:2] == [("measuring reference", 8, 30, "images"), ("measuring reference", 16, 30, "images")]
    assert ("computing FID", 0, 1, "parts") in seen


def test_a_device_function_takes_other_parameters_without_compiling_again():
    traces = []

    @jax.jit
    def scale(params, x):
        traces.append(x.shape)
        return {"scaled": params["factor"] * x}

    function = DeviceFunction(scale, {"factor": np.float32(2)}, LocalDevices(BATCH))
    first, rows = function.fingerprint, np.arange(20, dtype=np.float32)
    np.testing.assert_array_equal(function(rows)["scaled"], 2 * rows)
    function.load({"factor": np.float32(3)})
    np.testing.assert_array_equal(function(rows)["scaled"], 3 * rows)
    assert len(traces) == 1 and function.fingerprint != first
