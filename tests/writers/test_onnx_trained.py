"""``model.onnx`` of models that an exporter alone refuses, on inputs that not every number is."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from modelviz_callbacks import GraphHook, trace
from modelviz_callbacks.report import ModelvizWarning
from modelviz_callbacks.writers.onnx.exporter_output import into_log
from tests.writers.test_onnx import nodes_of, run

# torch.ao.quantization and the old weight norm say that they are old.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


# What is looked at here is in the files.
FEW: dict[str, Any] = {"formats": ["text"], "tensorboard": False, "background": False}


def trained(model: nn.Module, folder: Path, *args: Any) -> GraphHook:
    with GraphHook(model, dirpath=folder, trained_onnx=True, **FEW) as hook:
        model(*args)
    return hook


def layers(first: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(first, nn.ReLU(), nn.Linear(8, 2))


def pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


@pytest.mark.alike
@pytest.mark.parametrize(
    "wrap",
    [
        torch.nn.utils.spectral_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        torch.nn.utils.weight_norm,
        torch.nn.utils.parametrizations.weight_norm,
        pruned,
    ],
)
def test_a_layer_whose_weight_is_computed_is_exported_as_the_model_in_eval_mode(
    wrap: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    model = layers(wrap(nn.Linear(4, 8)))
    x = torch.randn(6, 4)
    hook = trained(model, tmp_path, x)
    assert hook.report.refused == []
    assert [remark for remark in hook.report.remarks if "model.onnx" in remark] == []
    (found,) = run(tmp_path / "model.onnx", x[:3])
    numpy.testing.assert_allclose(found, model.eval()(x[:3]).detach().numpy(), atol=1e-5)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 4, mode="sum")

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        return self.bag(ids, offsets)


class Entropy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        chosen = torch.distributions.Categorical(probs=probabilities)
        return self.layer(chosen.probs).sum(-1) + chosen.entropy()


class Loss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        found = torch.sigmoid(self.layer(x))[:, 0]
        return nn.functional.binary_cross_entropy(found, target)


class Neighbours(nn.Module):
    """Mean over the neighbours in a graph: indices must be those of nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        sent = self.layer(x)[edges[0]]
        return torch.zeros(x.shape[0], 3).index_add(0, edges[1], sent)


