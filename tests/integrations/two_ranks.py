"""Trains in several real processes with accelerate and transformers; run by torchrun from a test.

Usage: torchrun --nproc-per-node 2 two_ranks.py FOLDER

Every rank prints ``RANK``, its number, how many there are, and for each trainer whether its weights
are equal to the bit with and without the recording.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy

from modelviz_callbacks import GraphHook
from modelviz_callbacks.integrations.transformers import GraphCallback
from tests.integrations.seen import IN_PLACE, batches, net, same
from tests.integrations.test_transformers import fit


def loop(accelerator: Accelerator, folder: Path | None) -> list[torch.Tensor]:
    model = net()
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
    torch.manual_seed(accelerator.process_index)
    hook = None
    if folder is not None:
        hook = GraphHook(prepared, accelerator=accelerator, dirpath=folder, **IN_PLACE)
    for features, labels in batches():
        optimizer.zero_grad()
        accelerator.backward(cross_entropy(prepared(features), labels))
        optimizer.step()
    if hook is not None:
        hook.close()
    return list(model.parameters())


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    accelerator = Accelerator(cpu=True)
    loops = same(loop(accelerator, None), loop(accelerator, folder / "loop"))
    callback = GraphCallback(**IN_PLACE)
    with_it = fit(folder / "with", callback).model
    without = fit(folder / "without", None).model
    is_first = accelerator.is_main_process
    assert (callback.report is not None) is is_first
    fits = same(with_it.parameters(), without.parameters())
    count = accelerator.num_processes
    # One write: the other ranks' lines must not come in between.
    sys.stdout.write(f"RANK {accelerator.process_index} of {count}: {loops} {fits}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
