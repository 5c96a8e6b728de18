"""What is known about torch's ops: the one table of it.

A row belongs to a function of torch's own and to nothing else that has its name. Whoever asks
about an op of a graph asks with its target: ``torch.Tensor.view`` is in the table,
``torch.ops.mylib.view.default`` is not. `modelviz_callbacks.tracing.op_facts` binds the same rows
to the function objects.
"""

from __future__ import annotations

import re
from enum import Flag, auto
from functools import lru_cache


class OpFact(Flag):
    """Something that is true of an op; an op may have several."""

    NONE = 0

    # What it is, for whoever looks at a graph.
    LAYOUT = auto()  # only changes how a tensor is laid out: shape, strides, dtype, device
    TAKES_SHAPE = auto()  # its integers are a shape; the first one is the batch's size
    TAKES_SIZES = auto()  # its integers are sizes or places in a tensor
    LINEAR = auto()
    CONVOLUTION = auto()  # its weight is channels by channels by kernel
    TRANSPOSED = auto()  # of a convolution: the weight's first size is that of the input
    CHANNELS = auto()  # the first two sizes of its weight are channels
    RECURRENT = auto()  # a whole layer over a sequence, with a list of weights
    ATTENTION_LAYER = auto()  # with the projections around it
    EMBEDDING = auto()  # looks rows of its weight up
    SIZED = auto()  # its weight has the size of what it works on: norms
    SHAPE_OF_FIRST = auto()  # of its first argument it asks only the shape, dtype and device
    SHAPE_OF_SECOND = auto()  # of its second argument likewise

    # What it costs.
    COUNTED = auto()  # there is a formula for its FLOPs, or for whatever it comes down to
    UNCOUNTED = auto()  # multiplies matrices or the like, and there is no formula for it
    KEEPS_SIZES = auto()  # autograd keeps no tensor for it, only sizes, however many it is given

    # What the recorder must know before it calls it.
    ASKS = auto()  # tells something about a tensor (shape, dtype) and gives none
    TELLS_SIZE = auto()  # tells how large a tensor is
    GIVES_TENSOR = auto()  # of a property: a tensor, not something about one
    READS_VALUE = auto()  # hands a tensor's values to Python
    WRITES = auto()  # to its first argument, though its name does not end in an underscore
    MAY_WRITE = auto()  # compiled, and may write though its name does not say so
    KEEPS_VALUES = auto()  # in-place by its name, but the values stay as they are
    GRADIENT = auto()  # reads ``.grad`` or switches ``requires_grad``
    DUAL = auto()  # makes a dual number of forward-mode differentiation, or takes one apart
    BACKWARD = auto()  # runs the autograd engine
    HOOKS = auto()  # lets autograd call a function with the gradient of its first argument
    NODE = auto()  # gives the node of autograd, which can be changed

    # What hangs on its values.
    SIZED_BY_VALUES = auto()  # the values of its arguments decide how large the result is

    # What else runs in training than in evaluation.
    TRAINING = auto()  # an argument says whether this is training
    STATISTICS = auto()  # keeps running statistics, if it is given any
    RENORMALISES = auto()  # scales rows of its weight down, if it is given a largest norm


_F = OpFact

