"""What packed bytes consist of: a line that says what they are, JSON, and the raw values.

Nothing in it is code, and nothing is run to read it: JSON gives lists, text and numbers, and
values are raw little-endian bytes that a tensor is laid over.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

# The first line; the number changes whenever the rows do.
_MAGIC = b"modelviz recording 3\n"

# Bytes of the length of the JSON text.
_LENGTH = 8


def join(rows: dict[str, Any], blobs: Sequence[bytes | bytearray]) -> bytes:
    """The bytes of a recording.

    Args:
        rows: What JSON can hold.
        blobs: The raw values, which the rows name by their numbers.

    Returns:
        What `split` reads.

    Raises:
        ValueError: JSON cannot hold it.
        RecursionError: It is nested too deep.
    """
    sizes = [len(blob) for blob in blobs]
    given = {**rows, "blobs": sizes, "byteorder": sys.byteorder}
    # Rows hold no rows twice: nothing to look for, which takes a third of the time.
    text = json.dumps(given, separators=(",", ":"), check_circular=False).encode()
    return b"".join((_MAGIC, len(text).to_bytes(_LENGTH, "little"), text, *blobs))


def split(data: bytes) -> tuple[dict[str, Any], list[memoryview]]:
    """The rows and the raw values in packed bytes.

    Args:
        data: From `join`.

    Raises:
        ValueError: They are something else, cut off, or of a machine with another byte order.
    """
    begin = len(_MAGIC) + _LENGTH
    if data[: len(_MAGIC)] != _MAGIC or len(data) < begin:
        raise ValueError("it does not begin as a recording of this version does")
    end = begin + int.from_bytes(data[len(_MAGIC) : begin], "little")
    if end > len(data):
        raise ValueError("it is cut off")
    rows = json.loads(data[begin:end])
    if not isinstance(rows, dict) or rows.get("byteorder") != sys.byteorder:
        raise ValueError("it is of another kind of machine")
    blobs, view = [], memoryview(data)
    for size in rows["blobs"]:
        if type(size) is not int or not 0 <= size <= len(data) - end:
            raise ValueError("its raw values are cut off")
        blobs.append(view[end : end + size])
        end += size
    if end != len(data):
        raise ValueError("something follows its raw values")
    return rows, blobs
