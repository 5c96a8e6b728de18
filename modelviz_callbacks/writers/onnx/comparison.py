"""A written file beside the model: both are given the same, and the results are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import inliner

from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.writers.onnx.convert import first_line
from modelviz_callbacks.writers.onnx.draws import NORMAL, UNIFORM, Numbers
from modelviz_callbacks.writers.onnx.probe_inputs import Tensors

# The largest difference between onnxruntime and the model that is put down to rounding,
# relative to the largest value of that output.
TOLERANCE = 1e-4

# What rounding to one of 256 steps the other way can come to, after some layers, likewise relative;
# and numbers of 8 bits, as bfloat16 has them, instead of 24.
_STEP = 0.05


# What a random node of a file must say of its numbers for them to be the plain ones.
_PLAIN = {UNIFORM: {"low": 0.0, "high": 1.0}, NORMAL: {"mean": 0.0, "scale": 1.0}}


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written, opened by a runtime.

    Attributes:
        name: What it is called.
        session: The runtime's; where the file draws numbers, of a copy that gives these, too.
        quantises: Whether it rounds to few steps on the way.
        draws: The kinds of what it draws, in order.
    """

    name: str
    session: Any
    quantises: bool
    draws: tuple[str, ...] = ()

    @staticmethod
    def opened(path: Path, has_draws: bool = False) -> WrittenFile:
        """Opens a file.

        Args:
            path: Where it is; a copy may be written beside it.
            has_draws: Whether its random numbers are to be looked at.

        Raises:
            WriterError: No runtime can load it, or it draws other numbers than plain ones.
        """
        try:
            onnx.checker.check_model(str(path), full_check=True)
            session = _session(path)
            model = onnx.load(path, load_external_data=False)
            nodes = [*model.graph.node, *(node for f in model.functions for node in f.node)]
            quantises = any(node.op_type == "QuantizeLinear" for node in nodes)
            if not has_draws:
                return WrittenFile(path.name, session, quantises)
            kinds, copy = _observed(model)
            beside = path.with_name(f"observed.{path.name}")
            onnx.save(copy, beside)
            return WrittenFile(path.name, _session(beside), quantises, kinds)
        except WriterError:
            raise
        except Exception as error:
            raise WriterError(f"onnxruntime cannot load it: {first_line(error)}") from error

    def run(self, inputs: Tensors) -> tuple[list[torch.Tensor], Numbers]:
        """What it gives, and the numbers that it drew.

        Raises:
            WriterError: The runtime cannot run it.
        """
        taken = [value.name for value in self.session.get_inputs()]
        # Of a copy: memory that an array has shown cannot be resized by torch any more.
        given = [_plain(tensor).clone().numpy() for tensor in inputs]
        feed = dict(zip(taken, given, strict=True))
        try:
            found = self.session.run(None, feed) if self.session.get_outputs() else []
        except Exception as error:
            raise WriterError(
                f"onnxruntime cannot run {self.name} ({first_line(error)})"
            ) from error
        count = len(found) - len(self.draws)
        drawn = [torch.as_tensor(item) for item in found[count:]]
        outputs = [torch.as_tensor(item) for item in _flat(found[:count])]
        return outputs, list(zip(self.draws, drawn, strict=True))

    def compared(
        self, found: list[torch.Tensor], expected: Tensors, rounds: bool = False
    ) -> tuple[float, str]:
        """The largest difference between its outputs and what is expected, and what is wrong.

        Args:
            found: Its outputs.
            expected: The model's.
            rounds: Whether the model computes in numbers of 16 bits, and so rounds otherwise.
        """
        rounds = rounds or self.quantises
        if len(found) != len(expected):
            return float("inf"), f"{self.name} gives {len(found)} tensors, not {len(expected)},"
        names = [value.name for value in self.session.get_outputs()]
        names = names[: len(names) - len(self.draws)]
        largest = 0.0
        for index, (first, wanted) in enumerate(zip(found, expected, strict=True)):
            second = _plain(wanted)
            difference, scale = _difference(first, second)
            largest = max(largest, difference)
            agrees = difference <= TOLERANCE * max(1.0, scale)
            if not agrees and not (rounds and _rounds_otherwise(first, second, scale)):
                name = names[index] if len(names) == len(found) else str(index)
                return difference, (
                    f"Output {name!r} of {self.name} differs from the model in eval mode by "
                    f"{difference:.3g} (allowed: {TOLERANCE} of the largest value)"
                )
        return largest, ""


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it writes to the terminal, past Python
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _observed(model: onnx.ModelProto) -> tuple[tuple[str, ...], onnx.ModelProto]:
    """The kinds of what a file draws, and a copy without functions that gives it, too."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    kinds = []
    for node in model.graph.node:
        kind = node.op_type.removesuffix("Like")
        if kind not in _PLAIN or node.domain:
            continue
        given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if any(given.get(name, value) != value for name, value in _PLAIN[kind].items()):
            raise WriterError("the file draws numbers of another distribution")
        dtype = given.get("dtype", onnx.TensorProto.FLOAT)
        output = onnx.helper.make_tensor_value_info(node.output[0], dtype, None)
        if output.name not in {value.name for value in model.graph.output}:
            model.graph.output.append(output)
            kinds.append(kind)
            continue
        # One output cannot be given twice under one name.
        output.name = f"{output.name}/drawn"
        model.graph.node.append(onnx.helper.make_node("Identity", [node.output[0]], [output.name]))
        model.graph.output.append(output)
        kinds.append(kind)
    return tuple(kinds), model


def _rounds_otherwise(found: torch.Tensor, wanted: torch.Tensor, scale: float) -> bool:
    """Whether few values differ, by little: in between two steps, either is right."""
    if found.shape != wanted.shape:
        return False
    apart = (found.double() - wanted.double()).abs()
    return bool(apart.max() <= _STEP * scale and apart.mean() <= _STEP * scale / 10)


def _flat(found: list[Any]) -> list[Any]:
    return [item for value in found for item in (value if isinstance(value, list) else [value])]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """As a runtime has it: complex numbers are pairs."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    if plain.dtype == torch.bfloat16:
        plain = plain.float()  # numpy has no such numbers
    return torch.view_as_real(plain) if plain.is_complex() else plain


def _difference(found: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
    """The largest difference and the largest value; infinite where the shapes differ."""
    if found.shape != wanted.shape:
        return float("inf"), 0.0
    if not wanted.numel():
        return 0.0, 0.0
    first, second = found.double(), wanted.double()
    # NaN and infinities agree if they stand in the same places.
    same = (first == second) | (first.isnan() & second.isnan())
    difference = torch.where(same, 0.0, (first - second).abs()).max().item()
    scale = second[second.isfinite()].abs().max().item() if second.isfinite().any() else 0.0
    return difference, scale
