"""``trace(model, x)``: one forward, recorded now, in this process, with everything in place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import fx
from typing_extensions import Unpack

from modelviz_callbacks.analysis import Analysis
from modelviz_callbacks.artifacts import on_demand
from modelviz_callbacks.artifacts.events import write_graph
from modelviz_callbacks.artifacts.products import graph_of
from modelviz_callbacks.errors import CaptureError, ReplayError
from modelviz_callbacks.graph import ModelGraph
from modelviz_callbacks.libraries import says_what_is_missing
from modelviz_callbacks.options import ShownFields
from modelviz_callbacks.tracing import (
    BackwardSearch,
    Capture,
    LazyResult,
    Nonfinite,
    NonfiniteSearch,
    Program,
    RandomState,
    Recording,
    ValuesBefore,
    ValuesRead,
    difference_of_arguments,
    forward_signature,
    is_lazy,
    losses_among,
    random_devices,
    record_backward,
    run,
    to_backward_graph,
    to_program,
    unwrapped,
    used_up,
)
from modelviz_callbacks.writers.formats import Direction


class Trace:
    """One recorded forward.

    Attributes:
        outputs: What the model returned, untouched; a list of all that a generator or an
            iterator gave, the result of a coroutine.

    Example:
        >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
        >>> t
        <Trace <ModelGraph Linear: 1 ops, 10 parameters>>
        >>> t.outputs.shape
        torch.Size([3, 2])
    """

    def __init__(
        self, recording: Recording, outputs: Any, values_read: ValuesRead | None = None
    ) -> None:
        """Made by `trace`."""
        self._recording = recording
        self._values_read = values_read
        self.outputs = outputs

    @cached_property
    def graph(self) -> ModelGraph:
        """The model graph of this forward.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> [node.name for node in t.graph.nodes]
            ['input', 'weight', 'bias', 'linear', 'output']
        """
        return graph_of(self._recording)

    @cached_property
    def _analysis(self) -> Analysis:
        return Analysis(self.graph)

    @cached_property
    def backward_graph(self) -> ModelGraph | None:
        """The graph of the backward pass that autograd has prepared.

        Its nodes have the names of the forward's, and its ends are the parameters. ``None``
        where no output takes part in autograd. Look at it before ``backward`` frees it, with
        `outputs` still at hand.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> len(t.backward_graph.ops)
            4
        """
        record = record_backward(self._recording, saved=True)
        if record is None:
            return None
        return to_backward_graph(record, self._recording, self.graph)

    def __repr__(self) -> str:
        return f"<Trace {self.graph!r}>"

    def _repr_html_(self) -> str:
        from modelviz_callbacks.writers import notebook

        return notebook.render(self._analysis)

    @property
    def program(self) -> fx.GraphModule:
        """The recorded ops as a program that runs again.

        It takes the input tensors one by one, in the order of ``graph``'s input nodes, and gives
        a tuple of the output tensors; `replay` takes and gives what the model does. Its
        parameters are the model's own, as they are when it runs.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> x = torch.ones(3, 4)
            >>> torch.equal(t.program(x)[0], t.outputs)
            True
        """
        return self._program.module

    @cached_property
    def _program(self) -> Program:
        return to_program(self._recording)

    @cached_property
    def _checked_program(self) -> Program:
        return to_program(self._recording, checks_reads=True)

    def replay(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the recorded ops on other inputs of the same shapes.

        Under the same random state and with the same parameters the result equals the model's
        own to the bit. State that the forward wrote to (batch norm's running statistics) starts
        from its recorded value and the model's own is left alone.

        Args:
            *args: As the model's forward takes them.
            **kwargs: Likewise.

        Returns:
            The same structure as the model's own result.

        Raises:
            ReplayError: A part of the forward could not be seen and cannot be repeated; a number
                that Python reads (``x.max().item()``, ``if x.sum() > 0``) is another one now;
                Python or numpy read several (``.tolist()``, ``.numpy()``) of inputs that are
                others now; what is no tensor among the arguments (a number, a flag) is another
                one now; or they hold another number of tensors than the recorded ones.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> torch.equal(t.replay(torch.ones(3, 4)), t.outputs)
            True
        """
        tensors = self._inputs_of(args, kwargs, reads_again=True)
        return self._recording.result_from(run(self._checked_program, tensors))

    def find_nonfinite(self, *args: Any, **kwargs: Any) -> Nonfinite | None:
        """Finds where NaN or infinite numbers in the loss, its gradients or the outputs come from.

        The recorded ops run again on these inputs, as `replay` runs them, and again with what is
        found mended. That a mask holds ``-inf`` is no finding, unless it reaches the loss. Where
        the loss is finite, its backward runs, too.

        Args:
            *args: As the model's forward takes them.
            **kwargs: Likewise.

        Returns:
            The op that made them first, or the input or weight that held them; it is certain only
            if the loss is finite once this is mended. ``None``: what is called a loss is finite,
            and so are its gradients; where nothing is, each output that is a single number; else
            all outputs, and no gradient is looked at.

        Raises:
            ReplayError: As for `replay`, or an op cannot run on these inputs.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.find_nonfinite(torch.full((3, 4), torch.nan)).kind
            'data'
            >>> t.find_nonfinite(torch.ones(3, 4)) is None
            True
        """
        tensors = self._inputs_of(args, kwargs)
        random_state = RandomState.now(random_devices(self._recording.model))
        given = (self._program, self._recording, tensors, random_state)
        found = NonfiniteSearch(*given).find()
        if found.first is not None or not torch.is_grad_enabled():
            return found.first
        losses, is_loss = losses_among(self._recording.output_records())
        gradients = [
            torch.ones_like(one) if is_loss and place in losses else None
            for place, one in enumerate(found.outputs)
        ]
        return BackwardSearch(*given).find(gradients)

    def _inputs_of(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], reads_again: bool = False
    ) -> list[torch.Tensor]:
        """The tensors among arguments, for a program to be run on, which may read numbers again."""
        if self._recording.fault:
            raise ReplayError(f"This recording cannot be run again. {self._recording.fault}")
        tensors = self._recording.tensors_of(args, kwargs)
        expected = len(self._program.inputs)
        if len(tensors) != expected:
            raise ReplayError(
                f"The recording takes {expected} tensor(s) ({', '.join(self._program.inputs)}), "
                f"{len(tensors)} were given. Call replay with arguments like the recorded ones."
            )
        other = difference_of_arguments(self._recording, args, kwargs)
        if other:
            raise ReplayError(
                f"The recording cannot be run on these arguments: {other}. What Python made of it "
                "is part of the recording. Call trace() with the new arguments."
            )
        read = self._values_read
        op = read.changed(tensors, but_single=reads_again) if read is not None else ""
        if op:
            raise ReplayError(
                f"The recording cannot be run on these inputs: at {op} Python or numpy read values "
                "that come from them, and what it made of those is not recorded. Call trace() "
                "with the new inputs."
            )
        return tensors

    def save_onnx(
        self,
        path: str | Path,
        weights: bool = False,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
    ) -> Path:
        """Writes the graph as ONNX for Netron.

        Args:
            path: The file, ending in ``.onnx``.
            weights: Whether the weights go along.
            input_names: Names for the model's inputs, one for each tensor; ``None``: their own.
            output_names: Names for its outputs, likewise.

        Returns:
            The path.

        Raises:
            MissingLibraryError: onnx or onnxscript is not installed.
            WriterError: The graph cannot be turned into ONNX.
            SinkError: The file cannot be written.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.save_onnx("graph.onnx", input_names=["features"]).name
            'graph.onnx'
        """
        with says_what_is_missing():
            return on_demand.save_onnx(
                self._recording, self.graph, path, weights, input_names, output_names
            )

    def save_svg(
        self,
        path: str | Path,
        depth: int | None = None,
        direction: Direction = "auto",
        **shown: Unpack[ShownFields],
    ) -> Path:
        """Draws the graph as SVG.

        Args:
            path: The file.
            depth: How many levels of modules are opened; ``None``: as many as stay readable.
            direction: ``"down"``, ``"right"``, or ``"auto"``: down, in columns where that is high.
            **shown: ``fold_classes``, ``hide_classes``, ``rename_classes``, ``label_facts``, as
                `GraphHook` takes them.

        Returns:
            The path.

        Raises:
            MissingLibraryError: What draws it is not installed.
            OptionError: A value of ``shown`` is impossible.
            WriterError: The graph cannot be drawn.
            SinkError: The file cannot be written.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.save_svg("graph.svg").name
            'graph.svg'
        """
        return on_demand.save(self._analysis, "svg", path, depth, direction, shown)

    def save_png(
        self,
        path: str | Path,
        depth: int | None = None,
        direction: Direction = "auto",
        **shown: Unpack[ShownFields],
    ) -> Path:
        """Draws the graph as PNG; arguments and errors as for `save_svg`.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.save_png("graph.png").name
            'graph.png'
        """
        return on_demand.save(self._analysis, "png", path, depth, direction, shown)

    def save_html(
        self, path: str | Path, depth: int | None = None, **shown: Unpack[ShownFields]
    ) -> Path:
        """Writes the interactive page; arguments and errors as for `save_svg`.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.save_html("index.html").name
            'index.html'
        """
        return on_demand.save(
            self._analysis, "html", path, depth, shown=shown, recording=self._recording
        )

    def save_backward_svg(
        self, path: str | Path, depth: int | None = None, **shown: Unpack[ShownFields]
    ) -> Path:
        """Draws the backward pass as SVG; arguments and errors as for `save_svg`.

        Raises:
            CaptureError: No output takes part in autograd.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.save_backward_svg("backward.svg").name
            'backward.svg'
        """
        return on_demand.save(self._backward_analysis, "svg", path, depth, shown=shown)

    def save_backward_html(
        self, path: str | Path, depth: int | None = None, **shown: Unpack[ShownFields]
    ) -> Path:
        """Writes the backward pass as an interactive page; see `save_backward_svg`.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.save_backward_html("backward.html").name
            'backward.html'
        """
        return on_demand.save(self._backward_analysis, "html", path, depth, shown=shown)

    @cached_property
    def _backward_analysis(self) -> Analysis:
        graph = self.backward_graph
        if graph is None:
            raise CaptureError(
                "There is no backward pass to draw: no output of the model requires a gradient. "
                "Trace it with gradients enabled and parameters that are trained."
            )
        return Analysis(graph)

    def save_text(
        self, path: str | Path, depth: int | None = None, **shown: Unpack[ShownFields]
    ) -> Path:
        """Writes what ``print(trace.graph)`` shows; arguments and errors as for `save_svg`.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.save_text("graph.txt").name
            'graph.txt'
        """
        return on_demand.save(self._analysis, "text", path, depth, shown=shown)

    def save_mermaid(
        self, path: str | Path, depth: int | None = None, **shown: Unpack[ShownFields]
    ) -> Path:
        """Writes a mermaid diagram; arguments and errors as for `save_svg`.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.save_mermaid("graph.mmd").name
            'graph.mmd'
        """
        return on_demand.save(self._analysis, "mermaid", path, depth, shown=shown)

    def write_tensorboard(self, log_dir: Any) -> None:
        """Writes the graph for TensorBoard.

        Args:
            log_dir: A directory for a new event file, or an open ``SummaryWriter``.

        Raises:
            MissingLibraryError: protobuf or numpy is not installed.
            TrackerError: It cannot be written there.

        Example:
            >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
            >>> t.write_tensorboard("runs/linear")
        """
        with says_what_is_missing():
            write_graph(self._analysis, log_dir)


