"""Where a forward ended whose recording goes on to the backward, and what it gave."""

from __future__ import annotations

from typing import Any, NamedTuple

from modelviz_callbacks.tracing.capture.backward_record import HEAD, BackwardRecord

# How many ops and calls may come before the backward: of other models (a perceptual loss), not of
# whole epochs of them.
_MOST_BEHIND = 20_000


class EndOfForward(NamedTuple):
    """What a recording is cut to, should no backward from this forward's results come.

    Attributes:
        position: Length of the tape there.
        result: What the forward returned, walked.
        backward: What autograd knew there.
    """

    position: int
    result: Any
    backward: BackwardRecord

    @property
    def longest(self) -> int:
        """How long the tape may get while no backward has come."""
        return self.position + _MOST_BEHIND

    def is_passed_by(self, later: BackwardRecord) -> bool:
        """Whether a later backward comes through one of the results.

        Args:
            later: Read at a tensor that was made after the forward, in the same thread.
        """
        numbers, at, place = self.backward.numbers, 0, 0
        roots = {root for _, root, _ in self.backward.roots}
        wanted: set[int] = set()
        while at < len(numbers):
            if place in roots:
                wanted.add(numbers[at + 1])
            at, place = _next(numbers, at), place + 1
        numbers, at = later.numbers, 0
        while at < len(numbers):
            if numbers[at + 1] in wanted:
                return True
            at = _next(numbers, at)
        return False


def _next(numbers: list[int], at: int) -> int:
    """Where the row of the next node begins."""
    return at + HEAD + 2 * numbers[at + 3] + numbers[at + 4]
