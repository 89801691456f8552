"""The interface that all metrics of a set of images share, and the errors they raise when they cannot be computed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

Counts = dict[str, int | None]
"""Images by set: `samples`, `reference`, `reference statistics`; None where a statistics file does not give its count."""

OnProgress = Callable[[int, int], None]
"""Called with the number of finished parts of a computation and the number of all parts."""


class NotMeasured(Exception):
    """A metric needs something that this evaluation does not have."""


class NoFeatures(NotMeasured):
    """A metric needs Inception features, and the evaluation ran without the network."""


class TooFewImages(ValueError):
    """A set is too small for a metric."""


def require(count: int, needed: int, purpose: str) -> None:
    """Raises TooFewImages if `count` is less than `needed`."""
    if count < needed:
        raise TooFewImages(f"{purpose} needs at least {needed} images, and there are {count}")


class MeasuredSet(Protocol):
    """One of the two sets that a metric compares, as `evaluate.evaluator.EvaluatedSet` implements it.

    Attributes:
      name: `samples` or `reference`.
      image_counts: the number of its images by `name`; empty if only statistics are known.
      statistics_counts: the number of images that its feature statistics are computed from, by name.
    """

    @property
    def name(self) -> str: ...

    @property
    def image_counts(self) -> Counts: ...

    @property
    def statistics_counts(self) -> Counts: ...

    def rows(self, column: str) -> Any:
        """A column of features `[n, d]`; raises NotMeasured or NoFeatures if there is none."""
        ...

    def require_statistics(self) -> Any:
        """`feature_statistics.FeatureStatistics` of its images; raises NoFeatures if there are none."""
        ...


Measured = tuple[dict[str, float], Counts]
"""The numbers of a metric by name, and the images they are computed from."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that compares two sets of images, and everything that other code needs to know about it.

    To add one, write a file in `metrics/` that defines a `Metric` and add a line to `metrics.registry.METRICS`.

    Attributes:
      title: its name in reports.
      titles: the name in reports of each of its numbers, by the number's key in `evaluation.json`.
      better: whether a higher or a lower value of its numbers is better.
      compute: `(samples, reference, protocol, on_progress) -> Measured`; `protocol` is an `evaluate.protocols.Protocol`,
        whose fields are the metric's settings. Raises NotMeasured or TooFewImages if it cannot be computed.
      describe: the settings in words, given the protocol; None if it has none.
      every_protocol: whether it is computed in every protocol; if not, in those whose `metrics` name it.
    """

    title: str
    titles: Mapping[str, str]
    better: Literal["higher", "lower"]
    compute: Callable[[MeasuredSet, MeasuredSet, Any, OnProgress], Measured]
    describe: Callable[[Any], str | None] = lambda protocol: None
    every_protocol: bool = False
