"""One step of continuous batching: schedule, run, sample, accept.

In: the scheduler's sequences. Out: news for their readers. Where a draft was evaluated behind a
sequence's next token, its positions are sampled one by one as far as the draft turns out right, so
that every token is chosen exactly as it would have been without a draft.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

import torch

from libertai_engine.errors import EngineError, GenerationFailed, NoTokenPossible
from libertai_engine.model.batch import Batch
from libertai_engine.sampling.sampler import SampledToken, Sampler
from libertai_engine.scheduler import Running, Scheduler, Step
from libertai_engine.sequence import Delta
from libertai_engine.slots import Lanes
from libertai_engine.speculation import Speculator, StepReport, Verdict
from libertai_engine.tally import Tally, Totals

logger = logging.getLogger(__name__)


class Runner(Lanes[Any], Protocol):
    """What is needed of the model room (see `ModelRunner`)."""

    @property
    def num_slots(self) -> int:
        """Number of KV lanes."""
        ...

    @property
    def context_size(self) -> int:
        """Positions in one lane."""
        ...

    @property
    def vocab_size(self) -> int:
        """Token ids the model knows."""
        ...

    @property
    def can_shift(self) -> bool:
        """Whether lanes can be shifted."""
        ...

    @property
    def fingerprint(self) -> str:
        """The same for two runners only if lanes of one mean the same to the other."""
        ...

    @property
    def is_steady(self) -> bool:
        """Whether a token's logits stay what they are, whatever tokens are drafted behind it."""
        ...

    def run(self, batch: Batch) -> torch.Tensor:
        """Evaluate a batch; `[wanted logits, vocab]`, float32, in the order of rows and tokens."""
        ...


@dataclass(slots=True, eq=False)
class News:
    """What a step means for one reader: tokens more, an error, or an error behind tokens.

    Invariant: there is at least one of the two, and no error behind a `Finish`.
    """

    owner: Running
    delta: Delta | None = None
    error: EngineError | None = None


class _Trial:
    """A complete row: the sequence gets a token, and more as long as its draft is right.

    Invariant: the first `num_accepted` tokens of `draft` are in the answer and in the lane;
    `first` + `num_accepted` is the row of the logits that choose the token behind them. Each of
    `num_saved` tokens was chosen there instead of in a step of its own.
    """

    def __init__(self, owner: Running, draft: tuple[int, ...], first: int) -> None:
        self.owner = owner
        self.news = News(owner)
        self.num_accepted = 0
        self.num_saved = 0
        self._draft = draft
        self._first = first
        self._num_before = owner.sequence.num_generated
        owner.sequence.num_drafted += len(draft)

    @property
    def logits_row(self) -> int:
        """Where the logits of the next position are."""
        return self._first + self.num_accepted

    @property
    def num_generated(self) -> int:
        """Tokens that the answer has grown by."""
        return self.owner.sequence.num_generated - self._num_before

    @property
    def verdict(self) -> Verdict:
        """What became of the draft."""
        num_drafted = len(self._draft)
        return Verdict(self.owner.sequence, num_drafted, self.num_accepted, self.num_saved)

    def take(self, outcome: SampledToken | EngineError | None) -> bool:
        """Hand over what was chosen, None for nothing; True if one more position is decided."""
        news = self._advance(outcome)
        if isinstance(news, EngineError):
            self.news.error = news
            return False
        delta = self.news.delta
        self.news.delta = news if delta is None else delta.followed_by(news)
        return news.finish is None and self._agrees()

    def _agrees(self) -> bool:
        """Whether all that the answer has is in the lane, as it was drafted.

        Of text that was forced behind a token, the beginning may have been drafted: it is there.
        """
        sequence, slot = self.owner.sequence, self.owner.slot
        new = sequence.token_ids[len(slot.token_ids) :]
        pairs = zip(new, self._draft[self.num_accepted :], strict=False)
        right = [drafted for token_id, drafted in takewhile(lambda each: each[0] == each[1], pairs)]
        slot.token_ids.extend(right)
        self.num_accepted += len(right)
        sequence.num_accepted += len(right)
        if len(right) < len(new):
            return False
        self.num_saved += 1
        return True

    def _advance(self, outcome: SampledToken | EngineError | None) -> Delta | EngineError:
        """What comes of a token."""
        sequence = self.owner.sequence
        try:
            if outcome is None:
                return sequence.finish_prefill()
            if isinstance(outcome, NoTokenPossible):
                return sequence.give_up() or outcome
            return outcome if isinstance(outcome, EngineError) else sequence.accept(outcome)
        except EngineError as error:
            return error
        except Exception:
            logger.exception("slot %d: a token could not be taken", self.owner.slot.index)
            return GenerationFailed("a token could not be taken")


