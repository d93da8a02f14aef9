"""The schemas that grammars are held to: pydantic's, LangChain's, and one for each keyword.

In: models.py, tools.py, suite.yaml. Out: `CASES` by name.
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
    found = [Case(name, each.model_json_schema()) for name, each in MODELS.items()]
    found += [Case(f"tool {name}", parameters) for name, parameters in TOOLS.items()]
    suite = yaml.safe_load(Path(__file__).with_name("suite.yaml").read_text(encoding="utf-8"))
    found += [_of_suite(each) for each in suite]
    return {case.name: case for case in found}


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
