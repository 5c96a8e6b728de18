"""The values of what goes into the model, for a file that is run beside it when training ends.

Only where somebody asked for that file: a recording keeps no values otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling

from modelviz_callbacks.tracing.capture.pytree import leaves, walk
from modelviz_callbacks.tracing.capture.recorder import Recorder
from modelviz_callbacks.tracing.capture.tape import TensorRecord

_LOG = logging.getLogger(__name__)

# Inputs larger than this in all are not kept.
_MOST_BYTES = 512 * 2**20


class KeptInputs:
    """Copies of input tensors on the CPU, by the first versions of their records.

    Attributes:
        values: The copies.
    """

    def __init__(self) -> None:
        """Nothing is kept yet."""
        self.values: dict[TensorRecord, torch.Tensor] = {}
        self._bytes = 0
        self._owners = 0

    def keep_living(self, records: Iterable[TensorRecord]) -> None:
        """Copies the tensors of records, those that are alive."""
        living = ((record, record.ref()) for record in records)
        self.keep((record, tensor) for record, tensor in living if tensor is not None)

    def keep(self, tensors: Iterable[tuple[TensorRecord, torch.Tensor]]) -> None:
        """Copies tensors whose memory can be read; what is too large is left out."""
        try:
            for record, tensor in tensors:
                first = record.first or record
                if first in self.values or not _is_plain(tensor):
                    continue
                self._bytes += tensor.numel() * tensor.element_size()
                if self._bytes > _MOST_BYTES:
                    return
                copied = tensor.detach().resolve_conj().resolve_neg()
                self.values[first] = copied.to("cpu", copy=True).contiguous()
        except Exception:
            _LOG.debug("inputs are not kept", exc_info=True)

    def around(
        self, enter: Callable[..., None], leave: Callable[..., None], recorder: Recorder
    ) -> tuple[Callable[..., None], Callable[..., None]]:
        """Hooks that also keep the inputs of the outermost calls that own parameters.

        Args:
            enter: The hook before a module call.
            leave: The hook after one.
            recorder: Knows the tensors by their records; it does not see what is copied.
        """
        thread = get_ident()

        def enter_too(module: torch.nn.Module, args: Any) -> None:
            enter(module, args)
            if get_ident() == thread and (self._owners or any(True for _ in module.parameters())):
                self._owners += 1

        def leave_too(module: torch.nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
            leave(module, args, *rest)
            if get_ident() != thread or not self._owners:
                return
            self._owners -= 1
            if self._owners or recorder.paused or is_dynamo_compiling():
                return
            recorder.paused = True
            try:
                given = walk((args, rest[0] if len(rest) == 2 else {}), lambda tensor: tensor)
                self.keep((recorder.record(tensor), tensor) for _, tensor in leaves(given, ""))
            finally:
                recorder.paused = recorder.is_over

        return enter_too, leave_too


def _is_plain(tensor: torch.Tensor) -> bool:
    computes_itself = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    is_array = tensor.layout is torch.strided and not (tensor.is_nested or tensor.is_quantized)
    return is_array and not computes_itself and not tensor.is_meta