class Stepper:
    """Runs steps, one at a time. Used by one thread.

    Invariant: whatever model and sampler throw reaches the sequences it concerns, as news, and
    nobody else.
    """

    def __init__(
        self, runner: Runner, scheduler: Scheduler, speculator: Speculator | None = None
    ) -> None:
        """`speculator` learns how the drafts did that `scheduler` had from it."""
        self._runner = runner
        self._scheduler = scheduler
        self._speculator = speculator
        self._sampler = Sampler()
        self._tally = Tally()

    @property
    def totals(self) -> Totals:
        """What has been done so far."""
        return self._tally.totals

    def step(self) -> list[News]:
        """One step, and what came of it for whom; nothing if there is nothing to do."""
        step = self._scheduler.schedule()
        if not step.owners:
            return []
        begun = time.perf_counter()
        self._tally.begin(step)
        logits, failed = self._run(step)
        trials = self._trials(step)
        pending = self._sample(trials, logits)
        first_seconds = time.perf_counter() - begun
        while pending:
            pending = self._sample(pending, logits)
        # Before anybody hears of them: who has his answer finds it counted.
        self._close(step, trials, first_seconds, time.perf_counter() - begun)
        return [*failed, *(each.news for each in trials)]

    def _trials(self, step: Step) -> list[_Trial]:
        """The rows whose sequences get a token; `step` has run."""
        trials = []
        first = 0
        for row, owner, draft in zip(step.batch.rows, step.owners, step.drafts, strict=True):
            if owner.num_left == 0:
                trials.append(_Trial(owner, draft, first))
                first += row.num_logits
        return trials

    def _sample(self, trials: list[_Trial], logits: torch.Tensor) -> list[_Trial]:
        """Choose a token for each trial; returns those that go on.

        `logits` is `[wanted logits, vocab]`.
        """
        sampling = [each for each in trials if not each.owner.sequence.is_prefill_only]
        outcomes = iter(self._choose(sampling, logits))
        return [
            each
            for each in trials
            if each.take(None if each.owner.sequence.is_prefill_only else next(outcomes))
        ]

    def _choose(
        self, trials: list[_Trial], logits: torch.Tensor
    ) -> list[SampledToken | EngineError]:
        """A token or an error for each trial; whatever the sampler throws, the engine lives on."""
        if not trials:
            return []
        states = [each.owner.sequence.sampler_state for each in trials]
        try:
            return self._sampler.sample(_rows_of(trials, logits), states)
        except Exception:
            # NOTE: the logits are changed in place, so there is no second try for single rows.
            logger.exception("choosing the next tokens failed")
            return [GenerationFailed("choosing the next token failed") for _ in trials]

    def _run(self, step: Step) -> tuple[torch.Tensor, list[News]]:
        """Logits of all rows that the model did not fail on, and news of the others."""
        try:
            logits = self._runner.run(step.batch)
        except Exception as error:  # whatever the model threw, one request is to blame
            return self._run_one_by_one(step, error)
        self._scheduler.commit(step)
        return logits, []

    def _run_one_by_one(self, step: Step, error: Exception) -> tuple[torch.Tensor, list[News]]:
        """Repeat a failed batch row by row, so that only the row at fault fails."""
        logger.error("a step failed: %r", error)
        results, failed = [], []
        for index, owner in enumerate(step.owners):
            alone = step.alone(index)
            try:
                results.append(self._runner.run(alone.batch))
            except Exception:
                logger.exception("slot %d: the model failed", owner.slot.index)
                reason = GenerationFailed("the model failed on this request")
                failed.append(News(owner, error=reason))
            else:
                self._scheduler.commit(alone)
        return torch.cat(results) if results else torch.empty(0, 0), failed

    def _close(
        self, step: Step, trials: list[_Trial], first_seconds: float, seconds: float
    ) -> None:
        """Count a step, and learn from it."""
        verdicts = tuple(each.verdict for each in trials)
        self._tally.end(
            step,
            num_generated=sum(each.num_generated for each in trials),
            num_drafted=sum(each.num_drafted for each in verdicts),
            num_accepted=sum(each.num_accepted for each in verdicts),
        )
        if self._speculator is None:
            return
        num_tokens = step.batch.num_tokens
        report = StepReport(
            verdicts=verdicts,
            num_tokens=num_tokens,
            is_plain=num_tokens == len(verdicts) + sum(each.num_drafted for each in verdicts),
            first_seconds=first_seconds,
            seconds=seconds,
        )
        self._speculator.settle(report)


def _rows_of(trials: list[_Trial], logits: torch.Tensor) -> torch.Tensor:
    """The logits that trials need next, `[trials, vocab]`."""
    rows = [each.logits_row for each in trials]
    if rows == list(range(len(logits))):
        return logits
    return logits[rows[0] : rows[0] + 1] if len(rows) == 1 else logits[rows]
