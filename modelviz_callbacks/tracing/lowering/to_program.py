"""Lowers a recording to a program: a ``torch.fx.GraphModule`` that runs the ops again.

The nodes carry the metadata that torch.export gives its own (``nn_module_stack``,
``stack_trace``), so that torch.export and torch.onnx can take the program from there. State
of the model is referred to, not copied: the program's parameters are the model's own. Where
the recorded forward wrote to state, the program starts from a copy of the old value, so that
running it gives the same result again and leaves the model alone.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from modelviz_callbacks.tracing.capture.call_site import source_of
from modelviz_callbacks.tracing.capture.functorch_levels import (
    Layer,
    LayerSwitch,
    as_strided,
    requires_grad_,
)
from modelviz_callbacks.tracing.capture.op_kinds import CallKind, classify
from modelviz_callbacks.tracing.capture.pytree import Leaf, TreeSpec
from modelviz_callbacks.tracing.capture.qualified_names import qualified_name
from modelviz_callbacks.tracing.capture.recording import Recording, argument_records
from modelviz_callbacks.tracing.capture.tape import (
    Enter,
    Leave,
    OpEntry,
    Origin,
    TensorRecord,
    Within,
    flat_records,
)
from modelviz_callbacks.tracing.capture.torch_internals import (
    enter_autocast,
    exit_autocast,
    set_grad_enabled,
)
from modelviz_callbacks.tracing.capture.wrappers import class_name, class_of
from modelviz_callbacks.tracing.lowering.program_calls import (
    Builder,
    as_large,
    as_many,
    as_recorded,
    call,
    fresh,
    identifier,
    is_method,
    is_python,
    unreplayable,
)
from modelviz_callbacks.tracing.lowering.to_graph import node_names
from modelviz_callbacks.tracing.lowering.told_sizes import ToldSizes
from modelviz_callbacks.tracing.op_facts import property_name, torch_name

# State lives below this attribute, so that no name of the model's hides one of GraphModule's.
STATE = "state"

# Key below which a node's `meta["custom"]` says where it comes from; torch adds keys of its own.
FACTS = "modelviz"


@dataclass
class Program:
    """A recorded stretch as a program.

    Attributes:
        module: Takes the input tensors in the order of ``inputs``, gives back a tuple of
            tensors in the order of ``outputs``.
        inputs: Paths of the input tensors.
        input_records: What is known of them.
        outputs: Paths of the output tensors.
        state: Qualified names of the parameters and buffers, by their names in ``module``.
    """

    module: fx.GraphModule
    inputs: list[str]
    input_records: list[TensorRecord]
    outputs: list[str]
    state: dict[str, str]


def to_program(
    recording: Recording,
    live_state: bool = False,
    is_draft: bool = False,
    before: Mapping[int, torch.Tensor] | None = None,
    checks_reads: bool = False,
) -> Program:
    """The program of a recording.

    Args:
        recording: What a capture gave.
        live_state: Let state that the forward wrote to start from the model's present value
            instead of the recorded one, as that does anyway whose old value was not kept.
        is_draft: Whether it is only to be read, by whoever makes another program of it.
        before: What such state is to start from, by the ``id`` of the parameter or buffer.
        checks_reads: Whether it reads again what Python has read (``x.max().item()``, ``if
            x.sum() > 0``, ``x[mask].shape``), and raises `ReplayError` where that is something
            else.

    Returns:
        The program; one with opaque parts raises `ReplayError` when it comes to them.
    """
    return _Lowering(recording, live_state, before or {}, checks_reads).run(is_draft)


class _Lowering:
    """One pass over one tape."""

    def __init__(
        self,
        recording: Recording,
        live_state: bool,
        before: Mapping[int, torch.Tensor],
        checks_reads: bool,
    ) -> None:
        self._recording = recording
        self._told_sizes = ToldSizes(recording) if checks_reads else None
        self._live_state = live_state
        self._before = before
        self._names = node_names(recording)
        self._graph = fx.Graph()
        self._layers = LayerSwitch(self._graph)
        self._written_by: dict[TensorRecord, fx.Node] = {}
        self._env: dict[TensorRecord, fx.Node] = {}
        self._state = recording.state
        self._attributes: dict[str, Any] = {}
        self._state_names: dict[str, str] = {}
        self._module_stack: dict[str, tuple[str, str]] = {}
        self._stacks: list[dict[str, tuple[str, str]]] = []
        self._paths = {id(module): path for path, module in recording.model.named_modules()}
        self._autocast: tuple[tuple[str, torch.dtype], ...] = ()
        self._autocast_nodes: list[fx.Node] = []
        self._grad = recording.grad
        self._read_of: dict[int, fx.Node] = {}
        self._inputs: list[tuple[str, TensorRecord]] = []
        self._placeholders: set[str] = set()
        # ``None``: before the first node.
        self._last_input: fx.Node | None = None
        self._prologue_end: fx.Node | None = None

    def run(self, is_draft: bool) -> Program:
        recording = self._recording
        for path, record in recording.input_records():
            self._add_input(path, record)
        needed = recording.needed()
        for position, entry in enumerate(recording.tape):
            if isinstance(entry, Enter):
                self._enter(entry)
            elif isinstance(entry, Leave):
                self._leave(entry)
            elif needed[position] and not isinstance(entry, Within):
                self._add(entry)
        self._switch_autocast(())
        self._layers.to(())
        self._switch_grad(recording.grad)
        outputs = recording.output_records()
        self._graph.output(tuple([self._read(record) for _, record in outputs]))
        module = self._layers.make(self._attributes, "Program", is_draft)
        return Program(
            module,
            [path for path, _ in self._inputs],
            [record for _, record in self._inputs],
            [path for path, _ in outputs],
            self._state_names,
        )

    def _add_input(self, path: str, record: TensorRecord) -> fx.Node:
        with self._behind(self._last_input):
            name = identifier(path, len(self._inputs))
            while name in self._placeholders:  # `a.b` and `a_b` are one in Python code
                name = f"{name}_{len(self._inputs)}"
            self._placeholders.add(name)
            node = self._graph.placeholder(name)
        if self._prologue_end is self._last_input:
            self._prologue_end = node
        self._inputs.append((path, record))
        self._last_input = self._env[record] = node
        return node

    # --- module calls

    def _enter(self, entry: Enter) -> None:
        self._stacks.append(self._module_stack)
        path = self._paths.get(id(entry.module), class_of(entry.module).__name__)
        key = f"{path}@{len(self._stacks)}"
        cls = class_name(entry.module)
        self._module_stack = {**self._module_stack, key: (path, cls)}

    def _leave(self, entry: Leave) -> None:
        if entry.unseen:
            self._call_unseen(entry)
        if self._stacks:
            self._module_stack = self._stacks.pop()

    def _call_unseen(self, entry: Leave) -> None:
        """A module whose inside was not recorded is called again as a whole."""
        unseen = [
            record
            for record in flat_records(entry.result)
            if record.origin is not None and record not in self._env and record.previous is None
        ]
        if not unseen or not isinstance(entry.module, torch.jit.ScriptModule):
            return
        target = self._attribute(entry.module, f"call_{len(self._attributes)}")
        args = tuple([self._value(value) for value in entry.args])
        kwargs = {key: self._value(value) for key, value in entry.kwargs.items()}
        node = self._graph.call_function(call, (target, *args), kwargs)
        self._bind(entry.result, node)

    # --- ops

    def _add(self, entry: OpEntry) -> None:
        if entry.gives_number or classify(entry.func) is CallKind.READ:
            if self._told_sizes is not None and entry.gives_number:
                self._check_read(entry)
            return  # the value went to Python; nothing in the program depends on it
        if entry.layers is None:
            with self._after(entry.args[0]):
                self._add_here(entry)
            return
        self._switch_autocast(entry.autocast or ())
        self._layers.to(entry.layers)
        self._switch_grad(entry.grad)
        self._add_here(entry)

    def _after(self, record: TensorRecord) -> AbstractContextManager[Any]:
        """Puts nodes right after what made or wrote a tensor, whatever layers end later."""
        node = self._written_by.get(record) or self._read(record)
        is_call = node.op == "call_function" or node.op == "call_method"
        return self._behind(node if is_call and node.target is not fresh else self._prologue_end)

    def _behind(self, node: fx.Node | None) -> AbstractContextManager[Any]:
        """Puts nodes right after one; at the beginning of the program if that is ``None``."""
        if node is None:
            return self._graph.inserting_before(None)
        return self._graph.inserting_after(node)

    def _add_here(self, entry: OpEntry) -> None:
        only_writes = set(flat_records(entry.result)).issubset(entry.writes)
        is_birth = only_writes and all(record.began_lazy for record in entry.writes)
        if self._live_state and entry.writes and is_birth:
            for record in entry.writes:
                assert record.previous is not None
                self._env[record] = self._read(record.previous)
            return  # the parameter has its value by now
        args = tuple([self._value(value) for value in entry.args])
        kwargs = {key: self._value(value) for key, value in (entry.kwargs or {}).items()}
        node = self._call(entry.func, args, kwargs)
        node.meta["nn_module_stack"] = dict(self._module_stack)
        node.meta["custom"] = {FACTS: self._facts(entry)}
        source = source_of(entry.code, entry.lasti)
        if source is not None:
            place = f'File "{source.file}", line {source.line}, in {source.function}'
            node.meta["stack_trace"] = place
        for record in entry.writes:
            # Whoever reads the tensor later reads the same object.
            assert record.previous is not None
            self._env[record] = self._read(record.previous)
            self._written_by[record] = node
        if self._told_sizes is not None:
            self._check_number(entry, node)
        self._bind(entry.result, node)
        if self._told_sizes is not None:
            self._check_sizes(entry, self._told_sizes)

    def _check_read(self, entry: OpEntry) -> None:
        """Reads again what Python has read, where it is of what is computed here."""
        if any(record not in self._env for record in argument_records(entry)):
            return
        # Whatever layers it ran under are those of the op before, which made what is read.
        args = tuple([self._value(value) for value in entry.args])
        kwargs = {key: self._value(value) for key, value in (entry.kwargs or {}).items()}
        found = self._call(entry.func, args, kwargs)
        name = self._names.get(id(entry), "an op")
        self._graph.call_function(as_recorded, (found, entry.result, name))

    def _check_number(self, entry: OpEntry, node: fx.Node) -> None:
        """Counts again the results that Python took apart."""
        if isinstance(entry.result, (tuple, list)):
            name = self._names.get(id(entry), "an op")
            with self._graph.inserting_after(node):
                self._graph.call_function(as_many, (node, len(entry.result), name))

    def _check_sizes(self, entry: OpEntry, told: ToldSizes) -> None:
        """Looks again how large the results are, where Python did."""
        for record, places, sizes in told.after(entry):
            name = self._names.get(id(entry), "an op")
            node = self._read(record)
            # An op below a transform may stand before others that were there already.
            with self._graph.inserting_after(node):
                self._graph.call_function(as_large, (node, places, sizes, name))

    def _facts(self, entry: OpEntry) -> dict[str, str]:
        """What the exporters carry through to the node's sidebar."""
        source = source_of(entry.code, entry.lasti)
        path, cls = next(reversed(self._module_stack.values()), ("", ""))
        return {
            "name": self._names.get(id(entry), ""),
            "module": path,
            "class": cls.rpartition(".")[2],
            "op": qualified_name(entry.func),
            "source": str(source) if source is not None else "",
        }

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        name = getattr(func, "__name__", "")
        if name == "__get__":
            return self._graph.call_function(getattr, (args[0], property_name(func)))
        if name == "__set__":
            return self._set(property_name(func), *args)
        name = torch_name(func)
        if name == "__setitem__":
            return self._graph.call_function(operator.setitem, args, kwargs)
        if name == "__getitem__":
            return self._graph.call_function(operator.getitem, args, kwargs)
        if self._layers.now and name == "requires_grad_":
            return self._graph.call_function(requires_grad_, args, kwargs)
        if is_method(func, name):
            return self._graph.call_method(name, args, kwargs)
        return self._graph.call_function(func, args, kwargs)

    def _set(self, name: str, tensor: fx.Node, value: Any) -> fx.Node:
        if name not in ("imag", "real"):
            return self._graph.call_function(setattr, (tensor, name, value))
        # What torch does then, in calls that those who read the program know.
        part = self._graph.call_function(getattr, (tensor, name))
        writes = "copy_" if isinstance(value, fx.Node) else "fill_"
        return self._graph.call_method(writes, (part, value))

    def _bind(self, result: Any, node: fx.Node) -> None:
        """Takes the tensors of a result apart, only where somebody may read them."""
        if isinstance(result, TensorRecord):
            self._env.setdefault(result, node)
        elif isinstance(result, (tuple, list)):
            for index, item in enumerate(result):
                if any(True for _ in flat_records(item)):
                    self._bind(item, self._graph.call_function(operator.getitem, (node, index)))
        elif isinstance(result, dict):
            for key, item in result.items():
                self._bind(item, self._graph.call_function(operator.getitem, (node, key)))
        elif isinstance(result, TreeSpec):
            for step, child in zip(result.steps, result.children, strict=True):
                if step.startswith("."):
                    self._bind(child, self._graph.call_function(getattr, (node, step[1:])))
                else:
                    self._bind(child, self._graph.call_function(item, (node, step)))

    def _switch_autocast(self, wanted: tuple[tuple[str, torch.dtype], ...]) -> None:
        if wanted == self._autocast:
            return
        for node in reversed(self._autocast_nodes):
            self._graph.call_function(exit_autocast, (node,))
        self._autocast_nodes = [
            self._graph.call_function(enter_autocast, (device, dtype, True, True))
            for device, dtype in wanted
        ]
        self._autocast = wanted

    def _switch_grad(self, wanted: bool) -> None:
        # What the forward began with is the caller's affair; only changes are the model's.
        if wanted != self._grad:
            self._graph.call_function(set_grad_enabled, (wanted,))
            self._grad = wanted

    # --- values

    def _value(self, value: Any) -> Any:
        if isinstance(value, TensorRecord):
            return self._read(value)
        if isinstance(value, Layer):
            return self._layers.level(value)
        if isinstance(value, torch.Size):
            return tuple(value)
        if isinstance(value, tuple):
            return tuple([self._value(item) for item in value])
        if isinstance(value, list):
            return [self._value(item) for item in value]
        if isinstance(value, dict):
            return {key: self._value(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(self._value(value.start), self._value(value.stop), self._value(value.step))
        if isinstance(value, Leaf):
            return self._value(value.value)
        if isinstance(value, TreeSpec):
            # fx has no node for somebody's own container: put it together when run.
            build = self._attribute(Builder(value), f"builder_{len(self._attributes)}")
            leaves = tuple([self._read(record) for record in flat_records(value)])
            return self._graph.call_function(call, (build, *leaves))
        if isinstance(value, (int, float)) and type(value) not in (bool, int, float):
            # numpy's numbers and enumerations are written into code as names it does not know
            return int(value) if isinstance(value, int) else float(value)
        if isinstance(value, fx.node.base_types) or value is None:
            return value
        return self._attribute(value, f"object_{len(self._attributes)}")

    def _attribute(self, value: Any, name: str) -> fx.Node:
        known = self._read_of.get(id(value))
        if known is None:
            # Where the name cannot stand in Python code, a number stands for it.
            safe = name if is_python(name) else f"tensor_{len(self._attributes)}"
            target = f"{STATE}.{safe}"
            self._attributes[target] = value
            if isinstance(value, torch.Tensor):
                self._state_names[target] = name
            # State is read before anything runs, whatever switches are thrown later.
            with self._behind(self._prologue_end):
                known = self._read_of[id(value)] = self._graph.get_attr(target)
            self._prologue_end = known
        return known

    def _read(self, record: TensorRecord) -> fx.Node:
        node = self._env.get(record)
        if node is None:
            node = self._env[record] = self._explain(record)
        return node

    def _explain(self, record: TensorRecord) -> fx.Node:
        tensor, origin = record.ref(), record.origin
        found = self._state.find(tensor) if tensor is not None else None
        if found is not None and tensor is not None:
            if origin is not None and origin.gathered:
                return self._block(f"the sharded parameter {found.name} was gathered for one call")
            lives = self._live_state and origin is not None and origin.was_lazy
            if origin is None or not origin.written or lives:
                return self._attribute(tensor, found.name)
            start = tensor if self._live_state or origin.value is None else origin.value
            start = self._before.get(id(tensor), start)
            return self._copy_of(start, found.name, tensor.requires_grad)
        if origin is None:
            # Made before this part of the tape began, and not handed to it as an argument.
            return self._add_input(f"captured_{len(self._inputs)}", record)
        if origin.alias_of is not None and origin.gathered:
            return self._fetched(origin, origin.alias_of, record)
        if origin.alias_of is not None and origin.passes:
            return self._read(origin.alias_of)
        if origin.alias_of is not None and record.stride is not None:
            base = self._read(origin.alias_of)
            arguments = (base, tuple(record.shape or ()), record.stride, record.offset)
            func = as_strided if self._layers.now else torch.as_strided
            return self._graph.call_function(func, arguments)
        if origin.value is not None and not origin.sources:
            name = f"constant_{len(self._attributes)}"
            if origin.written:
                return self._copy_of(origin.value, name, record.requires_grad)
            return self._attribute(origin.value, name)
        if origin.value is not None:
            return self._attribute(origin.value, f"constant_{len(self._attributes)}")
        made_by = origin.made_by or "code out of sight"
        return self._block(f"a tensor of shape {record.sizes or '?'} was made by {made_by}")

    def _fetched(self, origin: Origin, placeholder: TensorRecord, record: TensorRecord) -> fx.Node:
        """An offloaded parameter or buffer, by what is known of it from outside of the call."""
        tensor = placeholder.ref()
        found = self._state.find(tensor) if tensor is not None else None
        name = found.name if found is not None else f"constant_{len(self._attributes)}"
        if origin.value is None:
            return self._block(f"the offloaded parameter {name} was fetched for one call")
        if origin.written:
            return self._copy_of(origin.value, name, record.requires_grad)
        return self._attribute(origin.value, name)

    def _block(self, reason: str) -> fx.Node:
        return self._graph.call_function(unreplayable, (reason,))

    def _copy_of(self, value: torch.Tensor, name: str, requires_grad: bool) -> fx.Node:
        kept = self._attribute(value, name)
        with self._behind(self._prologue_end):
            self._prologue_end = self._graph.call_function(fresh, (kept, requires_grad))
        return self._prologue_end
