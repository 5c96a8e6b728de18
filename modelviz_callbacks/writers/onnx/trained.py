"""``model.onnx``: the trained model for running, checked against the model itself."""

from __future__ import annotations

import contextlib
import copy
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.writers.onnx.convert import Names, Source, convert, first_line

# The largest difference between onnxruntime and the model that is put down to rounding,
# relative to the largest value of that output.
TOLERANCE = 1e-4

# Above this a protobuf message cannot hold the weights; they go into a file beside it.
_MAX_INSIDE_BYTES = 1_800_000_000

# Calls a module with input tensors as the recorded call did; gives the paths and tensors of its
# result.
Call = Callable[
    [torch.nn.Module, tuple[torch.Tensor, ...]], tuple[list[str], tuple[torch.Tensor, ...]]
]


@dataclass
class Trained:
    """What came of it.

    Attributes:
        max_difference: The largest absolute difference between an output in onnxruntime and
            the model's own, over all batch sizes tried.
        remarks: What a person should know.
        files: Names of the files written, the model first.
    """

    max_difference: float
    remarks: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def write_trained(
    recorded: Source, module: torch.nn.Module, call: Call, names: Names, path: Path
) -> Trained:
    """Writes the trained model and runs it beside the model in eval mode.

    The model's own eval-mode forward is exported, with a free batch size where that works;
    else the recorded program, with the recorded one. The live model is not touched: its place
    is taken by a copy that shares its tensors.

    Args:
        recorded: The recorded program in inference form, with the trained weights.
        module: The model.
        call: Calls it as the recorded forward did.
        names: For inputs and outputs.
        path: The file; weights over 1.8 GB go into ``<path>.data`` beside it. Both appear
            whole or not at all; the folder is made if need be.

    Returns:
        The differences found, and the files.

    Raises:
        WriterError: It cannot be exported, or differs from the model by more than `TOLERANCE`:
            it is kept then under another name (``model.differs.onnx``), to be looked at.
        OptionError: The names do not fit.
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _random_states_kept(),
        torch.no_grad(),
        tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder,
    ):
        attempt = _Attempt(recorded, module, call, names)
        model, is_dynamic = attempt.convert()
        beside = Path(folder) / path.name
        _save(model, beside)
        onnx.checker.check_model(str(beside), full_check=True)
        outcome = Trained(0.0, attempt.remarks)
        wrong = _compare(attempt, beside, is_dynamic, outcome)
        final = path.with_name(f"{path.stem}.differs{path.suffix}") if wrong else path
        outcome.files = _moved(beside, final)
    if wrong:
        raise WriterError(
            f"{wrong} The file is kept as {final.name}: do not use it; please report the model."
        )
    return outcome


def _moved(beside: Path, final: Path) -> list[str]:
    """Puts a finished model in its place; its weights, which it names, go there first."""
    weights = beside.with_name(f"{beside.name}.data")
    files = [final.name]
    if weights.exists():
        weights.replace(final.with_name(weights.name))
        files.append(weights.name)
    beside.replace(final)
    return files


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    """Gives torch's, Python's and numpy's random states back as they were."""
    python, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)


