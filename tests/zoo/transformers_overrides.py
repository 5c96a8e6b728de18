"""What the generic shrinking and the generic inputs do not know about a model type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.zoo.transformers_inputs import BATCH, LENGTH, sizes

# The heads in the order of preference: the first that a model type has is taken.
TASKS = {
    "image-text-to-text": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "speech-seq2seq": "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "ctc": "MODEL_FOR_CTC_MAPPING_NAMES",
    "audio-classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "zero-shot": "MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "object-detection": "MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES",
    "semantic-segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "video-classification": "MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "time-series": "MODEL_FOR_TIME_SERIES_PREDICTION_MAPPING_NAMES",
    "model": "MODEL_MAPPING_NAMES",
}


def _resnet() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic"
    )


_SAME_KV_HEADS = {"num_key_value_heads": 4}
_TWO_STAGES = {"depths": [1, 1], "num_heads": [2, 2], "patch_size": 2, "window_size": 4}

CONFIGS: dict[str, Callable[[], dict[str, Any]]] = {
    "aya_vision": lambda: {"vision_config": {"patch_size": 8}, "downsample_factor": 2},
    "bamba": lambda: {"mamba_n_heads": 4, "mamba_d_head": 16, "attn_layer_indices": [1]},
    "conditional_detr": lambda: {"use_timm_backbone": False, "backbone_config": _resnet()},
    "deepseek_v3": lambda: _SAME_KV_HEADS,
    "deformable_detr": lambda: {"use_timm_backbone": False, "backbone_config": _resnet()},
    "detr": lambda: {"use_timm_backbone": False, "backbone_config": _resnet()},
    "donut-swin": lambda: _TWO_STAGES,
    "gpt_neo": lambda: {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    "informer": lambda: {
        "prediction_length": 4,
        "context_length": 8,
        "lags_sequence": [1, 2],
        "num_time_features": 2,
    },
    "jamba": lambda: {
        "num_hidden_layers": 4,
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "expert_layer_offset": 1,
        "expert_layer_period": 2,
    },
    "llama4_text": lambda: {"layer_types": ["chunked_attention", "full_attention"]},
    "llava": lambda: {"vision_feature_layer": -1},
    "mamba2": lambda: {"num_heads": 8, "head_dim": 8, "n_groups": 2},
    "patchtsmixer": lambda: {
        "context_length": 32,
        "patch_length": 8,
        "patch_stride": 8,
        "num_input_channels": 2,
        "prediction_length": 4,
    },
    "patchtst": lambda: {
        "context_length": 32,
        "patch_length": 8,
        "patch_stride": 8,
        "num_input_channels": 2,
        "prediction_length": 4,
    },
    "perceiver": lambda: {
        "d_latents": 16,
        "max_position_embeddings": 8,
        "num_self_attends_per_block": 1,
    },
    "qwen3_next": lambda: {"layer_types": ["linear_attention", "full_attention"]},
    "swin": lambda: _TWO_STAGES,
    "swinv2": lambda: _TWO_STAGES,
    "table-transformer": lambda: {"use_timm_backbone": False, "backbone_config": _resnet()},
    "time_series_transformer": lambda: {
        "prediction_length": 4,
        "context_length": 8,
        "lags_sequence": [1, 2],
        "num_time_features": 2,
    },
    "wav2vec2-bert": lambda: {"vocab_size": 32},
    "wav2vec2-conformer": lambda: {"vocab_size": 32},
}


def _video(config: Any) -> torch.Tensor:
    frames = sizes(config, "num_frames", "frames_per_clip", default=4)
    return torch.randn(BATCH, frames, 3, 32, 32)


def _image_tokens(count: int, *names: str) -> Callable[[Any], torch.Tensor]:
    """Ids with places for the features of one image in each sequence."""

    def make(config: Any) -> torch.Tensor:
        ids = torch.randint(10, 60, (BATCH, LENGTH + count))
        token = sizes(config, "image_token_id", "image_token_index")
        ids[:, 2 : 2 + count] = token
        return ids

    return make


def _all_ones(count: int) -> Callable[[Any], torch.Tensor]:
    return lambda config: torch.ones(BATCH, count, dtype=torch.long)


def _boxes(config: Any) -> torch.Tensor:
    corner = torch.randint(0, 10, (BATCH, LENGTH, 2))
    return torch.cat([corner, corner + 5], -1)


def _detections(config: Any) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "class_labels": torch.randint(config.num_labels, (count,)),
            "boxes": torch.rand(count, 4) * 0.4 + 0.3,
        }
        for count in (2, 1)
    ]


def _image_and_text(count: int) -> dict[str, Any]:
    return {
        "input_ids": _image_tokens(count),
        "attention_mask": _all_ones(LENGTH + count),
        "labels": _image_tokens(count),
    }


def _images_and_text(count: int) -> dict[str, Any]:
    images = {"pixel_values": lambda config: torch.randn(BATCH, 1, 3, 32, 32)}
    return _image_and_text(count) | images


def _patches(config: Any) -> torch.Tensor:
    vision = config.vision_config
    return torch.randn(16 * BATCH, 3 * vision.temporal_patch_size * vision.patch_size**2)


def _token_kinds(config: Any) -> torch.Tensor:
    kinds = torch.zeros(BATCH, LENGTH + 4, dtype=torch.long)
    kinds[:, 2:6] = 1
    return kinds


_PATCHES_AND_TEXT = _image_and_text(4) | {
    "pixel_values": _patches,
    "image_grid_thw": lambda config: torch.tensor([[1, 4, 4]] * BATCH),
    "mm_token_type_ids": _token_kinds,
}
_SERIES = {
    "past_values": lambda config: torch.randn(BATCH, 10),
    "past_time_features": lambda config: torch.randn(BATCH, 10, 2),
    "past_observed_mask": lambda config: torch.ones(BATCH, 10),
    "future_values": lambda config: torch.randn(BATCH, 4),
    "future_time_features": lambda config: torch.randn(BATCH, 4, 2),
}
_PATCHED_SERIES = {
    "past_values": lambda config: torch.randn(BATCH, 32, 2),
    "future_values": lambda config: torch.randn(BATCH, 4, 2),
}
_DETECTION = {"labels": _detections}

INPUTS: dict[str, dict[str, Any]] = {
    "audio-spectrogram-transformer": {
        "input_values": lambda config: torch.randn(BATCH, config.max_length, config.num_mel_bins)
    },
    "aya_vision": _image_and_text(4),
    "clip": {"return_loss": True},
    "clipseg": {"labels": lambda config: torch.rand(BATCH, 32, 32)},
    "conditional_detr": _DETECTION,
    "decision_transformer": {
        "states": lambda config: torch.randn(BATCH, 5, config.state_dim),
        "actions": lambda config: torch.randn(BATCH, 5, config.act_dim),
        "returns_to_go": lambda config: torch.randn(BATCH, 5, 1),
        "timesteps": lambda config: torch.arange(5).expand(BATCH, 5),
        "attention_mask": None,
    },
    "deformable_detr": _DETECTION,
    "detr": _DETECTION,
    "florence2": _image_and_text(2),
    "got_ocr2": _image_and_text(1),
    "idefics3": _images_and_text(4),
    "informer": _SERIES,
    "internvl": _image_and_text(4),
    "layoutlm": {"bbox": _boxes},
    "llava": _image_and_text(16),
    "lxmert": {
        "visual_feats": lambda config: torch.randn(BATCH, 3, config.visual_feat_dim),
        "visual_pos": lambda config: torch.rand(BATCH, 3, 4),
    },
    "patchtsmixer": _PATCHED_SERIES,
    "patchtst": _PATCHED_SERIES,
    "qwen3_vl": _PATCHES_AND_TEXT,
    "siglip": {"return_loss": True},
    "smolvlm": _images_and_text(4),
    "speech_to_text": {
        "input_features": lambda config: torch.randn(BATCH, 32, config.input_feat_per_channel)
    },
    "table-transformer": _DETECTION,
    "time_series_transformer": _SERIES,
    "timesformer": {"pixel_values": _video},
    "videomae": {"pixel_values": _video},
    "visual_bert": {
        "visual_embeds": lambda config: torch.randn(BATCH, 3, config.visual_embedding_dim),
        "labels": lambda config: torch.randint(10, 60, (BATCH, LENGTH + 3)),
    },
    "vivit": {"pixel_values": _video},
    "wav2vec2-bert": {
        "input_features": lambda config: torch.randn(BATCH, 12, config.feature_projection_input_dim)
    },
    "yolos": _DETECTION,
}
