"""Evaluation protocols: everything that must be equal for two numbers to be comparable, under a name."""

import dataclasses
from collections.abc import Iterator

from softvq_jax.metrics import inception_score

COMMON = {
    "network": "Inception-v3 of 2015-12-05 (the FID network)",
    "resize": "TF1 bilinear to 299 x 299, not antialiased",
    "normalisation": "(x - 128) / 128",
    "features": "float32, full matmul precision; pool3 for FID, KID, precision and recall",
    "moments": "float64, covariance with ddof 1, root through symmetric eigenvalues",
    "rounding": "8-bit images; ours are round((x + 1) * 127.5)",
}
"""What all protocols share; printed beside every number."""


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to evaluate.

    Attributes:
      name: what to print beside every number.
      about: whom its numbers can be compared with.
      metrics: which distribution metrics it defines: `fid`, `sfid`, `is`, `precision_recall`, `kid`.
      paired: whether image i of the samples is a reconstruction of image i of the reference: PSNR, SSIM and LPIPS then.
      split_size, num_splits: the Inception score's consecutive splits, by their size or their number (the other None).
      shuffle_seed: the rows are shuffled with it before they are split, for files are often sorted by class.
      neighbours: k of precision and recall.
      max_references: precision and recall take this many reference images, drawn at random; None takes all.
      kid_subsets, kid_subset_size: KID's random subsets.
    """

    name: str
    about: str
    metrics: tuple[str, ...]
    paired: bool = False
    split_size: int | None = None
    num_splits: int | None = None
    shuffle_seed: int = 2020
    neighbours: int = 3
    max_references: int | None = None
    kid_subsets: int = 100
    kid_subset_size: int = 1000

    def settings(self) -> dict[str, str]:
        """Its own numbers in words, by the metric that they belong to."""
        splits = f"{self.num_splits} splits" if self.split_size is None else f"splits of {self.split_size:,}"
        words = {"Inception score": f"{splits} of the rows, shuffled with seed {self.shuffle_seed}"}
        if "precision_recall" in self.metrics:
            references = "all references"
            if self.max_references is not None:
                references = f"at most {self.max_references:,} references, drawn with seed {self.shuffle_seed}"
            words["precision and recall"] = f"k = {self.neighbours}, {references}; distances in float64"
        if "kid" in self.metrics:
            subsets = f"{self.kid_subsets} subsets of {self.kid_subset_size:,}"
            words["KID"] = f"{subsets}, drawn with seed {self.shuffle_seed}; cubic kernel, float64"
        return words

    def splits(self, count: int) -> Iterator[slice]:
        """The Inception score's splits of `count` shuffled rows."""
        if self.split_size is not None:
            return inception_score.splits_of_size(count, self.split_size)
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
            "tokenizers: rFID between 50,000 ImageNet validation images, centre-cropped as ADM does, and their "
            "reconstructions. Not comparable with FIDs against the training set.",
            ("fid", "sfid", "is"),
            paired=True,
            split_size=5000,
        ),
        Protocol(
            "torch-fidelity",
            "generators: the torch-fidelity package's definitions and defaults, but for precision and recall: those are "
            "on Inception pool3, as the package has them with feature_extractor='inception-v3-compat'; its default "
            "there is VGG16 fc2_relu, which gives other numbers.",
            ("fid", "is", "kid", "precision_recall"),
            num_splits=10,
        ),
    )
}


def protocol_named(name: str) -> Protocol:
    """One of `PROTOCOLS`; ValueError for a name that is not there."""
    if name not in PROTOCOLS:
        raise ValueError(f"protocol is {name!r}; expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
