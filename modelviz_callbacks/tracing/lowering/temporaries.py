"""Memory that an op of torch's needs only while it runs, as far as it is made of smaller ops.

While a call is made again on tensors without data, each of the smaller ops that it is made of is
seen, and so is what they make and what is gone before the call ends. What a kernel allocates for
itself (the unfolded input of some convolutions) is not.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from modelviz_callbacks.tracing.capture.torch_internals import (
    dispatch_mode_class,
    schema_name,
    storage_address,
)

_CAST = "aten::_to_copy"

# What is reduced after all elements of it were made, by small ops that torch calls inside of one:
# how many tensors as large as the first argument there are then.
_WHOLE_FIRST = {
    "aten::mse_loss": 2,
    "aten::smooth_l1_loss": 2,
    "aten::huber_loss": 1,
    "aten::soft_margin_loss": 1,
    "aten::binary_cross_entropy": 1,
    "aten::binary_cross_entropy_with_logits": 2,
    "aten::logsumexp": 1,
}


class Temporaries:
    """Counts what is made while it watches.

    Attributes:
        most_bytes: Most bytes of new tensors that were alive at once.
        casts: Copies in another dtype, by the addresses of what was given: address and bytes.
    """

    def __init__(self, given: set[int]) -> None:
        """Nothing was made yet.

        Args:
            given: The addresses of memory that is not new.
        """
        self._given = given
        self._tensors: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._known: set[int] = set()
        self.alive_bytes = 0
        self.most_bytes = 0
        self.casts: dict[int, tuple[int, int]] = {}

    @property
    def temporary_bytes(self) -> int:
        """How much more was alive at the most than is now."""
        return self.most_bytes - self.alive_bytes

    def watching(self) -> contextlib.AbstractContextManager[Any]:
        """Watches what small ops make; nothing where torch does not tell."""
        kind = _mode_class()
        return contextlib.nullcontext() if kind is None else kind(self._made)

    def _made(self, func: Any, args: Any, result: Any) -> None:
        if schema_name(func) == _CAST and isinstance(args[0], torch.Tensor):
            address = storage_address(args[0])
            if address in self._given:
                size = result.untyped_storage().nbytes()
                self.casts[address] = storage_address(result), size
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, torch.Tensor) and id(one) not in self._known:
                self._add(one)
        self.most_bytes = max(self.most_bytes, self.alive_bytes + _on_the_way(func, args, result))

    def _add(self, tensor: torch.Tensor) -> None:
        address, number = storage_address(tensor), id(tensor)
        if address in self._given:
            return
        if not self._tensors[address]:
            self._sizes[address] = tensor.untyped_storage().nbytes()
            self.alive_bytes += self._sizes[address]
        self._tensors[address] += 1
        self._known.add(number)
        weakref.finalize(tensor, self._gone, address, number)

    def _gone(self, address: int, number: int) -> None:
        self._known.discard(number)
        self._tensors[address] -= 1
        if not self._tensors[address]:
            self.alive_bytes -= self._sizes.pop(address)


def _on_the_way(func: Any, args: Any, result: Any) -> int:
    """Bytes of what a small op makes of all elements before it reduces them."""
    whole = _WHOLE_FIRST.get(schema_name(func))
    if whole is None or result.numel() >= args[0].numel():
        return 0
    return whole * int(args[0].numel()) * int(args[0].element_size())


@cache
def _mode_class() -> Any:
    base = dispatch_mode_class()
    if base is None:
        return None

    class SmallOps(base):  # type: ignore[misc,valid-type]
        """Tells what each small op has made."""

        def __init__(self, made: Callable[[Any, Any, Any], None]) -> None:
            super().__init__()
            self._tell = made

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            self._tell(func, args, result)
            return result

    return SmallOps
