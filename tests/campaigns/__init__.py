"""Campaigns of faults: seeded, bounded to a few minutes, and written up in `docs/reliability.md`.

`CAMPAIGN_TRIES=100 python -m pytest -m heavy -s tests/campaigns` runs more of each kind.
"""

import os


def tries(default: int) -> int:
    """How many faults to try."""
    return int(os.environ.get("CAMPAIGN_TRIES", default))
