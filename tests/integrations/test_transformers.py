"""``GraphCallback`` of transformers: what its Trainer trains, and where its trackers write."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from modelviz_callbacks import ModelGraph
from modelviz_callbacks.integrations.transformers import GraphCallback
from tests.integrations.seen import IN_PLACE, events_in, graph_of, same
from tests.samples import one_and_the_rest_slow

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|transformers|accelerate|peft)")


def bert() -> PreTrainedModel:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=16,
            num_labels=3,
        )
    )


ROWS = [
    {"input_ids": torch.arange(6) + index, "labels": torch.tensor(index % 3)} for index in range(16)
]


def fit(
    folder: Path,
    callback: TrainerCallback | None,
    model: Any = None,
    trainer: type[Trainer] = Trainer,
    **options: Any,
) -> Trainer:
    settings: dict[str, Any] = {
        "max_steps": 3,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 1,
    }
    rows = options.pop("rows", ROWS)
    kind = options.pop("arguments", TrainingArguments)
    made = trainer(
        bert() if model is None else model,
        kind(str(folder), **settings | options),
        train_dataset=rows,
        callbacks=[callback] if callback is not None else [],
    )
    made.train()
    return made


def recorded(folder: Path, **options: Any) -> ModelGraph:
    callback = GraphCallback(**IN_PLACE)
    fit(folder, callback, **options)
    return graph_of(callback.report)


def test_the_batch_by_its_keys_the_model_and_its_loss_are_recorded(tmp_path: Path) -> None:
    graph = recorded(tmp_path)
    assert graph.class_name.endswith("BertForSequenceClassification")
    assert {"input_ids", "labels"} <= {node.name for node in graph.of_kind("input")}
    (loss,) = graph.of_kind("output")
    assert loss.name == "loss"
    assert "cross_entropy" in {node.op for node in graph.ops}
    assert graph.parameter_count == sum(p.numel() for p in bert().parameters())


def test_the_loss_with_smoothed_labels_is_the_trainers_own(tmp_path: Path) -> None:
    graph = recorded(tmp_path, label_smoothing_factor=0.1)
    ops = [node.op for node in graph.ops]
    assert "cross_entropy" not in ops
    assert "log_softmax" in ops
    assert [node.name for node in graph.of_kind("output")] == ["loss"]


def test_a_loss_function_of_a_subclass_is_recorded(tmp_path: Path) -> None:
    class WithPenalty(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(model, inputs, *args, **kwargs).square()

    (loss,) = recorded(tmp_path, trainer=WithPenalty).of_kind("output")
    assert loss.inputs[0].node == "square"


@pytest.mark.parametrize(
    "options",
    one_and_the_rest_slow(
        [
            {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2},
            {},
            {"gradient_checkpointing": True},
            {"bf16": True},
        ]
    ),
    ids=lambda options: next(iter(options), "plain"),
)
def test_weights_are_the_same_to_the_bit_with_and_without(
    options: dict[str, Any], tmp_path: Path
) -> None:
    callback = GraphCallback(**IN_PLACE)
    with_it = fit(tmp_path / "with", callback, **options).model
    without = fit(tmp_path / "without", None, **options).model
    assert same(with_it.parameters(), without.parameters())
    assert [node.name for node in graph_of(callback.report).of_kind("output")] == ["loss"]


def test_adapters_of_peft_are_in_the_graph_and_the_rest_is_frozen(tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS")
    graph = recorded(tmp_path, model=get_peft_model(bert(), config))
    assert any("lora_A" in node.name for node in graph.ops)
    assert 0 < graph.trainable_count < graph.parameter_count


def test_an_encoder_and_decoder_are_recorded_with_the_sequence_to_sequence_trainer(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=40, d_model=8, d_ff=16, d_kv=4, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    rows = [{"input_ids": torch.arange(5) + i, "labels": torch.arange(4) + i} for i in range(8)]
    graph = recorded(
        tmp_path,
        model=T5ForConditionalGeneration(config),
        trainer=Seq2SeqTrainer,
        arguments=Seq2SeqTrainingArguments,
        rows=rows,
    )
    assert {call.name for call in graph.modules} >= {"encoder", "decoder"}
    assert "loss" in {node.name for node in graph.of_kind("output")}


@pytest.mark.parametrize("background", [False, pytest.param(True, marks=pytest.mark.process)])
def test_the_trainers_tensorboard_run_gets_the_graph(tmp_path: Path, background: bool) -> None:
    callback = GraphCallback(**IN_PLACE | {"background": background})
    fit(tmp_path, callback, report_to=["tensorboard"])
    graph_of(callback.report)
    (run,) = (tmp_path / "runs").iterdir()
    found = events_in(run)
    assert found.Tags()["graph"]
    assert len(found.Scalars("train/loss")) == 3
    assert (run / "model_graph" / "graph.txt").exists()


@pytest.mark.slow
@pytest.mark.process
def test_the_trainers_mlflow_run_gets_the_files(
    tmp_path: Path, fluent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "work")
    monkeypatch.setenv("HF_MLFLOW_LOG_ARTIFACTS", "0")
    callback = GraphCallback(**IN_PLACE)
    fit(tmp_path, callback, report_to=["mlflow"])
    graph_of(callback.report)
    assert callback.report is not None
    run_id = callback.report.mlflow_run_id
    run = fluent.client.get_run(run_id)
    assert run.data.tags["modelviz.class"].endswith("BertForSequenceClassification")
    assert "loss" in run.data.metrics
    stored = {item.path for item in fluent.client.list_artifacts(run_id, "model_graph")}
    assert "model_graph/graph.txt" in stored
    assert mlflow.active_run() is None


def test_without_trackers_the_files_are_in_the_output_folder(tmp_path: Path) -> None:
    callback = GraphCallback(**IN_PLACE)
    fit(tmp_path, callback)
    assert callback.report is not None
    assert Path(callback.report.folder) == tmp_path / "model_graph"


class Looks(TrainerCallback):
    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self.seen: list[bool] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        if self.trainer is not None:
            self.seen.append("compute_loss" in vars(self.trainer))


def test_training_that_goes_on_from_a_checkpoint_keeps_the_graph_that_is_there(
    tmp_path: Path,
) -> None:
    saved = {"save_strategy": "steps", "save_steps": 2}
    first, second, third = (GraphCallback(**IN_PLACE) for _ in range(3))
    goes_on = fit(tmp_path, first, **saved)
    goes_on.remove_callback(first)
    goes_on.add_callback(second)
    goes_on.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert second.report is not None
    assert "The graph is the one that was there already" in " ".join(second.report.remarks)
    fit(tmp_path, third, **saved)
    assert third.report is not None
    assert third.report.folder == str(tmp_path / "model_graph_2")


def test_after_the_first_step_nothing_is_left_on_the_trainer(tmp_path: Path) -> None:
    looks = Looks()
    callback = GraphCallback(**IN_PLACE)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, report_to=[], save_strategy="no", use_cpu=True
    )
    trainer = Trainer(bert(), arguments, train_dataset=ROWS, callbacks=[callback, looks])
    looks.trainer = trainer
    trainer.train()
    assert looks.seen == [True, False, False]


def test_an_error_of_the_model_goes_on_and_the_graph_up_to_there_is_kept(tmp_path: Path) -> None:
    class Fails(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            super().compute_loss(model, inputs, *args, **kwargs)
            raise RuntimeError("of the user")

    callback = GraphCallback(**IN_PLACE)
    with pytest.raises(RuntimeError, match="of the user"):
        fit(tmp_path, callback, trainer=Fails)
    assert ModelGraph.load(tmp_path / "model_graph" / "graph.json").partial


def test_a_callback_that_no_trainer_calls_says_so(tmp_path: Path) -> None:
    callback = GraphCallback(**IN_PLACE, dirpath=tmp_path)
    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    trainer = Trainer(bert(), arguments)
    callback.on_train_begin(arguments, trainer.state, trainer.control, model=trainer.model)
    assert callback.report is not None
    (refusal,) = callback.report.refused
    assert "no transformers.Trainer" in refusal.why


def test_a_copy_of_the_callback_is_for_another_run(tmp_path: Path) -> None:
    callback = GraphCallback(**IN_PLACE)
    fit(tmp_path, callback)
    assert callback.report is not None
    assert copy.deepcopy(callback).report is None
    assert pickle.loads(pickle.dumps(callback)).report is None
