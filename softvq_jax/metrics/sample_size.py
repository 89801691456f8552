"""How many images a metric needs before it means something."""


class TooFewImages(ValueError):
    """A set is too small for a metric."""


def require(count: int, needed: int, what: str) -> None:
    """Raises TooFewImages where there are fewer than `needed`."""
    if count < needed:
        raise TooFewImages(f"{what} needs at least {needed} images, and there are {count}")


def caveat(count: int | None, features: int, name: str) -> str | None:
    """A warning where the covariance of `features` numbers is estimated from fewer images."""
    if count is None or count >= features:
        return None
    return (
        f"{name}: {count:,} images for {features:,} features: their covariance is singular, and FID depends on the "
        "counts: compare it only with FIDs of the same counts (50,000 is usual)"
    )
