"""Finds the op whose backward made the first gradient that is not finite, where the loss is.

Each op is a suspect whose backward was given finite gradients and gave others, on the way to a
parameter. It is certain if all gradients are finite once all suspects are mended, and are not if
it alone is left as it was. What a ``where`` throws away again is no suspect.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import fx

from modelviz_callbacks.errors import ReplayError
from modelviz_callbacks.tracing.capture.random_state import RandomState, random_devices
from modelviz_callbacks.tracing.capture.recording import Recording
from modelviz_callbacks.tracing.lowering.to_program import FACTS, Program
from modelviz_callbacks.tracing.nonfinite.backward_replay import BackwardReplay, Fault
from modelviz_callbacks.tracing.nonfinite.found import Nonfinite, TensorRange
from modelviz_callbacks.tracing.nonfinite.watched_replay import WatchedReplay, place_in

# How often what is found is mended, so that what lies behind it is found; and how many of all that
# is found are tried alone.
_MOST_ROUNDS = 6
_MOST_TRIED = 12

_NOT_MENDED = "the gradients were not finite either with everything mended that was found"
_NOT_ALONE = "the gradients are not finite only together with others"
_SUM = "no op's backward made it of finite gradients, as where a sum of them overflows"


class BackwardSearch:
    """One search, in one program, on one batch."""

    def __init__(
        self,
        program: Program,
        recording: Recording,
        tensors: Sequence[torch.Tensor],
        random_state: RandomState,
    ) -> None:
        """Nothing runs yet; ``bad`` will name the gradients that are not finite.

        Args:
            program: A recorded stretch.
            recording: Of what.
            tensors: The program's inputs; none is written to.
            random_state: Of the moment before the code ran that was recorded.
        """
        self._program = program
        self._tensors = tensors
        self._random_state = random_state
        self._random_now = RandomState.now(random_devices(recording.model))
        self._gradients: Sequence[torch.Tensor | None] = ()
        self.bad: list[str] = []

    def find(self, gradients: Sequence[torch.Tensor | None]) -> Nonfinite | None:
        """Searches.

        Args:
            gradients: Of the loss with respect to each of the program's outputs, finite ones;
                ``None``: there is none.

        Returns:
            What was found; ``None``: the gradients of parameters and inputs are finite. Torch's
            random state is as it was.

        Raises:
            ReplayError: The program, or its backward, cannot be run on this batch.
        """
        self._gradients = gradients
        with self._random_now.kept():
            first = self._run()
            self.bad = first.bad
            if not first.bad:
                return None
            if not first.faults:
                made = TensorRange(first.bad[0], "", ())
                return Nonfinite("gradient", first.bad[0], made, why_possible=_SUM)
            return self._of(first)

    def _of(self, first: BackwardReplay) -> Nonfinite:
        faults = self._all_behind(first)
        if faults is None:
            fault = next(iter(first.faults.values()))
            return self._told(fault, first.faults, _NOT_MENDED)
        tried = [*faults.values()][:_MOST_TRIED]
        for fault in tried:
            if self._run([node for node in faults if node is not fault.node]).bad:
                return self._told(fault, faults, "")
        return self._told(tried[0], faults, _NOT_ALONE)

    def _all_behind(self, first: BackwardReplay) -> dict[fx.Node, Fault] | None:
        """All that made such gradients, also behind others; ``None``: no end of them."""
        found = dict(first.faults)
        for _ in range(_MOST_ROUNDS):
            replay = self._run(found)
            if not replay.bad:
                return found
            more = {node: fault for node, fault in replay.faults.items() if node not in found}
            if not more:
                return None
            found |= more
        return None

    def _run(self, mended: Collection[fx.Node] = ()) -> BackwardReplay:
        replay = BackwardReplay(self._program, mended)
        self._random_now.restore()
        self._random_state.restore()
        try:
            replay.run_on(self._tensors, self._gradients)
        except ReplayError:
            raise
        except Exception as error:
            said = str(error).splitlines()[0] if str(error) else "no reason given"
            raise ReplayError(
                "The recorded ops and their backward cannot be run on this batch "
                f"({type(error).__name__}: {said})."
            ) from error
        return replay

    def _told(self, fault: Fault, others: Collection[fx.Node], doubt: str) -> Nonfinite:
        """All that is known of a fault, with the ranges of the op's inputs in the forward."""
        node = fault.node
        replay = WatchedReplay(self._program, {}, told=[node])
        self._random_state.restore()
        replay.run_on(self._tensors)
        name = replay.name_of(node)
        facts = node.meta.get("custom", {}).get(FACTS, {})
        return Nonfinite(
            "gradient",
            name,
            fault.made,
            op=facts.get("op", ""),
            module=facts.get("module", ""),
            source=facts.get("source", ""),
            function=place_in(node),
            inputs=replay.events[node].inputs,
            gradients=fault.given,
            is_certain=not doubt,
            why_possible=doubt,
            others=tuple(replay.name_of(other) for other in others if other is not node),
        )
