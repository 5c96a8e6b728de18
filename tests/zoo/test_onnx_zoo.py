"""Over the whole zoo: every model has an ONNX file, and nearly every one computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modelviz_callbacks import GraphHook
from tests.zoo.cases import Case
from tests.zoo.onnx_files import examined
from tests.zoo.test_zoo import ALL

# What other libraries warn of while they build their models is not this zoo's matter.
pytestmark = pytest.mark.filterwarnings("ignore")

# Models whose file is for looking at: the ops that have no form in standard ops of version 18,
# or what of the model cannot be run again.
NOT_STANDARD = {
    "autograd-backward_in_forward": "gradients inside the forward",
    "autograd-custom_function_numpy": "numpy in between",
    "code-custom_op": "an operator of the user's own",
    "code-flex_attention": "an op that torch compiles out of sight",
    "code-library_ops": "operators of a library's own",
    "code-mutating_custom_op": "an operator of the user's own",
    "code-scripted_function": "TorchScript",
    "code-scripted_model": "TorchScript",
    "code-scripted_submodule": "TorchScript",
    "code-traced_submodule": "TorchScript",
    "code-uses_cond": "torch.cond",
    "code-uses_higher_order_ops": "torch.map",
    "numerics-linear_algebra": "cholesky, solve, eigh, qr, svdvals, inv",
    "reads-numpy_in_between": "numpy in between",
    "reads-many_dtypes": "8-bit floats",
    "tensors-computes_in_thread": "ops in a thread of their own",
    "tensors-disables_torch_function": "ops with torch functions switched off",
    "tensors-nested_jagged": "nested tensors",
    "tensors-nested_strided": "nested tensors",
    "tensors-quantized_dynamic": "quantised kernels",
    "tensors-quantized_tensors": "quantised tensors",
    "tensors-sparse_in_and_out": "sparse tensors",
    "tensors-sparse_matrices": "sparse tensors",
    "tensors-torch_function_argument": "an object in place of a tensor",
    "torch_geometric-SuperGATConv": "Python's random numbers, drawn for the values of tensors",
    "transformers-vilt": "torch.multinomial, interpolation to a size that depends on data",
}

# Models whose standard file onnxruntime cannot run, or runs to another result.
DIFFERENT = {
    "memory-replaces_buffers": "the program starts from the buffer that the forward replaced",
    "modules-creates_module": "weights drawn by torch.nn.init in the forward",
    "modules-grows_in_forward": "weights drawn by torch.nn.init in the forward",
    "numerics-draws_numbers": "draws that have no middle value",
    "numerics-gumbel_softmax": "draws that have no middle value",
    "numerics-half_precision_weights": "onnxruntime has no Gemm in bfloat16 on CPUs",
    "numerics-uses_distributions": "draws that have no middle value",
    "tensors-subclass_with_torch_function": "the subclass changes its class on the way",
    "transformers-afmoe": "experts chosen among equal scores",
    "transformers-deformable_detr": "a group norm over one element: rounding decides",
    "transformers-doge": "the largest among equal scores",
    "transformers-grounding-dino": "a group norm over one element: rounding decides",
    "transformers-mm-grounding-dino": "a group norm over one element: rounding decides",
    "transformers-switch_transformers": "sizes of the experts' shares, which depend on a draw",
}


def id_of(case: Case) -> str:
    return f"{case.family}-{case.name}"


@pytest.fixture(autouse=True)
def one_thread_and_gradients() -> Iterator[None]:
    """Small models run faster so; a case may leave gradients switched off."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.enable_grad():
        yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("case", ALL, ids=[id_of(case) for case in ALL])
def test_has_a_file_that_onnxruntime_agrees_with_or_is_a_known_exception(case: Case) -> None:
    found = examined(case)
    name = id_of(case)
    assert bool(found.untranslated) == (name in NOT_STANDARD), found.untranslated
    assert bool(found.cause) == (name in DIFFERENT), found.cause


# Models that no exporter follows as they are, or that draw numbers in eval mode: they have a file
# to run all the same.
RUNNABLE = [
    "autograd-gradient_penalty",
    "autograd-inner_loop",
    "numerics-draws_from_generator",
    "numerics-draws_numbers",
    "numerics-gumbel_softmax",
    "numerics-sets_seed",
    "numerics-uses_distributions",
    "plain-slot_attention",
    "transformers-hubert",
    "transformers-unispeech",
    "transformers-vit_mae",
    "transformers-xlnet",
]


@pytest.mark.alike
@pytest.mark.parametrize("name", RUNNABLE)
def test_has_a_file_to_run_that_agrees_with_the_model(name: str, tmp_path: Path) -> None:
    (case,) = (case for case in ALL if id_of(case) == name)
    model, args, kwargs = case.make()
    options: dict[str, Any] = {"formats": ["text"], "tensorboard": False, "onnx": False}
    with GraphHook(model, dirpath=tmp_path, trained_onnx=True, **options) as hook:
        model(*args, **kwargs)
    assert hook.report.refused == []
    assert (tmp_path / "model.onnx").exists()


def test_at_least_96_percent_are_of_standard_ops_and_98_percent_of_these_agree() -> None:
    names = {id_of(case) for case in ALL}
    assert {*NOT_STANDARD, *DIFFERENT} <= names
    standard = len(names) - len(NOT_STANDARD)
    assert standard >= 0.96 * len(names)
    assert standard - len(DIFFERENT) >= 0.98 * standard
