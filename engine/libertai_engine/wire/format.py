"""Deltas to JSON objects. Pure functions.

In: a `Delta`, or a finished answer, with the call it belongs to. Out: the dict that goes on the
wire: the keys of the server of December 2023, and those of later servers beside them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.sequence import Delta, Finish, FinishReason, Request
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.constraints import constraint_settings
from libertai_engine.wire.fields import SAMPLING
from libertai_engine.wire.parse import CompletionCall


def format_chunk(delta: Delta, call: CompletionCall, tokenizer: Tokenizer) -> dict[str, Any]:
    """One event of a stream that goes on; `index` says of which prompt, if there are several."""
    chunk = {
        "content": delta.text,
        "multimodal": call.is_multimodal,
        "slot_id": delta.slot,
        "stop": False,
    }
    return chunk | _index(delta.index, call) | _tokens(delta.tokens, call, tokenizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished sequence: its text, the tokens that made it, and how it ended.

    `index` is that of its request.
    """

    text: str
    tokens: Sequence[SampledToken]
    finish: Finish
    index: int = 0

    @classmethod
    def of(cls, deltas: Sequence[Delta]) -> Answer:
        """Put all deltas of one sequence together."""
        finish = deltas[-1].finish
        assert finish is not None, "a sequence ends with a finish or an error"
        return cls(
            text="".join(delta.text for delta in deltas),
            tokens=[token for delta in deltas for token in delta.tokens],
            finish=finish,
            index=deltas[-1].index,
        )


def format_result(
    answer: Answer, call: CompletionCall, tokenizer: Tokenizer, *, model: str, context_size: int
) -> dict[str, Any]:
    """The whole answer, or the last event of a stream, whose text was sent before."""
    finish = answer.finish
    result = {
        "content": answer.text,
        "generation_settings": {
            **_settings(call),
            "seed": finish.seed,
            "model": model,
            "n_ctx": context_size,
        },
        "model": model,
        "prompt": call.prompts[answer.index],
        "slot_id": finish.slot,
        "id_slot": finish.slot,
        "stop": True,
        "stop_type": finish.reason.value,
        "stopped_eos": finish.reason is FinishReason.EOS,
        "stopped_limit": finish.reason is FinishReason.LIMIT,
        "stopped_word": finish.reason is FinishReason.WORD,
        "stopping_word": finish.stop_word,
        "timings": _timings(finish),
        "tokens_cached": finish.num_in_cache,
        "tokens_evaluated": finish.num_prompt_tokens,
        "tokens_predicted": finish.num_generated,
        "truncated": finish.truncated,
    }
    result |= {"grammar_closed": True} if finish.is_closed else {}
    result |= _index(answer.index, call)
    return result | _tokens(answer.tokens, call, tokenizer)


def _index(index: int, call: CompletionCall) -> dict[str, int]:
    return {"index": index} if call.is_several else {}


def _timings(finish: Finish) -> dict[str, Any]:
    num_evaluated = finish.num_prompt_tokens - finish.num_cached
    return {
        "cache_n": finish.num_cached,
        **_phase("prompt", num_evaluated, finish.timings.prompt_ms),
        **_phase("predicted", finish.num_generated, finish.timings.predicted_ms),
        **_drafts(finish),
    }


def _drafts(finish: Finish) -> dict[str, int]:
    """What was guessed ahead; later servers say nothing if nothing was."""
    if not finish.num_drafted:
        return {}
    return {"draft_n": finish.num_drafted, "draft_n_accepted": finish.num_accepted}


def _phase(name: str, count: int, milliseconds: float) -> dict[str, Any]:
    return {
        f"{name}_n": count,
        f"{name}_ms": milliseconds,
        f"{name}_per_token_ms": milliseconds / count if count else 0.0,
        f"{name}_per_second": 1e3 * count / milliseconds if milliseconds > 0 else 0.0,
    }


def _tokens(
    tokens: Sequence[SampledToken], call: CompletionCall, tokenizer: Tokenizer
) -> dict[str, Any]:
    """The tokens of `content`, by id and with probabilities, as far as that was asked for."""
    told = {"tokens": [each.token_id for each in tokens]} if call.returns_tokens else {}
    return told | _probabilities(tokens, call, tokenizer)


def _probabilities(
    tokens: Sequence[SampledToken], call: CompletionCall, tokenizer: Tokenizer
) -> dict[str, Any]:
    if not call.requests[0].sampling.num_probs:
        return {}
    entries = [
        {
            "content": token_text(token.token_id, tokenizer),
            "probs": [
                {"tok_str": token_text(token_id, tokenizer), "prob": probability}
                for token_id, probability in token.probs
            ],
        }
        for token in tokens
    ]
    return {"completion_probabilities": entries}


def token_text(token_id: int, tokenizer: Tokenizer) -> str:
    r"""A token as text; a lone byte that is no character reads `byte: \xNN`."""
    piece = tokenizer.token_bytes(token_id)
    if len(piece) == 1 and piece[0] >= 0x80:
        return f"byte: \\x{piece[0]:02x}"
    return piece.decode(errors="replace")


def default_settings() -> dict[str, Any]:
    """The options of a request that sets none."""
    nothing = Request(prompt_ids=())
    call = CompletionCall(
        requests=(nothing,), prompts=("",), is_several=False, is_stream=False, n_keep=0
    )
    return _settings(call)


def _settings(call: CompletionCall) -> dict[str, Any]:
    """The options as they were understood, defaults included."""
    request, sampling = call.requests[0], call.requests[0].sampling
    values = {wire: getattr(sampling, inner) for wire, (inner, _) in SAMPLING.items()}
    settings: dict[str, Any] = {
        wire: list(value) if isinstance(value, tuple) else value for wire, value in values.items()
    }
    return settings | {
        "seed": -1 if sampling.seed is None else sampling.seed,
        # The server of 2023 said `temp`, later ones say `temperature`.
        "temp": sampling.temperature,
        "logit_bias": [
            [token_id, bias if math.isfinite(bias) else None]
            for token_id, bias in sampling.logit_bias
        ],
        "stop": list(request.stop),
        "n_predict": -1 if request.max_tokens is None else request.max_tokens,
        "n_keep": call.n_keep,
        "stream": call.is_stream,
        **({} if request.max_draft is None else {"speculative.n_max": request.max_draft}),
        **constraint_settings(request.grammar),
    }
