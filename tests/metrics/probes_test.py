import numpy as np
import pytest

from softvq_jax.metrics import probes


def _clouds(rng, count, dimension, distance):
    labels = rng.integers(0, 3, count)
    centers = np.eye(3, dimension) * distance
    return centers[labels] + rng.normal(size=(count, dimension)), labels * 10


@pytest.mark.parametrize("dimension", [5, 80])  # less and more than the number of images
def test_the_linear_probe_is_ridge_regression_with_the_leave_one_out_penalty(dimension):
    rng = np.random.default_rng(0)
    train, labels = _clouds(rng, 40, dimension, 1.5)
    test, _ = _clouds(rng, 60, dimension, 1.5)

    # Solves the normal equations again without each image; standardized once with all images, as the probe does.
    x, y = (train - train.mean(0)) / train.std(0), np.eye(3)[labels // 10]
    scale = np.mean(np.linalg.svd(x, compute_uv=False) ** 2)

    def fit(x, y, penalty):
        offset, mean = y.mean(0), x.mean(0)
        weights = np.linalg.solve((x - mean).T @ (x - mean) + penalty * np.eye(dimension), (x - mean).T @ (y - offset))
        return lambda z: (z - mean) @ weights + offset

    def left_out(penalty):
        keep = ~np.eye(len(x), dtype=bool)
        return np.mean([(fit(x[k], y[k], penalty)(x[i]) - y[i]) ** 2 for i, k in enumerate(keep)])

    best = min(probes.STRENGTHS * scale, key=left_out)
    expected = fit(x, y, best)((test - train.mean(0)) / train.std(0)).argmax(1) * 10
    np.testing.assert_array_equal(probes.linear_probe(train, labels, test), expected)


def test_probes_separate_clouds_and_not_noise():
    rng = np.random.default_rng(0)
    train, labels = _clouds(rng, 300, 20, 6.0)
    test, truth = _clouds(rng, 300, 20, 6.0)
    assert np.mean(probes.linear_probe(train, labels, test) == truth) > 0.98
    assert np.mean(probes.nearest_class(train, labels, test) == truth) > 0.98
    noise = rng.normal(size=test.shape)
    assert np.mean(probes.linear_probe(rng.normal(size=train.shape), labels, noise) == truth) < 0.45


def test_a_constant_feature_changes_nothing():
    rng = np.random.default_rng(0)
    train, labels = _clouds(rng, 50, 6, 2.0)
    test, _ = _clouds(rng, 50, 6, 2.0)
    constant = lambda x: np.concatenate([x, np.full((len(x), 1), 7.0)], axis=1)  # noqa: E731
    np.testing.assert_array_equal(
        probes.linear_probe(constant(train), labels, constant(test)), probes.linear_probe(train, labels, test)
    )


def test_neighbors_are_by_cosine_similarity_and_vote():
    train = np.array([[1, 0], [0.9, 0.1], [0.8, 0.2], [0, 1], [0, 50]])
    labels = np.array([4, 5, 5, 6, 6])
    np.testing.assert_array_equal(probes.nearest(train, np.array([[3.0, 0.0]]), 3), [[0, 1, 2]])
    np.testing.assert_array_equal(probes.nearest_class(train, labels, np.array([[3.0, 0], [0, 2]]), 3), [5, 6])
    assert probes.nearest_class(train, labels, np.array([[3.0, 0]]), 2) == [4]  # a tie: the nearer neighbor
