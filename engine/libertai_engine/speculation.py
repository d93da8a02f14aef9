"""How many tokens to draft, for which sequence: as many as are likely to save time.

In: the sequences of a step, and afterwards how many drafted tokens were right and how long the step
took. Out: drafts. A sequence keeps an account, so that drafts never cost it more than they brought
it and a share of its time, `INCOME`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

from libertai_engine.lookup import MAX_MATCH, Draft, PromptLookup
from libertai_engine.sequence import Sequence
from libertai_engine.step_costs import OUTLIER, StepCosts

STEP_TOKENS = 16  # in one step, where the model has no wish: more is another kind of work
LEARN_AT_ONCE = 2048  # tokens of a prompt that one step learns, a millisecond or two

# An account is in units of a plain step's time for one row.
INCOME = 0.015  # for each step without a draft
GRANT = 0.5  # at the start of a sequence
MOST = 8.0  # what is saved beyond that is spent already
WORTH = 0.02  # of a step is the least that drafts have to save, on average

FORESEEN = MAX_MATCH + 1  # of what a grammar leaves hardly a choice about, as if so many agreed
# Of a drafted token, how likely it is to be right before anything is known: by how many tokens
# before it agreed.
CLASSES: tuple[tuple[int, float], ...] = (
    *((1, 0.2), (2, 0.4), (3, 0.6), (5, 0.8), (9, 0.93)),
    (FORESEEN, 0.95),
)
REMEMBERED = 0.7  # of what earlier drafts tell, at every draft
FADED = 0.98  # of the same, at every step without one
SURE = 0.98  # no draft is surer

# NOTE: measured against plain steps of another time, drafts may seem to cost nothing. Were that
# believed, no plain step would ever be measured again.
LEAST = 0.02  # of a step: what a drafted token costs at least, whatever was measured


class Drafter(Protocol):
    """Guesses how one text goes on (see `PromptLookup`)."""

    def learn(self, token_ids: Several[int]) -> None:
        """The text goes on with these tokens."""

    def draft(self, limit: int) -> Draft:
        """At most `limit` tokens that may come next."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a draft: of `num_drafted` tokens, the first `num_accepted` were right.

    `num_saved` steps were saved by that: one for each token that was chosen behind another. What a
    grammar forces needs no step of its own, so there may be fewer.
    """

    sequence: Sequence
    num_drafted: int
    num_accepted: int
    num_saved: int


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step took, in seconds: until its first tokens were chosen, and in all.

    `verdicts` has one for each generating row. `num_tokens` were evaluated; `is_plain` says that
    none of them belonged to a prompt.
    """

    verdicts: tuple[Verdict, ...]
    num_tokens: int
    is_plain: bool
    first_seconds: float
    seconds: float

    @property
    def num_drafted(self) -> int:
        """Tokens of all drafts."""
        return sum(each.num_drafted for each in self.verdicts)


class Speculator(Protocol):
    """Decides what is drafted. Whatever it drafts, answers stay the same."""

    def plan(
        self, sequences: Several[Sequence], room: int, num_forced: int = 0
    ) -> list[tuple[int, ...]]:
        """A draft for each sequence, perhaps empty, of at most `room` tokens together.

        The step evaluates one token of each sequence, and `num_forced` beside.
        """
        ...

    def settle(self, report: StepReport) -> None:
        """Learn from a step."""


class Trust:
    """How likely the drafts of one sequence are right, by what their places had in common."""

    def __init__(self) -> None:
        self._hits = [0.0] * len(CLASSES)
        self._tries = [0.0] * len(CLASSES)

    def chance(self, num_matched: int) -> float:
        """Of one token, if those before it are right."""
        which = self._class(num_matched)
        found = (self._hits[which] + CLASSES[which][1]) / (self._tries[which] + 1)
        return min(found, SURE)

    def record(self, num_matched: int, num_drafted: int, num_accepted: int) -> None:
        """A draft was tried."""
        which = self._class(num_matched)
        num_tried = min(num_drafted, num_accepted + 1)
        self._hits[which] = REMEMBERED * self._hits[which] + num_accepted
        self._tries[which] = REMEMBERED * self._tries[which] + num_tried

    def fade(self) -> None:
        """Time passes, and what was learned counts less."""
        self._hits = [FADED * each for each in self._hits]
        self._tries = [FADED * each for each in self._tries]

    @staticmethod
    def _class(num_matched: int) -> int:
        return max((i for i, (least, _) in enumerate(CLASSES) if num_matched >= least), default=0)


