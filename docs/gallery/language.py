"""Networks that read words or hear them."""

from __future__ import annotations

import torch

from docs.gallery.entry import Built, Entry

LENGTH, WORDS = 12, 100


def words(length: int = LENGTH) -> torch.Tensor:
    """Two sentences, as numbers of words."""
    return torch.randint(0, WORDS, (2, length))


def _given(*names: str) -> dict[str, torch.Tensor]:
    """The same two sentences under each name: the loss of a language model needs no more."""
    read = words()
    return dict.fromkeys(names, read)


def bert() -> Built:
    """BERT with twelve layers that fills in words."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=64,
    )
    given = _given("input_ids", "labels")
    return BertForMaskedLM(config), {**given, "attention_mask": torch.ones(2, LENGTH)}


def gpt_config(layers: int = 12) -> object:
    """A narrow GPT-2."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=WORDS, n_embd=32, n_layer=layers, n_head=4, bos_token_id=0, eos_token_id=0
    )


def gpt() -> Built:
    """GPT-2 with twelve layers, with its loss."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel(gpt_config()), _given("input_ids", "labels")


def lora() -> Built:
    """The same with low-rank adapters in its attention."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    adapters = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    model = get_peft_model(GPT2LMHeadModel(gpt_config()), adapters)
    return model, _given("input_ids", "labels")


def llama() -> Built:
    """Llama, with rotary positions and grouped heads."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config), _given("input_ids", "labels")


def mixtral() -> Built:
    """Mixtral: eight experts, of which a router takes two for each word."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=8,
    )
    return MixtralForCausalLM(config), _given("input_ids", "labels")


def t5() -> Built:
    """T5 with six layers each in encoder and decoder."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=WORDS,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=6,
        num_heads=4,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    return model, {"input_ids": words(), "labels": words(8)}


def whisper() -> Built:
    """Whisper (tiny): four layers each in encoder and decoder."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=WORDS,
        num_mel_bins=16,
        d_model=32,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=32,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        decoder_start_token_id=1,
    )
    model = WhisperForConditionalGeneration(config)
    return model, {"input_features": torch.randn(2, 16, 64), "labels": words(8)}


def mamba() -> Built:
    """Mamba with four layers."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=WORDS, hidden_size=32, state_size=8, num_hidden_layers=4, time_step_rank=4
    )
    return MambaForCausalLM(config), _given("input_ids", "labels")


def wav2vec2() -> Built:
    """wav2vec 2.0: seven convolutions over the wave, then a transformer."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    config = Wav2Vec2Config(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        apply_spec_augment=False,
    )
    return Wav2Vec2ForCTC(config), {"input_values": torch.randn(2, 8000), "labels": words(4)}


def clip() -> Built:
    """CLIP: four layers each for the image and for the text."""
    from transformers import CLIPConfig, CLIPModel

    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    }
    config = CLIPConfig(
        text_config={"vocab_size": WORDS, "eos_token_id": 2, **sizes},
        vision_config={"image_size": 32, "patch_size": 8, **sizes},
        projection_dim=16,
    )
    given = {"input_ids": words(), "pixel_values": torch.randn(2, 3, 32, 32), "return_loss": True}
    return CLIPModel(config), given


ENTRIES = (
    Entry(
        "bert",
        "BERT",
        "words, positions and segments added; 12 × (attention over all words, MLP); a head",
        bert,
    ),
    Entry(
        "gpt",
        "GPT-2",
        "words and positions; 12 × (norm, causal attention, norm, MLP) with skips; the next word",
        gpt,
    ),
    Entry(
        "llama",
        "Llama",
        "decoder layers: RMS norm, attention with rotary positions, gated MLP",
        llama,
    ),
    Entry(
        "mixtral",
        "Mixtral",
        "a router in each layer takes two of eight experts",
        mixtral,
    ),
    Entry("t5", "T5", "encoder left, decoder right, cross attention between", t5),
    Entry(
        "whisper",
        "Whisper",
        "two convolutions over a spectrogram, encoder; a decoder of words with cross attention",
        whisper,
    ),
    Entry(
        "clip",
        "CLIP",
        "image encoder and text encoder side by side; every image compared with every text",
        clip,
    ),
    Entry(
        "wav2vec2",
        "wav2vec 2.0",
        "convolutions over the wave, then a transformer over what they found",
        wav2vec2,
    ),
    Entry(
        "mamba",
        "Mamba",
        "each layer: projection, convolution, selective state space, gate",
        mamba,
    ),
    Entry(
        "lora",
        "GPT-2 with LoRA",
        "beside the frozen weights of the attention a low-rank way, A then B",
        lora,
    ),
)