class Symmetric(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not bool((x.mT == x).all()):
            raise ValueError("not symmetric")
        return self.layer(x)


class Locked(nn.Module):
    """Holds what no copy can be made of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with self.lock:
            return self.layer(x)


def symmetric() -> torch.Tensor:
    x = torch.randn(4, 3, 3)
    return x @ x.mT


@pytest.mark.alike
@pytest.mark.parametrize(
    ("model", "args"),
    [
        (Bag, lambda: (torch.tensor([1, 2, 3, 4, 5, 9]), torch.tensor([0, 2, 4]))),
        (Entropy, lambda: (torch.softmax(torch.randn(5, 4), -1),)),
        (Loss, lambda: (torch.randn(5, 4), torch.rand(5))),
        (Neighbours, lambda: (torch.randn(6, 4), torch.tensor([[0, 5, 3], [1, 2, 4]]))),
        (Symmetric, lambda: (symmetric(),)),
        (Locked, lambda: (torch.randn(4, 4),)),
    ],
)
def test_a_model_is_tried_on_inputs_that_it_takes(
    model: type[nn.Module], args: Callable[[], tuple[torch.Tensor, ...]], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    built, given = model(), args()
    hook = trained(built, tmp_path, *given)
    assert hook.report.refused == []
    (found,) = run(tmp_path / "model.onnx", *given)
    numpy.testing.assert_allclose(found, built.eval()(*given).detach().numpy(), atol=1e-5)


class Masked01(nn.Module):
    """Whole numbers taken from a Python number, as masks are turned round."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * (1.5 - mask) + (1 - mask)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_whole_numbers_are_taken_from_a_number_in_batches_of_any_size(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = Masked01(), torch.randn(3, 4)
    mask = torch.tensor([[0, 1, 1, 0]] * 3, dtype=dtype)
    hook = trained(model, tmp_path, x, mask)
    assert hook.report.refused == []
    assert [remark for remark in hook.report.remarks if "model.onnx" in remark] == []
    for name in ("graph.onnx", "model.onnx"):
        path = tmp_path / name
        if name == "graph.onnx":
            trace(model, x, mask).save_onnx(path, weights=True)
        (found,) = run(path, x, mask)
        numpy.testing.assert_allclose(found, model.eval()(x, mask).detach().numpy(), atol=1e-5)


class Recurrent(nn.Module):
    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(4, 5, **options)

    def forward(self, packed: nn.utils.rnn.PackedSequence) -> Any:
        found, state = self.cell(packed)
        return found.data, state


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_packed_sequences_go_through_onnxs_own_recurrent_ops(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Recurrent(kind, **options)
    lengths = torch.tensor([6, 4, 4, 1])
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(6, 4, 4), lengths)
    path = trace(model, packed).save_onnx(tmp_path / "graph.onnx", weights=True)
    nodes = nodes_of(onnx.load(path))
    assert "pytorch" not in {node.domain for node in nodes}
    assert [node.op_type for node in nodes].count(kind) == options.get("num_layers", 1)
    found = run(path, packed.data, packed.batch_sizes)
    wanted, state = model.eval()(packed)
    states = state if isinstance(state, tuple) else (state,)
    for one, other in zip(found, (wanted, *states), strict=True):
        numpy.testing.assert_allclose(one, other.detach().numpy(), atol=1e-5)


def test_a_packed_sequence_as_input_has_a_model_to_run(tmp_path: Path) -> None:
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(6, 3, 4), torch.tensor([6, 4, 2]))
    assert trained(Recurrent("LSTM"), tmp_path, packed).report.refused == []
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.alike
@pytest.mark.parametrize("backend", ["fbgemm", "qnnpack"])
def test_quantisation_aware_training_is_pairs_of_quantise_and_dequantise(
    backend: str, tmp_path: Path
) -> None:
    import torch.ao.quantization as quantization

    torch.manual_seed(0)
    model = nn.Sequential(quantization.QuantStub(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    model.qconfig = quantization.get_default_qat_qconfig(backend)
    quantization.prepare_qat(model.train(), inplace=True)
    x = torch.randn(6, 4)
    hook = trained(model, tmp_path, x)
    assert hook.report.refused == []
    for name in ("graph.onnx", "model.onnx"):
        kinds = [node.op_type for node in nodes_of(onnx.load(tmp_path / name))]
        assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") >= 5
    model.eval().apply(quantization.disable_observer)
    (found,) = run(tmp_path / "model.onnx", x)
    numpy.testing.assert_allclose(found, model(x).detach().numpy(), atol=0.05)


def test_trying_it_leaves_the_buffers_of_the_model_alone(tmp_path: Path) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.layer(x)

    model = Counts()
    trained(model, tmp_path, torch.randn(3, 4))
    assert model.calls == 1
    assert (tmp_path / "model.onnx").exists()


# --- what the exporters say


def test_nothing_is_printed_warned_of_or_logged_while_a_file_is_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "vocab_size": 20}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 2}
    model = MixtralForCausalLM(MixtralConfig(num_hidden_layers=1, **sizes, **heads))
    recorded = trace(model.train(), torch.randint(0, 20, (2, 5)))
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        recorded.save_onnx(tmp_path / "graph.onnx")
    assert capfd.readouterr() == ("", "")
    assert [str(item.message) for item in said] == []
    assert {record.name.partition(".")[0] for record in caplog.records} <= {"modelviz_callbacks"}


