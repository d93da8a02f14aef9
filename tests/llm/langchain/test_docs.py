"""The page about LangChain: what it names as proof exists, and what it advises helps."""

from __future__ import annotations

import re
from pathlib import Path

from libertai_engine.engine import Engine
from libertai_llm.langchain import ChatLibertai

HERE = Path(__file__).parent
PAGE = (HERE.parents[2] / "docs" / "langchain.md").read_text()
NAMED = re.findall(r"`(test_\w+\.py)::(\w+)`", PAGE)


def test_every_row_has_its_proof() -> None:
    """A test or a suite in a file of this folder, for every feature that the table claims."""
    table = PAGE.partition("| feature |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [line for line in table if line.startswith("| ")]
    assert len(rows) > 30
    assert all(re.search(r"`test_\w+\.py::\w+` \|$", row) for row in rows)
    for file, name in NAMED:
        assert re.search(rf"^(async def|def|class) {name}\b", (HERE / file).read_text(), re.M), name


def test_penalties_work_against_calls(demo_engine: Engine) -> None:
    """By default the bundled model makes the right call for each question, with a high one not."""

    def get_weather(city: str) -> str:
        """Get the weather in a city."""
        return f"It is sunny in {city}."

    asked = {f"What is the weather in {city}?": city for city in ("Paris", "Oslo", "Lima", "Cairo")}

    def num_right(penalty: float | None) -> int:
        model = ChatLibertai(
            engine=demo_engine, temperature=0, max_tokens=64, repeat_penalty=penalty
        )
        answers = model.bind_tools([get_weather]).batch(list(asked))
        calls = [[call["args"] for call in answer.tool_calls] for answer in answers]
        return sum(
            [{"city": city}] == made for made, city in zip(calls, asked.values(), strict=True)
        )

    assert num_right(None) == num_right(1.0) == len(asked) > num_right(2.0)
