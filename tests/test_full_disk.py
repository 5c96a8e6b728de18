"""A sample of `benchmarks.faults.full_disks`."""

from __future__ import annotations

import pytest

from benchmarks.faults.full_disks import disk, faults_on


def test_a_disk_that_is_full_at_any_stage_has_whole_files_or_none_and_costs_one_warning() -> None:
    counts = []
    for size_kb in (4, 12, 64, 300, 2000):
        with disk(size_kb) as folder:
            if folder is None:
                pytest.skip("only root may mount a file system")
            faults, count = faults_on(folder, in_place=True, onnx=False)
        assert faults == [], f"{size_kb} kB"
        counts.append(count)
    assert counts[0] < counts[-2] < counts[-1]
