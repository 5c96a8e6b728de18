"""What ``graph.onnx`` of Llama-3.1-405B costs, on the meta device: its size, and time over depth.

The same model with 6 and with all 126 layers, no weights, no downloads; each in a process of its
own, so that nothing is remembered from the other. Run it with
``python benchmarks/onnx_scaling.py``.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import torch

DEPTHS = (6, 126)


def measure(layers: int) -> None:
    """Prints the seconds from the recording to the file, and the file's bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from modelviz_callbacks import trace
    from modelviz_callbacks.analysis import Analysis
    from modelviz_callbacks.artifacts.onnx_files import view_of
    from modelviz_callbacks.tracing.lowering.networks import Unit

    torch.set_num_threads(2)
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=layers,
        num_attention_heads=128,
        num_key_value_heads=8,
        max_position_embeddings=131072,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).train()
        ids = torch.zeros(1, 128, dtype=torch.long)
        # Given, so that transformers need not look at values to find packed sequences.
        mask = torch.ones(1, 1, 128, 128, dtype=torch.bool)
        positions = torch.arange(128)[None]
    recorded = trace(
        model, input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False
    )
    graph = recorded.graph
    start = time.perf_counter()
    view = view_of(Unit.whole(recorded._recording), Analysis(graph), None, None, weights=False)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    missing = ", ".join(view.untranslated) or "none"
    print(f"{layers} {seconds:.2f} {len(view.data)} {len(graph.ops)} {peak:.0f} {missing}")


def main() -> None:
    found = {}
    for layers in DEPTHS:
        command = [sys.executable, __file__, str(layers)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        _, seconds, size, ops, peak, missing = answer.strip().splitlines()[-1].split(" ", 5)
        found[layers] = float(seconds)
        print(
            f"{layers:4} layers, {int(ops):6,} ops: {float(seconds):6.2f} s, "
            f"{int(size) / 1e6:5.2f} MB, peak memory {int(peak):,} MiB, not standard: {missing}"
        )
    few, many = DEPTHS
    print(f"{many} layers take {found[many] / found[few]:.2f} times as long as {few}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]))
    else:
        main()
