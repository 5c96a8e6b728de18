"""``model.onnx``: the trained model for running, checked against the model itself."""

from __future__ import annotations

import contextlib
import importlib
import logging
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

from modelviz_callbacks.errors import OptionError, WriterError
from modelviz_callbacks.writers.onnx.constant_inputs import constant_inputs
from modelviz_callbacks.writers.onnx.convert import Names, Source, convert, first_line
from modelviz_callbacks.writers.onnx.exporter_output import into_log
from modelviz_callbacks.writers.onnx.model_copy import eval_copy
from modelviz_callbacks.writers.onnx.probe_inputs import Probes, Tensors, batch_size
from modelviz_callbacks.writers.onnx.replacements.table import ReplacedForExport
from modelviz_callbacks.writers.onnx.view import View

# The largest difference between onnxruntime and the model that is put down to rounding,
# relative to the largest value of that output.
TOLERANCE = 1e-4

# What rounding to one of 256 steps the other way can come to, after some layers, likewise relative.
_STEP = 0.05

# Above this a protobuf message cannot hold the weights; they go into a file beside it.
_MAX_INSIDE_BYTES = 1_800_000_000

_CONSTANT = (
    "model.onnx does not read {names}, though the model does: what was made of the recorded "
    "batch's is a constant in the file (Python or numpy in between). Do not use it with other "
    "values."
)

_LOG = logging.getLogger(__name__)

# Makes a file of the recorded ops with the trained weights: `view_model` does.
Recorded = Callable[[], View]

# Calls a module with input tensors as the recorded call did; gives the paths and tensors of its
# result.
Call = Callable[[torch.nn.Module, Tensors], tuple[list[str], Tensors]]


@dataclass
class Trained:
    """What came of it.

    Attributes:
        max_difference: The largest absolute difference between an output in onnxruntime and
            the model's own, over all batch sizes tried.
        remarks: What a person should know.
        warnings: What one has to know before using the file.
        files: Names of the files written, the model first.
    """

    max_difference: float
    warnings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Subject:
    """What is exported, and how it is called.

    Attributes:
        program: The recorded program in inference form, with the trained weights.
        module: The model.
        call: Calls it as the recorded forward did.
        inputs: The recorded inputs; ``None`` if their values were not kept.
        recorded: Makes a file of the recorded ops, for a model that the exporter refuses.
    """

    program: Source
    module: torch.nn.Module
    call: Call
    inputs: Tensors | None = None
    recorded: Recorded | None = None


