"""``model.onnx`` of models that draw random numbers in eval mode."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import onnx
import onnxruntime
import pytest
import torch
from torch import distributions, nn
from torch.nn import functional

from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.writers.onnx.comparison import WrittenFile
from modelviz_callbacks.writers.onnx.draws import FORMS, NORMAL, UNIFORM, Draws
from tests.writers.test_onnx import run
from tests.writers.test_onnx_trained import trained

_COUNT = 20_000


class Model(nn.Module):
    """A layer, and what is done with its result."""

    def __init__(self, rest: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.rest = nn.Linear(4, 4), rest

    def forward(self, x: torch.Tensor) -> Any:
        return self.rest(self.layer(x))


def _gumbel(x: torch.Tensor) -> torch.Tensor:
    return functional.gumbel_softmax(x, tau=0.7, hard=True)


def _mixture(x: torch.Tensor) -> torch.Tensor:
    policy = distributions.Categorical(logits=x)
    action = policy.sample()
    return policy.log_prob(action) + distributions.Beta(x.exp(), x.exp()).rsample().sum(1)


def _masked(x: torch.Tensor) -> torch.Tensor:
    """As a masked autoencoder chooses what it keeps."""
    order = torch.rand(x.shape[0], 4, device=x.device).argsort(1)
    return x.gather(1, order[:, :2])


DRAWING: dict[str, Callable[[torch.Tensor], Any]] = {
    "noise": lambda x: x + torch.randn_like(x),
    "sizes": lambda x: x + torch.rand(x.shape) + torch.randn(x.size(0), 4) + torch.rand(4),
    "filled": lambda x: x + torch.empty_like(x).uniform_(-1, 2) + x.clone().normal_(3.0, 0.5),
    "dropout": lambda x: functional.dropout(x, 0.4, training=True),
    "feature dropout": lambda x: functional.dropout2d(x[:, :, None, None], 0.4, True),
    "gumbel": _gumbel,
    "coins": lambda x: x * torch.bernoulli(x.sigmoid()),
    "distributions": _mixture,
    "normal": lambda x: distributions.Normal(x, x.exp()).rsample(),
    "masked": _masked,
    "integers": lambda x: x + torch.randint(2, 9, (x.shape[0], 1)),
    "picked": lambda x: torch.multinomial(x.softmax(-1), 3).float(),
    "picked again": lambda x: torch.multinomial(x.softmax(-1), 6, replacement=True).float(),
}


@pytest.mark.alike
@pytest.mark.process
@pytest.mark.parametrize("rest", DRAWING.values(), ids=DRAWING)
def test_the_file_draws_its_own_numbers_in_batches_of_any_size(
    rest: Callable[[torch.Tensor], Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = Model(rest), torch.randn(6, 4)
    hook = trained(model, tmp_path, x)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    Model(rest), torch.randn(6, 4)
    model(x)
    assert torch.equal(torch.get_rng_state(), after)  # as if no file had been made
    assert hook.report.refused == []
    (told,) = [remark for remark in hook.report.remarks if "model.onnx" in remark]
    assert told.startswith("model.onnx draws random numbers of its own each time it runs")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    feed = {session.get_inputs()[0].name: torch.randn(40, 4).numpy()}
    (one,), (other,) = session.run(None, feed), session.run(None, feed)
    assert one.shape[0] == 40
    assert not numpy.array_equal(one, other)


# What a function draws, and the mean and the deviation of its distribution.
_MOMENTS: dict[str, tuple[Callable[[], torch.Tensor], float, float]] = {
    "rand": (lambda: torch.rand(_COUNT), 0.5, 12**-0.5),
    "randn": (lambda: torch.randn((_COUNT,)), 0, 1),
    "rand_like": (lambda: torch.rand_like(torch.ones(_COUNT)), 0.5, 12**-0.5),
    "randn_like": (lambda: torch.randn_like(torch.ones(_COUNT)), 0, 1),
    "normal": (lambda: torch.normal(torch.full((_COUNT,), 3.0), 2.0), 3, 2),
    "normal of a size": (lambda: torch.normal(1.0, 0.5, (_COUNT,)), 1, 0.5),
    "normal_": (lambda: torch.empty(_COUNT).normal_(2, 3), 2, 3),
    "uniform_": (lambda: torch.empty(_COUNT).uniform_(2, 6), 4, 4 / 12**0.5),
    "exponential_": (lambda: torch.empty(_COUNT).exponential_(4), 0.25, 0.25),
    "log_normal_": (lambda: torch.empty(_COUNT).log_normal_(0, 0.5), 1.1331, 0.6039),
    "cauchy_": (lambda: (torch.empty(_COUNT).cauchy_(1, 1) > 2).float(), 0.25, 0.1875**0.5),
    "geometric_": (lambda: torch.empty(_COUNT).geometric_(0.25), 4, 12**0.5),
    "bernoulli": (lambda: torch.bernoulli(torch.full((_COUNT,), 0.2)), 0.2, 0.4),
    "bernoulli_": (lambda: torch.empty(_COUNT, dtype=torch.int64).bernoulli_(0.2), 0.2, 0.4),
    "randint": (lambda: torch.randint(2, 10, (_COUNT,)), 5.5, (63 / 12) ** 0.5),
    "randint from zero": (lambda: torch.randint(8, size=(_COUNT,)), 3.5, (63 / 12) ** 0.5),
    "randint_like": (lambda: torch.randint_like(torch.ones(_COUNT), 8), 3.5, (63 / 12) ** 0.5),
    "random_": (lambda: torch.empty(_COUNT).random_(1, 9), 4.5, (63 / 12) ** 0.5),
    "randperm": (lambda: torch.randperm(_COUNT)[: _COUNT // 2] / _COUNT, 0.5, 12**-0.5),
    "multinomial": (
        lambda: torch.multinomial(torch.tensor([1.0, 0, 3]).expand(_COUNT, 3), 1),
        1.5,
        0.75**0.5,
    ),
    "multinomial without replacement": (
        lambda: torch.multinomial(torch.ones(_COUNT, 4), 2)[:, 1],
        1.5,
        1.25**0.5,
    ),
    "multinomial with replacement": (
        lambda: torch.multinomial(torch.tensor([2.0, 0, 6, 0]), _COUNT, True),
        1.5,
        0.75**0.5,
    ),
    "gamma": (lambda: distributions.Gamma(3.0, 2.0).sample((_COUNT,)), 1.5, 0.75**0.5),
    "small gamma": (lambda: distributions.Gamma(0.3, 1.0).sample((_COUNT,)), 0.3, 0.3**0.5),
    "beta": (lambda: distributions.Beta(2.0, 2.0).sample((_COUNT,)), 0.5, 0.05**0.5),
    "dropout": (lambda: functional.dropout(torch.ones(_COUNT), 0.2, True), 1, 0.5),
    "dropout1d": (lambda: functional.dropout1d(torch.ones(200, 100, 2), 0.2, True), 1, 0.5),
    "dropout2d": (lambda: functional.dropout2d(torch.ones(100, 100, 2, 2), 0.2, True), 1, 0.5),
    "dropout3d": (lambda: functional.dropout3d(torch.ones(100, 100, 2, 1, 1), 0.2, True), 1, 0.5),
    "alpha_dropout": (lambda: functional.alpha_dropout(torch.randn(_COUNT), 0.3, True), 0, 1),
    "rrelu": (
        lambda: functional.rrelu(torch.full((_COUNT,), -1.0), 0.2, 0.8, True),
        -0.5,
        0.6 / 12**0.5,
    ),
    "gumbel_softmax": (
        lambda: functional.gumbel_softmax(torch.tensor([0.0, 1.0986]).expand(_COUNT, 2), hard=True)[
            :, 1
        ],
        0.75,
        0.1875**0.5,
    ),
    "attention": (
        lambda: functional.scaled_dot_product_attention(
            *[torch.ones(1, 20_000, 1)] * 1, torch.ones(1, 1, 1), torch.ones(1, 1, 1), None, 0.2
        ),
        1,
        0.5,
    ),
    "init.kaiming_uniform_": (
        lambda: nn.init.kaiming_uniform_(torch.empty(200, 100), a=5**0.5),
        0,
        0.1 / 3**0.5,
    ),
    "init.normal_": (lambda: nn.init.normal_(torch.empty(_COUNT), 1.0, 2.0), 1, 2),
}


@pytest.mark.parametrize(("draw", "mean", "deviation"), _MOMENTS.values(), ids=_MOMENTS)
def test_numbers_have_torchs_distribution(
    draw: Callable[[], torch.Tensor], mean: float, deviation: float
) -> None:
    torch.manual_seed(0)
    wanted = draw()
    with Draws(keeps=True) as draws:
        found = draw()
    assert draws.numbers
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    for drawn in (wanted.double(), found.double()):
        assert drawn.mean().item() == pytest.approx(mean, abs=4 * deviation / 100)
        assert drawn.std().item() == pytest.approx(deviation, rel=0.06)


def test_functions_that_draw_nothing_are_left_as_they_are() -> None:
    x = torch.randn(2, 3, 4)
    with Draws() as draws:
        assert torch.equal(functional.dropout(x, 0.5, training=False), x)
        assert torch.equal(functional.dropout(x, 0.0), x)
        same = functional.rrelu(x)
        attended = functional.scaled_dot_product_attention(x, x, x)
    assert torch.equal(same, functional.rrelu(x))
    assert torch.equal(attended, functional.scaled_dot_product_attention(x, x, x))
    assert draws.count == 0


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("kind", [None, torch.bool, torch.float32])
def test_attention_that_drops_nearly_nothing_is_attention(
    is_causal: bool, kind: torch.dtype | None
) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 5, 3), torch.randn(2, 2, 5, 3)
    mask = None if kind is None or is_causal else torch.ones(5, 5).tril().to(kind)
    given: dict[str, Any] = {"attn_mask": mask, "is_causal": is_causal, "enable_gqa": True}
    with Draws():
        found = functional.scaled_dot_product_attention(query, key, key, dropout_p=1e-9, **given)
    wanted = functional.scaled_dot_product_attention(query, key, key, **given)
    torch.testing.assert_close(found, wanted)


# Those that layers come down to, which call others, and those for which nothing stands.
_INNER = {"native_dropout", "normal_functional", "gru", "lstm", "miopen_rnn", "rnn_relu"}
_INNER |= {"rnn_tanh", "rrelu_with_noise", "rrelu_with_noise_functional"}
_WITHOUT = {"binomial", "poisson"}


def test_what_atens_own_tags_call_random_has_a_form() -> None:
    names = {getattr(function, "__name__", "").rstrip("_") for function in FORMS}
    for name in dir(torch.ops.aten):
        packet = getattr(torch.ops.aten, name)
        overloads = [getattr(packet, each) for each in getattr(packet, "overloads", list)()]
        is_random = any(torch.Tag.nondeterministic_seeded in one.tags for one in overloads)
        if is_random and not name.startswith("_"):
            assert name.rstrip("_") in {*names, *_INNER, *_WITHOUT}


class Seeded(nn.Module):
    """Some of its numbers are the same each time."""

    def __init__(self, also_draws: bool) -> None:
        super().__init__()
        self.layer, self.also_draws = nn.Linear(4, 4), also_draws

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        always = torch.randn(4, generator=torch.Generator().manual_seed(3))
        x = self.layer(x) * always
        return torch.stack([x, torch.rand_like(x)]) if self.also_draws else x


@pytest.mark.process
@pytest.mark.parametrize("also_draws", [True, False])
def test_numbers_from_a_seed_in_the_forward_are_the_same_in_the_file(
    also_draws: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, x = Seeded(also_draws), torch.randn(3, 4)
    hook = trained(model, tmp_path, x)
    assert hook.report.refused == []
    (found,) = run(tmp_path / "model.onnx", x)
    wanted = model.eval()(x).detach().numpy()
    if also_draws:
        found, wanted = found[0], wanted[0]
    numpy.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.process
@pytest.mark.parametrize("dimensions", [2, 3])
def test_pooling_at_random_places_is_at_random_places_in_the_file(
    dimensions: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layer = getattr(nn, f"FractionalMaxPool{dimensions}d")(2, output_size=4)
    hook = trained(
        nn.Sequential(nn.Identity(), layer), tmp_path, torch.randn(2, 3, *[9] * dimensions)
    )
    assert hook.report.refused == []
    assert any("draws random numbers of its own" in remark for remark in hook.report.remarks)


class OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.generator = nn.Linear(4, 4), torch.Generator().manual_seed(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + torch.randn(x.shape, generator=self.generator)


@pytest.mark.process
def test_a_generator_of_the_models_own_is_not_moved_on(tmp_path: Path) -> None:
    model, alone = OwnGenerator(), torch.Generator().manual_seed(5)
    assert trained(model, tmp_path, torch.randn(3, 4)).report.refused == []
    torch.randn(3, 4, generator=alone)
    assert torch.equal(model.generator.get_state(), alone.get_state())


def _coin(x: torch.Tensor) -> torch.Tensor:
    return x * 2 if torch.rand(()) < 0.5 else x


def _pythons(x: torch.Tensor) -> torch.Tensor:
    return x * 2 if random.random() < 0.5 else x


def _numpys(x: torch.Tensor) -> torch.Tensor:
    return x + torch.from_numpy(numpy.random.rand(4).astype("float32"))


@pytest.mark.process
@pytest.mark.parametrize(
    ("rest", "why"),
    [
        (_coin, "Python or numpy reads the random numbers that it draws"),
        (_pythons, "from Python's or numpy's generator in eval mode"),
        (_numpys, "from Python's or numpy's generator in eval mode"),
        (lambda x: x + torch.poisson(x.exp()), "in a way that ONNX has no form of"),
    ],
)
def test_numbers_that_a_file_cannot_draw_are_refused_for_this_reason(
    rest: Callable[[torch.Tensor], torch.Tensor], why: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    (refused,) = trained(Model(rest), tmp_path, torch.randn(3, 4)).report.refused
    assert why in refused.why, refused.why
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("RandomNormal", {"mean": 1.0}), ("RandomUniform", {"high": 2.0})],
)
def test_a_file_that_draws_from_another_distribution_is_not_believed(
    op: str, attributes: dict[str, float], tmp_path: Path
) -> None:
    node = onnx.helper.make_node(op, [], ["drawn"], shape=[3], **attributes)
    output = onnx.helper.make_tensor_value_info("drawn", onnx.TensorProto.FLOAT, [3])
    graph = onnx.helper.make_graph([node], "g", [], [output])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(WriterError, match="another distribution"):
        WrittenFile.opened(tmp_path / "model.onnx", has_draws=True)


def test_numbers_of_another_kind_shape_or_count_are_not_taken() -> None:
    for kind, numbers in ((NORMAL, torch.rand(3)), (UNIFORM, torch.rand(4))):
        with Draws([(kind, numbers)]), pytest.raises(WriterError):
            torch.rand(3)
    with Draws([]), pytest.raises(WriterError):
        torch.rand(3)
    with Draws([(UNIFORM, numbers)]):
        assert torch.equal(torch.rand(4), numbers)
