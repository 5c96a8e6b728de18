"""Ignite, skorch, Stable-Baselines3: the first step of their own engines."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from ignite.engine import Engine, Events, create_supervised_trainer
from ignite.handlers import TensorboardLogger
from sklearn.base import clone
from skorch import NeuralNetClassifier
from skorch.callbacks import TensorBoard
from stable_baselines3 import A2C, DQN, PPO
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks
from torch.utils.tensorboard import SummaryWriter

from modelviz_callbacks import ModelGraph
from modelviz_callbacks.errors import CaptureError
from modelviz_callbacks.integrations.ignite import GraphHandler
from modelviz_callbacks.integrations.skorch import GraphCallback as SkorchCallback
from modelviz_callbacks.integrations.stable_baselines3 import GraphCallback as AgentCallback
from tests.integrations.seen import (
    IN_PLACE,
    NET_OPS,
    batches,
    events_in,
    graph_of,
    net,
    same,
)

pytestmark = pytest.mark.filterwarnings("ignore:::(torch|skorch|gymnasium|stable_baselines3)")

# --- Ignite


def ignite_trainer(model: nn.Module) -> Engine:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return create_supervised_trainer(model, optimizer, nn.CrossEntropyLoss())


def test_an_engines_first_iteration_is_recorded_with_its_loss_into_its_loggers_run(
    tmp_path: Path,
) -> None:
    model = net()
    engine = ignite_trainer(model)
    logger = TensorboardLogger(log_dir=str(tmp_path / "run"))
    logger.attach_output_handler(
        engine,
        Events.ITERATION_COMPLETED,
        tag="train",
        output_transform=lambda loss: {"loss": loss},
    )
    handler = GraphHandler(model, loggers=[logger], **IN_PLACE).attach(engine)
    engine.run(batches(), max_epochs=2)
    logger.close()

    graph = graph_of(handler.report)
    assert [node.op for node in graph.ops][:5] == [*NET_OPS, "cross_entropy"]
    assert [node.path for node in graph.of_kind("input")] == ["features", "batch[1]"]
    assert [node.name for node in graph.of_kind("output")] == ["loss"]
    found = events_in(tmp_path / "run")
    assert found.Tags()["graph"]
    assert len(found.Scalars("train/loss")) == 8
    without = net()
    ignite_trainer(without).run(batches(), max_epochs=2)
    assert same(model.parameters(), without.parameters())


def test_a_second_run_of_an_engine_keeps_the_first_graph_unless_it_has_changed(
    tmp_path: Path,
) -> None:
    model = net()
    engine = ignite_trainer(model)
    logger = TensorboardLogger(log_dir=str(tmp_path / "run"))
    handler = GraphHandler(model, loggers=[logger], **IN_PLACE).attach(engine)
    (tmp_path / "run/model_graph").mkdir()  # of another program
    engine.run(batches(), max_epochs=1)
    engine.run(batches(), max_epochs=2)
    assert handler.report is not None
    assert "The graph is the one that was there already" in " ".join(handler.report.remarks)
    assert handler.report.folder.endswith("model_graph_2")
    assert not (tmp_path / "run/model_graph_3").exists()

    model.body[1] = nn.Tanh()
    engine.run(batches(), max_epochs=3)
    logger.close()
    assert "already" not in " ".join(handler.report.remarks)
    assert "tanh" in [node.op for node in graph_of(handler.report).ops]
    assert handler.report.folder.endswith("model_graph_3")


def test_an_engine_that_goes_on_from_a_checkpoint_keeps_the_graph_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = net()
    first = ignite_trainer(model)
    GraphHandler(model, **IN_PLACE).attach(first)
    first.run(batches(), max_epochs=1)
    second = ignite_trainer(model)
    second.load_state_dict({"epoch": 1, "max_epochs": 2, "epoch_length": 4})
    handler = GraphHandler(model, **IN_PLACE).attach(second)
    second.run(batches())
    assert handler.report is not None
    assert "The graph is the one that was there already" in " ".join(handler.report.remarks)


def test_after_the_first_iteration_the_engine_has_its_own_function(tmp_path: Path) -> None:
    model = net()
    engine = ignite_trainer(model)
    own, seen = engine._process_function, []
    GraphHandler(model, dirpath=tmp_path, **IN_PLACE).attach(engine)
    engine.add_event_handler(
        Events.ITERATION_STARTED, lambda engine: seen.append(engine._process_function is own)
    )
    engine.run(batches(), max_epochs=1)
    assert seen == [False, True, True, True]


def test_the_loss_is_an_output_where_the_engine_returns_predictions_only(tmp_path: Path) -> None:
    model = net()
    engine = create_supervised_trainer(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        nn.CrossEntropyLoss(),
        output_transform=lambda x, y, y_pred, loss: (y_pred, y),
    )
    handler = GraphHandler(model, dirpath=tmp_path, **IN_PLACE).attach(engine)
    engine.run(batches(1))
    graph = graph_of(handler.report)
    outputs = {node.name: node for node in graph.of_kind("output")}
    assert len(outputs) == 3
    assert graph.by_name[outputs["loss"].inputs[0].node].op == "cross_entropy"


def test_what_backward_was_called_on_is_not_told_as_used_by_nobody(tmp_path: Path) -> None:
    model = net()

    def step(engine: Engine, batch: Any) -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        batch[0].exp()
        (loss / 4).backward()
        return loss

    engine = Engine(step)
    handler = GraphHandler(model, dirpath=tmp_path, **IN_PLACE).attach(engine)
    engine.run(batches(1))
    unused = [note.message for note in graph_of(handler.report).notes if "Nobody" in note.message]
    assert unused == ["Nobody uses the result of exp."]


class Actor(nn.Module):
    """Two actions of four numbers; what they were worth is known when the episode is over."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.choice, self.value = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 1)
        self.steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.body(state))
        return torch.log_softmax(self.choice(hidden), -1), self.value(hidden)


