"""Memory that an op of torch's needs only while it runs, as far as it is made of smaller ops.

While a call is made again on tensors without data, each of the smaller ops that it is made of is
seen, and so is what they make and what is gone before the call ends. Of what a kernel allocates for
itself some is known, see ``kernel_buffers``.
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
from modelviz_callbacks.tracing.lowering.kernel_buffers import buffer_bytes

_CAST = "aten::_to_copy"


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
        buffers = buffer_bytes(schema_name(func), args, result)
        self.most_bytes = max(self.most_bytes, self.alive_bytes + buffers)

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
