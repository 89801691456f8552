"""Evaluation protocols: named settings. Two numbers are comparable only if all settings are equal."""

import dataclasses
from collections.abc import Iterator

from softvq_jax.metrics import inception_score
from softvq_jax.metrics.registry import METRICS

COMMON = {
    "network": "Inception-v3 of 2015-12-05 (the FID network)",
    "resize": "TF1 bilinear to 299 x 299, not antialiased",
    "normalization": "(x - 128) / 128",
    "features": "float32, full matmul precision; pool3 for FID, KID, precision and recall",
    "moments": "float64, covariance with ddof 1, root through symmetric eigenvalues",
    "rounding": "8-bit images; ours are round((x + 1) * 127.5)",
}
"""Settings shared by all protocols."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to evaluate.

    Attributes:
      name: printed with every number.
      description: the published numbers to compare with.
      metrics: names of metrics in `metrics.registry.METRICS`.
      paired: whether image i of the samples is a reconstruction of image i of the reference; if so, PSNR, SSIM and LPIPS
        are computed too.
      split_size, num_splits: size or number of the consecutive splits of the Inception score; one of the two is None.
      shuffle_seed: seed of random subsets, and of the shuffle before splitting (files are often sorted by class).
      neighbors: k in precision and recall.
      max_references: precision and recall use this many random reference images; None uses all.
      kid_subsets, kid_subset_size: number and size of the random subsets of KID.
    """

    name: str
    description: str
    metrics: tuple[str, ...]
    paired: bool = False
    split_size: int | None = None
    num_splits: int | None = None
    shuffle_seed: int = 2020
    neighbors: int = 3
    max_references: int | None = None
    kid_subsets: int = 100
    kid_subset_size: int = 1000

    def settings(self) -> dict[str, str]:
        """Returns the settings of the metrics in words, by the metric's title."""
        used = (metric for name, metric in METRICS.items() if name in self.metrics or metric.every_protocol)
        described = {metric.title: metric.describe(self) for metric in used}
        return {title: words for title, words in described.items() if words is not None}

    def splits(self, count: int) -> Iterator[slice]:
        """Returns the splits of the Inception score for `count` shuffled rows."""
        if self.split_size is not None:
            return inception_score.splits_of_size(count, self.split_size)
        if self.num_splits is None:
            raise ValueError(f"protocol {self.name} has neither split_size nor num_splits")
        return inception_score.number_of_splits(count, self.num_splits)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "adm",
            "generators: ADM's evaluator (Dhariwal and Nichol, 2021). gFID is against the training set's statistics, "
            "not comparable with an rFID against validation images. ADM itself does not shuffle, and takes its "
            "distances in half precision.",
            ("fid", "sfid", "is", "precision_recall"),
            split_size=5000,
            max_references=10_000,
        ),
        Protocol(
            "softvq-rfid",
            "tokenizers: rFID between 50,000 ImageNet validation images, center-cropped as ADM does, and their "
            "reconstructions. Not comparable with FIDs against the training set.",
            ("fid", "sfid", "is"),
            paired=True,
            split_size=5000,
        ),
        Protocol(
            "torch-fidelity",
            "generators: the definitions and defaults of the torch-fidelity package, except that precision and recall are "
            "on Inception pool3, as the package has them with feature_extractor='inception-v3-compat'; its default "
            "there is VGG16 fc2_relu, which gives other numbers.",
            ("fid", "is", "kid", "precision_recall"),
            num_splits=10,
        ),
    )
}
