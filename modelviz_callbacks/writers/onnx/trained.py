"""``model.onnx``: the trained model for running, checked against the model itself."""

from __future__ import annotations

import contextlib
import importlib
import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from modelviz_callbacks.errors import OptionError, WriterError
from modelviz_callbacks.writers.onnx.comparison import WrittenFile
from modelviz_callbacks.writers.onnx.constant_inputs import constant_inputs
from modelviz_callbacks.writers.onnx.convert import Names, Source, convert, first_line
from modelviz_callbacks.writers.onnx.draws import Numbers
from modelviz_callbacks.writers.onnx.eval_model import Call, EvalModel
from modelviz_callbacks.writers.onnx.exporter_output import into_log
from modelviz_callbacks.writers.onnx.model_copy import buffers_kept
from modelviz_callbacks.writers.onnx.probe_inputs import Probes, Tensors, batch_size
from modelviz_callbacks.writers.onnx.view import View

# Above this a protobuf message cannot hold the weights; they go into a file beside it.
_MAX_INSIDE_BYTES = 1_800_000_000

_CONSTANT = (
    "model.onnx does not read {names}, though the model does: what was made of the recorded "
    "batch's is a constant in the file (Python or numpy in between). Do not use it with other "
    "values."
)

_DRAWS = (
    "model.onnx draws random numbers of its own each time it runs, as the model does in eval mode. "
    "From the numbers that it drew the model gave the same."
)

_ROUNDED = (
    "The model computes in {type} in eval mode, in places at least: model.onnx was compared with "
    "it within the rounding of that type."
)

_HOW = "is made of the recorded ops, in inference form and with the recorded batch size"

# An export that took longer is not tried in another form before the recorded ops are.
_LONG_S = 20

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Again:
    """What is to be recorded: a copy of the model in eval mode.

    Attributes:
        module: The copy.
        inputs: What to call it with.
        around: Gives what to call it in.
    """

    module: torch.nn.Module
    inputs: Tensors
    around: Callable[[], AbstractContextManager[object]]


