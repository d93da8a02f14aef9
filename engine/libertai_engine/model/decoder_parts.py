"""A transformers decoder taken apart into what a native step needs: by what it has and does.

In: a module on slot lanes, and how its layers attended in one step. Out: `DecoderParts`, or
`NotLean` with the reason. Nothing is taken from a name of a class; what can be asked is asked (what
a norm multiplies by, what an activation does), and every weight must have found its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from libertai_engine.kernels.matrix import DENSE, Matrix, dense
from libertai_engine.kernels.packing import BLOCK
from libertai_engine.model.attention import Manner
from libertai_engine.model.decoder_questions import (
    NotLean,
    activation_of,
    epsilon_of,
    gain_of,
    rotation_of,
)

MAX_HEAD_DIM = 512
INNER = ("gate_proj", "up_proj")
FUSED_INNER = ("gate_up_proj",)
_MATRICES = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", *INNER, *FUSED_INNER, "down_proj")


@dataclass(frozen=True, slots=True, eq=False)
class LayerParts:
    """One layer. Gains are fp32; those of heads are None where heads have no norm.

    A token sees `window` positions, itself included; 0 means all of them.
    """

    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    gate: Matrix
    up: Matrix
    down: Matrix
    norm_in: Tensor  # [hidden]
    norm_mid: Tensor  # [hidden]
    q_gain: Tensor | None  # [head_dim]
    k_gain: Tensor | None
    rotates: bool
    window: int


@dataclass(frozen=True, slots=True, eq=False)
class DecoderParts:
    """A whole decoder of Llama's kind. Invariant: every parameter of the module is in it.

    `table` is the embedding where the step may read it itself; else `embed` is asked. Scores are
    multiplied by `score_scale`, what a block adds by `residual_scale`, logits by `logit_scale`.
    """

    layers: tuple[LayerParts, ...]
    norm_out: Tensor  # [hidden]
    head: Matrix
    embed: nn.Module
    table: Matrix | None
    frequencies: Tensor  # [rotary_dim / 2], fp32
    rotary_scale: float
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    activation: int
    epsilon: float
    head_epsilon: float
    score_scale: float
    residual_scale: float
    embedding_scale: float
    logit_scale: float


def take_apart(
    module: PreTrainedModel, manners: Sequence[Manner], context_size: int
) -> DecoderParts:
    """The parts of `module`, whose layers attended as `manners` say. Raises `NotLean`."""
    decoder, output = module.get_decoder(), module.get_output_embeddings()
    # NOTE: small logits, as short texts may have, hardly show it.
    if getattr(module.config.get_text_config(), "final_logit_softcapping", None):
        raise NotLean("soft caps of logits")
    _check_children(decoder)
    _check_manners(manners, len(decoder.layers))
    layers = tuple(map(_layer, decoder.layers, manners))
    first = decoder.layers[0]
    _check_parameters(module, decoder, output)
    head_dim = int(first.self_attn.head_dim)
    frequencies, rotary_scale = rotation_of(module, head_dim, context_size)
    parts = DecoderParts(
        layers=layers,
        norm_out=gain_of(decoder.norm),
        head=matrix_of(output),
        embed=decoder.embed_tokens,
        table=_table(decoder.embed_tokens),
        frequencies=frequencies,
        rotary_scale=rotary_scale,
        heads=_only({each.q.rows for each in layers}, "widths") // head_dim,
        kv_heads=_only({each.k.rows for each in layers}, "widths") // head_dim,
        head_dim=head_dim,
        hidden=layers[0].q.cols,
        activation=_only({activation_of(each.mlp) for each in decoder.layers}, "activations"),
        epsilon=_only({epsilon_of(each) for each in _norms(decoder)}, "epsilons"),
        head_epsilon=_only(
            {epsilon_of(each) for each in _head_norms(decoder)} or {0.0}, "epsilons"
        ),
        score_scale=_only({each.scale for each in manners}, "scales of scores"),
        residual_scale=_only({_number(each, "residual_multiplier") for each in decoder.layers}, ""),
        embedding_scale=_number(decoder, "embedding_multiplier"),
        logit_scale=1.0 / _number(module.config, "logits_scaling"),
    )
    _check_sizes(parts)
    return parts


def _check_manners(manners: Sequence[Manner], num_layers: int) -> None:
    if len(manners) != num_layers:
        raise NotLean("layers that attend more than once, or not at all")
    for each in manners:
        if each.softcap is not None or each.sinks is not None:
            raise NotLean("attention with soft caps or sinks")
        if each.window is None and each.rule is not None:
            raise NotLean("attention with a mask of its own")


def _check_children(decoder: Any) -> None:
    needed = {"embed_tokens", "layers", "norm"}
    if not needed <= _children(decoder) or not len(decoder.layers):
        raise NotLean("a decoder of another structure")


def _children(part: Any) -> set[str]:
    return {name for name, _ in part.named_children()}


def _layer(layer: Any, manner: Manner) -> LayerParts:
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    norms = {"input_layernorm", "post_attention_layernorm"}
    if attention is None or mlp is None or not norms <= _children(layer):
        raise NotLean("layers of another structure")
    q, k, v, o = _attention_matrices(attention)
    gate, up, down = _mlp_matrices(mlp)
    head_norms = [getattr(attention, name, None) for name in ("q_norm", "k_norm")]
    q_gain, k_gain = (None if each is None else gain_of(each) for each in head_norms)
    for gain in (q_gain, k_gain):
        if gain is not None and gain.numel() != attention.head_dim:
            raise NotLean("norms over several heads")
    return LayerParts(
        q=q,
        k=k,
        v=v,
        o=o,
        gate=gate,
        up=up,
        down=down,
        norm_in=gain_of(layer.input_layernorm),
        norm_mid=gain_of(layer.post_attention_layernorm),
        q_gain=q_gain,
        k_gain=k_gain,
        rotates=bool(getattr(attention, "use_rope", True)),
        window=manner.window or 0,
    )


def _attention_matrices(attention: Any) -> tuple[Matrix, ...]:
    """Queries, keys, values, output; the first three may be one layer's rows."""
    children = _children(attention)
    if {"q_proj", "k_proj", "v_proj", "o_proj"} <= children:
        names = ("q_proj", "k_proj", "v_proj", "o_proj")
        return tuple(matrix_of(getattr(attention, name)) for name in names)
    if not {"qkv_proj", "o_proj"} <= children:
        raise NotLean("attention of another structure")
    fused, o = matrix_of(attention.qkv_proj), matrix_of(attention.o_proj)
    first, second = o.cols, (fused.rows + o.cols) // 2  # where keys and values begin
    ends = ((0, first), (first, second), (second, fused.rows))
    return (*(rows_of(fused, *each) for each in ends), o)