# Facts and the names of the functions that they hold for, each name in one row. A property is
# named with its accessor (``T.__get__``), a node of autograd without the number of its version.
_ROWS: tuple[tuple[OpFact, str], ...] = (
    (
        _F.LAYOUT,
        """
        T.__get__ __getitem__ alias as_strided chunk clone contiguous cpu cuda double
        flatten float half mT.__get__ movedim narrow permute select split squeeze
        swapaxes t to transpose type unbind unflatten unsqueeze
        AliasBackward AsStridedBackward CloneBackward ExpandBackward PermuteBackward
        ReshapeAliasBackward SelectBackward SliceBackward SplitBackward SqueezeBackward TBackward
        ToCopyBackward TransposeBackward UnbindBackward UnsafeSplitBackward UnsafeViewBackward
        UnsqueezeBackward ViewBackward
        """,
    ),
    (_F.LAYOUT | _F.SHAPE_OF_SECOND, "expand_as reshape_as type_as view_as"),
    (_F.LAYOUT | _F.TAKES_SHAPE, "expand reshape view"),
    (_F.TAKES_SHAPE | _F.SHAPE_OF_FIRST, "new_empty new_full new_ones new_zeros"),
    (
        _F.SHAPE_OF_FIRST,
        """
        bernoulli_ cauchy_ copy_ empty_like exponential_ fill_ full_like geometric_ log_normal_
        new_empty_strided new_tensor normal_ ones_like rand_like randint_like randn_like random_
        uniform_ zero_ zeros_like
        """,
    ),
    (
        _F.TAKES_SHAPE,
        """
        arange broadcast_to empty full ones rand randn repeat resize tile zeros
        """,
    ),
    (_F.KEEPS_SIZES, "cat concat concatenate hstack stack vstack"),
    (_F.TAKES_SIZES, "interpolate pad roll scatter slice"),
    (_F.LINEAR | _F.COUNTED, "linear"),
    (_F.CONVOLUTION | _F.CHANNELS | _F.COUNTED, "conv1d conv2d conv3d"),
    (
        _F.CONVOLUTION | _F.TRANSPOSED | _F.CHANNELS | _F.COUNTED,
        "conv_transpose1d conv_transpose2d conv_transpose3d",
    ),
    (_F.CHANNELS | _F.COUNTED, "_convolution conv_tbc convolution"),
    (
        _F.CHANNELS | _F.COUNTED,
        """
        conv_depthwise3d convolution_overrideable cudnn_convolution
        cudnn_convolution_transpose miopen_convolution miopen_convolution_transpose
        miopen_depthwise_convolution mkldnn_convolution slow_conv3d slow_conv_dilated2d
        slow_conv_dilated3d slow_conv_transpose2d slow_conv_transpose3d thnn_conv2d
        """,
    ),
    (_F.RECURRENT | _F.COUNTED | _F.TRAINING, "gru lstm rnn_relu rnn_tanh"),
    (_F.ATTENTION_LAYER | _F.COUNTED | _F.TRAINING, "multi_head_attention_forward"),
    (_F.COUNTED | _F.TRAINING, "scaled_dot_product_attention"),
    (
        _F.COUNTED,
        """
        __matmul__ __rmatmul__ _addmm_activation _efficient_attention_forward
        _flash_attention_forward _grouped_mm _int_mm _scaled_dot_product_attention_math
        _scaled_dot_product_cudnn_attention _scaled_dot_product_efficient_attention
        _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu
        _scaled_dot_product_fused_attention_overrideable _scaled_grouped_mm _scaled_mm
        _sparse_addmm _sparse_mm _trilinear _weight_int4pack_mm _weight_int8pack_mm addbmm
        addbmm_ addmm addmm_ addmv addmv_ addr addr_ baddbmm baddbmm_ bilinear bmm chain_matmul
        corrcoef cov dot dsmm einsum ger gru_cell grouped_mm hsmm hspmm inner kron linalg_matmul
        linalg_matrix_power linalg_multi_dot linalg_vecdot lstm_cell matmul matrix_power mm mv
        outer rnn_relu_cell rnn_tanh_cell saddmm scaled_grouped_mm scaled_mm smm
        sparse_sampled_addmm spmm sspaddmm tensordot vdot
        """,
    ),
    (
        _F.UNCOUNTED,
        """
        _cdist_forward _cholesky_solve_helper _conv_depthwise2d _convolution_mode _cslt_sparse_mm
        _cslt_sparse_mm_search _cudnn_attention_forward _cudnn_rnn _dyn_quant_matmul_4bit
        _euclidean_dist _fft_c2c _fft_c2r _fft_r2c _flash_attention_forward_no_dropout_inplace
        _foreach_mm _grid_sampler_2d_cpu_fallback _linalg_det _linalg_eigh _linalg_eigvals
        _linalg_slogdet _linalg_solve_ex _linalg_svd _lstm_mps _lu_with_info _mixed_dtypes_linear
        _mps_convolution _mps_convolution_transpose _native_multi_head_attention
        _nnpack_spatial_convolution _pdist_forward _scaled_dot_product_attention_math_for_mps
        _scaled_grouped_mm_v2 _scaled_mm_v2 _slow_conv2d_forward _sparse_mm_reduce_impl
        _sparse_semi_structured_addmm _sparse_semi_structured_linear _sparse_semi_structured_mm
        _sparse_sparse_matmul _spsolve _transformer_encoder_layer_fwd _triton_multi_head_attention
        _triton_scaled_dot_attention _weight_int4pack_mm_for_cpu
        _weight_int4pack_mm_with_scales_and_zeros _wrapped_quantized_linear_prepacked affine_grid
        affine_grid_generator cdist cholesky cholesky_inverse cholesky_solve
        cudnn_affine_grid_generator cudnn_convolution_add_relu cudnn_convolution_relu
        cudnn_grid_sampler det fbgemm_linear_fp16_weight fbgemm_linear_fp16_weight_fp32_activation
        fbgemm_linear_int8_weight fbgemm_linear_int8_weight_fp32_activation fft_fft fft_fft2
        fft_fftn fft_hfft fft_hfft2 fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_ihfft fft_ihfft2
        fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftn geqrf grid_sample
        grid_sampler grid_sampler_2d grid_sampler_3d inverse istft linalg_cholesky
        linalg_cholesky_ex linalg_cond linalg_det linalg_eig linalg_eigh linalg_eigvals
        linalg_eigvalsh linalg_householder_product linalg_inv linalg_inv_ex linalg_ldl_factor
        linalg_ldl_factor_ex linalg_ldl_solve linalg_lstsq linalg_lu linalg_lu_factor
        linalg_lu_factor_ex linalg_lu_solve linalg_matrix_exp linalg_matrix_rank
        linalg_matrix_sqrth linalg_pinv linalg_polar linalg_qr linalg_slogdet linalg_solve
        linalg_solve_ex linalg_solve_triangular linalg_svd
        linalg_svdvals linalg_tensorinv linalg_tensorsolve linear_cross_entropy lobpcg logdet lu
        lu_solve matrix_exp miopen_convolution_add_relu miopen_convolution_relu miopen_rnn
        mkldnn_linear mkldnn_rnn_layer nuclear_norm orgqr ormqr pca_lowrank pdist pinverse qr
        quantized_gru quantized_gru_cell quantized_lstm quantized_lstm_cell quantized_rnn_relu_cell
        quantized_rnn_tanh_cell slogdet slow_conv3d_forward stft svd svd_lowrank triangular_solve
        """,
    ),
    (_F.EMBEDDING | _F.RENORMALISES, "embedding"),
    (_F.RENORMALISES, "embedding_bag"),
    (_F.CHANNELS | _F.SIZED | _F.MAY_WRITE | _F.TRAINING | _F.STATISTICS, "batch_norm"),
    (_F.SIZED | _F.MAY_WRITE | _F.TRAINING | _F.STATISTICS, "instance_norm"),
    (_F.SIZED, "group_norm layer_norm prelu rms_norm"),
    (_F.MAY_WRITE | _F.TRAINING | _F.STATISTICS, "native_batch_norm"),
    (
        _F.TRAINING,
        """
        alpha_dropout dropout dropout1d dropout2d dropout3d feature_alpha_dropout
        feature_dropout rrelu
        """,
    ),
    (
        _F.READS_VALUE,
        """
        __array__ __bool__ __complex__ __contains__ __dlpack__ __float__ __format__ __index__
        __int__ __long__ __nonzero__ __repr__ allclose equal is_nonzero item numpy tolist
        """,
    ),
    (
        _F.ASKS,
        """
        __dir__ __hash__ __sizeof__ _assert _assert_async _is_view _nnz can_cast data_ptr
        dense_dim dim element_size get_default_dtype get_device has_names
        is_coalesced is_complex is_conj is_contiguous is_distributed is_floating_point
        is_inference is_neg is_pinned is_same_size is_set_to is_shared is_signed is_storage
        is_tensor ndimension promote_types
        register_post_accumulate_grad_hook result_type retain_grad sparse_dim storage
        storage_offset stride untyped_storage
        """,
    ),
    (_F.ASKS | _F.TELLS_SIZE, "__len__ nelement numel shape.__get__ size sym_size"),
    (
        _F.SIZED_BY_VALUES,
        """
        _pack_padded_sequence _unique _unique2 argwhere bincount coalesce masked_select nonzero
        nonzero_numpy one_hot repeat_interleave tensor_split to_sparse unique
        unique_consecutive unique_dim
        """,
    ),
    (_F.GIVES_TENSOR, "H.__get__ data.__get__ imag.__get__ mH.__get__ real.__get__"),
    (
        _F.WRITES,
        """
        __iadd__ __iand__ __idiv__ __ifloordiv__ __ilshift__ __imod__ __imul__ __ior__ __ipow__
        __irshift__ __isub__ __itruediv__ __ixor__ __setitem__ data.__set__ imag.__set__
        real.__set__
        """,
    ),
    (
        _F.KEEPS_VALUES,
        """
        as_strided_ detach_ rename_ share_memory_ squeeze_ swapaxes_ swapdims_ t_ transpose_
        unsqueeze_
        """,
    ),
    (_F.KEEPS_VALUES | _F.GRADIENT, "requires_grad_"),
    (_F.GRADIENT, "grad.__get__ requires_grad.__set__"),
    # Each product below it is made of the tangents, too.
    (_F.DUAL | _F.UNCOUNTED, "_make_dual"),
    (_F.DUAL, "_unpack_dual"),
    (_F.UNCOUNTED, "grad"),
    (_F.BACKWARD, "backward"),
    (_F.HOOKS, "register_hook"),
    (_F.NODE, "grad_fn.__get__"),
)

