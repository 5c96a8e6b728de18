"""Random numbers in terms of plain uniform and normal ones, which a file can draw as well.

torch and ONNX draw from other distributions, each in its own way. Where every draw of a forward
is a function of numbers uniform in [0, 1) or normal with mean 0 and deviation 1, a file draws these
alone, and a model that is handed the numbers that a file drew gives what the file gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional, init
from torch.overrides import TorchFunctionMode

from modelviz_callbacks.errors import WriterError
from modelviz_callbacks.writers.onnx.exporter_internals import (
    POOL_SAMPLES,
    SAMPLE_DIRICHLET,
    STANDARD_GAMMA,
)
from modelviz_callbacks.writers.onnx.replacements.table import functions

# How often a gamma variate is tried: one in 20 is rejected at most.
_ATTEMPTS = 8

# What stands for zero under a logarithm: half of the smallest step of a uniform number.
_TINY = 2.0**-25

_SELU_SLOPE = 1.7580993408473766

# Names of ONNX's ops for the two kinds.
UNIFORM, NORMAL = "RandomUniform", "RandomNormal"

_NONE = torch.empty(0)

# What was drawn, in order: of which kind it is, and the numbers.
Numbers = list[tuple[str, torch.Tensor]]


class Draws(TorchFunctionMode):
    """Puts the draws of what runs under it in terms of `UNIFORM` and `NORMAL` numbers.

    Attributes:
        count: How many tensors of such numbers were drawn, without those that are always the same.
        numbers: The kinds of all and they themselves, where they are kept.
        as_they_are: For each of these whether the function called gives such numbers itself.
    """

    def __init__(
        self,
        given: Numbers | None = None,
        same: Mapping[int, torch.Tensor] | None = None,
        keeps: bool = False,
    ) -> None:
        """Nothing is drawn yet.

        Args:
            given: The kinds and the numbers to take, in their order, in place of drawing any.
            same: The numbers that are always the same, by which draw they are of all.
            keeps: Whether to keep the numbers, and to draw them from the generators that the
                model chose, as an exporter cannot.
        """
        super().__init__()
        self.count = 0
        self.numbers: Numbers = []
        self.as_they_are: list[bool] = []
        self._all = 0
        self._given = given
        self._same = same or {}
        self._keeps = keeps
        self._generator: torch.Generator | None = None
        self._is_plain = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Calls the function, or what it is in terms of plain numbers."""
        options = dict(kwargs or {})
        form = FORMS.get(func)
        if form is None or options.get("out") is not None:
            return func(*args, **options)
        self._generator = options.pop("generator", None)
        self._is_plain = form in _PLAIN
        return form(self, *args, **options)

    def uniform(self, sizes: Sequence[int], like: Any = None, **options: Any) -> torch.Tensor:
        """Numbers in [0, 1) of some shape, with the dtype and device of a tensor or as told."""
        return self._plain(UNIFORM, sizes, like, **options)

    def normal(self, sizes: Sequence[int], like: Any = None, **options: Any) -> torch.Tensor:
        """Numbers with mean 0 and deviation 1, likewise."""
        return self._plain(NORMAL, sizes, like, **options)

    def _plain(
        self,
        kind: str,
        sizes: Sequence[int],
        like: torch.Tensor | None,
        dtype: torch.dtype | None = None,
        device: Any = None,
    ) -> torch.Tensor:
        if like is not None:
            dtype = dtype or like.dtype
            device = like.device if device is None else device
        dtype = dtype or torch.get_default_dtype()
        if not dtype.is_floating_point:
            raise WriterError(f"ONNX draws no numbers of the type {dtype}")
        drawn = torch.float64 if dtype == torch.float64 else torch.float32
        number, self._all = self._all, self._all + 1
        if number in self._same:
            return self._numbers(self._same[number], number, sizes).to(device=device, dtype=dtype)
        number, self.count = self.count, self.count + 1
        if self._given is not None:
            found, numbers = self._given[number] if number < len(self._given) else ("", _NONE)
            if found != kind or numbers.dtype != drawn:
                raise WriterError(f"draw {number} is not in the file")
            return self._numbers(numbers, number, sizes).to(device=device, dtype=dtype)
        draw = torch.rand if kind == UNIFORM else torch.randn
        if not self._keeps:
            return draw(tuple(sizes), dtype=drawn, device=device).to(dtype)
        made = draw(tuple(sizes), dtype=drawn, device=device, generator=self._generator)
        self.numbers.append((kind, made))
        self.as_they_are.append(self._is_plain)
        return made.to(dtype)

    def _numbers(self, numbers: torch.Tensor, number: int, sizes: Sequence[int]) -> torch.Tensor:
        if tuple(numbers.shape) != tuple(sizes):
            raise WriterError(f"draw {number} has another shape")
        return numbers


