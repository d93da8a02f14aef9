"""Schemas become grammars that take what jsonschema takes, and refuse what it refuses.

In: some 260 schemas, each with instances given, instances made from the schema, and texts drawn
from its grammar. Out: one verdict by the engine's matcher on each, one by jsonschema.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from libertai_llm.grammar import json_schema_grammar
from tests.llm.grammar.cases import Case, cases
from tests.llm.grammar.derivations import Derivations
from tests.llm.grammar.instances import Instances
from tests.llm.grammar.language import Language
from tests.llm.grammar.oracle import strict, validator

N_INSTANCES = 20
N_DRAWN = 6

every_case = pytest.mark.parametrize("name", cases())
every_judged_case = pytest.mark.parametrize(
    "name", [name for name, case in cases().items() if case.has_oracle]
)


@cache
def grammar(name: str) -> tuple[str, Language]:
    """The grammar of a case, compiled once."""
    text = json_schema_grammar(cases()[name].schema)
    return text, Language(text)


def written(value: Any, *, spaces: bool = True) -> str:
    """A value as a model writes it."""
    separators = (", ", ": ") if spaces else (",", ":")
    return json.dumps(value, ensure_ascii=False, separators=separators)


def says_valid(case: Case, value: Any) -> bool:
    """jsonschema's verdict, on the schema and on what the grammar documents beside it."""
    is_valid = validator(case.schema if case.draft != 2020 else strict(case.schema), case.draft)
    return bool(is_valid.is_valid(value))


def test_there_are_enough() -> None:
    """Pydantic's, LangChain's, and keyword by keyword."""
    kinds = Counter(name.split(" ")[0] == "tool" for name in cases())
    assert len(cases()) >= 250 and kinds[True] >= 20


@every_case
def test_given_instances(name: str) -> None:
    """As told by hand, and by jsonschema where it knows the keyword."""
    case = cases()[name]
    language = grammar(name)[1]
    for value in case.valid:
        assert language.accepts(written(value)) and language.accepts(written(value, spaces=False))
        assert not case.has_oracle or says_valid(case, value)
    for value in case.invalid:
        assert not language.accepts(written(value)), value
        assert not case.has_oracle or not says_valid(case, value)
    for value in case.narrow:
        assert not language.accepts(written(value)), value
        assert validator(case.schema, case.draft).is_valid(value)


@every_judged_case
def test_made_instances(name: str) -> None:
    """20 for each schema, valid and invalid: the verdicts agree where nothing is narrow."""
    case = cases()[name]
    language = grammar(name)[1]
    for value in made(case):
        accepted, valid = language.accepts(written(value)), says_valid(case, value)
        assert accepted <= valid, f"takes {written(value)}"
        assert accepted >= valid or bool(case.narrow), f"refuses {written(value)}"


def made(case: Case) -> Iterator[Any]:
    """Instances of a case, as many likely as unlikely ones."""
    source = Instances(case.schema, seed=len(case.name))
    for index in range(N_INSTANCES):
        yield source.likely() if index % 2 else source.unlikely()


@every_judged_case
def test_drawn_texts(name: str) -> None:
    """Whatever the grammar allows is JSON that satisfies the schema."""
    case = cases()[name]
    text, language = grammar(name)
    source = Derivations(text, seed=len(name))
    for _ in range(N_DRAWN):
        drawn = source.draw()
        assert language.accepts(drawn), drawn
        assert says_valid(case, json.loads(drawn)), drawn