OP_FACTS: dict[str, OpFact] = {name: facts for facts, names in _ROWS for name in names.split()}

# Of the functions that not every supported torch has: which have them.
VERSIONS: dict[str, str] = {
    "_foreach_mm": "2.13 and later",
    "grouped_mm": "2.10 and later",
    "has_names": "before 2.13",
    "linalg_matrix_sqrth": "2.14 and later",
    "linalg_polar": "2.14 and later",
    "linear_cross_entropy": "2.13 and later",
    "rename_": "before 2.13",
    "scaled_mm": "2.10 and later",
}

# What the recorder calls another view of known memory, made out of its sight.
UNSEEN_VIEW = "view"

# The libraries of ``torch.ops`` that are torch's own vocabulary. A name in another one may be
# the name of anything.
TORCH_LIBRARIES = frozenset({"aten", "prim", "prims"})

# Those of ``torch.ops`` whose ops calculate nothing.
_IDLE_LIBRARIES = frozenset({"_c10d_functional", "c10d", "c10d_functional", "profiler", "rngprims"})

_OURS = "modelviz_callbacks."
_AUTOGRAD_NODE = re.compile(r"torch\.autograd\.(\w+Backward)\d+")
# Whose functions have its name before their own: ``torch.linalg.solve`` is ``linalg_solve``.
_PREFIXING = frozenset({"torch.fft", "torch.linalg", "torch.special"})
_ACCESSORS = ("__get__", "__set__")
_QUANTISED_PRODUCT = re.compile(r"linear|conv|lstm|gru|rnn|matmul|bmm")


