"""The trainers of trl, which are transformers' with losses of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import trl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from modelviz_callbacks.integrations.transformers import GraphCallback
from tests.integrations.seen import IN_PLACE, graph_of, same

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|transformers|accelerate|trl|datasets)")

_WORDS = ["[PAD]", "[UNK]", "[EOS]", "the", "cat", "sat", "on", "a", "mat", "dog", "ran", "far"]
_SETTINGS: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "max_length": 16,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(_WORDS)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]"
    )


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(_WORDS),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=2,
        )
    )


def trained(kind: str, folder: Path, callback: GraphCallback | None) -> list[torch.Tensor]:
    texts = {"prompt": "the cat", "chosen": " sat on a mat", "rejected": " ran far"}
    if kind == "SFT":
        texts = {"text": "the cat sat on a mat"}
    rows = datasets.Dataset.from_dict({name: [text] * 8 for name, text in texts.items()})
    reference = {"ref_model": llama()} if kind == "DPO" else {}
    trainer = getattr(trl, f"{kind}Trainer")(
        llama(),
        args=getattr(trl, f"{kind}Config")(str(folder), **_SETTINGS),
        train_dataset=rows,
        processing_class=tokenizer(),
        callbacks=[callback] if callback is not None else [],
        **reference,
    )
    trainer.train()
    return list(trainer.model.parameters())


@pytest.mark.parametrize("kind", ["SFT", "DPO"])
def test_a_trainer_of_trl_has_its_loss_in_the_graph_and_trains_the_same(
    kind: str, tmp_path: Path
) -> None:
    callback = GraphCallback(**IN_PLACE)
    with_it = trained(kind, tmp_path / "with", callback)
    assert same(with_it, trained(kind, tmp_path / "without", None))
    graph = graph_of(callback.report)
    assert graph.class_name.endswith("LlamaForCausalLM")
    assert [node.name for node in graph.of_kind("output")] == ["loss"]
    assert graph.parameter_count == sum(one.numel() for one in llama().parameters())
    # The reference model of DPO, which runs without gradients, is no layer that was forgotten.
    assert "unregistered" not in {note.kind for note in graph.notes}
