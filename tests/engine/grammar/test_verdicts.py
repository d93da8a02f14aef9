"""Compiled grammars accept what llama.cpp accepts, token by token, in every kind of vocabulary."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from random import Random

import pytest
import torch

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.compiler import CompiledGrammar
from libertai_engine.grammar.emitter import SpecialTokens, emit_chars, emit_merged
from libertai_engine.grammar.gbnf import parse_gbnf
from libertai_engine.grammar.matcher import GrammarMatcher
from tests.engine.grammar.cases import SPECIAL_TOKENS, VERDICT_FILES, cases_of
from tests.engine.grammar.recogniser import Recogniser, State, is_complete
from tests.engine.grammar.spellings import END, Spelling, all_spellings

FORMS = {"chars": emit_chars, "merged": emit_merged}
SPELLINGS = all_spellings()
CASES = [case for file in VERDICT_FILES for case in cases_of(file)]
# Whole masks are compared at one in so many places; 1 is a matter of minutes.
MASK_EVERY = int(os.environ.get("GRAMMAR_MASK_EVERY", "40"))
STEPS = 120 // MASK_EVERY

each_form = pytest.mark.parametrize("form", FORMS)
each_spelling = pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda each: str(each.name))


class Walk:
    """One answer in the making, followed by what the engine compiled and by the recogniser.

    Invariant: both have read the same tokens, and agreed on whether the answer could end before
    each of them.
    """

    def __init__(self, matcher: GrammarMatcher, recogniser: Recogniser, spelling: Spelling) -> None:
        self._matcher = matcher
        self._recogniser = recogniser
        self._spelling = spelling
        self._state = recogniser.start

    def read(self, token_id: int) -> bool:
        """Goes on with a token. False: both say that it cannot come next."""
        self.check_end()
        state = self._after(token_id)
        assert self._matcher.allows(token_id) == bool(state), self._spelling.pieces[token_id]
        if state:
            self._matcher.accept(token_id)
            self._state = state
        return bool(state)

    def check_end(self) -> bool:
        """Whether the answer is complete, on which both agree."""
        may_end = is_complete(self._state)
        assert self._matcher.is_complete == may_end
        assert self._matcher.allows(END) == may_end
        return may_end

    def check_mask(self) -> list[int]:
        """The tokens that may come next, on every one of which both agree.

        Where the vocabulary has none the answer fails; it is never taken for complete.
        """
        text = [at for at in range(len(self._spelling.pieces)) if at != END and self._after(at)]
        expected = [END] * is_complete(self._state) + text
        logits = torch.zeros(len(self._spelling.pieces))  # [vocab]
        if expected:
            self._matcher.mask(logits)
            assert (logits == 0).nonzero().flatten().tolist() == expected
        else:
            with pytest.raises(InvalidRequest):
                self._matcher.mask(logits)
        return text

    def _after(self, token_id: int) -> State:
        return self._recogniser.read_token(self._state, token_id, self._spelling.pieces[token_id])


class Referee:
    """One grammar, compiled for one vocabulary, and the second opinion on it."""

    def __init__(self, text: str, spelling: Spelling, form: str) -> None:
        vocabulary = spelling.vocabulary
        special = SpecialTokens(vocabulary.control, vocabulary.end_ids)
        grammar = parse_gbnf(text, token_id_of=vocabulary.find)
        self._compiled = CompiledGrammar(
            "grammar", text, vocabulary, [lambda: FORMS[form](grammar, special)]
        )
        self._recogniser = recogniser_of(text)
        self._spelling = spelling

    def walk(self) -> Walk:
        """A new answer."""
        return Walk(self._compiled.matcher(), self._recogniser, self._spelling)

    def accepts(self, token_ids: Iterable[int]) -> bool:
        """Whether these tokens are a whole answer."""
        walk = self.walk()
        return all(walk.read(token_id) for token_id in token_ids) and walk.check_end()

    def check_masks(self, token_ids: list[int], places: set[int]) -> None:
        """Compares the masks at some places of an answer."""
        walk = self.walk()
        for place, token_id in enumerate([*token_ids, END]):
            if place in places:
                walk.check_mask()
            if place == len(token_ids) or not walk.read(token_id):
                return


@cache
def recogniser_of(text: str) -> Recogniser:
    """The same for all tests of a grammar, since it remembers what it finds out."""
    return Recogniser(parse_gbnf(text, token_id_of=SPECIAL_TOKENS.get))


@each_form
@each_spelling
@pytest.mark.parametrize("largest", [False, True], ids=["small tokens", "large tokens"])
def test_every_verdict(spelling: Spelling, form: str, largest: bool) -> None:
    """Token by token; an answer can end exactly where a complete text ends."""
    wrong = []
    for case in CASES:
        referee = Referee(case.grammar, spelling, form)
        wrong += [
            (case.name, answer)
            for answer, verdict in case.verdicts()
            if referee.accepts(spelling.write(answer, largest=largest)) != verdict
        ]
    assert wrong == []


@each_form
@each_spelling
def test_whole_masks(spelling: Spelling, form: str) -> None:
    """At places within the answers, right up to their ends: all tokens are judged rightly."""
    random = Random(spelling.name)
    for case in CASES:
        referee = Referee(case.grammar, spelling, form)
        for answer, _ in case.verdicts():
            token_ids = spelling.write(answer, largest=random.random() < 0.5)
            referee.check_masks(token_ids, _some(range(len(token_ids) + 1), random))


@each_form
@each_spelling
def test_whole_masks_of_grammars_made_of_schemas(spelling: Spelling, form: str) -> None:
    """Along answers that nobody thought of: tokens taken at random out of those allowed."""
    random = Random(spelling.name)
    for case in cases_of("schemas"):
        walk = Referee(case.grammar, spelling, form).walk()
        for _ in range(STEPS):
            allowed = walk.check_mask()
            if not allowed:
                break
            assert walk.read(random.choice(allowed))


def _some(places: range, random: Random) -> set[int]:
    """One in so many."""
    return {place for place in places if random.randrange(MASK_EVERY) == 0}
