"""What both clients make of small answers."""

from __future__ import annotations

from typing import Any

import pytest

from libertai_llm.errors import InvalidReply
from libertai_llm.plan import prompt_of


@pytest.mark.parametrize("reply", [{}, {"prompt": None}, {"prompt": ["x"]}])
def test_a_prompt_is_text(reply: dict[str, Any]) -> None:
    """Anything else is not sent on to be completed."""
    assert prompt_of({"prompt": ""}) == ""
    with pytest.raises(InvalidReply, match="prompt"):
        prompt_of(reply)
