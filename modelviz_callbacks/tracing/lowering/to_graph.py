"""Lowers a recording to the model graph that people look at."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from modelviz_callbacks.analysis.notes import ModelFacts, notes
from modelviz_callbacks.credentials import without_credentials
from modelviz_callbacks.graph import (
    Argument,
    ModelGraph,
    NameAllocator,
    Note,
    ParameterInfo,
    Port,
    Ref,
    Source,
    check,
)
from modelviz_callbacks.graph.op_facts import UNSEEN_VIEW
from modelviz_callbacks.tracing.capture.call_site import is_library_file, source_of
from modelviz_callbacks.tracing.capture.earlier_arrays import WasThere
from modelviz_callbacks.tracing.capture.op_kinds import CallKind, classify
from modelviz_callbacks.tracing.capture.pytree import Leaf, as_walked
from modelviz_callbacks.tracing.capture.qualified_names import qualified_name
from modelviz_callbacks.tracing.capture.recording import (
    Recording,
    argument_records,
    bound_arguments,
    named_leaves,
    paths_of_arguments,
)
from modelviz_callbacks.tracing.capture.tape import (
    Enter,
    Leave,
    OpEntry,
    TensorRecord,
    Within,
    flat_records,
)
from modelviz_callbacks.tracing.capture.wrappers import (
    class_name,
    class_of,
    told_modules,
)
from modelviz_callbacks.tracing.lowering.aliasing import Aliasing
from modelviz_callbacks.tracing.lowering.described_modules import described
from modelviz_callbacks.tracing.lowering.function_scopes import settle
from modelviz_callbacks.tracing.lowering.node_builder import NodeBuilder, graph_value, spec_of
from modelviz_callbacks.tracing.lowering.scopes import Scope, ScopeTree
from modelviz_callbacks.tracing.lowering.signatures import named_arguments, op_name


def to_graph(recording: Recording, name: str | None = None) -> ModelGraph:
    """The model graph of a recording.

    Args:
        recording: What a capture gave.
        name: What to call the graph; ``None``: the model's class.

    Returns:
        A graph that passes `modelviz_callbacks.graph.validate`.

    Raises:
        GraphError: The graph would break its own rules (a bug in this library).
    """
    lowering = _Lowering(recording)
    graph = lowering.run(name)
    check(graph)
    _NAMES[recording] = lowering.node_names
    calls = tuple(described(graph.modules, recording.model))
    return dataclasses.replace(graph, modules=calls, notes=notes(graph, lowering.facts()))


# What `node_names` gives for a recording, while there is that recording.
_NAMES: WeakKeyDictionary[Recording, Mapping[int, str]] = WeakKeyDictionary()


def node_names(recording: Recording) -> Mapping[int, str]:
    """What the graph of a recording calls the nodes of its ops.

    Args:
        recording: A whole one or a part; of a part it is what the graph of the whole does.

    Returns:
        Names by the ``id`` of the op's entry in ``recording.tape``.
    """
    if recording.node_names is not None:
        return recording.node_names
    names = _NAMES.get(recording)
    if names is None:
        lowering = _Lowering(recording)
        lowering.run(None)
        names = _NAMES[recording] = lowering.node_names
    return names


def _below(name: str, others: Iterable[str]) -> bool:
    """Whether a scope lies inside of another one."""
    return any(name.startswith(f"{other}/") for other in others)


class _Lowering:
    """One pass over one tape."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._names = NameAllocator()
        self._scopes = ScopeTree(recording.model, self._names)
        self._state = recording.state
        self._builders: list[NodeBuilder] = []
        self._refs: dict[TensorRecord, Ref] = {}
        self._memory: Aliasing[NodeBuilder] = Aliasing()
        self._sources: dict[tuple[CodeType | None, int], Source | None] = {}
        self._state_refs: dict[str, Ref] = {}
        self._open_calls: dict[str, tuple[int, int]] = {}
        self._op_total = 0
        self._reads: list[tuple[int, TensorRecord]] = []  # which op read what for Python
        self._fixed: set[TensorRecord] = set()  # made of nothing but numbers
        self._trained: set[int] = set()  # the ids of scopes
        self._trains = False  # whether the model's own code runs with gradients
        self._own_leaves: list[NodeBuilder] = []  # tensors to train that are no parameters
        self.node_names: dict[int, str] = {}

    def run(self, name: str | None) -> ModelGraph:
        recording = self._recording
        self._add_inputs()
        needed = recording.needed(lazy_creation=False)
        for position, entry in enumerate(recording.tape):
            if isinstance(entry, Enter):
                scope = self._scopes.enter(entry.module, entry.training)
                self._open_calls[scope.name] = (position, self._op_total)
            elif isinstance(entry, Leave):
                self._leave(entry)
            elif isinstance(entry, Within):
                self._scopes.within(entry.function)
            elif needed[position]:
                self._note_trained(entry)
                self._add_op(entry)
        self._add_outputs()
        kept = self._kept_scopes()
        settle(kept, self._builders, self._names)
        cls = class_name(recording.model)
        return ModelGraph(
            name=name or cls.rpartition(".")[2],
            class_name=cls,
            nodes=tuple(builder.freeze() for builder in self._builders),
            modules=tuple(scope.freeze() for scope in kept if not scope.merged),
            parameters=self._parameters(),
            notes=self._notes(),
            partial=recording.is_partial,
            torch_version=torch.__version__.partition("+")[0],
        )

    # --- what goes in and comes out of the whole

    def _add_inputs(self) -> None:
        names = self._names_given_by_the_model()
        given: dict[TensorRecord, list[str]] = {}
        for path, record in paths_of_arguments(self._recording.inputs):
            given.setdefault(record, []).append(path)
        for first, record in self._recording.input_records():
            path, *others = names.get(record) or [first, *given.get(record, ())[1:]]
            builder = self._builder("input", "input", self._scopes.root, path)
            builder.path, builder.aliases = path, tuple(others)
            self._define(record, builder.add_output(spec_of(record)))
            self._memory.add_source(record)

    def _names_given_by_the_model(self) -> dict[TensorRecord, list[str]]:
        """What the model's forward calls the tensors that a training step gives it whole."""
        for entry in self._recording.tape:
            if isinstance(entry, Leave) and entry.module is self._recording.model:
                arguments = bound_arguments(entry, 0)
                names: dict[TensorRecord, list[str]] = {}
                for name, value in arguments.items():
                    if isinstance(value, TensorRecord):
                        names.setdefault(value, []).append(name)
                return names
        return {}

    def _add_outputs(self) -> None:
        if self._recording.error:
            return
        for path, record in self._recording.output_records():
            ref = self._read(record)
            path = self._output_path(path)
            builder = self._builder("output", "output", self._scopes.root, path)
            builder.path = path
            builder.arguments.append(Argument("value", ref))

    def _output_path(self, path: str) -> str:
        """A training step that returns one tensor of its own making returns the loss."""
        if path == "out['loss']" and self._recording.is_step:
            return "loss"
        if path == "output" and self._recording.is_step:
            returned = self._refs[self._recording.result]
            if all(port.ref != returned for port in self._scopes.root.outputs):
                return "loss"
        return path

    def _parameters(self) -> tuple[ParameterInfo, ...]:
        return tuple(
            ParameterInfo(
                names[0],
                spec_of(self._state.record(parameter)),
                parameter.requires_grad,
                names[0].rpartition(".")[0],
                tuple(names[1:]),
                None if (found := self._state.find(parameter)) is None else found.packed,
            )
            for names, parameter in self._state.parameters()
        )

    def _notes(self) -> tuple[Note, ...]:
        recording = self._recording
        # They may hold the text of somebody's error, and stand in every file.
        notes = [Note("remark", "", without_credentials(said)) for said in recording.remarks]
        if recording.error:
            message = f"The forward ended early with {recording.error}; this is what ran before."
            notes.append(Note("partial", "", message))
        if recording.fault:
            notes.append(Note("partial", "", recording.fault))
        return tuple(notes)

    def _kept_scopes(self) -> list[Scope]:
        """All but those of a framework's own modules and of functions in which nothing happened.

        A container whose modules are all called by a function groups nothing.
        """
        used = {
            id(scope) for builder in self._builders for scope in (builder.scope, builder.within)
        }
        kept = []
        for scope in reversed(self._scopes.all):
            if (scope.path is not None and scope.called) or id(scope) in used:
                kept.append(scope)
                used.add(id(scope.parent))
        return kept[::-1]

    def facts(self) -> ModelFacts:
        """What the notes say beside the graph; to be asked after `run`."""
        entries = [entry for entry in self._recording.tape if isinstance(entry, OpEntry)]
        of_libraries = {
            self.node_names[id(entry)]
            for entry in entries
            if id(entry) in self.node_names
            and entry.code is not None
            and is_library_file(entry.code.co_filename)
        }
        called = {scope.path for scope in self._scopes.all if scope.called and scope.path}
        return ModelFacts(
            told_modules(self._recording.model, called),
            self._unregistered(),
            [builder.name for builder in self._own_leaves],
            frozenset(of_libraries),
            self._recording.lazy,
            self._names_of_losses(entries),
        )

    def _names_of_losses(self, entries: Sequence[OpEntry]) -> frozenset[str]:
        losses = {*self._recording.losses}
        made = [entry for entry in entries if not losses.isdisjoint(flat_records(entry.result))]
        return frozenset(self.node_names.get(id(entry), "") for entry in made)

    def _note_trained(self, entry: OpEntry) -> None:
        """Keeps in mind in whose calls the model's own code ran what is to be trained.

        A teacher that runs without gradients is not trained; nor has what runs after the forward,
        up to the loss, to be the model's: the other network of a GAN, a loss with weights.
        """
        self._trains = not entry.plumbing and (entry.grad or not self._recording.grad)
        if self._trains:
            self._mark_trained(self._scopes.current)

    def _mark_trained(self, scope: Scope | None) -> None:
        while scope is not None and id(scope) not in self._trained:
            self._trained.add(id(scope))
            scope = scope.parent

    def _unregistered(self) -> list[str]:
        """The calls of modules that have parameters to train, none of which is the model's."""
        found: dict[int, str] = {}
        for scope in self._kept_scopes():
            if id(scope) not in self._trained:
                continue
            if scope.path is None and scope.module is not None and id(scope.module) not in found:
                parameters = [*scope.module.parameters()]
                if any(parameter.requires_grad for parameter in parameters) and not any(
                    self._state.holds(parameter) for parameter in parameters
                ):
                    found[id(scope.module)] = scope.name
        return [name for name in found.values() if not _below(name, found.values())]

    # --- module calls

    def _leave(self, entry: Leave) -> None:
        scope = self._scopes.leave(entry.module)
        if scope is None:
            return  # a wrapper whose call began before the recording
        entered, ops_before = self._open_calls[scope.name]
        if entry.unseen:
            self._add_opaque_call(entry, scope, saw_ops=self._op_total > ops_before)
        scope.inputs = self._ports(paths_of_arguments(bound_arguments(entry, entered)))
        scope.outputs = self._ports(named_leaves(as_walked(entry.result)))

    def _ports(self, found: list[tuple[str, TensorRecord]]) -> tuple[Port, ...]:
        return tuple(
            Port(path, self._refs[record]) for path, record in found if record in self._refs
        )

    def _add_opaque_call(self, entry: Leave, scope: Scope, saw_ops: bool) -> None:
        """A module whose result no recorded op made: one op from its arguments to it."""
        unseen = [
            record
            for record in flat_records(entry.result)
            if record.origin is not None and record not in self._refs
        ]
        if saw_ops or not unseen:
            return  # each unseen tensor has an origin of its own
        self._mark_trained(scope)
        builder = self._builder("opaque", class_of(entry.module).__name__, scope)
        builder.target = class_name(entry.module)
        inputs = [*flat_records(entry.args), *flat_records(entry.kwargs)]
        for index, record in enumerate(inputs):
            builder.arguments.append(Argument(f"arg{index}", self._read(record)))
        for path, tensor in entry.module.named_parameters():
            ref = self._state_ref(tensor)
            if ref is not None:
                builder.arguments.append(Argument(path, ref))
        self._emit(builder)
        for record in unseen:
            self._define(record, builder.add_output(spec_of(record)))
            self._memory.add_result(record, [])

    # --- ops

    def _add_op(self, entry: OpEntry) -> None:
        kind = classify(entry.func)
        self._op_total += 1
        scope = self._scopes.current
        arguments = [
            Argument(name, self._value(value))
            for name, value in named_arguments(entry.func, entry.args, entry.kwargs or {})
        ]
        builder = self._builder("op", op_name(entry.func), scope, emit=False)
        builder.target = qualified_name(entry.func)
        builder.arguments = arguments
        builder.source = self._source(entry)
        builder.reads_value = kind is CallKind.READ or entry.gives_number
        self.node_names[id(entry)] = builder.name
        self._emit(builder)
        given = argument_records(entry)
        if builder.reads_value:
            self._reads += [(self._op_total, record) for record in given]
        elif not given:
            builder.arguments += self._behind_arrays(entry)
            self._fixed.update(flat_records(entry.result))
        written = set(entry.writes)
        results = dict.fromkeys((*flat_records(entry.result), *entry.writes))
        for record in results:
            if record in self._refs:
                continue  # handed back unchanged beside something new
            self._define(record, builder.add_output(spec_of(record), is_write=record in written))
            self._memory.add_result(record, given)
        for record in entry.writes:
            if not record.has_moved:  # what it lies on now was not written to
                self._memory.add_write(record, builder)
        for record in results:
            self._memory.sync(record)  # it was made together with the write

    def _behind_arrays(self, entry: OpEntry) -> list[Argument]:
        """What Python read in this module call, where an op is given an array of numpy's."""
        if not any(map(_is_array, (*entry.args, *(entry.kwargs or {}).values()))):
            return []
        _, start = self._open_calls.get(self._scopes.current.name, (0, 0))
        read = [one for at, one in self._reads if at > start and one not in self._fixed]
        return [Argument("python", self._read(record)) for record in dict.fromkeys(read)]

    def _source(self, entry: OpEntry) -> Source | None:
        key = (entry.code, entry.lasti)
        if key not in self._sources:
            self._sources[key] = source_of(*key)
        return self._sources[key]

    def _value(self, value: Any) -> Any:
        return graph_value(value, self._read)

    # --- tensors

    def _read(self, record: TensorRecord) -> Ref:
        """The value a tensor shows now, after any write through its other views."""
        ref = self._refs.get(record)
        if ref is None:
            ref = self._explain(record)
        for writer in self._memory.pending(record):
            if not any(argument.value == ref for argument in writer.arguments):
                writer.arguments.append(Argument("memory", ref))
            ref = self._refs[record] = writer.add_output(spec_of(record), is_write=True)
        return ref

    def _define(self, record: TensorRecord, ref: Ref) -> None:
        self._refs[record] = ref

    def _explain(self, record: TensorRecord) -> Ref:
        """A tensor that no recorded op made gets the node that its origin says."""
        tensor, origin = record.ref(), record.origin
        ref = self._state_ref(tensor, record) if tensor is not None else None
        if ref is None and origin is not None and origin.passes and origin.alias_of:
            self._memory.add_result(record, [origin.alias_of])
            ref = self._read(origin.alias_of)
        elif ref is None and origin is not None and origin.alias_of is not None:
            ref = self._opaque(UNSEEN_VIEW, [origin.alias_of], record)
            self._memory.add_view(record, origin.alias_of)
        elif ref is None and origin is not None and origin.sources:
            ref = self._opaque(origin.made_by, list(origin.sources), record)
        if ref is None:
            builder = self._builder("constant", "constant", self._scopes.current, "constant")
            ref = builder.add_output(spec_of(record))
            is_own = self._scopes.current.path is not None  # of no layer that is noted as a whole
            if origin is not None and origin.is_leaf and self._trains and is_own:
                self._own_leaves.append(builder)
        self._define(record, ref)
        if record not in self._memory:
            self._memory.add_source(record)
        return ref

    def _opaque(self, op: str, sources: list[TensorRecord], record: TensorRecord) -> Ref:
        builder = self._builder("opaque", op, self._scopes.current, emit=False)
        builder.target = op
        builder.arguments = [
            Argument(f"arg{index}", self._read(source)) for index, source in enumerate(sources)
        ]
        self._emit(builder)
        return builder.add_output(spec_of(record))

    def _state_ref(self, tensor: torch.Tensor, record: TensorRecord | None = None) -> Ref | None:
        """The node of a parameter or buffer, made at its first use."""
        found = self._state.find(tensor)
        if found is None:
            return None
        if found.name not in self._state_refs:
            scope, label = self._home(found.owner, found.label)
            builder = self._builder(found.kind, found.kind, scope, label)
            builder.path, builder.aliases = found.name, found.aliases
            # A lazy module's parameter had no shape yet when it was seen.
            seen = (
                record
                if record is not None and record.shape is not None
                else self._state.record(tensor)
            )
            self._state_refs[found.name] = builder.add_output(spec_of(seen))
        return self._state_refs[found.name]

    def _home(self, owner: str, label: str) -> tuple[Scope, str]:
        """The scope of the module that owns a parameter, else the one that reads it."""
        scope = self._scopes.enclosing(owner) or self._scopes.owner(owner)
        if scope is not None:
            return scope, label
        return self._scopes.current, f"{owner}.{label}"

    # --- builders

    def _builder(
        self, kind: str, op: str, scope: Scope, label: str | None = None, emit: bool | None = None
    ) -> NodeBuilder:
        builder = NodeBuilder(self._names.allocate(scope.name, label or op), kind, op, scope)
        if kind in ("op", "opaque") and scope is self._scopes.current:
            builder.function = self._scopes.function
        if emit if emit is not None else kind != "opaque":
            self._emit(builder)
        return builder

    def _emit(self, builder: NodeBuilder) -> None:
        self._builders.append(builder)


def _is_array(value: Any) -> bool:
    if isinstance(value, WasThere):
        return False
    inside = value.value if isinstance(value, Leaf) else value
    return type(inside).__module__ == "numpy" and hasattr(inside, "__array_interface__")