# --- filled with numbers of plain kinds


def _sizes(given: tuple[Any, ...], options: dict[str, Any]) -> tuple[int, ...]:
    sizes: Any = options.pop("size", given)
    return tuple(sizes[0]) if sizes and isinstance(sizes[0], (tuple, list)) else tuple(sizes)


def _made(numbers: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    return numbers.requires_grad_() if options.get("requires_grad") else numbers


def _rand(draws: Draws, *size: Any, **options: Any) -> torch.Tensor:
    sizes = _sizes(size, options)
    return _made(draws.uniform(sizes, **_kind(options)), options)


def _randn(draws: Draws, *size: Any, **options: Any) -> torch.Tensor:
    sizes = _sizes(size, options)
    return _made(draws.normal(sizes, **_kind(options)), options)


def _rand_like(draws: Draws, input: torch.Tensor, **options: Any) -> torch.Tensor:
    return _made(draws.uniform(input.shape, input, **_kind(options)), options)


def _randn_like(draws: Draws, input: torch.Tensor, **options: Any) -> torch.Tensor:
    return _made(draws.normal(input.shape, input, **_kind(options)), options)


def _kind(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in ("dtype", "device") if options.get(name) is not None}


def _normal(draws: Draws, mean: Any, std: Any = 1.0, size: Any = None, **options: Any) -> Any:
    kind = _kind(options)
    if size is not None:
        return draws.normal(tuple(size), **kind) * std + mean
    tensors = [value for value in (mean, std) if isinstance(value, torch.Tensor)]
    sizes = torch.broadcast_tensors(*tensors)[0].shape  # type: ignore[no-untyped-call]
    return draws.normal(sizes, tensors[0], **kind) * std + mean


def _normal_(draws: Draws, tensor: torch.Tensor, mean: Any = 0.0, std: Any = 1.0) -> torch.Tensor:
    return _fill(tensor, draws.normal(tensor.shape, tensor) * std + mean)


def _fill(tensor: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return tensor.copy_(numbers)


def _uniform_(draws: Draws, tensor: torch.Tensor, *ends: float, **named: float) -> torch.Tensor:
    low = named.get("from", named.get("a", ends[0] if ends else 0.0))
    high = named.get("to", named.get("b", ends[1] if len(ends) > 1 else 1.0))
    return _fill(tensor, draws.uniform(tensor.shape, tensor) * (high - low) + low)


# --- distributions


def _log_of_rest(draws: Draws, tensor: torch.Tensor) -> torch.Tensor:
    """Logarithms of numbers in (0, 1)."""
    return torch.log((1 - draws.uniform(tensor.shape, tensor)).clamp(_TINY, 1 - _TINY))


def _exponential_(draws: Draws, tensor: torch.Tensor, lambd: float = 1.0) -> torch.Tensor:
    return _fill(tensor, -_log_of_rest(draws, tensor) / lambd)


def _log_normal_(
    draws: Draws, tensor: torch.Tensor, mean: float = 1.0, std: float = 2.0
) -> torch.Tensor:
    return _fill(tensor, torch.exp(draws.normal(tensor.shape, tensor) * std + mean))


def _cauchy_(
    draws: Draws, tensor: torch.Tensor, median: float = 0.0, sigma: float = 1.0
) -> torch.Tensor:
    angle = (draws.uniform(tensor.shape, tensor) - 0.5) * math.pi
    return _fill(tensor, torch.tan(angle) * sigma + median)


def _geometric_(draws: Draws, tensor: torch.Tensor, p: float) -> torch.Tensor:
    like = torch.empty(tensor.shape, dtype=torch.float64, device=tensor.device)
    failures = torch.ceil(_log_of_rest(draws, like) / math.log1p(-p))
    return _fill(tensor, failures.clamp(min=1))


def _bernoulli(draws: Draws, input: torch.Tensor, p: float | None = None) -> torch.Tensor:
    chance = input if p is None else p
    return (draws.uniform(input.shape, input) < chance).to(input.dtype)


def _bernoulli_(draws: Draws, tensor: torch.Tensor, p: Any = 0.5) -> torch.Tensor:
    drawn = draws.uniform(tensor.shape, dtype=torch.float32, device=tensor.device)
    return _fill(tensor, (drawn < p).to(tensor.dtype))


def _whole(draws: Draws, low: int, high: int, sizes: Sequence[int], device: Any) -> torch.Tensor:
    """Whole numbers from ``low`` to below ``high``."""
    drawn = draws.uniform(sizes, dtype=torch.float64, device=device)
    return torch.floor(drawn * (high - low)).to(torch.int64).clamp(max=high - low - 1) + low


def _randint(draws: Draws, *positional: Any, **options: Any) -> torch.Tensor:
    sizes = options.get("size", positional[-1])
    ends = [value for value in positional if not isinstance(value, (tuple, list))]
    low, high = _ends(ends, options)
    found = _whole(draws, low, high, tuple(sizes), options.get("device"))
    return found.to(options.get("dtype") or torch.int64)


def _ends(ends: list[int], options: dict[str, Any]) -> tuple[int, int]:
    low = options.get("low", ends[0] if len(ends) > 1 else 0)
    return low, options["high"] if "high" in options else ends[-1]


def _randint_like(draws: Draws, input: torch.Tensor, *ends: int, **options: Any) -> torch.Tensor:
    low, high = _ends(list(ends), options)
    found = _whole(draws, low, high, input.shape, options.get("device", input.device))
    return found.to(options.get("dtype") or input.dtype)


def _random_(draws: Draws, tensor: torch.Tensor, *ends: int, **named: int) -> torch.Tensor:
    high = named.get("to", ends[-1] if ends else None)
    if high is None:
        raise WriterError("numbers over the whole range of a type are drawn")
    low = named.get("from", ends[0] if len(ends) > 1 else 0)
    return _fill(tensor, _whole(draws, low, high, tensor.shape, tensor.device).to(tensor.dtype))


def _randperm(draws: Draws, n: int, **options: Any) -> torch.Tensor:
    """The order of random numbers is a random order."""
    order = draws.uniform((n,), dtype=torch.float32, device=options.get("device")).sort()[1]
    return order.to(options.get("dtype") or torch.int64)


def _multinomial(
    draws: Draws, input: torch.Tensor, num_samples: int, replacement: bool = False
) -> torch.Tensor:
    if num_samples == 1 or not replacement:  # the first of clocks that tick at these rates
        times = -_log_of_rest(draws, input)
        return (input / times).topk(num_samples)[1]
    shares = input.cumsum(-1)
    sizes = (*input.shape[:-1], num_samples)
    points = draws.uniform(sizes, input) * shares[..., -1:]
    below = shares.unsqueeze(-2) <= points.unsqueeze(-1)
    return below.sum(-1).clamp(max=input.shape[-1] - 1)


def _standard_gamma(draws: Draws, input: torch.Tensor) -> torch.Tensor:
    """After Marsaglia and Tsang, "A simple method for generating gamma variables" (2000)."""
    is_small = input < 1
    depth = torch.where(is_small, input + 1, input) - 1 / 3
    sizes = (_ATTEMPTS, *input.shape)
    normal, uniform = draws.normal(sizes, input), draws.uniform(sizes, input)
    cube = (1 + normal / torch.sqrt(9 * depth)) ** 3
    log = torch.log(cube.clamp(min=_TINY))
    bound = normal**2 / 2 + depth - depth * cube + depth * log
    taken = (cube > 0) & (torch.log(uniform.clamp(min=_TINY)) < bound)
    first = taken.to(torch.int64).argmax(0, keepdim=True)
    found = depth * cube.clamp(min=_TINY).gather(0, first).squeeze(0)
    boost = draws.uniform(input.shape, input).clamp(min=_TINY) ** (1 / input)
    return torch.where(is_small, found * boost, found)


def _sample_dirichlet(draws: Draws, input: torch.Tensor) -> torch.Tensor:
    found = _standard_gamma(draws, input)
    return found / found.sum(-1, keepdim=True)


# --- functions that draw numbers on the way


def _kept(draws: Draws, tensor: torch.Tensor, p: float, features: int | None) -> torch.Tensor:
    """Ones where something stays; for whole features if it is told how many sizes these have."""
    sizes = list(tensor.shape)
    if features is not None:
        sizes[features:] = [1] * (tensor.dim() - features)
    return (draws.uniform(sizes, tensor) >= p).to(tensor.dtype)


def _dropout_of(batched: int | None, is_alpha: bool = False) -> Callable[..., Any]:
    """A kind of dropout.

    Args:
        batched: How many dimensions a batch of what loses whole features has; ``0``: any number.
        is_alpha: Whether what is lost gets the lowest value of a SELU.
    """

    def drop(
        draws: Draws,
        input: torch.Tensor,
        p: float = 0.5,
        training: bool | None = None,
        inplace: bool = False,
        **options: Any,
    ) -> torch.Tensor:
        if training is None:
            training = options.get("train", not is_alpha)
        if not training or p == 0:
            return input
        features = None
        if batched is not None:
            features = 1 if batched and input.dim() == batched - 1 else 2
        kept = _kept(draws, input, p, features)
        if not is_alpha:
            found = input * kept / (1 - p) if p < 1 else input * 0.0
        else:
            scale = 1 / math.sqrt((_SELU_SLOPE**2 * p + 1) * (1 - p)) if p < 1 else 0.0
            found = input * kept * scale + (kept - 1 + p) * _SELU_SLOPE * scale
        return input.copy_(found) if inplace else found

    return drop


def _in_place(form: Callable[..., Any]) -> Callable[..., Any]:
    def run(draws: Draws, input: torch.Tensor, *positional: Any, **options: Any) -> torch.Tensor:
        return input.copy_(form(draws, input, *positional, **options))

    return run


def _rrelu(
    draws: Draws,
    input: torch.Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> torch.Tensor:
    if not training:
        return functional.rrelu(input, lower, upper, training, inplace)
    slope = draws.uniform(input.shape, input) * (upper - lower) + lower
    found = torch.where(input < 0, input * slope, input)
    return input.copy_(found) if inplace else found


def _gumbel_softmax(
    draws: Draws,
    logits: torch.Tensor,
    tau: float = 1,
    hard: bool = False,
    eps: float = 1e-10,  # noqa: ARG001 - torch takes it and does nothing with it, either
    dim: int = -1,
) -> torch.Tensor:
    noise = -torch.log(-_log_of_rest(draws, logits))
    soft = ((logits + noise) / tau).softmax(dim)
    if not hard:
        return soft
    index = soft.max(dim, keepdim=True)[1]
    chosen = torch.zeros_like(logits).scatter(dim, index, 1.0)
    return chosen - soft.detach() + soft


def _attention(
    draws: Draws,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> torch.Tensor:
    if not dropout_p:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, **options
        )
    scale = options.get("scale")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    if options.get("enable_gqa"):
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    scores = query @ key.transpose(-2, -1) * scale
    if is_causal:
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        attn_mask = ones.tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(-1)
    return (weights * _kept(draws, weights, dropout_p, None) / (1 - dropout_p)) @ value


def _pooled(pool: Callable[..., Any], dimensions: int) -> Callable[..., Any]:
    """Fractional pooling, which draws where its windows begin in eval mode, too."""

    def run(draws: Draws, input: torch.Tensor, *positional: Any, **options: Any) -> Any:
        if options.get(POOL_SAMPLES) is None:
            batch = input.shape[0] if input.dim() == dimensions + 2 else 1
            sizes = (batch, input.shape[-dimensions - 1], dimensions)
            options[POOL_SAMPLES] = draws.uniform(sizes, input)
        return pool(input, *positional, **options)

    return run


def _kaiming_uniform_(
    draws: Draws,
    tensor: torch.Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
) -> torch.Tensor:
    behind = math.prod(tensor.shape[2:])
    fan = tensor.shape[1 if mode == "fan_in" else 0] * behind
    bound = math.sqrt(3) * init.calculate_gain(nonlinearity, a) / math.sqrt(fan)  # type: ignore[arg-type]
    return _uniform_(draws, tensor, -bound, bound)


_DROPOUT, _OF_FEATURES = _dropout_of(None), _dropout_of(0)
_ALPHA, _ALPHA_OF_FEATURES = _dropout_of(None, True), _dropout_of(0, True)

_STANDS_FOR: tuple[tuple[Callable[..., Any], str], ...] = (
    (_rand, "torch.rand"),
    (_randn, "torch.randn"),
    (_rand_like, "torch.rand_like"),
    (_randn_like, "torch.randn_like"),
    (_normal, "torch.normal"),
    (_normal_, "Tensor.normal_"),
    (_uniform_, "Tensor.uniform_"),
    (_exponential_, "Tensor.exponential_"),
    (_log_normal_, "Tensor.log_normal_"),
    (_cauchy_, "Tensor.cauchy_"),
    (_geometric_, "Tensor.geometric_"),
    (_bernoulli, "torch.bernoulli Tensor.bernoulli"),
    (_bernoulli_, "Tensor.bernoulli_"),
    (_randint, "torch.randint"),
    (_randint_like, "torch.randint_like"),
    (_random_, "Tensor.random_"),
    (_randperm, "torch.randperm"),
    (_multinomial, "torch.multinomial Tensor.multinomial"),
    (_standard_gamma, STANDARD_GAMMA),
    (_sample_dirichlet, SAMPLE_DIRICHLET),
    (_DROPOUT, "functional.dropout torch.dropout"),
    (_in_place(_DROPOUT), "torch.dropout_"),
    (_dropout_of(3), "functional.dropout1d"),
    (_OF_FEATURES, "functional.dropout2d torch.feature_dropout"),
    (_in_place(_OF_FEATURES), "torch.feature_dropout_"),
    (_dropout_of(5), "functional.dropout3d"),
    (_ALPHA, "functional.alpha_dropout torch.alpha_dropout"),
    (_in_place(_ALPHA), "torch.alpha_dropout_"),
    (_ALPHA_OF_FEATURES, "functional.feature_alpha_dropout torch.feature_alpha_dropout"),
    (_in_place(_ALPHA_OF_FEATURES), "torch.feature_alpha_dropout_"),
    (_rrelu, "functional.rrelu torch.rrelu"),
    (_gumbel_softmax, "functional.gumbel_softmax"),
    (_attention, "functional.scaled_dot_product_attention"),
)

_PLAIN = frozenset([_rand, _randn, _rand_like, _randn_like])

# What draws -> the same in terms of plain numbers.
FORMS: dict[Any, Callable[..., Any]] = {
    **{function: form for form, paths in _STANDS_FOR for function in functions(paths)},
    **{
        pool: _pooled(pool, dimensions)
        for dimensions in (2, 3)
        for name in ("", "_with_indices")
        for pool in functions(f"functional.fractional_max_pool{dimensions}d{name}")
    },
    init.uniform_: _uniform_,
    init.normal_: _normal_,
    init.kaiming_uniform_: _kaiming_uniform_,
}
