"""The state of torch's random numbers at one moment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RandomState:
    """The state of torch's own generators, on the CPU and on some devices.

    Attributes:
        parts: What sets one generator's state, and that state.
    """

    parts: tuple[tuple[Callable[[torch.Tensor], object], torch.Tensor], ...]

    @staticmethod
    def now(
        devices: Collection[torch.device] = (), generators: Iterable[torch.Generator] = ()
    ) -> RandomState:
        """The state as it is; some microseconds, nothing waits for a device.

        Args:
            devices: Besides the CPU, those of which it is wanted.
            generators: Generators of the user's own of which it is wanted.
        """
        parts: list[tuple[Callable[[torch.Tensor], object], torch.Tensor]] = [
            (torch.set_rng_state, torch.get_rng_state())
        ]
        for device in devices:
            if device.type == "cuda":
                parts.append((_cuda_setter(device), torch.cuda.get_rng_state(device)))
            elif device.type == "mps":
                parts.append((torch.mps.set_rng_state, torch.mps.get_rng_state()))
        parts += [(one.set_state, one.get_state()) for one in generators]
        return RandomState(tuple(parts))

    def restore(self) -> None:
        """Sets it again."""
        for setter, state in self.parts:
            setter(state)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Sets it again at the end, whatever happens."""
        try:
            yield
        finally:
            self.restore()


def _cuda_setter(device: torch.device) -> Callable[[torch.Tensor], None]:
    return lambda state: torch.cuda.set_rng_state(state, device)


def random_devices(model: torch.nn.Module) -> tuple[torch.device, ...]:
    """The devices with generators of their own that a model's parameters and buffers are on."""
    found = {one.device for one in (*model.parameters(), *model.buffers())}
    return tuple(sorted((one for one in found if one.type in ("cuda", "mps")), key=str))
