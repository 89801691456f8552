"""Comparison with the reference implementations, case by case; see `tests/parity/README.md`.

Cases are read from `tests/parity/`, or from the folder in the environment variable PARITY_DIR.
"""

import json
import os
import pathlib

import jax
import numpy as np
import pytest

from tests.parity_kinds import of_kind

FOLDER = pathlib.Path(os.environ.get("PARITY_DIR") or pathlib.Path(__file__).parent / "parity")
CASES = sorted(FOLDER.glob("*.json"))
# Take more than 20 seconds, or another case of the same kind is among the default tests. With PARITY_DIR, all cases run.
SLOW = (
    "ae_s_64",
    "dino_discriminator_160",
    "dino_discriminator_256",
    "dinov2_s_224p14",
    "dinov2_s_256p16",  # `dinov2_s_hf` is the same network
    "kl_s_64",
    "maetok_losses_s",
    "maskgit_uvit",
    "siglip_64p16",
    "sit_b_1",
    "softvq_s_16_avg1d",
    "softvq_s_32_global",
    "titok_s_128",
    "titok_ss_64_vq8k",
    "train_trace",
    "vq_s_64",
)

FORWARD, GRADIENT = 2e-5, 2e-4
THROUGH_KINKS = {("lpips", "grad_b_sub4"): 1e-2, ("dino_discriminator", "grad_x_sub4"): 2e-2}
TRACE = [("log_alignment", None), ("_grad_norm", 1e-3), ("log_", 1e-4), ("delta_", 2e-2), ("after_", 5e-4)]
METRICS = ("is_", "fid", "precision", "recall", "f_score", "psnr", "ssim_")


def tolerance(kind: str, name: str) -> float:
    """The relative error that `tests/parity/README.md` allows."""
    if (kind, name) in THROUGH_KINKS:
        return THROUGH_KINKS[kind, name]
    if name.startswith(("grad_", "first_grad_")):
        return GRADIENT
    if (kind, name) == ("titok", "h"):
        return 5e-6
    if kind == "train_trace":
        return next(limit for part, limit in TRACE if part in name)
    return 1e-6 if kind in ("fid_metrics", "pixel_metrics") and name.startswith(METRICS) else FORWARD


def compare(kind: str, name: str, ours, theirs) -> None:
    """Fails if `ours` differs from `theirs` by more than the case's kind and the array's name allow."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape, f"{name}: shape {ours.shape}, expected {theirs.shape}"
    if kind == "crops":
        assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1, f"{name}: more than one level apart"
    elif np.issubdtype(theirs.dtype, np.integer):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    elif (kind, name) == ("train_trace", "log_alignment"):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5, err_msg=name)  # the cosine cancels
    else:
        assert np.isfinite(ours).all(), f"{name} is not finite"
        assert not np.any(ours[theirs == 0]), f"{name}: not 0 where the reference is exactly 0"
        error = np.linalg.norm(np.float64(ours - theirs)) / max(np.linalg.norm(np.float64(theirs)), 1e-300)
        assert error <= tolerance(kind, name) or not theirs.any(), f"{name}: relative error {error:.2e}"


def parameter(path: pathlib.Path):
    return pytest.param(
        path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW and "PARITY_DIR" not in os.environ else []
    )


@pytest.mark.parametrize("path", [parameter(path) for path in CASES])
def test_parity(path):
    case = json.loads(path.read_text())
    kind = case["kind"]
    run, inputs = of_kind(kind)
    with np.load(path.with_suffix(".npz")) as file:
        arrays = dict(file)
    with jax.default_matmul_precision("highest"):
        ours = run(case, arrays)
    expected = arrays.keys() - set(inputs)
    assert ours.keys() >= expected, f"not computed: {sorted(expected - ours.keys())}"
    for name in sorted(expected):
        compare(kind, name, ours[name], arrays[name])
