"""What a grammar lets foresee: forms up to the next value, in the writer's own white space."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest
import torch

from libertai_engine.grammar.compiler import PREAMBLE, compile_lark
from libertai_engine.grammar.matcher import GrammarMatcher
from tests.engine.grammar.tokenizers_of_every_kind import (
    KINDS,
    make_compiler,
    make_tokenizer,
    make_vocabulary,
)

NAMES = ("street", "number", "is_paid", "kind", "note")
DOCUMENT = dict(zip(NAMES, ("Elm", 7, True, "new", "none"), strict=True))
SCHEMA = {
    "type": "object",
    "properties": {
        "street": {"type": "string"},
        "number": {"type": "integer"},
        "is_paid": {"type": "boolean"},
        "kind": {"enum": ["new", "old"]},
        "note": {"type": "string"},
    },
    "required": [*NAMES],
}
STYLES: dict[str, dict[str, Any]] = {
    "spaces": {},
    "none": {"separators": (",", ":")},
    "lines": {"indent": 2},
}


def behind(said: str, *, schema: Any = SCHEMA, kind: str = "byte_level") -> str:
    """What is foreseen behind `said`."""
    matcher = make_compiler(kind).json_schema(schema).matcher()
    for token_id in make_vocabulary(kind).tokenize(said):
        assert matcher.allows(token_id)
        matcher.accept(token_id)
    found = matcher.foreseen(200)
    return make_tokenizer(kind).decode(found) if found else ""


@pytest.mark.parametrize("style", STYLES)
def test_a_form_is_known_up_to_its_next_value(style: str) -> None:
    """From the end of a value on, as soon as one name and value have shown the white space."""
    text = json.dumps(DOCUMENT, **STYLES[style])
    for said, name in (("7,", '"is_paid":'), ("true,", '"kind":'), ('new",', '"note":')):
        end = text.index(said) + len(said)
        found = behind(text[:end])
        assert text[end:].startswith(found)
        assert found.rstrip(' "').endswith(name.rstrip('"')), found
    inside = text[: text.index('"new"') + 2]  # what distinguishes the values has been said
    assert behind(inside).startswith("ew")


def test_where_a_writer_chooses_nothing_is_foreseen() -> None:
    """In free text, in a number, before a value that may be anything; and behind the end."""
    for said in ('{"street": "E', '{"street": "Elm", "number": 7', '{"street": "'):
        assert behind(said) == ""
    anything = {"type": "object", "properties": {"a": {}, "b": {}}, "required": ["a", "b"]}
    assert behind('{"a": 1, "b":', schema=anything) == ""
    assert behind(json.dumps(DOCUMENT)) == ""


def test_what_the_next_letter_may_join_is_foreseen_too() -> None:
    """Forced text ends before it, since the model chooses there."""
    schema = {"enum": [{"a": "x"}, {"a": "x", "b": 1}]}
    matcher = make_compiler("byte_level").json_schema(schema, is_compact=True).matcher()
    tokenizer = make_tokenizer("byte_level")
    assert tokenizer.decode(matcher.forced(50)) == '{"a":"x'
    assert tokenizer.decode(matcher.foreseen(50)) == '{"a":"x"'
    assert matcher.foreseen(2) == matcher.foreseen(50)[:2]
    assert matcher.foreseen(0) == matcher.foreseen(-1) == []


@pytest.mark.parametrize("kind", KINDS)
def test_looking_ahead_changes_nothing(kind: str) -> None:
    """At every token of an answer: the same mask behind it, and the same forced text."""
    vocabulary, size = make_vocabulary(kind), make_tokenizer(kind).vocab_size
    text = json.dumps(DOCUMENT)
    if kind == "word_piece":
        text = '{"name":true}'
    schema = SCHEMA if kind != "word_piece" else True
    looking, plain = (make_compiler(kind).json_schema(schema).matcher() for _ in range(2))
    for token_id in vocabulary.tokenize(text):
        masks = []
        for matcher in (looking, plain):
            if matcher is looking:
                assert len(matcher.foreseen(15)) <= 15
            masks.append(torch.zeros(size))
            matcher.mask(masks[-1])
            if not matcher.allows(token_id):
                return
            matcher.accept(token_id)
        assert torch.equal(*masks)


class Failing:
    """A native matcher that breaks when somebody looks ahead."""

    def __init__(self, native: llguidance.LLMatcher) -> None:
        self._native = native
        self._is_broken = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._native, name)

    def compute_ff_bytes(self) -> bytes:
        self._is_broken = True
        return b""

    def is_error(self) -> bool:
        return self._is_broken or self._native.is_error()


def test_a_look_ahead_that_fails_is_no_failure() -> None:
    """Nothing is raised; the next form goes on with the answer, and nobody looks ahead again."""
    vocabulary = make_vocabulary("byte_level")
    native = compile_lark(PREAMBLE + 'start: "abc"', vocabulary)
    broken = Failing(native.deep_copy())
    forms = iter([broken, native])
    matcher = GrammarMatcher(forms, vocabulary, "grammar")  # type: ignore[arg-type]
    assert matcher.foreseen(9) == [] == matcher.foreseen(9)
    for token_id in vocabulary.tokenize("abc"):
        assert matcher.allows(token_id)
        matcher.accept(token_id)
    assert matcher.is_finished