def torch_name(target: str) -> str:
    """The name under which torch's own function is in the table.

    Args:
        target: The target of an op: the qualified name of what was called.

    Returns:
        ``view`` for ``torch.Tensor.view`` and for ``torch.ops.aten.view.default``, ``T.__get__``
        for a property; ``""`` for what is not torch's, such as ``torch.ops.mylib.view.default``.
    """
    if target == UNSEEN_VIEW:
        return target
    first, _, rest = target.partition(".")
    # This package's own functions are torch's below a transform, and have their names.
    if first != "torch" and not target.startswith(_OURS):
        return ""
    if rest.startswith("ops."):
        library, _, op = rest.removeprefix("ops.").partition(".")
        return op.partition(".")[0] if library in TORCH_LIBRARIES else ""
    if rest.startswith("autograd.") and "Backward" in rest:
        node = _AUTOGRAD_NODE.fullmatch(target)
        return node[1] if node is not None else ""  # a user's own node has no number
    home, _, name = target.rpartition(".")
    if home in _PREFIXING:
        return f"{home.rpartition('.')[2]}_{name}"
    return f"{home.rpartition('.')[2]}.{name}" if name in _ACCESSORS else name


@lru_cache(maxsize=4096)
def facts_of(target: str) -> OpFact:
    """What is known about an op of a graph; nothing if it is not torch's own.

    Args:
        target: As for `torch_name`.
    """
    return OP_FACTS.get(torch_name(target), OpFact.NONE)


@lru_cache(maxsize=4096)
def may_multiply(target: str) -> bool:
    """Whether an op may do what FLOPs are counted of: multiply matrices, convolve, attend.

    What is known about a torch op says so; of the ops of other libraries nothing is known.

    Args:
        target: As for `torch_name`.
    """
    if facts_of(target) & (OpFact.COUNTED | OpFact.UNCOUNTED):
        return True
    first, _, rest = target.partition(".ops.")
    if first != "torch":
        return False
    library, _, op = rest.partition(".")
    if library == "quantized":
        return _QUANTISED_PRODUCT.search(op) is not None
    return library not in TORCH_LIBRARIES | _IDLE_LIBRARIES
