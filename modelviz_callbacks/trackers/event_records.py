"""The records of an event file: TensorFlow's ``TFRecord``, as TensorBoard reads it.

A record is the length of its data (64 bits, little-endian), the checksum of these eight bytes,
the data, the checksum of the data. A checksum is CRC-32C, turned and with a number added
("masked"), 32 bits, little-endian. The format is told in TensorFlow's guide
(https://www.tensorflow.org/tutorials/load_data/tfrecord, "TFRecords format details").
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from modelviz_callbacks.errors import TrackerError
from modelviz_callbacks.trackers.checksum import crc32c

_LENGTH, _CHECKSUM = struct.Struct("<Q"), struct.Struct("<I")


def records(messages: Iterable[Any]) -> memoryview:
    """Messages as they stand in a file.

    Args:
        messages: ``Event`` messages of any library.
    """
    content = io.BytesIO()
    for message in messages:
        data = message.SerializeToString()
        for part in (_LENGTH.pack(len(data)), data):
            content.write(part + _CHECKSUM.pack(_masked(crc32c(part))))
    return content.getbuffer()


def read_records(path: Path) -> Iterator[bytes]:
    """The data of each record of a file; one that is cut off at the end is none.

    Args:
        path: A local file.

    Yields:
        One record after the other, so that a large file is never in memory as a whole.

    Raises:
        OSError: It cannot be read.
        TrackerError: A checksum is wrong.
    """
    with path.open("rb") as file:
        while (length := _checked(file, _LENGTH.size)) is not None:
            data = _checked(file, _LENGTH.unpack(length)[0])
            if data is None:
                return
            yield data


def _checked(file: IO[bytes], length: int) -> bytes | None:
    """So many bytes whose checksum follows them; ``None``: the file ends before that."""
    start = file.tell()
    data, checksum = file.read(length), file.read(_CHECKSUM.size)
    if len(data) < length or len(checksum) < _CHECKSUM.size:
        return None
    if _CHECKSUM.unpack(checksum)[0] != _masked(crc32c(data)):
        raise TrackerError(
            f"The event file {file.name} is damaged: of the {length} bytes from byte {start} on, "
            "the checksum is another. Nothing behind them is read."
        )
    return data


def _masked(checksum: int) -> int:
    """As the format has it, since a checksum of what holds checksums says little."""
    turned = (checksum >> 15 | checksum << 17) & 0xFFFFFFFF
    return (turned + 0xA282EAD8) & 0xFFFFFFFF
