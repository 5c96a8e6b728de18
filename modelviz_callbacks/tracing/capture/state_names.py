"""The qualified names of a model's parameters and buffers."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch

from modelviz_callbacks.tracing.capture.module_paths import paths_of
from modelviz_callbacks.tracing.capture.tape import TensorRecord, record_of
from modelviz_callbacks.tracing.capture.torch_internals import (
    buffers_of,
    no_torch_function,
    parameters_of,
)
from modelviz_callbacks.tracing.capture.wrappers import author_path


class StateTensor(NamedTuple):
    """One parameter or buffer by its names.

    Attributes:
        kind: ``"parameter"`` or ``"buffer"``.
        name: First qualified name.
        aliases: Its other names, where it is tied.
        packed: How many elements are packed in it, see `packed_elements`.
    """

    kind: str
    name: str
    aliases: tuple[str, ...]
    packed: int | None = None

    @property
    def owner(self) -> str:
        """Qualified name of the module that has it."""
        return self.name.rpartition(".")[0]

    @property
    def label(self) -> str:
        """Its name in that module."""
        return self.name.rpartition(".")[2]


def packed_elements(tensor: torch.Tensor, owner: torch.nn.Module | None = None) -> int | None:
    """How many elements a tensor holds where several are packed in one of its own.

    Libraries that quantise to a few bits leave a plain tensor of whole numbers, and have what it
    stands for beside it: on an object at the tensor (bitsandbytes), or in its module, as a shape
    (HQQ) or as the layer's two widths (GPTQ, AWQ). A tensor subclass tells by itself.

    Args:
        tensor: A parameter or buffer.
        owner: The module that has it.

    Returns:
        More than its own elements, and not more than its bits; ``None``: none are packed in it.
    """
    try:
        with no_torch_function():  # a mode of the user's is not asked
            counts = _counts_beside(vars(tensor).values())
            if not counts and owner is not None and _is_largest_of_bits(tensor, owner):
                counts = [*_counts_beside(vars(owner).values()), *_widths_of(owner)]
            if not counts:
                return None
            least, most = tensor.numel(), 8 * tensor.numel() * tensor.element_size()
        return next((count for count in counts if least < count <= most), None)
    except Exception:  # it is somebody's code
        return None


# What layers call their two widths.
_WIDTHS = (
    ("in_features", "out_features"),
    ("infeatures", "outfeatures"),
    ("input_size", "output_size"),
    ("num_embeddings", "embedding_dim"),
)


def _counts_beside(values: Iterable[object]) -> list[int]:
    """The numbers of elements of all shapes that are kept somewhere beside a tensor."""
    shapes: list[object] = []
    for value in values:
        if isinstance(value, (torch.Tensor, torch.nn.Module)):
            continue
        inside = value.values() if isinstance(value, dict) else [getattr(value, "shape", None)]
        shapes += [value, *inside]
    return [math.prod(shape) for shape in shapes if isinstance(shape, torch.Size)]


def _widths_of(owner: torch.nn.Module) -> list[int]:
    known = vars(owner)
    widths = [(known.get(first), known.get(last)) for first, last in _WIDTHS]
    return [
        first * last for first, last in widths if isinstance(first, int) and isinstance(last, int)
    ]


def _is_largest_of_bits(tensor: torch.Tensor, owner: torch.nn.Module) -> bool:
    """Whether no other parameter of a module holds as many whole numbers: zeros are smaller."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or _is_no_number(tensor):
        return False
    others = [one for one in parameters_of(owner).values() if one is not None]
    return tensor.nbytes == max(one.nbytes for one in others if not _is_no_number(one))


def _is_no_number(tensor: torch.Tensor) -> bool:
    return tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype is torch.bool