# Makes a file with the trained weights, as `view_model` does, of the recorded ops, or of those of
# a copy that is recorded for it.
Recorded = Callable[[Again | None], View]


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
        recorded: Makes a file of recorded ops, for a model that the exporter refuses.
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
        buffers_kept(subject.module),
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
        self._file_draws = False  # whether the last one that was made does
        self._unsaid = ""  # why the recorded ops are no file
        self._different: tuple[str, Path] | None = None
        self._probes = Probes(subject.program.examples, subject.inputs)
        self._batch = batch_size(subject.program.examples)
        self._model = self._copied()

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
                if remark == _HOW and make != self._export_program:
                    self._unsaid = self._failures[-1]
                continue
            if not wrong:
                outcome.max_difference = difference
                outcome.remarks += self._remarks(remark)
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
        kept = f"It is kept as {final.name}."
        if self._draws:
            raise WriterError(
                f"{wrong} The model draws random numbers in eval mode, and from those that the "
                f"file drew it gives something else. {kept}"
            )
        if self._differs_by_itself():
            raise WriterError(
                f"{wrong} The model gives other outputs at each call in eval mode, so no file can "
                f"be compared with it. {kept}"
            )
        raise WriterError(
            f"{wrong} The file is kept as {final.name}: do not use it; please report the model."
        )

    def _remarks(self, way: str) -> Iterator[str]:
        """What is to be said of the file that was taken; ``way``: of how it was made."""
        if way:
            yield f"model.onnx {way}{self._because()}"
        if self._file_draws:
            yield _DRAWS
        if self._rounds_to:
            yield _ROUNDED.format(type=self._rounds_to)

    @property
    def _draws(self) -> bool:
        return self._model is not None and bool(self._model.numbers)

    @property
    def _rounds_to(self) -> str:
        return self._model.rounds_to if self._model is not None else ""

    def _is_steady(self, inputs: Tensors) -> bool:
        return self._model is not None and self._model.is_steady(inputs)

    def _differs_by_itself(self) -> bool:
        """Whether the model gives something else each time it is called with the same inputs."""
        try:
            return not self._is_steady(self._probes.of_size(self._batch or 0))
        except Exception:
            _LOG.debug("%s is not called twice", self._path.name, exc_info=True)
            return False

    def _constants(self, path: Path, size: int) -> list[str]:
        """Says which inputs have become constants of the file."""
        drawn = (self._model.numbers or None) if self._model is not None else None
        try:
            inputs = self._probes.of_size(size)
            names = constant_inputs(path, inputs, lambda given: self._reference(given, drawn))
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
        model = self._model
        if model is not None:
            began = time.thread_time()
            if batch:
                yield self._export_live(model, True), [batch, batch + 1, 1], ""
            fixed = "has a fixed batch size" if batch else ""
            ways = [(self._export_live(model, False), own, fixed)]
            if self._subject.recorded is not None:
                ways.append((self._write_recorded(self._again(model)), own, _HOW))
            # The other one takes a part of the time only, whatever the exporter found hard.
            yield from reversed(ways) if time.thread_time() - began > _LONG_S else ways
        if self._draws:
            return  # the recorded ops draw in other ways than what a file can be compared with
        if self._subject.recorded is not None:
            yield self._write_recorded(None), own, _HOW
        yield self._export_program, own, _HOW

    def _copied(self) -> EvalModel | None:
        try:
            inputs = self._probes.of_size(self._batch or 0)
            return EvalModel(self._subject.module, self._subject.call, inputs)
        except WriterError:
            raise
        except Exception as error:
            self._failures.append(
                f"the model could not be copied and called in eval mode ({first_line(error)})"
            )
            return None

    # --- ways

    def _export_live(self, model: EvalModel, is_dynamic: bool) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            batch = self._batch
            # A batch of one would be taken for a fixed size.
            size = 2 if is_dynamic and batch == 1 else batch or 0
            examples = self._probes.of_size(size)
            try:
                outputs = model.paths(examples)
            except Exception as error:
                raise WriterError(f"a batch of {size}: {first_line(error)}") from error
            flat = model.flat()
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

    def _again(self, model: EvalModel) -> Again:
        return Again(model.module, self._probes.of_size(self._batch or 0), model.recorded)

    def _write_recorded(self, again: Again | None) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            assert self._subject.recorded is not None
            try:
                view = self._subject.recorded(again)
            except OptionError:
                raise
            except Exception as error:
                raise WriterError(first_line(error)) from error
            if view.untranslated or view.reason or view.missing:
                ops = view.reason or ", ".join(view.untranslated or view.missing)
                raise WriterError(f"standard ops cannot say it: {ops}")
            path.write_bytes(view.data)

        return write

    def _export_program(self, path: Path) -> None:
        examples = self._probes.of_size(self._batch or 0)
        _save(convert(replace(self._subject.program, examples=examples), self._names), path)

    # --- checks

    def _reference(self, inputs: Tensors, drawn: Numbers | None = None) -> Tensors:
        """What the model in eval mode gives; the recorded program where it has no copy."""
        if self._model is not None:
            return self._model.run(inputs, drawn)
        outputs: Tensors = self._subject.program.program(*inputs)
        return outputs

    def _compared(self, path: Path, sizes: list[int]) -> tuple[float, str]:
        """Runs a file beside the model; the largest difference, and what is wrong."""
        file = WrittenFile.opened(path, self._draws)
        self._file_draws = bool(file.draws)
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
            try:
                found, drawn = file.run(inputs)
            except WriterError as error:
                return float("inf"), f"{error} at batch size {size}."
            if drawn:
                expected = self._reference(inputs, drawn)
            elif self._draws and not self._is_steady(inputs):
                raise WriterError("the file draws no random numbers, and the model does")
            difference, wrong = file.compared(found, expected, bool(self._rounds_to))
            if wrong:
                return difference, f"{wrong} at batch size {size}."
            largest = max(largest, difference)
        return largest, ""


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
