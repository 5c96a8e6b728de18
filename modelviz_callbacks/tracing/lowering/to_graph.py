"""Lowers a recording to the model graph that people look at."""

from __future__ import annotations

import dataclasses
from types import CodeType
from typing import Any

import torch

from modelviz_callbacks.analysis.notes import notes
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
from modelviz_callbacks.tracing.capture.call_site import source_of
from modelviz_callbacks.tracing.capture.op_kinds import CallKind, classify
from modelviz_callbacks.tracing.capture.pytree import as_walked
from modelviz_callbacks.tracing.capture.recording import (
    Recording,
    argument_slots,
    bound_arguments,
    named_leaves,
    paths_of_arguments,
)
from modelviz_callbacks.tracing.capture.tape import Enter, Leave, OpEntry, Slot, flat_slots
from modelviz_callbacks.tracing.capture.wrappers import class_name, class_of, has_forward
from modelviz_callbacks.tracing.lowering.aliasing import Aliasing
from modelviz_callbacks.tracing.lowering.node_builder import Draft, graph_value, spec_of
from modelviz_callbacks.tracing.lowering.scopes import Scope, ScopeTree
from modelviz_callbacks.tracing.lowering.signatures import named_arguments, op_name, qualified_name


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
    graph = _Lowering(recording).run(name)
    check(graph)
    modules = [(path, has_forward(module)) for path, module in recording.model.named_modules()]
    return dataclasses.replace(graph, notes=graph.notes + notes(graph, modules))