def write_trained(subject: Subject, names: Names, path: Path) -> Trained:
    """Writes the trained model and runs it beside the model in eval mode.

    The model's own eval-mode forward is exported, with a free batch size where that works;
    else the file is made of the recorded ops, with the recorded batch size. The live model is
    not touched: its place is taken by a copy that shares its parameters' memory.

    Args:
        subject: The model.
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
        ImportError: onnxruntime is not installed.
    """
    importlib.import_module("onnxruntime")  # before an export that nobody could try
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _random_states_kept(),
        into_log(),
        torch.no_grad(),
        tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder,
    ):
        return _Attempt(subject, names, Path(folder), path).run()


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
    """The ways to an exported model, the best one first; the first that agrees is taken."""

    def __init__(self, subject: Subject, names: Names, folder: Path, path: Path) -> None:
        self._subject = subject
        self._names = names
        self._folder = folder
        self._path = path
        self._outcome = Trained(0.0)
        self._failures: list[str] = []
        self._unsaid = ""  # why the recorded ops are no file
        self._different: tuple[str, Path] | None = None
        self._probes = Probes(subject.program.examples, subject.inputs)
        self._batch = batch_size(subject.program.examples)
        self._eval_copy = self._copied()

    def run(self) -> Trained:
        outcome = self._outcome
        for number, (make, sizes, remark) in enumerate(self._ways()):
            beside = self._folder / str(number) / self._path.name
            beside.parent.mkdir()
            try:
                make(beside)
                difference, wrong = self._compared(beside, sizes)
            except OptionError:
                raise
            except Exception as error:
                said = isinstance(error, WriterError)
                self._failures.append(str(error) if said else first_line(error))
                if make == self._write_recorded:
                    self._unsaid = self._failures[-1]
                continue
            if not wrong:
                outcome.max_difference = difference
                if remark:
                    outcome.remarks.append(f"model.onnx {remark}{self._because()}")
                outcome.warnings += self._constants(beside, sizes[0])
                outcome.files = _moved(beside, self._path)
                return outcome
            self._failures.append(wrong)
            self._different = self._different or (wrong, beside)
        if self._different is None:
            raise WriterError(self._reasons())
        wrong, beside = self._different
        if self._failures[0] != wrong:  # it is why another way was taken
            wrong = f"{self._failures[0].rstrip('.')}. Made another way: {wrong}"
        final = self._path.with_name(f"{self._path.stem}.differs{self._path.suffix}")
        _moved(beside, final)
        if self._draws():
            raise WriterError(
                f"{wrong} The model gives other outputs at each call in eval mode (it draws random "
                f"numbers), so no file can be compared with it. It is kept as {final.name}."
            )
        raise WriterError(
            f"{wrong} The file is kept as {final.name}: do not use it; please report the model."
        )

    def _draws(self) -> bool:
        """Whether the model gives something else each time it is called with the same inputs."""
        inputs = self._probes.of_size(self._batch or 0)
        try:
            first, second = (self._reference(tuple(t.clone() for t in inputs)) for _ in range(2))
            return any(
                one.shape != other.shape or not torch.allclose(one, other, equal_nan=True)
                for one, other in zip(first, second, strict=True)
            )
        except Exception:
            _LOG.debug("%s is not called twice", self._path.name, exc_info=True)
            return False

    def _constants(self, path: Path, size: int) -> list[str]:
        """Says which inputs have become constants of the file."""
        try:
            names = constant_inputs(path, self._probes.of_size(size), self._reference)
        except Exception:
            _LOG.debug("the inputs of %s are not looked at", path.name, exc_info=True)
            return []
        return [_CONSTANT.format(names=", ".join(names))] if names else []

    def _reasons(self) -> str:
        """What the exporter said first, and why the recorded ops are no way around it."""
        first = self._failures[0]
        if self._unsaid in ("", first):
            return first
        return f"{first.rstrip('.')}. Nor can the recorded ops be written: {self._unsaid}"

    def _because(self) -> str:
        return f": {self._failures[-1]}" if self._failures else ""

    def _ways(self) -> Iterator[tuple[Callable[[Path], None], list[int], str]]:
        """Each way: what writes the file, the batch sizes to try it with, what to say of it."""
        batch = self._batch
        own = [batch or 0]
        if self._eval_copy is not None:
            if batch:
                yield self._export_live(True), [batch, batch + 1, 1], ""
            yield self._export_live(False), own, "has a fixed batch size" if batch else ""
        how = "is made of the recorded ops, in inference form and with the recorded batch size"
        if self._subject.recorded is not None:
            yield self._write_recorded, own, how
        yield self._export_program, own, how

    def _copied(self) -> torch.nn.Module | None:
        try:
            made = eval_copy(self._subject.module)
            self._subject.call(made, self._probes.of_size(self._batch or 0))
        except Exception as error:
            self._failures.append(
                f"the model could not be copied and called in eval mode ({first_line(error)})"
            )
            return None
        return made

    # --- ways

    def _export_live(self, is_dynamic: bool) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            assert self._eval_copy is not None
            batch = self._batch
            # A batch of one would be taken for a fixed size.
            size = 2 if is_dynamic and batch == 1 else batch or 0
            examples = self._probes.of_size(size)
            try:
                outputs = self._subject.call(self._eval_copy, examples)[0]
            except Exception as error:
                raise WriterError(f"a batch of {size}: {first_line(error)}") from error
            flat = _Flat(self._eval_copy, self._subject.call)
            source = replace(
                self._subject.program,
                program=flat,
                examples=examples,
                outputs=outputs,
                state={name: name.removeprefix("module.") for name in flat.state_dict()},
            )
            shapes = (_dynamic_batch(examples, size),) if is_dynamic else None
            _save(convert(source, self._names, shapes), path)

        return write

    def _write_recorded(self, path: Path) -> None:
        assert self._subject.recorded is not None
        try:
            view = self._subject.recorded()
        except Exception as error:
            raise WriterError(first_line(error)) from error
        if view.untranslated or view.reason or view.missing:
            ops = view.reason or ", ".join(view.untranslated or view.missing)
            raise WriterError(f"standard ops cannot say it: {ops}")
        path.write_bytes(view.data)

    def _export_program(self, path: Path) -> None:
        examples = self._probes.of_size(self._batch or 0)
        _save(convert(replace(self._subject.program, examples=examples), self._names), path)

    # --- checks

    def _reference(self, inputs: Tensors) -> Tensors:
        """What the model in eval mode gives; the recorded program where it has no copy."""
        if self._eval_copy is not None:
            return self._subject.call(self._eval_copy, inputs)[1]
        outputs: Tensors = self._subject.program.program(*inputs)
        return outputs

    def _compared(self, path: Path, sizes: list[int]) -> tuple[float, str]:
        """Runs a file beside the model; the largest difference, and what is wrong."""
        try:
            file = _File.opened(path)
        except Exception as error:
            raise WriterError(f"onnxruntime cannot load it: {first_line(error)}") from error
        largest, tried = 0.0, 0
        for number, size in enumerate(sizes):
            inputs = self._probes.of_size(size)
            try:
                expected = self._reference(tuple(tensor.clone() for tensor in inputs))
            except Exception as error:
                if not number:
                    raise WriterError(f"the model in eval mode: {first_line(error)}") from error
                if number == len(sizes) - 1 and tried == 1:
                    return largest, f"The model takes no other batch size: {first_line(error)}"
                continue
            tried += 1
            difference, wrong = file.compared(inputs, expected)
            if wrong:
                return difference, f"{wrong} at batch size {size}."
            largest = max(largest, difference)
        return largest, ""


