"""The checksum of TensorBoard's event files: CRC-32C, masked.

TensorBoard computes it in Python, a byte at a time, at some 8 MB a second; the graph of a large
model has 30 MB. A long record is cut into pieces of equal length here, which are taken through
the same table side by side, and then joined: the sum of two pieces is that of the first, moved
on by as many zero bytes as the second has, plus that of the second (a CRC is linear).

CRC-32C is Castagnoli's polynomial, bits reflected (RFC 3720, appendix B.4); the mask is that of
TFRecord files.
"""

from __future__ import annotations

from functools import cache
from typing import Any

_POLYNOMIAL = 0x82F63B78
_ALL_ONES = 0xFFFFFFFF
_MASK_DELTA = 0xA282EAD8

# Bytes of one piece. Its length is the number of vector operations that a record takes, which
# pay for records of many pieces.
_PIECE = 2048
_FEWEST_PIECES = 64


def masked_crc32c(data: bytes) -> int:
    """The masked checksum of a record, as its file holds it: 32 bits."""
    crc = _crc32c(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & _ALL_ONES


def _crc32c(data: bytes) -> int:
    state, done = _ALL_ONES, 0
    if len(data) >= _PIECE * _FEWEST_PIECES:
        done = len(data) // _PIECE * _PIECE
        low, second, third, high = _moved_on_by_a_piece()
        for piece in _sums_of_pieces(memoryview(data)[:done]):
            state = (
                low[state & 255]
                ^ second[state >> 8 & 255]
                ^ third[state >> 16 & 255]
                ^ high[state >> 24]
                ^ piece
            )
    table = _table()
    for byte in memoryview(data)[done:]:
        state = table[(state ^ byte) & 255] ^ state >> 8
    return state ^ _ALL_ONES


@cache
def _table() -> list[int]:
    """What a byte does to the sum."""
    table = []
    for byte in range(256):
        state = byte
        for _ in range(8):
            state = state >> 1 ^ (_POLYNOMIAL if state & 1 else 0)
        table.append(state)
    return table


def _sums_of_pieces(data: memoryview) -> Any:
    """The sum of each piece by itself, begun at zero; as Python's numbers."""
    import numpy

    table = numpy.array(_table(), dtype=numpy.uint32)
    # One row a position of eight bytes: rows are read in order, and made of words quickly.
    words = numpy.frombuffer(data, "<u8").reshape(-1, _PIECE // 8)
    states = numpy.zeros(len(words), dtype=numpy.uint32)
    for row in numpy.ascontiguousarray(words.T):
        for shift in range(0, 64, 8):
            byte = (row >> shift).astype(numpy.uint8) ^ states.astype(numpy.uint8)
            states = table.take(byte) ^ states >> 8
    return states.tolist()


@cache
def _moved_on_by_a_piece() -> tuple[list[int], list[int], list[int], list[int]]:
    """What a piece of zero bytes makes of a sum, by each of the sum's four bytes."""
    table = _table()
    bits = []
    for bit in range(32):
        state = 1 << bit
        for _ in range(_PIECE):
            state = table[state & 255] ^ state >> 8
        bits.append(state)
    low, second, third, high = (_by_byte(bits[start : start + 8]) for start in (0, 8, 16, 24))
    return low, second, third, high


def _by_byte(bits: list[int]) -> list[int]:
    """What each byte becomes, from what its eight bits become."""
    found = [0] * 256
    for byte in range(1, 256):
        top = byte.bit_length() - 1
        found[byte] = found[byte ^ 1 << top] ^ bits[top]
    return found
