"""GBNF text as it is put together.

In: schemas and rules. Out: text that a server of December 2023 reads.
"""

from __future__ import annotations

import re

import pytest

from libertai_llm.errors import InvalidOption, OptionError, UnsupportedSchema
from libertai_llm.grammar import GrammarWriter, json_grammar, json_schema_grammar

PERSON = {
    "type": "object",
    "properties": {"first_name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["first_name"],
}


def test_a_grammar_is_readable() -> None:
    """One rule a line, the root first, names taken from the schema, the wire's order kept."""
    lines = json_schema_grammar(PERSON, spacing="fixed").splitlines()
    assert lines[:2] == [
        "root ::= answer",
        r'answer ::= "{\"first_name\": " string (", \"age\": " integer)? "}"',
    ]


@pytest.mark.parametrize("spacing", ["optional", "fixed", "none"])
def test_names_are_of_letters_digits_and_hyphens(spacing: str) -> None:
    """Other names are not read by a server of December 2023."""
    for line in json_grammar("value", spacing=spacing).splitlines():  # type: ignore[arg-type]
        assert re.fullmatch(r"[a-zA-Z0-9-]+ ::= .+", line)


def test_schemas_rules_and_literals_go_together() -> None:
    """What a tool call is made of: names do not collide, rules that need no schema are shared."""
    writer = GrammarWriter(spacing="fixed")
    one, two = writer.add_schema(PERSON, "a_tool"), writer.add_schema(PERSON, "a_tool")
    mark = writer.literal('|"\\')
    both = writer.add_rule("both", f"{one} {mark} {two}")
    assert (one, two, both) == ("a-tool", "a-tool-2", "both")
    text = writer.text(f"{both}?")
    assert text.startswith("root ::= both?\n") and r'both ::= a-tool "|\"\\" a-tool-2' in text
    assert text.count("\nstring ::=") == 1


def test_wrong_options() -> None:
    """They are told before anything is written."""
    with pytest.raises(InvalidOption, match="spacing"):
        GrammarWriter(spacing="wide")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="one line"):
        GrammarWriter().add_rule("a", "b\nc")


def test_an_error_names_the_part() -> None:
    """By a JSON pointer; it is an option's error, and a ValueError."""
    schema = {"properties": {"a/b": {"items": {"not": {"type": "null"}}}}}
    with pytest.raises(
        UnsupportedSchema, match=r"`not` .* \(at #/properties/a~1b/items/not\)$"
    ) as e:
        json_schema_grammar(schema)
    assert e.value.path == "#/properties/a~1b/items/not"
    assert isinstance(e.value, OptionError) and isinstance(e.value, ValueError)
    assert e.value.field == "json_schema"