@dataclass(frozen=True)
class _File:
    """A file that was written, opened by a runtime."""

    name: str
    session: Any
    quantises: bool

    @staticmethod
    def opened(path: Path) -> _File:
        import onnxruntime

        onnx.checker.check_model(str(path), full_check=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it writes to the terminal, past Python
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        model = onnx.load(path, load_external_data=False)
        nodes = [*model.graph.node, *(node for f in model.functions for node in f.node)]
        return _File(path.name, session, any(n.op_type == "QuantizeLinear" for n in nodes))

    def compared(self, inputs: Tensors, expected: Tensors) -> tuple[float, str]:
        """The largest difference between its outputs and what is expected, and what is wrong."""
        taken = [value.name for value in self.session.get_inputs()]
        feed = dict(zip(taken, map(_array, inputs), strict=True))
        try:
            given = self.session.get_outputs()
            found = _flat(self.session.run(None, feed)) if given else []
        except Exception as error:
            return float("inf"), f"onnxruntime cannot run {self.name} ({first_line(error)})"
        if len(found) != len(expected):
            return float("inf"), f"{self.name} gives {len(found)} tensors, not {len(expected)},"
        names = [value.name for value in self.session.get_outputs()]
        largest = 0.0
        for index, (one, wanted) in enumerate(zip(found, expected, strict=True)):
            first, second = torch.as_tensor(one), torch.as_tensor(_array(wanted))
            difference, scale = _difference(first, second)
            largest = max(largest, difference)
            agrees = difference <= TOLERANCE * max(1.0, scale)
            if not agrees and not (self.quantises and _rounds_otherwise(first, second, scale)):
                name = names[index] if len(names) == len(found) else str(index)
                return difference, (
                    f"Output {name!r} of {self.name} differs from the model in eval mode by "
                    f"{difference:.3g} (allowed: {TOLERANCE} of the largest value)"
                )
        return largest, ""


def _rounds_otherwise(found: torch.Tensor, wanted: torch.Tensor, scale: float) -> bool:
    """Whether few values differ, by little: in between two steps, either is right."""
    if found.shape != wanted.shape:
        return False
    apart = (found.double() - wanted.double()).abs()
    return bool(apart.max() <= _STEP * scale and apart.mean() <= _STEP * scale / 10)


def _flat(found: list[Any]) -> list[Any]:
    return [item for value in found for item in (value if isinstance(value, list) else [value])]


def _array(tensor: torch.Tensor) -> Any:
    """As a runtime has it: complex numbers are pairs."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    return (torch.view_as_real(plain) if plain.is_complex() else plain).numpy()


class _Flat(torch.nn.Module):
    """A module that takes and gives tensors one by one."""

    def __init__(self, module: torch.nn.Module, call: Call) -> None:
        super().__init__()
        self.module = module
        self._call = call
        self.train(module.training)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with ReplacedForExport():
            return self._call(self.module, tensors)[1]


def _dynamic_batch(examples: tuple[torch.Tensor, ...], batch: int) -> tuple[Any, ...]:
    size = torch.export.Dim("batch", min=1)
    return tuple(
        {0: size} if tensor.ndim and tensor.shape[0] == batch else None for tensor in examples
    )


def _save(model: ir.Model, path: Path) -> None:
    size = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    external = f"{path.name}.data" if size > _MAX_INSIDE_BYTES else None
    ir.save(model, path, external_data=external)


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
