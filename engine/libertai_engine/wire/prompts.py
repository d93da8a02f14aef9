"""The `prompt` field: its forms, and how a long one is made to fit.

In: the JSON value. Out: token ids of one prompt, or of several. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from libertai_engine.errors import InvalidRequest
from libertai_engine.model.images import PromptImage
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import to_int, to_str, wrong
from libertai_engine.wire.images import Gallery, cuts_image

MAX_PROMPTS = 32
MIN_FREE = 4  # tokens of a context that `n_keep` cannot claim
MAX_CONTEXTS = 8  # a prompt of more contexts than this is an attack or a mistake, and is not cut


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that leaves room for at least one token; `is_cut` if it had to be shortened.

    `num_keep` of its first tokens survive when the context is shifted.
    """

    token_ids: tuple[int, ...]
    num_keep: int
    is_cut: bool


def split_prompts(prompt: Any) -> list[Any] | None:
    """The prompts of an array that holds several, else None.

    Several are: more than one string and nothing else, or anything with an array in it.
    """
    if not isinstance(prompt, list):
        return None
    all_strings = len(prompt) > 1 and all(isinstance(piece, str) for piece in prompt)
    if not (all_strings or any(isinstance(piece, list) for piece in prompt)):
        return None
    if len(prompt) > MAX_PROMPTS:
        raise wrong("prompt", f"at most {MAX_PROMPTS} prompts")
    return prompt


def encode_prompt(
    prompt: Any, tokenizer: Tokenizer, *, is_start: bool = True, gallery: Gallery | None = None
) -> list[int]:
    """A string, or an array of strings and token ids that together are one prompt, to token ids.

    BOS goes in front if the model wants one and the prompt is or begins with a string. A prompt
    that `is_start` of nothing (a system prompt stands before it) gets none, and may be empty. With
    a gallery, the tags in strings are its images.
    """
    if not isinstance(prompt, (str, list)):
        raise _wrong_prompt()
    pieces = [prompt] if isinstance(prompt, str) else prompt
    token_ids: list[int] = []
    for index, piece in enumerate(pieces):
        is_first = is_start and index == 0
        token_ids.extend(_encode_piece(piece, tokenizer, gallery, is_first=is_first))
    if is_start and not token_ids:
        raise InvalidRequest("`prompt` must not be empty", field="prompt")
    return token_ids


def _encode_piece(
    piece: Any, tokenizer: Tokenizer, gallery: Gallery | None, *, is_first: bool
) -> list[int]:
    if isinstance(piece, str):
        text = to_str("prompt", piece)
        if gallery is not None:
            return gallery.encode(text, tokenizer, add_special=is_first)
        return tokenizer.encode(text, add_special=is_first)
    if isinstance(piece, int) and not isinstance(piece, bool):
        return [to_int("prompt", piece, 0, tokenizer.vocab_size - 1)]
    raise _wrong_prompt()


def _wrong_prompt() -> InvalidRequest:
    return wrong("prompt", "a string or an array of strings and token ids")


def fit_prompt(
    token_ids: Sequence[int],
    n_keep: int,
    context_size: int,
    bos_id: int | None,
    images: Sequence[PromptImage] = (),
) -> FittedPrompt:
    """Shorten a prompt that fills the context, as llama.cpp's server of December 2023 did.

    The first `n_keep` tokens (-1: all) stay, and of the rest as many whole blocks go as needed; a
    block is half of what `n_keep` leaves of the context. BOS, if it went, is put back in front.
    A prompt of more than `MAX_CONTEXTS` contexts, or one that would lose any of `images`, is left
    as it is, for the engine to refuse.
    """
    num_keep = len(token_ids) if n_keep < 0 else n_keep
    num_keep = max(0, min(context_size - MIN_FREE, num_keep))
    uncut = FittedPrompt(tuple(token_ids), min(num_keep, len(token_ids)), is_cut=False)
    if not context_size <= len(token_ids) <= MAX_CONTEXTS * context_size:
        return uncut
    block = (context_size - num_keep) // 2
    num_erased = (len(token_ids) - num_keep - block) // block * block
    lost_bos = token_ids[0] == bos_id and num_keep == 0
    if lost_bos and len(token_ids) - num_erased == context_size - 1:
        num_erased += 1  # the place of the BOS that comes back
    if cuts_image(token_ids, images, num_keep, num_keep + num_erased):
        return uncut
    kept = [*token_ids[:num_keep], *token_ids[num_keep + num_erased :]]
    return FittedPrompt(tuple([token_ids[0], *kept] if lost_bos else kept), num_keep, is_cut=True)
