"""The checksum of event files, held against TensorBoard's own."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from modelviz_callbacks.trackers.checksum import masked_crc32c


@given(st.binary(max_size=300))
def test_short_records_have_tensorboards_checksum(data: bytes) -> None:
    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


@pytest.mark.parametrize("length", [131_071, 131_072, 131_073, 133_119, 133_120, 500_001])
def test_long_records_have_tensorboards_checksum(length: int) -> None:
    data = random.Random(length).randbytes(length)

    assert masked_crc32c(data) == pywrap_tensorflow.masked_crc32c(data)


@pytest.mark.parametrize("place", [0, 2047, 2048, 131_071, 150_000])
def test_one_wrong_bit_anywhere_in_a_long_record_changes_it(place: int) -> None:
    data = bytearray(150_001)
    before = masked_crc32c(bytes(data))
    data[place] ^= 1

    assert masked_crc32c(bytes(data)) != before


def test_the_check_value_of_the_standard_comes_out() -> None:
    # RFC 3720, B.4: 32 bytes of zeros have the CRC 8A 91 36 AA, read from its last byte on.
    crc = 0x8A9136AA
    assert masked_crc32c(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
