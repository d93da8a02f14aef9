"""The page about LangChain: what it names as proof exists."""

from __future__ import annotations

import re
from pathlib import Path

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
