"""Numbers for what stands on a tape in several places, given when they are first asked for.

Each is a dictionary, so that a known number costs no call in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from modelviz_callbacks.tracing.capture.tape import Facts, TensorRecord, plain_facts

_Key = TypeVar("_Key")


class Numbers(dict[_Key, int]):
    """The numbers of what has a row in some table."""

    def __init__(self, rows: list[Any], write: Callable[[_Key], Any]) -> None:
        """Knows none yet.

        Args:
            rows: The table.
            write: Gives the row of a key.
        """
        super().__init__()
        self.rows = rows
        self._write = write

    def __missing__(self, key: _Key) -> int:
        """Adds a row."""
        self[key] = number = len(self.rows)
        self.rows.append(self._write(key))
        return number


class RecordNumbers(dict[TensorRecord, int]):
    """The numbers of records.

    Attributes:
        rows: The records in the order of their numbers; a version comes after the one before it.
    """

    def __init__(self) -> None:
        """Knows none yet."""
        super().__init__()
        self.rows: list[TensorRecord] = []

    def __missing__(self, record: TensorRecord) -> int:
        """Adds a record, and the versions before it."""
        previous = record.previous
        if previous is None or previous in self:
            self[record] = number = len(self.rows)
            self.rows.append(record)
            return number
        new = [record]
        while previous is not None and previous not in self:
            new.append(previous)
            previous = previous.previous
        for one in reversed(new):
            self[one] = len(self.rows)
            self.rows.append(one)
        return self[record]


class FactNumbers(Numbers[Facts]):
    """The numbers of what is known of tensors."""

    def __init__(self, rows: list[Any]) -> None:
        """Knows none yet.

        Args:
            rows: The table.
        """
        super().__init__(rows, _facts_row)

    def of(self, records: list[TensorRecord]) -> list[int]:
        """The numbers for some records."""
        try:
            return [self[record.facts] for record in records]
        except (TypeError, RuntimeError):  # a size that is a symbol
            return [self._of_any(record.facts) for record in records]

    def _of_any(self, facts: Facts) -> int:
        try:
            return self[facts]
        except (TypeError, RuntimeError):
            self.rows.append(_facts_row(facts))
            return len(self.rows) - 1


def _facts_row(facts: Facts) -> list[Any]:
    sizes, dtype, device, requires_grad, stride, offset = plain_facts(facts)
    return [sizes, str(dtype), str(device), requires_grad, stride, offset]
