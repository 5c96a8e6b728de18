"""Records Llama-3.1-405B's architecture on the meta device: time and memory of the recording.

126 layers, no weights, no downloads. Run it with ``python benchmarks/large_model.py``.
"""

from __future__ import annotations

import resource
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from modelviz_callbacks.tracing import Capture, to_graph
from modelviz_callbacks.tracing.capture.warm_up import warm_up


def main() -> None:
    torch.set_num_threads(2)
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=126,
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
    given = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "use_cache": False,
    }
    warm_up()
    start = time.perf_counter()
    model(**given)
    plain = time.perf_counter() - start

    capture = Capture(model)
    capture.start((), given)
    try:
        start = time.perf_counter()
        result = model(**given)
        recorded = time.perf_counter() - start
    finally:
        capture.stop()
    start = time.perf_counter()
    graph = to_graph(capture.finish(result))
    lowered = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{graph.parameter_count:,} parameters, {len(graph.ops):,} ops")
    print(f"plain meta forward  {plain:6.2f} s")
    print(f"recorded            {recorded:6.2f} s")
    print(f"lowered to a graph  {lowered:6.2f} s")
    print(f"peak memory of the process, torch and transformers included  {peak:,.0f} MiB")


if __name__ == "__main__":
    main()