EPISODE = 3


def agent(per_episode: bool) -> tuple[Actor, Engine]:
    """An actor-critic: an iteration is a step, or an episode, and its end makes the update."""
    torch.manual_seed(0)
    actor = Actor()
    optimizer = torch.optim.Adam(actor.parameters(), 0.01)

    def act(state: torch.Tensor) -> None:
        chances, value = actor(state)
        action = torch.multinomial(chances.detach().exp(), 1)
        actor.steps.append((chances.gather(-1, action), value))

    def step(engine: Engine, number: int) -> float:
        for _ in range(EPISODE if per_episode else 1):
            act(torch.randn(4))
        return 1.0

    def update(engine: Engine) -> None:
        losses = [
            nn.functional.smooth_l1_loss(value, torch.ones(1))
            - chance.squeeze() * (1 - value.item())
            for chance, value in actor.steps
        ]
        actor.steps.clear()
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()

    engine = Engine(step)
    is_over = Events.ITERATION_COMPLETED if per_episode else Events.EPOCH_COMPLETED
    engine.add_event_handler(is_over, update)
    return actor, engine


@pytest.mark.parametrize("per_episode", [False, True])
def test_of_an_agent_a_whole_episode_is_recorded_with_the_loss_at_its_end(
    per_episode: bool, tmp_path: Path
) -> None:
    actor, engine = agent(per_episode)
    handler = GraphHandler(actor, dirpath=tmp_path, **IN_PLACE).attach(engine)
    engine.run(range(EPISODE), max_epochs=3)

    graph = graph_of(handler.report)
    ops = [node.op for node in graph.ops]
    assert ops.count("log_softmax") == ops.count("smooth_l1_loss") == EPISODE
    assert [node.path for node in graph.of_kind("output")] == ["loss"]
    assert "state" in {node.path for node in graph.of_kind("input")}
    assert not [note for note in graph.notes if "out of sight" in note.message]
    other, without = agent(per_episode)
    without.run(range(EPISODE), max_epochs=3)
    assert same(actor.parameters(), other.parameters())
    assert not _global_optimizer_post_hooks


def test_where_nothing_better_comes_a_step_without_a_result_is_kept(tmp_path: Path) -> None:
    actor, engine = agent(per_episode=False)
    handler = GraphHandler(actor, dirpath=tmp_path, **IN_PLACE).attach(engine)
    engine.run(range(EPISODE), max_epochs=1)
    assert handler.report is not None
    graph = ModelGraph.load(tmp_path / "graph.json")
    assert [node.op for node in graph.ops].count("log_softmax") == 1
    engine.run(range(EPISODE), max_epochs=4)
    assert [node.path for node in graph_of(handler.report).of_kind("output")] == ["loss"]


def test_an_error_in_an_engine_goes_on_and_the_graph_up_to_there_is_kept(tmp_path: Path) -> None:
    model = net()

    def fails(engine: Engine, batch: Any) -> None:
        model(batch[0]).sum()
        raise RuntimeError("of the user")

    engine = Engine(fails)
    GraphHandler(model, dirpath=tmp_path, **IN_PLACE).attach(engine)
    with pytest.raises(RuntimeError, match="of the user"):
        engine.run(batches())
    assert ModelGraph.load(tmp_path / "graph.json").partial