def trace(model: torch.nn.Module | Callable[..., Any], *args: Any, **kwargs: Any) -> Trace:
    """Runs one forward of a model, as it is and with the flags it has, and records it.

    Args:
        model: Any module, or a method of one (``policy.evaluate_actions``).
        *args: What its forward, or the method, takes.
        **kwargs: Likewise.

    Returns:
        The recording.

    Raises:
        CaptureError: ``model`` is neither a module nor a method of one.
        Exception: Whatever the forward raises goes on untouched.

    Example:
        >>> t = trace(nn.Linear(4, 2), torch.ones(3, 4))
        >>> t.graph.parameter_count
        10
    """
    owner, signature = model, None
    if inspect.ismethod(model) and isinstance(model.__self__, torch.nn.Module):
        owner, signature = model.__self__, inspect.signature(model)
    if not isinstance(owner, torch.nn.Module):
        raise CaptureError(
            f"trace() records a torch.nn.Module, it was given a {type(model).__name__}. "
            "Wrap a function in a module whose forward calls it."
        )
    before = _values_before(signature or forward_signature(owner), args, kwargs)
    capture = Capture(unwrapped(owner), owner)
    capture.start(args, kwargs, signature, is_step=False)
    try:
        outputs = model(*args, **kwargs)
        if is_lazy(outputs):  # its ops run only while somebody takes values out of it
            outputs = used_up(LazyResult(capture).stand_in(outputs))
    finally:
        capture.stop()
    recording = capture.finish(outputs)
    on_demand.warn_if_partial(recording)
    return Trace(recording, outputs, _values_read(recording, before))


def _values_before(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ValuesBefore | None:
    """What goes into a model; ``None`` where that cannot be told."""
    try:
        return ValuesBefore(signature, args, kwargs)
    except Exception:  # nothing of ours may end what is traced
        return None


def _values_read(recording: Recording, before: ValuesBefore | None) -> ValuesRead | None:
    """What Python read of the inputs; ``None`` where that cannot be told."""
    try:
        return None if before is None else ValuesRead(recording, before)
    except Exception:  # nothing of ours may end what was traced
        return None
