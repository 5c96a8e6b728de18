"""Shrinks any transformers configuration to a model of a few thousand parameters.

Works on the names that configurations use: widths, depths, heads, vocabulary, image and
audio sizes. What a model needs beside that is in `OVERRIDES`.
"""

from __future__ import annotations

import re
from typing import Any

VOCABULARY = 96
WIDTH = 32
HEADS = 4
IMAGE = 32

# The first pattern that matches a field's whole name gives its new value (where it is an int).
_SIZES: tuple[tuple[str, int], ...] = (
    (r"type_vocab_size|.*num_labels|.*num_channels|num_feat_extract_layers", 1 << 30),
    (r".*vocab_size.*|n_tokens|vocab_dim", VOCABULARY),
    (r".*(num_hidden_groups|num_key_value_groups)", 1),
    (r".*(num_key_value_heads|n_kv_heads|num_kv_heads|kv_n_heads|kv_heads)", 2),
    (r".*(linear_num_value_heads|linear_num_key_heads)", 2),
    (
        r".*(num_attention_heads|attention_heads|n_head|n_heads|num_heads|mamba_n_heads|heads)",
        HEADS,
    ),
    (r".*(num_hidden_layers|num_layers|n_layer|n_layers|_layers|depth|num_blocks)", 2),
    (r".*(num_local_experts|n_routed_experts|num_experts|moe_num_experts|num_local_expert)", 4),
    (r".*(num_experts_per_tok|moe_topk|moe_k|top_k_experts|num_selected_experts)", 2),
    (r".*(n_group|topk_group|n_shared_experts|num_shared_experts)", 1),
    (r".*(first_k_dense_replace|num_dense_layers)", 1),
    (r".*(moe_intermediate_size|shared_expert_intermediate_size|moe_layer_.*size)", 16),
    (r".*(intermediate_size|ffn_dim|d_ff|n_inner|ffn_hidden_size|mlp_dim|feed_forward.*size)", 48),
    (r".*(intermediate_dim|d_inner|ffn_embed_dim|dim_feedforward|mlp_hidden_.*)", 48),
    (r".*(q_lora_rank|kv_lora_rank|o_lora_rank)", 8),
    (r".*(qk_rope_head_dim|qk_nope_head_dim|v_head_dim|qk_head_dim)", 8),
    (r"rotary_dim", 4),
    (r"mask_(time|feature)_length", 2),
    (r".*(head_dim|d_kv|head_size|dim_head|attention_head_size|d_head)", 8),
    (r".*(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length)", 64),
    (r".*(max_source_positions|max_target_positions|max_2d_position_embeddings)", 64),
    (r".*(sliding_window|local_attention|attention_window)", 16),
    (r".*window_size", 4),
    (r".*(hidden_size|d_model|n_embd|embed_dim|embedding_size|hidden_dim|d_embed)", WIDTH),
    (r".*(projection_dim|projector_dim|encoder_dim|decoder_dim|embedding_dim|emb_dim)", WIDTH),
    (r".*(output_dim|input_dim|conv_dim|feat_proj_dim|proj_size|dim|channels|out_channels)", WIDTH),
    (r".*(image_size|img_size|input_size|resolution)", IMAGE),
    (r".*(patch_size)", 8),
    (r".*(num_mel_bins|n_mels|mel_bins|feature_size)", 16),
    (r".*(state_size|d_state|ssm_state_size|mamba_d_state)", 8),
    (r".*(num_queries|num_query_tokens|num_latents|n_latents|num_frames)", 4),
    (r".*(codebook_size|num_embeddings|num_codebook_vectors)", 16),
)

# Lists are sizes of the stages of a network.
_STAGES: tuple[tuple[str, int], ...] = (
    (r".*(depths|num_layers|layers|num_blocks|depth|n_blocks|layer_repeats)", 1),
    (r".*(num_heads|num_attention_heads|attention_heads)", 2),
    (
        r".*(hidden_sizes|embed_dims|widths|dims|neck_hidden_sizes|channels|conv_dim|out_channels)",
        16,
    ),
)


def tiny(config: Any, overrides: dict[str, Any] | None = None) -> Any:
    """A configuration of the same class with small sizes.

    Args:
        config: An instance with its defaults.
        overrides: Values for fields, a dictionary for a configuration inside.

    Returns:
        A new instance.
    """
    overrides = dict(overrides or {})
    changed: dict[str, Any] = {}
    for name, value in vars(config).items():
        if name.startswith("_") or name in ("transformers_version", "id2label", "label2id"):
            continue
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            inner = overrides.pop(name, {})
            changed[name] = tiny(value, inner) if isinstance(inner, dict) else inner
        else:
            smaller = _smaller(name, value)
            if smaller != value:
                changed[name] = smaller
    made = type(config)(**{**changed, **overrides})
    if getattr(made, "decoder_start_token_id", 0) is None or (
        made.is_encoder_decoder and not hasattr(made, "decoder_start_token_id")
    ):
        made.decoder_start_token_id = 1
    return made


def _smaller(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return _smaller_number(name, value)
    is_list = isinstance(value, (list, tuple)) and value
    if is_list and all(isinstance(item, int) for item in value):
        for pattern, size in _STAGES:
            if re.fullmatch(pattern, name):
                return type(value)([size] * len(value))
        return type(value)([_smaller_number(name, item) for item in value])
    return value


def _smaller_number(name: str, value: int) -> int:
    if re.fullmatch(r".*(token_id|token_index|_token_idx)", name):
        # Special tokens must lie in the small vocabulary, each at a place of its own.
        return value if -1 <= value < 8 else VOCABULARY - 1 - _token_place(name)
    for pattern, size in _SIZES:
        if re.fullmatch(pattern, name):
            return min(value, size)
    return value


def _token_place(name: str) -> int:
    known = ("image", "video", "audio", "vision_start", "vision_end", "boi", "eoi", "mask")
    places = [place for place, word in enumerate(known) if name.startswith(word)]
    return places[0] if places else len(known) + len(name) % 8
