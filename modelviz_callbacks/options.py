"""The options, the same for every way of recording, checked once."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, TypedDict, get_args

from modelviz_callbacks.errors import OptionError
from modelviz_callbacks.view.display_rules import Rules
from modelviz_callbacks.writers.formats import Direction as Direction
from modelviz_callbacks.writers.formats import Format as Format

FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Options:
    """What to write, and where.

    Attributes:
        dirpath: Folder for the files, itself: files of an earlier recording that its report.json
            lists are replaced. Where it has files of the user's own (scripts, checkpoints):
            ``model_graph`` in it. ``None``: ``<log dir>/model_graph`` in Lightning,
            ``./model_graph/<name>`` in a plain loop; a folder that is there already is of another
            recording, and this one's is called ``<name>_2``. A URL that fsspec knows
            (``"s3://..."``) gets a copy of the files at the end.
        name: What the graph is called; ``None``: the model's class name.
        tensorboard: ``True``: the run's own writer if there is one, else a new one beside the
            files; a ``SummaryWriter`` or a directory: there; ``False``: not at all.
        mlflow: ``None``: the MLFlowLogger's run or the active one, if any; ``True``: start a
            run where there is none; a run id or a tracking URI: there; ``False``: not at all.
        tracker: ``True``: the W&B run and the ClearML task that are open, if any; such a run, a
            function that is called with the files and the figures, a folder's URL that fsspec
            knows (``"s3://..."``), or a list of them: these; ``False``: none.
        onnx: Write ``graph.onnx``, for looking at in Netron.
        onnx_weights: Put the weights of the first batch into it.
        trained_onnx: Write, check and run ``model.onnx`` with the trained weights at the end.
        input_names: Names for the model's inputs in ONNX, in order.
        output_names: Names for its outputs.
        formats: Which of ``"svg"``, ``"png"``, ``"html"``, ``"text"``, ``"markdown"``,
            ``"csv"`` to write.
        depth: How many levels of modules the pictures open; ``None``: as many as stay
            readable.
        fold_classes: Classes of modules that pictures show as one box, never opened. Patterns:
            ``*`` and ``?`` stand for any characters and for one.
        hide_classes: Classes and ops that pictures leave out: what reads their result is drawn
            as reading their input.
        rename_classes: What pictures call classes and ops, by pattern.
        label_facts: How labels tell attributes of modules, by the attribute's name:
            ``{"dim_head": "head width {}"}``; beside those that are known (heads, experts, ...),
            or in their place; ``""``: not at all.
        direction: Which way pictures run: ``"down"``, ``"right"``, or ``"auto"``: down, in
            columns where that would be more than three times as high as wide.
        profile_step: Number of a training step to time op by op, from 1 on (step 0 is the one
            that is recorded); ``None``: none.
        inspect_step: Number of a training step, or several, in which to look at the outputs of
            modules, the gradients and the updates of parameters; from 1 on; ``None``: none.
        watch_changes: After how many training steps one is recorded again, to see whether the
            graph has changed; ``None``: never.
        find_nonfinite: Where a loss is not finite, find the op that made the first NaN or infinite
            number, by replaying the recorded ops on that batch.
        background: Do slow work in a process of its own; ``False``: in place.
        on_error: ``"warn"``: a failure is a warning and a line in the report; ``"raise"``: it
            is raised.

    Raises:
        OptionError: A value has a wrong type or is impossible.
    """

    dirpath: str | PathLike[str] | None = None
    name: str | None = None
    tensorboard: Any = True
    mlflow: bool | str | None = None
    tracker: Any = True
    onnx: bool = True
    onnx_weights: bool = False
    trained_onnx: bool = False
    input_names: Sequence[str] | None = None
    output_names: Sequence[str] | None = None
    formats: Sequence[Format] = FORMATS
    depth: int | None = None
    fold_classes: Sequence[str] = ()
    hide_classes: Sequence[str] = ()
    rename_classes: Mapping[str, str] | None = None
    label_facts: Mapping[str, str] | None = None
    direction: Direction = "auto"
    profile_step: int | None = None
    inspect_step: int | Sequence[int] | None = None
    watch_changes: int | None = None
    find_nonfinite: bool = False
    background: bool = True
    on_error: Literal["warn", "raise"] = "warn"

    def __post_init__(self) -> None:
        for name in ("onnx", "onnx_weights", "trained_onnx", "find_nonfinite", "background"):
            self._require(name, isinstance(getattr(self, name), bool), "True or False")
        is_path = self.dirpath is None or isinstance(self.dirpath, (str, PathLike))
        self._require("dirpath", is_path, "a folder's path or None")
        is_name = self.name is None or (isinstance(self.name, str) and self.name.strip() != "")
        self._require("name", is_name, "a name that is not empty, or None")
        self._require_tensorboard()
        is_target = self.mlflow is None or isinstance(self.mlflow, (bool, str))
        self._require("mlflow", is_target, "True, False, None, a run id or a tracking URI")
        is_odd = self.tracker is None or isinstance(self.tracker, (str, bytes, int, float))
        is_tracker = isinstance(self.tracker, bool) or not is_odd
        is_tracker |= isinstance(self.tracker, str) and "://" in self.tracker
        self._require("tracker", is_tracker, "True, False, a run, a function, a URL, or a list")
        self._require("on_error", self.on_error in ("warn", "raise"), "'warn' or 'raise'")
        for name, least in (("depth", 1), ("profile_step", 1), ("watch_changes", 1)):
            value = getattr(self, name)
            is_number = value is None or _is_number_from(least, value)
            self._require(name, is_number, f"a number from {least} on, or None")
        self._require_steps()
        for name in ("input_names", "output_names", "formats", "fold_classes", "hide_classes"):
            self._make_tuple(name)
        self._make_dictionary("rename_classes", "a dictionary from patterns to names, or None")
        self._make_dictionary("label_facts", "a dictionary from attributes to words, or None")
        is_direction = self.direction in get_args(Direction)
        self._require("direction", is_direction, "'auto', 'down' or 'right'")
        _ = self.rules
        self._require_names("input_names")
        self._require_names("output_names")
        self._require_formats()

    @property
    def steps_to_inspect(self) -> tuple[int, ...]:
        """The numbers of the steps that `inspect_step` names, ascending."""
        value = self.inspect_step
        return () if value is None else (value,) if isinstance(value, int) else tuple(value)

    @property
    def watches_forwards(self) -> bool:
        """Whether forwards after the recorded one are compared with it, or replayed by it."""
        return self.find_nonfinite or self.watch_changes is not None

    @property
    def rules(self) -> Rules:
        """What pictures fold, hide and rename."""
        return Rules.of(self.fold_classes, self.hide_classes, self.rename_classes, self.label_facts)

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            value = getattr(self, name)
            raise OptionError(
                f"Option {name}={value!r} ({type(value).__name__}) cannot be used: expected "
                f"{expected}."
            )

    def _make_tuple(self, name: str) -> None:
        """Keeps a sequence of its own: a generator can be read only once."""
        value = getattr(self, name)
        if value is None or isinstance(value, str):
            return
        try:
            object.__setattr__(self, name, tuple(value))
        except TypeError:
            self._require(name, False, "a list of names")

    def _make_dictionary(self, name: str, expected: str) -> None:
        """Keeps a dictionary of its own."""
        value = getattr(self, name)
        self._require(name, value is None or isinstance(value, Mapping), expected)
        if value is not None:
            object.__setattr__(self, name, dict(value))

    def _require_tensorboard(self) -> None:
        value = self.tensorboard
        is_target = isinstance(value, (bool, str, PathLike)) or hasattr(value, "add_scalar")
        expected = "True, False, a SummaryWriter or a directory"
        self._require("tensorboard", is_target or hasattr(value, "add_event"), expected)

    def _require_steps(self) -> None:
        expected = "a number from 1 on, a list of such numbers, or None"
        value = self.inspect_step
        if value is None or _is_number_from(1, value):
            steps = self.steps_to_inspect
        else:
            is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))
            self._require("inspect_step", is_list, expected)
            steps = tuple(value) if isinstance(value, Iterable) else ()
            are_numbers = all(_is_number_from(1, step) for step in steps)
            self._require("inspect_step", are_numbers, expected)
            object.__setattr__(self, "inspect_step", tuple(sorted({*steps})) or None)
        is_other = self.profile_step not in steps
        expected = "another step than profile_step: one is timed, or looked into, not both"
        self._require("inspect_step", is_other, expected)

    def _require_names(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        are_names = not isinstance(value, str) and all(
            isinstance(item, str) and item for item in value
        )
        self._require(name, are_names, "a list of names that are not empty, or None")
        self._require(name, len(set(value)) == len(value), "names that differ")

    def _require_formats(self) -> None:
        self._require(
            "formats", not isinstance(self.formats, str), f"a list of some of {', '.join(FORMATS)}"
        )
        for item in self.formats:
            if item not in FORMATS:
                close = difflib.get_close_matches(str(item), FORMATS, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise OptionError(
                    f"Option formats has the unknown format {item!r}{hint} "
                    f"Known are {', '.join(FORMATS)}."
                )


def _is_number_from(least: int, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


class ShownFields(TypedDict, total=False):
    """How a graph is shown, as keyword arguments; see `Options`."""

    fold_classes: Sequence[str]
    hide_classes: Sequence[str]
    rename_classes: Mapping[str, str] | None
    label_facts: Mapping[str, str] | None


class OptionFields(TypedDict, total=False):
    """The options as keyword arguments; see `Options`."""

    dirpath: str | PathLike[str] | None
    name: str | None
    tensorboard: Any
    mlflow: bool | str | None
    tracker: Any
    onnx: bool
    onnx_weights: bool
    trained_onnx: bool
    input_names: Sequence[str] | None
    output_names: Sequence[str] | None
    formats: Sequence[Format]
    depth: int | None
    fold_classes: Sequence[str]
    hide_classes: Sequence[str]
    rename_classes: Mapping[str, str] | None
    label_facts: Mapping[str, str] | None
    direction: Direction
    profile_step: int | None
    inspect_step: int | Sequence[int] | None
    watch_changes: int | None
    find_nonfinite: bool
    background: bool
    on_error: Literal["warn", "raise"]


def make_options(**given: Any) -> Options:
    """The options from keyword arguments.

    Args:
        **given: Some of the fields of `Options`.

    Returns:
        The options.

    Raises:
        OptionError: A name is unknown, or a value wrong.
    """
    known = [field.name for field in dataclasses.fields(Options)]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise OptionError(f"There is no option {name!r}.{hint} Known are {', '.join(known)}.")
    return Options(**given)
