"""CRC-32C, the checksum of TensorBoard's records, in numpy: its own one does 8 MB a second.

A checksum is linear: of two stretches it is that of the second, and that of the first carried over
as many zero bytes. So many stretches of the data are gone through side by side, a byte of each at
a time, and beside them the 32 bits of a number over zero bytes, which tells how to carry over.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:  # loaded when there is something to write, as with everything that is large
    import numpy
    import numpy.typing

    _Words: TypeAlias = numpy.typing.NDArray[numpy.uint32]

# The polynomial of Castagnoli, its bits reversed.
_POLYNOMIAL = 0x82F63B78
# How many stretches; shorter data than so many bytes for each is gone through byte by byte.
_STRETCHES, _FEWEST_BYTES = 2048, 16


def crc32c(data: bytes) -> int:
    """The checksum of some bytes.

    Args:
        data: Of any length.

    Returns:
        32 bits.
    """
    import numpy

    length = len(data) // _STRETCHES
    checksum = 0xFFFFFFFF
    if length < _FEWEST_BYTES:
        return _plain(checksum, data) ^ 0xFFFFFFFF
    whole = length * _STRETCHES
    stretches = numpy.frombuffer(data, numpy.uint8, whole).reshape(_STRETCHES, length)
    columns = numpy.zeros((length, _STRETCHES + 32), numpy.uint8)
    columns[:, :_STRETCHES] = stretches.T
    words = numpy.zeros(_STRETCHES + 32, numpy.uint32)
    words[_STRETCHES:] = numpy.left_shift(numpy.uint32(1), numpy.arange(32, dtype=numpy.uint32))
    table = _table()
    for column in columns:
        words = table[(words ^ column) & 0xFF] ^ (words >> 8)
    bits = words[_STRETCHES:].tolist()
    for word in words[:_STRETCHES].tolist():
        carried = 0
        while checksum:
            lowest = checksum & -checksum
            carried ^= bits[lowest.bit_length() - 1]
            checksum ^= lowest
        checksum = carried ^ word
    return _plain(checksum, data[whole:]) ^ 0xFFFFFFFF


def _plain(checksum: int, data: bytes) -> int:
    table = _table().tolist()
    for byte in data:
        checksum = table[(checksum ^ byte) & 0xFF] ^ (checksum >> 8)
    return checksum


@functools.cache
def _table() -> _Words:
    """What a byte makes of a checksum of zero."""
    import numpy

    words: _Words = numpy.arange(256, dtype=numpy.uint32)
    for _ in range(8):
        half = numpy.right_shift(words, 1, dtype=numpy.uint32)
        words = half ^ (words & numpy.uint32(1)) * numpy.uint32(_POLYNOMIAL)
    return words
