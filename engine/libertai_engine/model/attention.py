"""The attention function that transformers' models call: each row looks at its own lane.

In: queries of all rows on the packed axis, the lanes of one layer, the step's `PackedBatch`.
Out: attention output on the packed axis. A row's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function

from libertai_engine.kernels import attend as native
from libertai_engine.kernels.library import Library
from libertai_engine.model.packing import PackedBatch, PackedRow
from libertai_engine.model.parts import language_model

SLOT_LANES = "slot_lanes"
"""Our name in transformers' table of attention implementations."""

MaskFunction = Callable[..., torch.Tensor]

# Arguments that models hand to every attention function and that change nothing here.
_HARMLESS = frozenset({"position_ids", "past_key_values", "logits_to_keep"})


class UnsupportedAttention(Exception):
    """The model asks for an attention that slot lanes do not have."""


@dataclass(frozen=True, slots=True)
class MaskRule:
    """Which key a query may see, as transformers states it; stands where a mask would be."""

    function: MaskFunction

    def __call__(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Positions `[n]` and `[m]` to a boolean mask `[n, m]`, True where the query may look."""
        zero = queries.new_zeros(())
        return self.function(zero, zero, queries[:, None], keys[None, :])


def use_slot_lanes(module: PreTrainedModel) -> None:
    """Make a transformers model attend through `attend`, with no dense mask built beforehand.

    A vision tower keeps its own attention. So does a model that does not use the attention
    interface; it does not reach ours, and `probe.check_model` finds out.
    """
    AttentionInterface.register(SLOT_LANES, attend)
    AttentionMaskInterface.register(SLOT_LANES, mask_rule)
    language_model(module).set_attn_implementation(SLOT_LANES)


def mask_rule(*, mask_function: MaskFunction, **_: Any) -> MaskRule | None:
    """The mask of a layer type: nothing for the plain causal one, else its rule."""
    return None if mask_function is causal_mask_function else MaskRule(mask_function)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: MaskRule | None,
    *,
    packed: PackedBatch | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of each row over positions `[0, end)` of its lane.

    `query` `[1, head, T, head_dim]`; `key` and `value` are lanes
    `[slot, kv_head, position, head_dim]` that already hold this step. Returns
    `[1, T, head, value_dim]`. `softcap` c makes scores c·tanh(s/c); `s_aux` `[head]` holds
    attention sinks: one more score a head whose value is zero. Raises `UnsupportedAttention` for
    anything else a model passes, because leaving it out would give wrong answers silently.
    """
    if packed is None:
        raise UnsupportedAttention("attention that is not told about the rows of a batch")
    _refuse_others(module, attention_mask, others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    how = Manner(scale, sliding_window, softcap, s_aux, attention_mask)
    packed.attended.append(how)
    library = packed.library
    if len(packed.rows) == 1:
        return _attend_row(query[0], (key, value), packed.rows[0], how, library).unsqueeze(0), None
    _, heads, num_tokens, _ = query.shape
    out = query.new_empty(1, num_tokens, heads, value.shape[-1])
    for row in packed.rows:
        queries = query[0, :, row.first : row.last]
        out[0, row.first : row.last] = _attend_row(queries, (key, value), row, how, library)
    return out, None


@dataclass(frozen=True, slots=True, eq=False)
class Manner:
    """How one layer attends; the same for all rows of all steps."""

    scale: float
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None
    rule: MaskRule | None

    @property
    def is_native(self) -> bool:
        """True for causal attention without more, within a window or not."""
        has_more = self.softcap is not None or self.sinks is not None
        return not has_more and (self.rule is None or self.window is not None)

    def is_plain(self, row: PackedRow) -> bool:
        """True if the row sees every earlier position and starts at the first."""
        sees_all = self.rule is None if self.window is None else row.end <= self.window
        return sees_all and row.start == 0


def _refuse_others(module: torch.nn.Module, attention_mask: object, others: dict[str, Any]) -> None:
    if not (attention_mask is None or isinstance(attention_mask, MaskRule)):
        raise UnsupportedAttention("attention with a mask of its own")
    for name, argument in others.items():
        # NOTE: flags ask for other outputs; tensors and numbers would change this one.
        if not (argument is None or isinstance(argument, bool) or name in _HARMLESS):
            raise UnsupportedAttention(f"attention with `{name}`")
    is_causal = others.get("is_causal")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise UnsupportedAttention("attention that is not causal")


def _attend_row(
    query: torch.Tensor,
    lanes: tuple[torch.Tensor, torch.Tensor],
    row: PackedRow,
    how: Manner,
    library: Library | None,
) -> torch.Tensor:
    """`[head, n, head_dim]` against one lane; returns `[n, head, value_dim]`."""
    key, value = lanes
    if library is not None and how.is_native:
        lane = key[row.slot, :, : row.end], value[row.slot, :, : row.end]
        if native.can_attend(query, *lane):
            window = how.window or 0
            return native.attend(library, query, *lane, scale=how.scale, window=window)
    first_key = 0 if how.window is None else max(0, row.start - how.window + 1)
    keys = key[row.slot, :, first_key : row.end]  # [kv_head, m, head_dim]
    values = value[row.slot, :, first_key : row.end]
    # Queries of a group share one key head, so that K and V need not be repeated.
    grouped = query.view(keys.shape[0], -1, *query.shape[1:])  # [kv_head, group, n, head_dim]
    if how.softcap is None and how.sinks is None:
        out = _fused(grouped, keys, values, row, how)
    else:
        out = _explicit(grouped, keys, values, row, how)
    return out.flatten(0, 1).transpose(0, 1)


def _fused(
    grouped: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, row: PackedRow, how: Manner
) -> torch.Tensor:
    """torch's fused kernel; `[kv_head, group, n, value_dim]`."""
    _, group, n, _ = grouped.shape
    mask = None if how.is_plain(row) else _visible(row, keys, how)
    if n == 1:  # the group takes the place of the queries
        query = grouped.squeeze(2).unsqueeze(0)  # [1, kv_head, group, head_dim]
        return scaled_dot_product_attention(
            query, keys.unsqueeze(0), values.unsqueeze(0), attn_mask=mask, scale=how.scale
        )[0].unsqueeze(2)
    return scaled_dot_product_attention(
        grouped,
        keys.unsqueeze(1).expand(-1, group, -1, -1),
        values.unsqueeze(1).expand(-1, group, -1, -1),
        attn_mask=mask,
        is_causal=mask is None,
        scale=how.scale,
    )


def _explicit(
    grouped: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, row: PackedRow, how: Manner
) -> torch.Tensor:
    """Scores written out, for soft caps and sinks; `[kv_head, group, n, value_dim]`."""
    scores = (grouped @ keys.unsqueeze(1).mT).float() * how.scale  # [kv_head, group, n, m]
    if how.softcap is not None:
        scores = torch.tanh(scores / how.softcap) * how.softcap
    mask = _visible(row, keys, how)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = _softmax(scores, how.sinks)
    return weights.to(values.dtype) @ values.unsqueeze(1)


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Softmax over keys; a sink takes its share of the weight and gives nothing back."""
    if sinks is None:
        return scores.softmax(-1)
    kv_heads, group, n, _ = scores.shape
    sink = sinks.float().view(kv_heads, group, 1, 1).expand(-1, -1, n, 1)
    return torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]


def _visible(row: PackedRow, keys: torch.Tensor, how: Manner) -> torch.Tensor | None:
    """Boolean `[n, m]`, True where a query may look; None if all of `keys` is seen by all."""
    first_key = row.end - keys.shape[1]
    if row.end - row.start == 1 and (how.window is not None or how.rule is None):
        return None
    queries = torch.arange(row.start, row.end, device=keys.device)
    positions = torch.arange(first_key, row.end, device=keys.device)
    if how.window is None and how.rule is not None:
        return how.rule(queries, positions)
    mask = positions[None, :] <= queries[:, None]
    if how.window is not None:
        mask &= positions[None, :] > queries[:, None] - how.window
    return mask