class _Lowering:
    """One pass over one tape."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._names = NameAllocator()
        self._scopes = ScopeTree(recording.model, self._names)
        self._state = recording.state
        self._drafts: list[Draft] = []
        self._refs: dict[Slot, Ref] = {}
        self._memory: Aliasing[Draft] = Aliasing()
        self._sources: dict[tuple[CodeType | None, int], Source | None] = {}
        self._state_refs: dict[str, Ref] = {}
        self._open_calls: dict[str, tuple[int, int]] = {}
        self._op_total = 0

    def run(self, name: str | None) -> ModelGraph:
        recording = self._recording
        self._add_inputs()
        needed = recording.needed(births=False)
        for position, entry in enumerate(recording.tape):
            if isinstance(entry, Enter):
                scope = self._scopes.enter(entry.module, entry.training)
                self._open_calls[scope.name] = (position, self._op_total)
            elif isinstance(entry, Leave):
                self._leave(entry)
            elif needed[position]:
                self._add_op(entry)
        self._add_outputs()
        cls = class_name(recording.model)
        return ModelGraph(
            name=name or cls.rpartition(".")[2],
            class_name=cls,
            nodes=tuple(draft.freeze() for draft in self._drafts),
            modules=tuple(scope.freeze() for scope in self._kept_scopes()),
            parameters=self._parameters(),
            notes=self._notes(),
            partial=bool(recording.error),
            torch_version=torch.__version__.partition("+")[0],
        )

    # --- what goes in and comes out of the whole

    def _add_inputs(self) -> None:
        names = self._names_given_by_the_model()
        for path, slot in self._recording.input_slots():
            path = names.get(slot, path)
            draft = self._draft("input", "input", self._scopes.root, path)
            draft.path = path
            self._define(slot, draft.add_output(spec_of(slot)))
            self._memory.add_source(slot)

    def _names_given_by_the_model(self) -> dict[Slot, str]:
        """What the model's forward calls the tensors that a training step gives it whole."""
        for entry in self._recording.tape:
            if isinstance(entry, Leave) and entry.module is self._recording.model:
                arguments = bound_arguments(entry, 0)
                return {value: name for name, value in arguments.items() if isinstance(value, Slot)}
        return {}

    def _add_outputs(self) -> None:
        if self._recording.error:
            return
        for path, slot in self._recording.output_slots():
            ref = self._read(slot)
            path = self._output_path(path)
            draft = self._draft("output", "output", self._scopes.root, path)
            draft.path = path
            draft.arguments.append(Argument("value", ref))

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
                spec_of(self._state.slot(parameter)),
                parameter.requires_grad,
                names[0].rpartition(".")[0],
                tuple(names[1:]),
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
        return tuple(notes)

    def _kept_scopes(self) -> list[Scope]:
        """All scopes but those of a framework's own modules in which nothing happened."""
        used = {draft.scope.name for draft in self._drafts}
        kept = []
        for scope in reversed(self._scopes.all):
            if scope.path is not None or scope.name in used:
                kept.append(scope)
                used.add(scope.parent.name if scope.parent else "")
        return kept[::-1]

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

    def _ports(self, found: list[tuple[str, Slot]]) -> tuple[Port, ...]:
        return tuple(Port(path, self._refs[slot]) for path, slot in found if slot in self._refs)

    def _add_opaque_call(self, entry: Leave, scope: Scope, saw_ops: bool) -> None:
        """A module whose result no recorded op made: one op from its arguments to it."""
        unseen = [
            slot
            for slot in flat_slots(entry.result)
            if slot.origin is not None and slot not in self._refs
        ]
        if saw_ops or not unseen:
            return  # each unseen tensor has an origin of its own
        draft = self._draft("opaque", class_of(entry.module).__name__, scope)
        draft.target = class_name(entry.module)
        inputs = [*flat_slots(entry.args), *flat_slots(entry.kwargs)]
        for index, slot in enumerate(inputs):
            draft.arguments.append(Argument(f"arg{index}", self._read(slot)))
        for path, tensor in entry.module.named_parameters():
            ref = self._state_ref(tensor)
            if ref is not None:
                draft.arguments.append(Argument(path, ref))
        self._emit(draft)
        for slot in unseen:
            self._define(slot, draft.add_output(spec_of(slot)))
            self._memory.add_result(slot, [])

    # --- ops

    def _add_op(self, entry: OpEntry) -> None:
        kind = classify(entry.func)
        self._op_total += 1
        scope = self._scopes.current
        arguments = [
            Argument(name, self._value(value))
            for name, value in named_arguments(entry.func, entry.args, entry.kwargs or {})
        ]
        draft = self._draft("op", op_name(entry.func), scope, emit=False)
        draft.target = qualified_name(entry.func)
        draft.arguments = arguments
        draft.source = self._source(entry)
        draft.reads_value = kind is CallKind.READ
        self._recording.node_names[id(entry)] = draft.name
        self._emit(draft)
        given = argument_slots(entry)
        written = set(entry.writes)
        results = dict.fromkeys((*flat_slots(entry.result), *entry.writes))
        for slot in results:
            if slot in self._refs:
                continue  # handed back unchanged beside something new
            self._define(slot, draft.add_output(spec_of(slot), is_write=slot in written))
            self._memory.add_result(slot, given)
        for slot in entry.writes:
            self._memory.add_write(slot, draft)
        for slot in results:
            self._memory.sync(slot)  # it was made together with the write

    def _source(self, entry: OpEntry) -> Source | None:
        key = (entry.code, entry.lasti)
        if key not in self._sources:
            self._sources[key] = source_of(*key)
        return self._sources[key]

    def _value(self, value: Any) -> Any:
        return graph_value(value, self._read)

    # --- tensors

    def _read(self, slot: Slot) -> Ref:
        """The value a tensor shows now, after any write through its other views."""
        ref = self._refs.get(slot)
        if ref is None:
            ref = self._explain(slot)
        for writer in self._memory.pending(slot):
            if not any(argument.value == ref for argument in writer.arguments):
                writer.arguments.append(Argument("memory", ref))
            ref = self._refs[slot] = writer.add_output(spec_of(slot), is_write=True)
        return ref

    def _define(self, slot: Slot, ref: Ref) -> None:
        self._refs[slot] = ref

    def _explain(self, slot: Slot) -> Ref:
        """A tensor that no recorded op made gets the node that its origin says."""
        tensor, origin = slot.ref(), slot.origin
        ref = self._state_ref(tensor, slot) if tensor is not None else None
        if ref is None and origin is not None and origin.passes and origin.alias_of:
            self._memory.add_result(slot, [origin.alias_of])
            ref = self._read(origin.alias_of)
        elif ref is None and origin is not None and origin.alias_of is not None:
            ref = self._opaque(UNSEEN_VIEW, [origin.alias_of], slot)
            self._memory.add_result(slot, [origin.alias_of])
        elif ref is None and origin is not None and origin.sources:
            ref = self._opaque(origin.made_by, list(origin.sources), slot)
        if ref is None:
            draft = self._draft("constant", "constant", self._scopes.current, "constant")
            ref = draft.add_output(spec_of(slot))
        self._define(slot, ref)
        if slot not in self._memory:
            self._memory.add_source(slot)
        return ref

    def _opaque(self, op: str, sources: list[Slot], slot: Slot) -> Ref:
        draft = self._draft("opaque", op, self._scopes.current, emit=False)
        draft.target = op
        draft.arguments = [
            Argument(f"arg{index}", self._read(source)) for index, source in enumerate(sources)
        ]
        self._emit(draft)
        return draft.add_output(spec_of(slot))

    def _state_ref(self, tensor: torch.Tensor, slot: Slot | None = None) -> Ref | None:
        """The node of a parameter or buffer, made at its first use."""
        found = self._state.find(tensor)
        if found is None:
            return None
        if found.name not in self._state_refs:
            scope, label = self._home(found.owner, found.label)
            draft = self._draft(found.kind, found.kind, scope, label)
            draft.path, draft.aliases = found.name, found.aliases
            # A lazy module's parameter had no shape yet when it was met.
            met = slot if slot is not None and slot.shape is not None else self._state.slot(tensor)
            self._state_refs[found.name] = draft.add_output(spec_of(met))
        return self._state_refs[found.name]

    def _home(self, owner: str, label: str) -> tuple[Scope, str]:
        """The scope of the module that owns a parameter, else the one that reads it."""
        scope = self._scopes.enclosing(owner) or self._scopes.owner(owner)
        if scope is not None:
            return scope, label
        return self._scopes.current, f"{owner}.{label}"

    # --- drafts

    def _draft(
        self, kind: str, op: str, scope: Scope, label: str | None = None, emit: bool | None = None
    ) -> Draft:
        draft = Draft(self._names.allocate(scope.name, label or op), kind, op, scope)
        if emit if emit is not None else kind != "opaque":
            self._emit(draft)
        return draft

    def _emit(self, draft: Draft) -> None:
        self._drafts.append(draft)
