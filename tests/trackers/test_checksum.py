"""The checksum of TensorBoard's records."""

from __future__ import annotations

import random

import pytest
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as tensorboards

from modelviz_callbacks.trackers.checksum import crc32c


@pytest.mark.parametrize("length", [0, 1, 9, 32767, 32768, 32769, 100_003])
def test_the_checksum_is_tensorboards_whatever_the_length(length: int) -> None:
    data = random.Random(length).randbytes(length)
    assert crc32c(data) == tensorboards(data)


def test_the_checksum_of_zeros_and_of_the_standard_s_example_are_known() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