class _Attempt:
    """The ways to an exported model, the best one first."""

    def __init__(self, recorded: Source, module: torch.nn.Module, call: Call, names: Names) -> None:
        self.remarks: list[str] = []
        self._recorded = recorded
        self._names = names
        self._call = call
        self.examples = recorded.examples
        self._eval_copy = self._copied(module)

    def convert(self) -> tuple[ir.Model, bool]:
        """The model, and whether its batch size is free."""
        if self._eval_copy is not None:
            source = self._live_source()
            batch = _batch_size(self.examples)
            if batch is not None:
                try:
                    shapes = (_dynamic_batch(self.examples, batch),)
                    return convert(source, self._names, shapes), True
                except WriterError as error:
                    self.remarks.append(f"model.onnx has a fixed batch size: {error}")
            try:
                return convert(source, self._names), False
            except WriterError as error:
                self.remarks.append(f"model.onnx is the recorded training forward: {error}")
        return convert(self._recorded, self._names), False

    def reference(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """What the model in eval mode gives; the recorded program where it has no copy."""
        if self._eval_copy is not None:
            return self._call(self._eval_copy, inputs)[1]
        outputs: tuple[torch.Tensor, ...] = self._recorded.program(*inputs)
        return outputs

    def _copied(self, module: torch.nn.Module) -> torch.nn.Module | None:
        shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        try:
            made = copy.deepcopy(module, dict(shared)).eval()
            self._call(made, self.examples)
        except Exception as error:
            self.remarks.append(
                "model.onnx is the recorded training forward: the model could not be copied "
                f"and called in eval mode ({first_line(error)})"
            )
            return None
        return made

    def _live_source(self) -> Source:
        assert self._eval_copy is not None
        # A batch of one would be taken for a fixed size.
        batch = _batch_size(self.examples)
        if batch == 1:
            self.examples = _resized(self.examples, 1, 2)
        outputs = self._call(self._eval_copy, self.examples)[0]
        flat = _Flat(self._eval_copy, self._call)
        return replace(
            self._recorded,
            program=flat,
            examples=self.examples,
            outputs=outputs,
            state={name: name.removeprefix("module.") for name in flat.state_dict()},
        )


class _Flat(torch.nn.Module):
    """A module that takes and gives tensors one by one."""

    def __init__(self, module: torch.nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self._call = call
        self.train(module.training)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._call(self.module, tensors)[1]


def _batch_size(examples: tuple[torch.Tensor, ...]) -> int | None:
    """The size that the first dimension of the first input has, if it has one."""
    return examples[0].shape[0] if examples and examples[0].ndim else None


def _dynamic_batch(examples: tuple[torch.Tensor, ...], batch: int) -> tuple[Any, ...]:
    size = torch.export.Dim("batch", min=1)
    return tuple(
        {0: size} if tensor.ndim and tensor.shape[0] == batch else None for tensor in examples
    )


def _resized(examples: tuple[torch.Tensor, ...], batch: int, size: int) -> tuple[torch.Tensor, ...]:
    """Other inputs with another batch size; values drawn from a generator of our own."""
    generator = torch.Generator().manual_seed(size)
    return tuple(_random_like(tensor, batch, size, generator) for tensor in examples)


def _random_like(
    tensor: torch.Tensor, batch: int, size: int, generator: torch.Generator
) -> torch.Tensor:
    shape = list(tensor.shape)
    if shape and shape[0] == batch:
        shape[0] = size
    if tensor.is_floating_point() or tensor.is_complex():
        drawn = torch.randn(shape, dtype=tensor.dtype, generator=generator)
    else:
        # Zero and one are valid as flags, as classes and as indices into nearly any table.
        drawn = torch.randint(0, 2, shape, generator=generator).to(tensor.dtype)
    return drawn.to(tensor.device)


def _save(model: ir.Model, path: Path) -> None:
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    external = f"{path.name}.data" if size > _MAX_INSIDE_BYTES else None
    ir.save(model, path, external_data=external)


def _compare(attempt: _Attempt, path: Path, is_dynamic: bool, outcome: Trained) -> str:
    """Runs the file beside the model; says what is wrong, ``""`` if nothing is."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    batch = _batch_size(attempt.examples)
    sizes = [batch or 0] + ([batch + 1, 1] if is_dynamic and batch else [])
    taken = [value.name for value in session.get_inputs()]
    for size in sizes:
        inputs = _resized(attempt.examples, batch or 0, size)
        expected = attempt.reference(inputs)
        arrays = [tensor.detach().cpu().numpy() for tensor in inputs]
        feed = dict(zip(taken, arrays, strict=True))
        for name, found, wanted in zip(
            (value.name for value in session.get_outputs()),
            session.run(None, feed),
            expected,
            strict=True,
        ):
            difference, scale = _difference(torch.as_tensor(found), wanted.detach().cpu())
            outcome.max_difference = max(outcome.max_difference, difference)
            if not difference <= TOLERANCE * max(1.0, scale):
                return (
                    f"Output {name!r} of {path.name} differs from the model in eval mode by "
                    f"{difference:.3g} at batch size {size} (allowed: {TOLERANCE} of the "
                    "largest value)."
                )
    return ""


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
