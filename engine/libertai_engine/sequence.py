"""One request: what was asked (`Request`, frozen) and its running state (`Sequence`).

In: a `Request` from `wire`, then one `SampledToken` a step. Out: a `Delta` a step, the last one
carrying a `Finish`. Text leaves only when it is whole UTF-8 and no stop word can be hidden in it.
"""

from __future__ import annotations

import enum
import secrets
import time
from dataclasses import dataclass, field, replace

from libertai_engine.answer_text import AnswerText
from libertai_engine.context_shift import Shift, shift_of
from libertai_engine.grammar.compiler import CompiledGrammar
from libertai_engine.grammar.guide import Guide
from libertai_engine.model.images import PromptImage, is_image_id
from libertai_engine.sampling.sampler import SampledToken, SamplerState
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.text.tokenizer import Tokenizer

MAX_EXTRA_TOKENS = 3  # a UTF-8 character has at most three continuation bytes


class FinishReason(enum.Enum):
    """Why a sequence ended; exactly one, in this order of priority."""

    WORD = "word"
    EOS = "eos"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked, in tokens.

    `prompt_ids` holds at least one token. `max_tokens` None means until end of sequence, stop word
    or the end of the context; 0 evaluates the prompt into the cache and generates nothing. `slot`
    None lets the engine choose. `cache_prompt` False evaluates every prompt token anew.

    `index` numbers requests that are submitted together. With `can_shift`, an answer that has a
    limit goes on when the context is full: of the tokens behind the first `num_keep` + 1 the older
    half is dropped. `is_cut` says that the prompt was shortened to fit. `images` are those whose
    ids are in the prompt. The answer is a text of `grammar`, if there is one, or the beginning
    of one; with `closes_grammar` it is a whole one, whatever the limit. `max_draft` is the most
    tokens drafted ahead in one step (None: the engine's own limit); it changes no answer.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    slot: int | None = None
    cache_prompt: bool = True
    index: int = 0
    num_keep: int = 0
    can_shift: bool = False
    is_cut: bool = False
    images: tuple[PromptImage, ...] = ()
    grammar: CompiledGrammar | None = None
    closes_grammar: bool = False
    max_draft: int | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds spent on the prompt (from its slot to its first token) and on generating."""

    prompt_ms: float
    predicted_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How a sequence ended, in numbers.

    `num_cached` of the `num_prompt_tokens` came from the KV cache; `num_in_cache` tokens lie in
    the slot's lane now; `truncated` says that the context ended before the answer did;
    `is_closed` that the engine completed it, since no room was left for more. Of `num_drafted`
    tokens that were guessed ahead, `num_accepted` became part of the answer.
    """

    reason: FinishReason
    stop_word: str
    slot: int
    seed: int
    num_prompt_tokens: int
    num_cached: int
    num_generated: int
    num_in_cache: int
    truncated: bool
    timings: Timings
    is_closed: bool = False
    num_drafted: int = 0
    num_accepted: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """A step's news for one reader: text that is safe to show, and the tokens that made it.

    `index` is that of the request, of several that were submitted together.
    """

    text: str
    tokens: tuple[SampledToken, ...]
    slot: int
    finish: Finish | None = None
    index: int = 0

    def followed_by(self, other: Delta) -> Delta:
        """Both as one."""
        return replace(other, text=self.text + other.text, tokens=self.tokens + other.tokens)


def _guide(request: Request, forces_tokens: bool) -> Guide | None:
    """What keeps the answer to its grammar, if there is one."""
    if request.grammar is None:
        return None
    sampling = request.sampling
    # A token that was not sampled has no probability that could be told.
    is_told = sampling.num_probs > 0 or sampling.num_logprobs is not None
    return Guide(
        request.grammar,
        forces=forces_tokens and not is_told,
        closes=request.closes_grammar and not is_told,
    )


class Sequence:
    """A request while it runs.

    Invariant: `token_ids` is the prompt followed by every generated token, less what context shifts
    dropped, and the text of each generated token has either been handed out in a `Delta` or is
    held here.
    """

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        context_size: int,
        *,
        forces_tokens: bool = True,
    ) -> None:
        seed = request.sampling.seed
        self.request = request
        self.seed = secrets.randbits(32) if seed is None else seed
        self.token_ids = list(request.prompt_ids)
        self.finish: Finish | None = None
        self.num_generated = 0  # the end-of-sequence token included
        self.num_drafted = self.num_accepted = 0  # counted by whoever tries drafts
        self._guide = _guide(request, forces_tokens)
        self._is_closed = False
        self.sampler_state = SamplerState(
            request.sampling,
            # What an image is made of is neither repeated nor penalised.
            prompt_ids=[each for each in request.prompt_ids if not is_image_id(each)],
            seed=self.seed,
            context_size=context_size,
            eos_ids=tokenizer.eos_ids,
            newline_id=tokenizer.newline_id,
            mask=self._guide.matcher if self._guide else None,
            piece_of=tokenizer.token_bytes,
        )
        self._eos_ids = frozenset() if request.sampling.ignore_eos else tokenizer.eos_ids
        self._context_size = context_size
        self._text = AnswerText(tokenizer, request.stop)
        self._slot = -1
        self._num_cached = 0
        self._num_in_cache = len(request.prompt_ids)
        self._has_shifted = False
        self._placed_at = self._first_token_at = time.perf_counter()

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def is_prefill_only(self) -> bool:
        """True if nothing shall be generated."""
        return self.request.max_tokens == 0

    def place(self, slot: int, num_cached: int) -> None:
        """Note the slot the sequence runs in and how much of its prompt was there already."""
        self._slot, self._num_cached = slot, num_cached
        self._placed_at = time.perf_counter()

    def finish_prefill(self) -> Delta:
        """End a prefill-only sequence, its prompt being in the cache now."""
        self._first_token_at = time.perf_counter()
        return self._end(FinishReason.LIMIT)

    def accept(self, token: SampledToken) -> Delta:
        """Take the next token, and behind it what the grammar leaves no choice about.

        Returns what may be shown, with a `Finish` if that was the last. Raises `InvalidRequest` if
        the grammar cannot be followed any further.
        """
        if not self.num_generated:
            self._first_token_at = time.perf_counter()
        self._num_in_cache = len(self.token_ids)
        guide = self._guide
        is_end = token.token_id in self._eos_ids
        if guide and not is_end and not guide.can_close_behind([token.token_id], self._room):
            return self._close(guide)
        delta = self._take(token)
        if guide is None or delta.finish is not None:
            return delta
        # NOTE: never the token that fills the context, so that a shift finds all others evaluated.
        limit = min(self._room, self._context_size - 1 - len(self.token_ids))
        return self._append(delta, guide.forced(limit, self._room))

    def _append(self, delta: Delta, token_ids: list[int]) -> Delta:
        """Tokens that nobody sampled, up to where the answer ends."""
        for token_id in token_ids:
            if delta.finish is not None:
                break
            self.sampler_state.learn(1.0)  # as if it had been the only one to choose from
            delta = delta.followed_by(self._take(SampledToken(token_id)))
        return delta

    def _close(self, guide: Guide) -> Delta:
        """End with the completion that is known: behind any other token there might be none."""
        self._is_closed = True
        delta = self._append(self._delta(""), guide.take_completion())
        return delta if delta.finish else delta.followed_by(self._end(FinishReason.EOS))

    @property
    def _room(self) -> int:
        """How many tokens may still come."""
        limit = self.request.max_tokens
        room = self._context_size - len(self.token_ids)
        if limit is None:
            return room
        left = limit - self.num_generated
        return left if self._may_shift else min(room, left)

    @property
    def draft_room(self) -> int:
        """Tokens that may be guessed ahead: behind the last one there is room for another."""
        if not self.num_generated:
            return 0
        return max(0, min(self._room, self._context_size - len(self.token_ids)) - 1)

    def foreseen(self, limit: int) -> tuple[int, ...]:
        """At most `limit` tokens that most likely come next, if a grammar tells any: a guess."""
        return () if self._guide is None else tuple(self._guide.foreseen(limit))

    def give_up(self) -> Delta | None:
        """End here because no token is possible; None if the grammar, or its absence, forbids."""
        if self._guide is None or not self._guide.matcher.is_complete:
            return None
        self._num_in_cache = len(self.token_ids)
        return self._end(FinishReason.EOS)

    def _take(self, token: SampledToken) -> Delta:
        """One token more."""
        self.token_ids.append(token.token_id)
        self.num_generated += 1
        self.sampler_state.accept(token.token_id)
        if token.token_id in self._eos_ids:
            return self._end(FinishReason.EOS)
        if self._guide is not None:
            self._guide.matcher.accept(token.token_id)
        found = self._text.push(token)
        if found.word is not None:
            return self._end(FinishReason.WORD, found.text, found.word)
        if self._guide is not None and self._guide.matcher.is_finished:
            return self._end(FinishReason.EOS, found.text)
        if self._is_at_limit():
            is_whole = self._guide is not None and self._guide.is_whole
            self._is_closed = self._is_closed or is_whole
            return self._end(FinishReason.EOS if is_whole else FinishReason.LIMIT, found.text)
        return self._delta(found.text)

    @property
    def due_shift(self) -> Shift | None:
        """What has to leave the context before the next token can be evaluated."""
        if not self._is_full or self.finish is not None:
            return None
        return shift_of(len(self.token_ids) - 1, self._context_size, self.request.num_keep)

    def apply_shift(self, shift: Shift) -> None:
        """Note that a shift was done in the lane."""
        del self.token_ids[shift.start : shift.start + shift.count]
        self._has_shifted = True

    @property
    def _is_full(self) -> bool:
        return len(self.token_ids) >= self._context_size

    @property
    def _may_shift(self) -> bool:
        # An answer without a limit ends with the context, or it might never end.
        return self.request.can_shift and self.request.max_tokens is not None

    def _is_at_limit(self) -> bool:
        limit = self.request.max_tokens
        if self._is_full and not self._may_shift:
            return True
        if limit is None or self.num_generated < limit:
            return False
        return not self._text.is_inside_character or self.num_generated >= limit + MAX_EXTRA_TOKENS

    def _end(self, reason: FinishReason, text: str = "", word: str = "") -> Delta:
        if reason is not FinishReason.WORD:
            found = self._text.flush()
            text += found.text
            if found.word is not None:
                reason, word = FinishReason.WORD, found.word
        self.finish = self._summary(reason, word)
        return self._delta(text, self.finish)

    def _summary(self, reason: FinishReason, word: str) -> Finish:
        now = time.perf_counter()
        limit = self.request.max_tokens
        is_short = reason is FinishReason.LIMIT and (limit is None or self.num_generated < limit)
        return Finish(
            reason=reason,
            stop_word=word,
            slot=self._slot,
            seed=self.seed,
            num_prompt_tokens=self.num_prompt_tokens,
            num_cached=self._num_cached,
            num_generated=self.num_generated,
            num_in_cache=self._num_in_cache,
            is_closed=self._is_closed,
            num_drafted=self.num_drafted,
            num_accepted=self.num_accepted,
            truncated=is_short or self._has_shifted or self.request.is_cut,
            timings=Timings(
                prompt_ms=1e3 * (self._first_token_at - self._placed_at),
                predicted_ms=1e3 * (now - self._first_token_at),
            ),
        )

    def _delta(self, text: str, finish: Finish | None = None) -> Delta:
        tokens = self._text.send(text, is_last=finish is not None)
        return Delta(text, tokens, self._slot, finish, self.request.index)