_INTERRUPTED = """
from pathlib import Path
from ignite.engine import Events
from modelviz_callbacks.integrations.ignite import GraphHandler
from tests.integrations.seen import batches, net
from tests.integrations.test_engines import ignite_trainer

model = net()
engine = ignite_trainer(model)
handler = GraphHandler(model, dirpath="graphs", onnx=False, formats=["text"]).attach(engine)

@engine.on(Events.ITERATION_COMPLETED(once=3))
def ctrl_c(engine):
    raise KeyboardInterrupt

try:
    engine.run(batches())
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.process
def test_of_a_training_that_ctrl_c_ended_the_files_are_made_when_the_program_ends(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _INTERRUPTED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "interrupted" in done.stdout
    graph = ModelGraph.load(tmp_path / "graphs" / "graph.json")
    assert [node.op for node in graph.ops][:5] == [*NET_OPS, "cross_entropy"]
    assert not graph.partial
    assert (tmp_path / "graphs" / "graph.txt").exists()


def test_a_handler_for_something_else_than_a_model_is_refused() -> None:
    with pytest.raises(CaptureError, match="was given a list"):
        GraphHandler([net()])  # type: ignore[arg-type]


# --- skorch


def fitted(folder: Path, *callbacks: Any, **options: Any) -> NeuralNetClassifier:
    torch.manual_seed(1)
    made = NeuralNetClassifier(
        type(net()),
        criterion=nn.CrossEntropyLoss,
        max_epochs=2,
        batch_size=8,
        callbacks=list(callbacks),
        callbacks__print_log=None,
        **options,
    )
    random = numpy.random.default_rng(0)
    rows = random.normal(size=(40, 4)).astype("float32")
    return made.fit(rows, random.integers(0, 3, 40))


def test_a_nets_first_training_batch_is_recorded_with_its_loss_into_its_tensorboard_run(
    tmp_path: Path,
) -> None:
    callback = SkorchCallback(**IN_PLACE)
    board = TensorBoard(SummaryWriter(str(tmp_path / "run")))
    made = fitted(tmp_path, board, callback)

    graph = graph_of(callback.report)
    assert [node.op for node in graph.ops] == [*NET_OPS, "cross_entropy"]
    outputs = {node.name: node for node in graph.of_kind("output")}
    assert graph.by_name[outputs["loss"].inputs[0].node].op == "cross_entropy"
    found = events_in(tmp_path / "run")
    assert found.Tags()["graph"]
    assert len(found.Scalars("Loss/train_loss")) == 2
    assert (tmp_path / "run" / "model_graph" / "graph.txt").exists()
    assert same(made.module_.parameters(), fitted(tmp_path).module_.parameters())
    assert "train_step_single" not in vars(made)


def test_training_that_goes_on_keeps_the_graph_that_is_there(tmp_path: Path) -> None:
    callback = SkorchCallback(**IN_PLACE)
    board = TensorBoard(SummaryWriter(str(tmp_path / "run")), close_after_train=False)
    made = fitted(tmp_path, board, callback)
    made.partial_fit(torch.randn(40, 4).numpy(), numpy.arange(40) % 3)
    assert callback.report is not None
    assert "The graph is the one that was there already" in " ".join(callback.report.remarks)
    assert [path.name for path in (tmp_path / "run").glob("model_graph*")] == ["model_graph"]


def test_a_net_with_the_callback_can_be_cloned_copied_and_pickled(tmp_path: Path) -> None:
    callback = SkorchCallback(dirpath=tmp_path / "graphs", **IN_PLACE)
    made = fitted(tmp_path, callback)
    for other in (clone(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        (copied,) = other.callbacks
        assert copied.report is None
        assert copied.options == callback.options


# --- Stable-Baselines3

AGENTS: dict[str, Callable[..., Any]] = {
    "PPO": lambda **o: PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=16, n_epochs=1, **o),
    "A2C": lambda **o: A2C("MlpPolicy", "CartPole-v1", **o),
    "DQN": lambda **o: DQN("MlpPolicy", "CartPole-v1", learning_starts=8, batch_size=16, **o),
}


@pytest.mark.parametrize("name", AGENTS)
def test_an_agents_first_gradient_step_is_recorded_into_its_tensorboard_run(
    name: str, tmp_path: Path
) -> None:
    callback = AgentCallback(**IN_PLACE)
    agent = AGENTS[name](seed=0, tensorboard_log=str(tmp_path))
    agent.learn(64, callback=callback)

    graph = graph_of(callback.report)
    rows = {graph.spec(node.inputs[0]).shape[0] for node in graph.ops if node.op == "linear"}
    assert rows == {5 if name == "A2C" else 16}, "a minibatch, not a rollout of one row"
    inputs = {node.name for node in graph.of_kind("input")}
    assert inputs == ({"obs"} if name == "DQN" else {"obs", "actions"})
    assert ("smooth_l1_loss" if name == "DQN" else "mse_loss") in {node.op for node in graph.ops}
    assert [node.name for node in graph.of_kind("output")] == ["loss"]
    found = events_in(tmp_path / f"{name}_1")
    assert found.Tags()["graph"]
    assert (tmp_path / f"{name}_1" / "model_graph" / "graph.txt").exists()
    other = AGENTS[name](seed=0)
    other.learn(64)
    assert same(agent.policy.parameters(), other.policy.parameters())
