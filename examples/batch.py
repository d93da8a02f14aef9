"""A hundred texts at once: the engine answers as many at a time as it has slots.

Run: python examples/batch.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

import time

from pydantic import BaseModel, Field

from libertai_llm.langchain import ChatLibertai


class Person(BaseModel):
    """Somebody and an age."""

    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=99)


NAMES = ("Anna", "Tom", "Emma", "Peter")

if __name__ == "__main__":
    chat = ChatLibertai(temperature=0, max_tokens=32, repeat_penalty=1.0)
    texts = [f"{NAMES[age % 4]} is {age} years old." for age in range(100)]
    started = time.monotonic()
    people = chat.with_structured_output(Person).batch(texts, {"max_concurrency": 16})
    seconds = time.monotonic() - started
    for text, person in list(zip(texts, people, strict=True))[::25]:
        print(f"{text} {person!r}")
    print(f"{len(people)} objects in {seconds:.1f} s")
