"""Cases of kinds inception, fid_metrics and pixel_metrics: features of images, and metrics."""

import re

import jax
import numpy as np

from softvq_jax import pixels
from softvq_jax.metrics import fid, image_quality, inception_score, precision_recall
from softvq_jax.metrics.feature_statistics import Moments
from softvq_jax.weights import pretrained
from tests.parity import recipe


def _images(case):
    """The recipe's images that `what` names, in its order; arguments are numbers or fields of the case."""
    calls = re.findall(r"recipe\.images\(([^)]*)\)", case["what"])
    arguments = [[int(x) if x.isdigit() else case[x] for x in re.split(r"\s*,\s*", call.strip())] for call in calls]
    return [recipe.images(*(a if len(a) == 3 else [*a, case["seed"]])) for a in arguments]


def _nhwc(images):
    return images.transpose(0, 2, 3, 1)


def run_pixel_metrics(case, arrays):
    a, change = _images(case)
    strength = np.float32(re.search(r"([\d.]+)\s*\*\s*recipe\.images", case["what"])[1])
    b = np.clip(a + strength * change, -1, 1)
    a, b = pixels.to_uint8(_nhwc(a)), pixels.to_uint8(_nhwc(b))
    return {
        "psnr": image_quality.psnr(a, b),
        "ssim_gauss": image_quality.ssim(a, b, "gauss"),
        "ssim_uniform7": image_quality.ssim(a, b, "uniform7"),
    }


def run_inception(case, arrays):
    state = recipe.state_dict(case)
    for key in state:
        if key.endswith(".conv.weight"):
            state[key] = state[key] * np.float32(np.sqrt(2))
    images = pixels.to_uint8(_nhwc(recipe.images(case["count"], case["size"], case["seed"])))
    net, params = pretrained.from_tensors("inception", state, source="case")
    return jax.jit(lambda params, images: net(params)(images))(params, images)


def run_fid_metrics(case, arrays):
    real, fake, logits = arrays["real"], arrays["fake"], arrays["logits"]
    splits = int(re.search(r"(\d+) consecutive splits", case["what"])[1])
    neighbors = int(re.search(r"\bk ?= ?(\d+)", case["what"])[1])
    moments = [Moments.from_rows(features) for features in (real, fake)]
    is_mean, is_std = inception_score.inception_score(logits, inception_score.number_of_splits(len(logits), splits))
    precision, recall = precision_recall.precision_recall(real, fake, neighbors)
    return {
        "fid": fid.frechet_distance(*(x for m in moments for x in (m.mean, m.covariance()))),
        "is_mean": is_mean,
        "is_std": is_std,
        "precision": precision,
        "recall": recall,
        "f_score": precision_recall.f_score(precision, recall),
    }


INPUTS = {"fid_metrics": ("real", "fake", "logits")}
KINDS = {"fid_metrics": run_fid_metrics, "inception": run_inception, "pixel_metrics": run_pixel_metrics}
