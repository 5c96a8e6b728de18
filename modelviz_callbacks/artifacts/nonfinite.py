"""``nonfinite.json``: where the first number came from that is not finite."""

from __future__ import annotations

import json
from dataclasses import asdict

from modelviz_callbacks.artifacts.maker import Maker
from modelviz_callbacks.tracing import Nonfinite


def write_nonfinite(maker: Maker, step: int, found: Nonfinite) -> None:
    """Writes all that is known of it.

    Args:
        maker: Where it goes.
        step: Number of the step; 0 was recorded.
        found: What was found.

    Raises:
        SinkError: It cannot be written.
    """
    told = {"schema": 1, "step": step, "message": str(found), **asdict(found)}
    maker.write("nonfinite.json", (json.dumps(told, indent=2) + "\n").encode(errors="replace"))
