"""Runs an example as its reader does, and keeps a digest of the weights after every step.

Usage: python example_weights.py FILE SCRIPT [ARGUMENT ...]

The file says how many steps there were, the digest, and whether our library was loaded.
"""

from __future__ import annotations

import hashlib
import runpy
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


def watch_fastai(take: Callable[[Iterable[torch.Tensor]], None]) -> None:
    """Its optimizers are none of torch's, and know no such hook."""
    from fastai.optimizer import Optimizer

    inner = Optimizer.step

    def step(self: Any, *args: Any, **kwargs: Any) -> None:
        inner(self, *args, **kwargs)
        take(parameter for parameter, *_ in self.all_params())

    Optimizer.step = step


def main(file: Path, script: str) -> None:
    digest, steps = hashlib.sha256(), 0

    def take(parameters: Iterable[torch.Tensor]) -> None:
        nonlocal steps
        steps += 1
        for parameter in parameters:
            digest.update(parameter.detach().cpu().numpy().tobytes())

    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        take(one for group in optimizer.param_groups for one in group["params"])

    register_optimizer_step_post_hook(after_step)
    if "fastai" in Path(script).name:
        watch_fastai(take)
    sys.argv = [script, *sys.argv[3:]]
    sys.path.insert(0, str(Path(script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
    finally:  # without a recording the rest of a script may miss what that has written
        was_loaded = "modelviz_callbacks" in sys.modules
        file.write_text(f"{steps} {digest.hexdigest()} {was_loaded}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