class _Follower:
    """One sequence as its drafter knows it.

    `balance` is what drafts have saved, less what they cost, in plain steps of one row. Of the
    prompt the first `_num_prompt` tokens, of the answer `_num_generated` have been learned.
    `seconds` is what it took to ask the grammar since the last step.
    """

    def __init__(self, drafter: Drafter, clock: Callable[[], float]) -> None:
        self.trust = Trust()
        self.balance = GRANT
        self.draft = Draft()  # the latest
        self.seconds = 0.0
        self._drafter = drafter
        self._clock = clock
        self._num_prompt = 0
        self._num_generated = 0

    def look_ahead(self, sequence: Sequence, limit: int) -> None:
        """Make a new draft of at most `limit` tokens: of the grammar, else of the text so far."""
        is_known = self._catch_up(sequence)
        if foreseen := self._foresee(sequence, limit) if self.balance > 0 else ():
            self.draft = Draft(foreseen, FORESEEN)
        else:
            self.draft = self._drafter.draft(limit) if is_known else Draft()

    def _foresee(self, sequence: Sequence, limit: int) -> tuple[int, ...]:
        begun = self._clock()
        foreseen = sequence.foreseen(limit)
        self.seconds = self._clock() - begun
        return foreseen

    def affords(self, num_drafted: int, cost: float) -> bool:
        """Whether the balance covers what is lost on average by trying so much of the draft.

        `cost` is its part of what the step takes longer. With m of its tokens right, that is lost
        which m do not make up for.
        """
        chance = self.trust.chance(self.draft.num_matched)
        loss, reached = 0.0, 1.0  # the probability that the first m are right
        for num_right in range(num_drafted):
            missing = cost - num_right
            if missing <= 0:
                break
            loss += reached * (1 - chance) * missing
            reached *= chance
        return not num_drafted or loss <= self.balance

    def _catch_up(self, sequence: Sequence) -> bool:
        """Learn what is new. False if there is more of the prompt than can be learned at once."""
        prompt, known = sequence.request.prompt_ids, self._num_prompt
        if known < len(prompt):
            self._num_prompt = min(known + LEARN_AT_ONCE, len(prompt))
            self._drafter.learn(prompt[known : self._num_prompt])
            if self._num_prompt < len(prompt):
                return False
        num_new = sequence.num_generated - self._num_generated
        if num_new:
            # NOTE: what a context shift has dropped stays known: drafts may come from there too.
            self._drafter.learn(sequence.token_ids[-num_new:])
            self._num_generated += num_new
        return True