def test_what_the_exporters_say_is_in_the_log_and_what_others_say_goes_where_it_went(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "modelviz_callbacks")
    before = sys.stdout, sys.stderr, warnings.showwarning, list(warnings.filters)
    ready, done = threading.Event(), threading.Event()

    def other() -> None:
        ready.wait(30)
        print("from another thread")
        logging.getLogger("torch.onnx").warning("another thread's line")
        done.set()

    thread = threading.Thread(target=other)
    thread.start()

    def speak() -> None:
        with into_log():
            with into_log():
                print("printed")
            print("an error", file=sys.stderr)
            warnings.warn("a warning", stacklevel=1)
            logging.getLogger("torch.onnx").warning("a line")
            ready.set()
            assert done.wait(30)
            raise ValueError("the end")

    with pytest.raises(ValueError, match="the end"):
        speak()
    thread.join()
    assert (sys.stdout, sys.stderr, warnings.showwarning, list(warnings.filters)) == before
    assert capsys.readouterr().out == "from another thread\n"
    ours = [r.getMessage() for r in caplog.records if r.name == "modelviz_callbacks"]
    for text in ("printed", "an error", "a warning", "a line"):
        assert any(text in line for line in ours)
    assert not any("another thread" in line for line in ours)
    assert [r.getMessage() for r in caplog.records if r.name == "torch.onnx"] == [
        "another thread's line"
    ]


class Masked(nn.Module):
    """Hands its mask through numpy, or needs it in training only."""

    def __init__(self, through_numpy: bool) -> None:
        super().__init__()
        self.fc, self.through_numpy = nn.Linear(4, 2), through_numpy

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        if self.through_numpy:
            return self.fc(x) * torch.from_numpy(mask.numpy().copy())
        return self.fc(x) * mask if self.training else self.fc(x)


