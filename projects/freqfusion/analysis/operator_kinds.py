"""Operators without multiply-adds to count: what only moves numbers, and what works value by value.

What is in neither group, and has no formula, is unknown; counters name it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

Kind = Literal["moving", "elementwise", "unknown"]


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten::{name}" for name in names.split())


# Copies, choices and new tensors. Views are recognised by their schemas.
MOVING = _aten(
    """
    alias_copy arange argsort as_strided_ as_strided_copy bernoulli_ cat channel_shuffle clone
    constant_pad_nd copy copy_ detach_ embedding empty empty_like empty_permuted empty_strided
    expand_copy eye fill fill_ flip full full_like gather im2col index index_copy index_fill
    index_fill_ index_put index_put_ index_select item lift_fresh lift_fresh_copy linspace
    _local_scalar_dense logspace masked_fill masked_fill_ masked_scatter masked_scatter_
    masked_select new_empty new_empty_strided new_full new_ones new_zeros nonzero normal_ ones
    ones_like _pack_padded_sequence permute_copy _pin_memory pixel_shuffle pixel_unshuffle rand
    rand_like randint randint_like randn randn_like random_ randperm reflection_pad1d
    reflection_pad2d repeat repeat_interleave replication_pad2d _reshape_alias resize_
    _resize_output_ roll scalar_tensor scatter scatter_ select_scatter set_ slice_scatter sort
    squeeze_ stack t_ _to_copy topk transpose_ tril tril_indices triu triu_indices unfold_copy
    uniform_ _unique2 unique_consecutive unique_dim _unsafe_index _unsafe_index_put _unsafe_view
    unsqueeze_ upsample_nearest1d upsample_nearest2d upsample_nearest3d zero_ zeros zeros_like
    """
)
# Sums, comparisons, normalisations and pooling: work for each value, without products over axes.
ELEMENTWISE = _aten(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d all amax amin aminmax any argmax
    argmin avg_pool2d _batch_norm_no_update _batch_norm_with_update bincount bucketize
    count_nonzero cudnn_batch_norm cummax cummin cumprod cumsum diff equal floor_divide
    floor_divide_ _fused_dropout _fused_rms_norm histc index_add index_add_ is_nonzero isin isnan
    kthvalue linalg_vector_norm _log_softmax logcumsumexp logsumexp max max_pool2d_with_indices
    max_pool3d_with_indices mean median min miopen_batch_norm mode native_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_no_training native_dropout native_group_norm
    native_layer_norm nll_loss2d_forward nll_loss_forward norm prod rms_norm _safe_softmax
    scatter_add scatter_add_ scatter_reduce searchsorted segment_reduce _softmax std std_mean sum
    var var_mean _weight_norm_interface
    """
) | {"torchvision::nms"}


def kind_of(operator: Any) -> Kind:
    """The group of an operator of torch's dispatcher."""
    schema = operator._schema
    if schema.name in MOVING or _is_view(schema):
        return "moving"
    if schema.name in ELEMENTWISE or torch.Tag.pointwise in operator.tags:
        return "elementwise"
    return "unknown"


def _is_view(schema: Any) -> bool:
    """Whether an output shares memory with an argument that is not changed."""
    aliases = [output.alias_info for output in schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)