class AdaptiveSpeculator:
    """Drafts by looking up, as long as that pays.

    Every drafting sequence has an account. A step without a draft pays in `INCOME`; one with a
    draft pays in the steps that it saved and takes out what it took longer than a plain one. What
    it takes to ask a grammar, which few texts make up for in a small model, is taken out too. A
    draft whose expected loss is not covered is not made. So no sequence is slowed down by much
    more than `INCOME`, whatever its text is. Used by one thread.
    """

    def __init__(
        self,
        max_draft: int,
        *,
        step_tokens: int = STEP_TOKENS,
        new_drafter: Callable[[], Drafter] = PromptLookup,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """At most `max_draft` tokens for one sequence, and `step_tokens` in one step."""
        self._max_draft = max_draft
        self._step_tokens = step_tokens
        self._new_drafter = new_drafter
        self._clock = clock
        self._costs = StepCosts()
        self._followers: WeakKeyDictionary[Sequence, _Follower] = WeakKeyDictionary()

    def plan(
        self, sequences: Several[Sequence], room: int, num_forced: int = 0
    ) -> list[tuple[int, ...]]:
        """See `Speculator`."""
        num_rows = len(sequences)
        fitting = self._step_tokens - num_rows - num_forced
        room = min(room, fitting, self._costs.reach(num_rows))
        plain = self._costs.of(num_rows, 0)
        if room <= 0 or plain is None:
            return [()] * num_rows
        followers = [self._look_ahead(each, room) for each in sequences]
        counts = self._share_out(followers, room, plain)
        return [
            each.draft.token_ids[:count] if each else ()
            for each, count in zip(followers, counts, strict=True)
        ]

    def settle(self, report: StepReport) -> None:
        """See `Speculator`."""
        num_rows, num_drafted = len(report.verdicts), report.num_drafted
        plain = self._costs.of(num_rows, 0)
        cost = 0.0
        if plain and num_drafted:
            cost = self._excess_of(report, plain) / plain * num_rows / num_drafted
        for verdict in report.verdicts:
            follower = self._followers.get(verdict.sequence)
            if follower is not None:
                if plain:
                    # More than that is not the grammar's doing, but another program's.
                    follower.balance -= min(follower.seconds / plain, GRANT) * num_rows
                follower.seconds = 0.0
                self._book(follower, verdict, verdict.num_saved - cost * verdict.num_drafted)
        if report.is_plain:
            self._costs.observe(num_rows, num_drafted, report.first_seconds)

    def _excess_of(self, report: StepReport, plain: float) -> float:
        """Seconds that a step took longer for its drafts."""
        num_rows, num_drafted = len(report.verdicts), report.num_drafted
        if not report.is_plain:
            return report.seconds * num_drafted / report.num_tokens
        expected = self._costs.of(num_rows, num_drafted) or plain
        return max(min(report.seconds, OUTLIER * expected) - plain, LEAST * num_drafted * plain)

    def _book(self, follower: _Follower, verdict: Verdict, profit: float) -> None:
        if not verdict.num_drafted:
            follower.trust.fade()
            profit = INCOME
        else:
            num_matched = follower.draft.num_matched
            follower.trust.record(num_matched, verdict.num_drafted, verdict.num_accepted)
        follower.balance = min(MOST, follower.balance + profit)

    def _look_ahead(self, sequence: Sequence, room: int) -> _Follower | None:
        """Who follows a sequence, with a new draft; None if nothing may be drafted for it."""
        wish = sequence.request.max_draft
        limit = min(room, self._max_draft, self._max_draft if wish is None else wish)
        limit = min(limit, sequence.draft_room)
        if limit <= 0:
            return None
        follower = self._followers.get(sequence)
        if follower is None:
            follower = self._followers[sequence] = _Follower(self._new_drafter(), self._clock)
        follower.look_ahead(sequence, limit)
        return follower

    def _share_out(
        self, followers: Several[_Follower | None], room: int, plain: float
    ) -> list[int]:
        """How many tokens of each draft to try: the likeliest, as many as save the most time."""
        num_rows = len(followers)
        chances = sorted(
            (
                (each.trust.chance(each.draft.num_matched) ** place, index)
                for index, each in enumerate(followers)
                if each is not None and each.balance > 0
                for place in range(1, len(each.draft.token_ids) + 1)
            ),
            reverse=True,
        )[:room]
        best, number, expected = WORTH, 0, 0.0
        for count, (chance, _) in enumerate(chances, 1):
            expected += chance / num_rows
            gain = expected - self._excess(num_rows, count, plain)
            if gain > best:
                best, number = gain, count
        while number:
            counts = [0] * num_rows
            for _, index in chances[:number]:
                counts[index] += 1
            excess = self._excess(num_rows, number, plain)
            if all(
                each is None or each.affords(count, excess * num_rows * count / number)
                for each, count in zip(followers, counts, strict=True)
            ):
                return counts
            number //= 2
        return [0] * num_rows

    def _excess(self, num_rows: int, num_drafted: int, plain: float) -> float:
        """What the drafts of a step add to its time, in plain steps."""
        cost = self._costs.of(num_rows, num_drafted) or plain
        return max(cost / plain - 1, LEAST * num_drafted)