@pytest.mark.parametrize("through_numpy", [True, False])
def test_an_input_that_became_a_constant_is_one_warning_that_names_it(
    through_numpy: bool, tmp_path: Path
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hook = trained(Masked(through_numpy), tmp_path, torch.randn(3, 4), torch.rand(3, 2))
    told = [str(one.message) for one in caught if "does not read" in str(one.message)]
    assert [text.startswith("model.onnx does not read mask, though") for text in told] == (
        [True] if through_numpy else []
    )
    assert told == [remark for remark in hook.report.remarks if "does not read" in remark]


class SparseBranch(nn.Module):
    """Python decides by values, which no exporter follows, and a product has no standard form."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 2 if (x > 0).all() else x
        return (x.to_sparse() @ x.to_sparse()).to_dense()


def test_what_cannot_be_exported_is_refused_for_all_its_reasons(tmp_path: Path) -> None:
    (refused,) = trained(SparseBranch(), tmp_path, torch.eye(4) + 1).report.refused
    first, _, then = refused.why.partition(". Nor can the recorded ops be written: ")
    assert "data-dependent" in first
    assert then.startswith("standard ops cannot say it: ")
    assert "to_sparse" in then
    assert not (tmp_path / "model.onnx").exists()


class OnlyInTraining(nn.Module):
    """No exporter follows it, and what was recorded is not what it does in eval mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * 2 if (x > 0).all() else x
        return x + 1 if self.training else x


def test_what_no_exporter_follows_is_made_of_what_the_model_does_in_eval_mode(
    tmp_path: Path,
) -> None:
    x = torch.ones(2, 4)
    hook = trained(OnlyInTraining(), tmp_path, x)
    assert hook.report.refused == []
    assert any("is made of the recorded ops" in remark for remark in hook.report.remarks)
    numpy.testing.assert_allclose(run(tmp_path / "model.onnx", x)[0], x * 2)


class CountsCalls(nn.Module):
    """No exporter follows it, and it gives something else each time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls if (x > 0).all() else x


def test_a_file_made_another_way_that_differs_is_refused_for_the_exporters_reason_too(
    tmp_path: Path,
) -> None:
    (refused,) = trained(CountsCalls(), tmp_path, torch.ones(2, 4)).report.refused
    first, _, then = refused.why.partition(". Made another way: ")
    assert "data-dependent" in first
    assert then.startswith("Output 'output' of model.onnx differs from the model in eval mode")
    assert "gives other outputs at each call" in then
    assert (tmp_path / "model.differs.onnx").exists()


class TakesGradients(nn.Module):
    """A step of an inner loop in the forward, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss = self.layer(x).pow(2).mean()
        (slope,) = torch.autograd.grad(loss, self.layer.weight, create_graph=True)
        return nn.functional.linear(x, self.layer.weight - 0.1 * slope, self.layer.bias)


def test_a_model_that_takes_gradients_in_its_forward_has_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = TakesGradients(), torch.randn(3, 4)
    assert trained(model, tmp_path, x).report.refused == []
    (found,) = run(tmp_path / "model.onnx", x)
    numpy.testing.assert_allclose(found, model.eval()(x).detach().numpy(), atol=1e-5)


class Labelled(nn.Module):
    """The loss of a speech model; ``mean`` and ``sum`` and lengths that differ."""

    def __init__(self, reduction: str) -> None:
        super().__init__()
        self.layer, self.reduction = nn.Linear(4, 6), reduction

    def forward(self, x: torch.Tensor, labels: torch.Tensor, lengths: torch.Tensor) -> Any:
        found = self.layer(x)
        scores = found.log_softmax(-1).transpose(0, 1)
        kept = labels >= 0
        loss = nn.functional.ctc_loss(
            scores, labels[kept], lengths, kept.sum(-1), reduction=self.reduction
        )
        return loss, found


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_model_with_a_ctc_loss_has_a_file(reduction: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Labelled(reduction), torch.randn(3, 9, 4)
    labels = torch.tensor([[1, 2, 2], [3, -1, -1], [5, 4, -1]])
    lengths = torch.tensor([9, 7, 8])
    assert trained(model, tmp_path, x, labels, lengths).report.refused == []
    found, _ = run(tmp_path / "model.onnx", x, labels, lengths)
    wanted, _ = model.eval()(x, labels, lengths)
    numpy.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-4)


class Halves(nn.Module):
    """Computes in a type of 16 bits, by autocast.

    Args:
        dtype: The type.
        counts: Whether it gives something else at each call.
    """

    def __init__(self, dtype: torch.dtype, counts: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 4))
        self.dtype, self.counts, self.calls = dtype, counts, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.counts
        with torch.autocast("cpu", dtype=self.dtype):
            y = torch.as_tensor(self.body(x))
        return y.float() * (1 + self.calls / 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_autocast_is_compared_within_the_rounding_of_its_type(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = Halves(dtype), torch.randn(5, 16)
    hook = trained(model, tmp_path, x)
    assert hook.report.refused == []
    (remark,) = [one for one in hook.report.remarks if "within the rounding" in one]
    assert str(dtype).removeprefix("torch.") in remark
    (found,) = run(tmp_path / "model.onnx", x)
    with torch.no_grad():
        exact = model.body(x)
        rounded = model(x)
    # The file does not round at all where onnxruntime has no such type.
    ours, theirs = (torch.as_tensor(found) - exact).abs().max(), (rounded - exact).abs().max()
    assert ours <= theirs + 1e-5


def test_a_model_in_autocast_that_its_file_is_not_like_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.warns(ModelvizWarning, match="differs from the model in eval mode"):
        hook = trained(Halves(torch.bfloat16, counts=True), tmp_path, torch.randn(5, 16))
    assert [one.what for one in hook.report.refused] == ["model.onnx"]


def test_a_model_of_32_bits_is_compared_within_its_own_rounding(tmp_path: Path) -> None:
    hook = trained(layers(nn.Linear(8, 8)), tmp_path, torch.randn(5, 8))
    assert not [one for one in hook.report.remarks if "rounding" in one]
    assert hook.report.figures["onnx_max_difference"] < 1e-6
