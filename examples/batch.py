"""A hundred questions at once: the engine answers as many at a time as it has slots.

Run: python examples/batch.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

import time
from typing import Literal

from pydantic import BaseModel, Field

from libertai_llm.langchain import ChatLibertai


class Verdict(BaseModel):
    """Whether a number is even."""

    number: int = Field(ge=0, le=99)
    parity: Literal["even", "odd"]


if __name__ == "__main__":
    chat = ChatLibertai(temperature=0, max_tokens=32, repeat_penalty=1.0)
    questions = [f"Is {number} even or odd?" for number in range(100)]
    started = time.monotonic()
    verdicts = chat.with_structured_output(Verdict).batch(questions, {"max_concurrency": 16})
    seconds = time.monotonic() - started
    for question, verdict in list(zip(questions, verdicts, strict=True))[::25]:
        print(f"{question} {verdict!r}")
    print(f"{len(verdicts)} objects in {seconds:.1f} s")