def _mlp_matrices(mlp: Any) -> tuple[Matrix, ...]:
    """Gate, up, down; the first two may be one layer's rows."""
    children = _children(mlp)
    if {"gate_proj", "up_proj", "down_proj"} <= children:
        return tuple(matrix_of(each) for each in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    if not {"gate_up_proj", "down_proj"} <= children:
        raise NotLean("a feed-forward block of another structure")
    fused = matrix_of(mlp.gate_up_proj)
    half = fused.rows // 2
    return rows_of(fused, 0, half), rows_of(fused, half, fused.rows), matrix_of(mlp.down_proj)


def rows_of(matrix: Matrix, start: int, end: int) -> Matrix:
    """Some rows of a matrix, where they are. Raises `NotLean` where they are interleaved."""
    unit = BLOCK if matrix.kind == "int4" else 1
    if start % unit or (end % unit and end != matrix.rows):
        raise NotLean("fused layers whose parts share blocks of weights")
    places = {name: (start // unit, -(-end // unit)) for name in ("weight", "scale")}
    places |= {name: (start, end) for name in ("extra", "bias")}
    tensors = {
        name: None if tensor is None else tensor[slice(*places[name])]
        for name, tensor in matrix.tensors.items()
    }
    weight = tensors.pop("weight")
    assert weight is not None
    group = matrix.struct.group
    return Matrix(matrix.kind, end - start, matrix.cols, weight, group=group, **tensors)


def matrix_of(linear: Any) -> Matrix:
    """The weights of a linear layer where they are. Raises `NotLean`."""
    matrix = getattr(linear, "matrix", None)
    if isinstance(matrix, Matrix):
        return matrix
    if type(linear) is not nn.Linear or linear.weight.dtype not in DENSE:
        raise NotLean(f"linear layers of type {type(linear).__name__}")
    return dense(linear.weight, linear.bias)


def _norms(decoder: Any) -> Iterator[nn.Module]:
    yield decoder.norm
    for layer in decoder.layers:
        yield from (layer.input_layernorm, layer.post_attention_layernorm)


def _head_norms(decoder: Any) -> Iterator[nn.Module]:
    for layer in decoder.layers:
        for name in ("q_norm", "k_norm"):
            if getattr(layer.self_attn, name, None) is not None:
                yield getattr(layer.self_attn, name)


def _table(embedding: Any) -> Matrix | None:
    """The embedding as a plain table, or None if it does more than look up."""
    if type(embedding) is nn.Embedding and embedding.weight.dtype in DENSE:
        return dense(embedding.weight)
    return None


def _check_parameters(module: PreTrainedModel, decoder: Any, output: Any) -> None:
    """Every parameter of the language model belongs to a part that was taken."""
    known = {id(each) for part in _taken(decoder, output) for each in part.parameters()}
    owners = (("", decoder), ("head.", output))
    for prefix, owner in owners:
        for name, parameter in owner.named_parameters():
            if id(parameter) not in known:
                raise NotLean(f"weights without a place: {prefix}{name}")


def _taken(decoder: Any, output: Any) -> Iterator[nn.Module]:
    yield from (output, decoder.embed_tokens)
    yield from _norms(decoder)
    yield from _head_norms(decoder)
    for layer in decoder.layers:
        yield from (part for _, part in matrices_of(layer))


def matrices_of(layer: Any) -> Iterator[tuple[str, nn.Module]]:
    """The linear layers of a decoder's layer, by name."""
    for block in (layer.self_attn, layer.mlp):
        yield from ((name, part) for name, part in block.named_children() if name in _MATRICES)


def _check_sizes(parts: DecoderParts) -> None:
    """Native code trusts these: every matrix and gain has the size that its place asks for."""
    hidden, heads = parts.hidden, parts.heads * parts.head_dim
    inner, keys = parts.layers[0].gate.rows, parts.kv_heads * parts.head_dim
    sizes = [(parts.head.cols, hidden), (parts.norm_out.numel(), hidden)]
    for each in parts.layers:
        sizes += [(gain.numel(), hidden) for gain in (each.norm_in, each.norm_mid)]
        sizes += [(matrix.cols, hidden) for matrix in (each.q, each.k, each.v, each.gate, each.up)]
        sizes += [(each.q.rows, heads), (each.k.rows, keys), (each.v.rows, keys)]
        sizes += [(each.o.rows, hidden), (each.o.cols, heads), (each.down.rows, hidden)]
        sizes += [(matrix.rows, inner) for matrix in (each.gate, each.up)]
        sizes.append((each.down.cols, inner))
    if any(has != needs for has, needs in sizes) or parts.heads % parts.kv_heads:
        raise NotLean("layers of different sizes")
    if parts.head_dim > MAX_HEAD_DIM:
        raise NotLean(f"heads of more than {MAX_HEAD_DIM} entries")


def _number(owner: Any, name: str) -> float:
    return float(getattr(owner, name, 1.0))


def _only(values: set[Any], what: str) -> Any:
    """The value that all layers share. Raises `NotLean`."""
    if len(values) != 1:
        raise NotLean(f"layers with different {what or 'scales'}")
    return values.pop()
