"""Our engine and transformers' `generate`, side by side on the same weights and prompts.

In: a model folder, a dtype, cases. Out: seconds and tokens of every round. Both sides run in this
process with the same number of threads, in turns: what disturbs the machine disturbs both.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM

from libertai_engine import Engine, EngineConfig, Request, SamplingParams, load_engine
from libertai_engine.config import Dtype

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0, ignore_eos=True)

Prompts = Sequence[tuple[int, ...]]
Answers = list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One kind of work: `streams` prompts of `prompt` tokens, `new` tokens each.

    Speed counts the tokens that the case is about: those of the prompts ("prefill"), or the new
    ones ("decode"). The time is that of the whole call, as a caller sees it.
    """

    kind: str
    streams: int
    prompt: int
    new: int

    @property
    def num_tokens(self) -> int:
        """Tokens that speed is counted in, over all streams."""
        return self.streams * (self.prompt if self.kind == "prefill" else self.new)

    @property
    def label(self) -> str:
        """For tables: what, how much, how many at once."""
        size = self.prompt if self.kind == "prefill" else self.new
        return f"{self.kind} {size} x {self.streams}"


class Contestant(Protocol):
    """Somebody who answers prompts greedily with exactly `new` tokens each."""

    def answer(self, prompts: Prompts, new: int) -> Answers:
        """The new token ids, one list a prompt."""
        ...


class Ours:
    """`libertai_engine` through its Python API, one stream a prompt, nothing cached."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def answer(self, prompts: Prompts, new: int) -> Answers:
        """Submit everything, then read everything."""
        streams = [self._engine.submit(self._request(ids, new)) for ids in prompts]
        return [[token.token_id for delta in each for token in delta.tokens] for each in streams]

    def _request(self, ids: tuple[int, ...], new: int) -> Request:
        return Request(prompt_ids=ids, sampling=GREEDY, max_tokens=new, cache_prompt=False)


class Generate:
    """transformers' `generate` with its defaults: a dynamic cache and fused attention."""

    def __init__(self, folder: Path, dtype: Dtype, engine: Engine) -> None:
        assert engine.model is not None
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=TORCH_DTYPES[dtype])
        self._model = model.to(engine.model.device).eval()
        # Our side ignores the end of sequence, so this side must not end either.
        self._model.generation_config.suppress_tokens = sorted(engine.tokenizer.eos_ids)
        self._model.generation_config.pad_token_id = 0

    def answer(self, prompts: Prompts, new: int) -> Answers:
        """One batch of prompts of one length."""
        ids = torch.tensor(prompts, device=self._model.device)  # [streams, prompt]
        with torch.inference_mode():
            out = self._model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False
            )
        answers: Answers = out[:, ids.shape[1] :].tolist()
        return answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds of both sides for the same prompts, and how many answers were the same."""

    ours: float
    peer: float
    same: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All rounds of a case with one model and dtype."""

    model: str
    dtype: str
    case: Case
    rounds: tuple[Round, ...]


def contest(
    model: str,
    folder: Path,
    dtype: Dtype,
    cases: Sequence[Case],
    *,
    num_rounds: int,
    tick: Callable[[str], None],
) -> list[Result]:
    """Run every case `num_rounds` times after a warm-up; `tick` is called after each round."""
    num_slots = max(case.streams for case in cases)
    config = EngineConfig(model=str(folder), dtype=dtype, num_slots=num_slots)
    results = []
    with load_engine(config, progress=False) as engine:
        ours, peer = Ours(engine), Generate(folder, dtype, engine)
        for case in cases:
            label = f"{model} {dtype}, {case.label}"
            rounds = []
            for prompts, ours_first in _draw(case, engine.tokenizer.vocab_size, num_rounds + 1):
                rounds.append(_round(ours, peer, prompts, case.new, ours_first=ours_first))
                tick(label)
            results.append(Result(model=model, dtype=dtype, case=case, rounds=tuple(rounds[1:])))
    return results


def _draw(case: Case, vocab_size: int, count: int) -> Iterator[tuple[Prompts, bool]]:
    """Random prompts for `count` rounds, and which side goes first: in turns."""
    draw = random.Random(0)
    vocab = range(300, vocab_size)  # no control tokens, no bytes
    for number in range(count):
        prompts = [tuple(draw.choices(vocab, k=case.prompt)) for _ in range(case.streams)]
        yield prompts, number % 2 == 0


def _round(
    ours: Contestant, peer: Contestant, prompts: Prompts, new: int, *, ours_first: bool
) -> Round:
    order = (ours, peer) if ours_first else (peer, ours)
    timed = {side: _timed(side, prompts, new) for side in order}
    (our_time, our_answers), (peer_time, peer_answers) = timed[ours], timed[peer]
    # NOTE: an answer of ours may be longer by the rest of a UTF-8 character.
    same = sum(a[:new] == b for a, b in zip(our_answers, peer_answers, strict=True))
    return Round(ours=our_time, peer=peer_time, same=same)


def _timed(contestant: Contestant, prompts: Prompts, new: int) -> tuple[float, Answers]:
    start = time.perf_counter()
    answers = contestant.answer(prompts, new)
    return time.perf_counter() - start, answers
