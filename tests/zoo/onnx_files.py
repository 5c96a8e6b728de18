"""What comes of a case's ``graph.onnx``: is it standard, and does it compute the same?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnxruntime
import torch

from modelviz_callbacks import Trace, trace
from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts.onnx_files import onnx_source, view_of
from modelviz_callbacks.tracing import to_graph
from modelviz_callbacks.tracing.lowering.networks import Unit
from modelviz_callbacks.writers.onnx import View
from tests.zoo.cases import Case, seed_everything
from tests.zoo.leaves import tensors
from tests.zoo.no_chance import MiddleValues, without_chance

# Relative to the largest value of an output.
TOLERANCE = 1e-4

# Of such small outputs the absolute difference counts.
_SMALL = 1e-3


@dataclass
class Examined:
    """What was found.

    Attributes:
        untranslated: The ops that have no standard form.
        cause: Why onnxruntime does not agree; ``""`` where it does.
    """

    untranslated: tuple[str, ...]
    cause: str

    @property
    def agrees(self) -> bool:
        """Whether the file is of standard ops and computes what the model does."""
        return not self.untranslated and not self.cause


def examined(case: Case) -> Examined:
    """Records a case, writes its file with weights, and runs it if any runtime could.

    Raises:
        onnx.checker.ValidationError: The file is not sound.
    """
    model, args, kwargs = case.make()
    seed_everything(1)
    recorded = trace(model, *args, **kwargs)
    unit = Unit.whole(recorded._recording)
    # Without what its ops save and cost, which is no part of the file and takes as long again.
    graph = to_graph(recorded._recording)
    view = view_of(unit, Analysis(graph), None, None, weights=True)
    assert_sound(view)
    if view.untranslated:
        return Examined(view.untranslated, "")
    _, args, kwargs = case.make()
    return Examined((), _difference(view, recorded, unit, args, kwargs))


def assert_sound(view: View) -> None:
    """The file is what the format's own checker takes."""
    proto = onnx.ModelProto.FromString(view.data)
    is_complete = not (view.untranslated or view.missing)
    onnx.checker.check_model(proto, full_check=is_complete)


def _difference(
    view: View, recorded: Trace, unit: Unit, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    if not onnx.ModelProto.FromString(view.data).graph.output:
        return ""  # there is nothing to compute
    given = [tensor.clone() for tensor in recorded._recording.tensors_of(args, kwargs)]
    data, has_draws = without_chance(view.data)
    try:
        found = _run(data, given)
    except Exception as error:
        return f"onnxruntime: {error}"
    if has_draws:
        # A model that draws numbers in eval mode, too, or one that branches on `self.training`.
        with MiddleValues():
            return _compared(found, _results(lambda: onnx_source(unit).program(*given)))
    model = unit.module
    seed_everything(1)
    try:
        wanted = _results(lambda: model.eval()(*args, **kwargs))
    except Exception as error:
        wanted = []
        cause = f"the model in eval mode: {error}"
    else:
        cause = _compared(found, wanted)
    if not cause:
        return ""
    # Python may branch on `self.training`: then the recorded program is what was drawn.
    seed_everything(1)
    wanted = _results(lambda: onnx_source(unit).program(*given))
    again = _compared(found, wanted)
    return again and f"{cause}; the program: {again}"


def _results(run: Callable[[], Any]) -> list[torch.Tensor]:
    """What a run gives; with gradients only where it asks for some of its own."""
    state = torch.get_rng_state()
    try:
        with torch.no_grad():
            return [tensor for _, tensor in tensors(run())]
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
    torch.set_rng_state(state)
    return [tensor for _, tensor in tensors(run())]


def _run(data: bytes, given: Sequence[torch.Tensor]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    # Optimising takes longer than running once.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnxruntime.set_seed(0)  # a draw that has no middle value could agree by chance, now and then
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = {name: _plain(tensor).numpy() for name, tensor in zip(names, given, strict=True)}
    found = session.run(None, feed)
    # What is one structure is one output, a sequence.
    return [item for value in found for item in (value if isinstance(value, list) else [value])]


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """As ONNX has it: complex numbers are pairs."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.resolve_neg().contiguous()


def _compared(found: Sequence[Any], wanted: Sequence[torch.Tensor]) -> str:
    if len(found) != len(wanted):
        return f"{len(found)} outputs instead of {len(wanted)}"
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        first, second = torch.as_tensor(one), _plain(other)
        if first.shape != second.shape:
            return f"output {index} is {tuple(first.shape)}, not {tuple(second.shape)}"
        first, second = first.double(), second.double()
        same = (first == second) | (first.isnan() & second.isnan())
        apart = torch.where(same, 0.0, (first - second).abs())
        finite = second[second.isfinite()].abs()
        scale = max(_SMALL, finite.max().item() if finite.numel() else 0.0)
        if apart.numel() and not apart.max().item() <= TOLERANCE * scale:
            return f"output {index} differs by {apart.max().item():.3g} of {scale:.3g}"
    return ""
