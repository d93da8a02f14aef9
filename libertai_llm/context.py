"""Whether a server dropped a part of a prompt that its caller wanted to be read whole. No I/O.

In: a finished answer. Out: nothing, or `ContextWindowExceeded`. Our own server and today's
llama-server refuse such a prompt before they answer; the servers of 2023 and 2024 know no such
option, cut it in silence, and only set `truncated`.
"""

from __future__ import annotations

from libertai_llm.errors import ContextWindowExceeded
from libertai_llm.types import Completion


def refuse_cut_prompt(completion: Completion, max_tokens: int | None) -> None:
    """Raise `ContextWindowExceeded`, with the answer as `partial_text`, unless no token was lost.

    `truncated` has three reasons: the prompt was cut, the context was shifted while the answer
    went on, or the answer ended with the context. The last is an end like others. A cut leaves at
    least half of the context, so an answer that was only shifted is known if its prompt was
    shorter. `n_prompt_tokens` stays None: no server tells what the prompt was before it was cut.
    """
    if not completion.truncated or _ended_with_context(completion, max_tokens):
        return
    n_ctx = _context_size(completion)
    if n_ctx is not None and completion.tokens_evaluated < n_ctx // 2:
        return
    size = "the context" if n_ctx is None else f"a context of {n_ctx} tokens"
    error = ContextWindowExceeded(
        f"prompt and answer did not fit into {size}, and the server went on without a part of it: "
        "make the prompt shorter, or allow that with `context_shift=True`",
        body=completion.raw,
    )
    error.n_ctx = n_ctx
    error.has_begun, error.partial_text = True, completion.content
    raise error


def _ended_with_context(completion: Completion, max_tokens: int | None) -> bool:
    """True if nothing but the end of the context ended the answer, at the very token."""
    is_unlimited = max_tokens is None or max_tokens < 0
    is_early = is_unlimited or completion.tokens_predicted < (max_tokens or 0)
    num_tokens = completion.tokens_evaluated + completion.tokens_predicted
    n_ctx = _context_size(completion)
    return completion.stop_type == "limit" and is_early and n_ctx in (None, num_tokens)


def _context_size(completion: Completion) -> int | None:
    """Tokens of one slot's context, if the server tells."""
    n_ctx = completion.generation_settings.get("n_ctx")
    return n_ctx if isinstance(n_ctx, int) and n_ctx > 0 else None
