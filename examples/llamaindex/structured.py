"""Texts become objects of a class: a grammar holds the answer to its form.

Run: python examples/llamaindex/structured.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from typing import Literal

from llama_index.core import PromptTemplate
from pydantic import BaseModel, Field

from libertai_llm.llama_index import Libertai


class Person(BaseModel):
    """Somebody who was spoken of."""

    name: str = Field(max_length=24)
    age: int = Field(ge=0, le=120)
    pet: Literal["cat", "dog", "none"]


TEXTS = (
    "Anna is 31 years old and lives with her cat.",
    "Tom, 45, has no animals.",
)

if __name__ == "__main__":
    llm = Libertai(temperature=0, max_tokens=96)
    prompt = PromptTemplate("Write name, age and pet of the person as JSON: {text}")
    for text in TEXTS:
        print(f"> {text}\n{llm.structured_predict(Person, prompt, text=text)!r}")
    print("> as it comes")
    for part in llm.stream_structured_predict(Person, prompt, text=TEXTS[0]):
        print(part)