class StateNames:
    """Finds the names of a tensor by its identity."""

    def __init__(self, model: torch.nn.Module) -> None:
        """Reads the names as they are now.

        The tensors are kept: a forward may put another one in the place of a buffer, and the
        old one is what it read before.
        """
        self._model = model
        self._found: dict[int, tuple[torch.Tensor, StateTensor]] = {}
        self._records: dict[int, TensorRecord] = {}
        self.update()

    @classmethod
    def restored(
        cls,
        model: torch.nn.Module,
        named: Iterable[tuple[torch.Tensor, StateTensor]],
        records: dict[int, TensorRecord],
    ) -> StateNames:
        """The names of a model that is in another process.

        Args:
            model: What stands for it here.
            named: What `all` gave there, with the tensors that stand for its own.
            records: What was known there of those tensors, by the ``id`` of their stand-ins.
        """
        made = cls.__new__(cls)
        made._model, made._records = model, records
        made._found = {id(tensor): (tensor, names) for tensor, names in named}
        return made

    def update(self) -> None:
        """Adds the tensors that have come since (lazy modules, buffers made in a forward)."""
        places = paths_of(self._model)
        owners = {author_path(path): module for path, module in places}
        for kind in ("buffer", "parameter"):
            named = _named(self._model, places, kind, self._found)
            for names, tensor in _grouped(named):
                owner = owners.get(names[0].rpartition(".")[0]) if kind == "parameter" else None
                packed = packed_elements(tensor, owner)
                found = StateTensor(kind, names[0], tuple(names[1:]), packed)
                self._found[id(tensor)] = (tensor, found)

    def learn(self, tensor: torch.Tensor, module: torch.nn.Module, label: str) -> bool:
        """Gives a tensor the name it has now below a module.

        Args:
            tensor: A parameter that was not there when the names were read.
            module: One of the model's modules.
            label: The parameter's name in it.

        Returns:
            Whether the module is one of the model's.
        """
        for path, other in self._model.named_modules():
            if other is module:
                name = author_path(f"{path}.{label}" if path else label)
                self._found[id(tensor)] = (tensor, StateTensor("parameter", name, ()))
                return True
        return False

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is a parameter or buffer."""
        known = self._found.get(id(tensor))
        return known is not None and known[0] is tensor

    def find(self, tensor: torch.Tensor) -> StateTensor | None:
        """The names of a parameter or buffer; ``None`` for any other tensor."""
        known = self._found.get(id(tensor))
        return known[1] if known is not None and known[0] is tensor else None

    def all(self) -> list[tuple[torch.Tensor, StateTensor]]:
        """Every parameter and buffer that is known, with its names."""
        return list(self._found.values())

    @property
    def is_elsewhere(self) -> bool:
        """Whether the model itself is in another process."""
        return bool(self._records)

    def record(self, tensor: torch.Tensor) -> TensorRecord:
        """What is known of a parameter or buffer as it is now."""
        return self._records.get(id(tensor)) or record_of(tensor, 0)

    def parameters(self) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Every parameter the model has now, once, with all its names, in its order."""
        return iter(_grouped(_named(self._model, paths_of(self._model), "parameter", ())))


def _named(
    model: torch.nn.Module,
    places: Iterable[tuple[str, torch.nn.Module]],
    kind: str,
    known: Container[int],
) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters or buffers of a model, by each of their names.

    Args:
        model: The model.
        places: Its modules with their paths.
        kind: ``"parameter"`` or ``"buffer"``.
        known: Tensors to leave out, by their ``id``.
    """
    lister = f"named_{kind}s"
    if getattr(type(model), lister) is not getattr(torch.nn.Module, lister):  # has its own list
        for name, tensor in getattr(model, lister)(remove_duplicate=False):
            if id(tensor) not in known:
                yield author_path(name), tensor
        return
    table = buffers_of if kind == "buffer" else parameters_of
    for path, module in places:
        tensors: Mapping[str, torch.Tensor | None] = table(module)
        if not tensors:
            continue
        home = author_path(path)
        for label, tensor in tensors.items():
            if tensor is not None and id(tensor) not in known:
                yield (f"{home}.{label}" if home else label), tensor


def _grouped(
    named: Iterable[tuple[str, torch.Tensor]],
) -> list[tuple[list[str], torch.Tensor]]:
    """Every tensor once, with all its names."""
    groups: dict[int, tuple[list[str], torch.Tensor]] = {}
    for name, tensor in named:
        groups.setdefault(id(tensor), ([], tensor))[0].append(name)
    return list(groups.values())
