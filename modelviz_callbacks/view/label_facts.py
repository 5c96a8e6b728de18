"""What modules say of themselves in labels: ``12 heads``, ``8 experts``, ``top 2``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from modelviz_callbacks.graph.model import ModuleCall
from modelviz_callbacks.graph.values import Argument, Value

# What attributes are called in torch, transformers, timm, torch_geometric and their likes, and
# how what they say is put into words. The first name of each line that a module has counts.
_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "{} heads",
        ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads", "nheads"),
    ),
    ("{} key-value heads", ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_heads")),
    ("{} experts", ("num_experts", "num_local_experts", "n_routed_experts", "n_experts")),
    ("{} shared experts", ("n_shared_experts", "num_shared_experts")),
    ("top {}", ("top_k", "num_experts_per_tok", "topk", "k_experts")),
    ("window {}", ("window_size",)),
    ("shift {}", ("shift_size",)),
    ("patch {}", ("patch_size",)),
    ("state {}", ("d_state", "state_size", "ssm_state_size")),
    ("rank {}", ("lora_rank", "lora_r")),
    ("{} groups", ("num_groups", "n_groups")),
)

# The name of an attribute that is a label already.
_READY = ""


def facts_of_module(call: ModuleCall) -> list[str]:
    """The facts that a module call's attributes tell, in words.

    Args:
        call: Any module call.
    """
    values = {argument.name: argument.value for argument in call.attributes}
    found = [str(a.value) for a in call.attributes if a.name == _READY]
    for words, names in _WORDS:
        name = next((name for name in names if name in values), None)
        text = _number_text(values[name]) if name is not None else ""
        if text and not (text == "0" and words.startswith("shift")):
            found.append(words.format(text) if text != "1" else _one(words))
    return [*found, *_split(call, values)]


def _split(call: ModuleCall, values: Mapping[str, Value]) -> list[str]:
    """How tensor parallelism splits a module's weight, by torch's name for it."""
    dim, ranks = values.get("tensor_parallel_dim"), values.get("tensor_parallel_ranks")
    if dim is None or ranks is None:
        return []
    plans = ("rowwise", "colwise") if "Embedding" in call.type_name else ("colwise", "rowwise")
    plan = plans[dim] if dim in (0, 1) and isinstance(dim, int) else f"split in dimension {dim}"
    local, full = (_number_text(values.get(f"{of}_weight_shape", ())) for of in ("local", "full"))
    return [f"{plan} on {ranks} ranks, {local} of {full} here"]


def with_own_facts(call: ModuleCall, words: Mapping[str, str]) -> ModuleCall | None:
    """A module call with the labels that a user asked for.

    Args:
        call: Any module call.
        words: By attribute how to say it: ``{"dim_head": "head width {}"}``; ``""``: not at all.

    Returns:
        ``None`` where it has none of the attributes.
    """
    asked = {argument.name: argument.value for argument in call.attributes}
    if words.keys().isdisjoint(asked):
        return None
    ready = [
        Argument(_READY, text.format(_number_text(asked[name])))
        for name, text in words.items()
        if name in asked and text
    ]
    kept = [argument for argument in call.attributes if argument.name not in words]
    return replace(call, attributes=(*ready, *kept))


def joined(facts: Iterable[str]) -> str:
    """Facts in one line, each once."""
    return ", ".join(dict.fromkeys(fact for fact in facts if fact))


def _one(words: str) -> str:
    """Of one thing there is no plural."""
    return words.format("1").removesuffix("s") if words.startswith("{}") else words.format("1")


def _number_text(value: Value) -> str:
    parts = value if isinstance(value, tuple) else (value,)
    if not parts or any(isinstance(p, bool) or not isinstance(p, (int, float)) for p in parts):
        return ""
    return "×".join(f"{part:.4g}" if isinstance(part, float) else str(part) for part in parts)
