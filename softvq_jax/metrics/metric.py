"""The interface of metrics of a set of images, and the errors raised if they cannot be computed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

Counts = dict[str, int | None]
"""Number of images by set (`samples`, `reference`, `reference statistics`); None if a statistics file has no count."""

OnProgress = Callable[[int, int], None]
"""Called with the number of finished parts of a computation and the number of all parts."""


class NotMeasured(Exception):
    """A metric cannot be computed in this evaluation because an input is missing."""


class NoFeatures(NotMeasured):
    """A metric needs Inception features, but the evaluation ran without the network."""


class TooFewImages(ValueError):
    """A set is too small for a metric."""


def require(count: int, needed: int, purpose: str) -> None:
    """Raises TooFewImages if `count` is less than `needed`."""
    if count < needed:
        raise TooFewImages(f"{purpose} needs at least {needed} images, and there are {count}")


class MeasuredSet(Protocol):
    """One of the two sets that a metric compares, as `evaluate.evaluated_set.EvaluatedSet` implements it.

    Attributes:
      name: `samples` or `reference`.
      image_counts: number of images by `name`; empty if only statistics are given.
      statistics_counts: number of images that the feature statistics were computed from, by name.
    """

    @property
    def name(self) -> str: ...

    @property
    def image_counts(self) -> Counts: ...

    @property
    def statistics_counts(self) -> Counts: ...

    def rows(self, column: str) -> Any:
        """Returns a column of features `[n, d]`; raises NotMeasured or NoFeatures if there is none."""
        ...

    def require_statistics(self) -> Any:
        """Returns the images' `feature_statistics.FeatureStatistics`; raises NoFeatures if there are none."""
        ...


Measured = tuple[dict[str, float], Counts]
"""The numbers of a metric by name, and the images that they are computed from."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that compares two sets of images, with its names and settings.

    To add one, write a file in `metrics/` that defines a `Metric`, and add a line to `metrics.registry.METRICS`.

    Attributes:
      title: name of the metric for people.
      titles: name for people of each number, by its key in `evaluation.json`.
      better: "higher" or "lower", whichever is better.
      compute: `(samples, reference, protocol, on_progress) -> Measured`; the fields of `protocol`, an
        `evaluate.protocols.Protocol`, are the settings. Raises NotMeasured or TooFewImages if it cannot be computed.
      describe: `(protocol) -> settings in words`; None if there are no settings.
      every_protocol: whether all protocols compute it, or only those with its name in `metrics`.
    """

    title: str
    titles: Mapping[str, str]
    better: Literal["higher", "lower"]
    compute: Callable[[MeasuredSet, MeasuredSet, Any, OnProgress], Measured]
    describe: Callable[[Any], str | None] = lambda protocol: None
    every_protocol: bool = False
