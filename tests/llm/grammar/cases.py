"""The schemas that grammars are held to: pydantic's, LangChain's, and one for each keyword.

In: models.py, tools.py, suite.yaml, later.yaml. Out: cases by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.llm.grammar.models import MODELS
from tests.llm.grammar.tools import TOOLS


@dataclass(frozen=True)
class Case:
    """A schema with instances whose verdict is known.

    `narrow` are valid, but refused by design. Invariant: `valid` and `narrow` validate, `invalid`
    do not, unless `has_oracle` is false: jsonschema does not know what this keyword holds.
    """

    name: str
    schema: Any
    valid: tuple[Any, ...] = ()
    invalid: tuple[Any, ...] = ()
    narrow: tuple[Any, ...] = ()
    draft: int = 2020
    has_oracle: bool = True


@cache
def cases() -> dict[str, Case]:
    """All of them."""
    return recorded_cases() | {case.name: case for case in _of_file("later.yaml")}


@cache
def recorded_cases() -> dict[str, Case]:
    """Those whose grammars the server of December 2023 was recorded with, in that order."""
    found = [Case(name, each.model_json_schema()) for name, each in MODELS.items()]
    found += [Case(f"tool {name}", parameters) for name, parameters in TOOLS.items()]
    found += _of_file("suite.yaml")
    return {case.name: case for case in found}


def _of_file(name: str) -> list[Case]:
    listed = yaml.safe_load(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return [_of_suite(each) for each in listed]


def _of_suite(given: dict[str, Any]) -> Case:
    return Case(
        name=given["name"],
        schema=given["schema"],
        valid=tuple(given["valid"]),
        invalid=tuple(given["invalid"]),
        narrow=tuple(given.get("narrow", ())),
        draft=given.get("draft", 2020),
        has_oracle=not given.get("no-oracle", False),
    )
