"""Objects instead of text: a grammar holds the answer to the schema, so it always parses.

Run: python examples/structured.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from libertai_llm.langchain import ChatLibertai, LibertaiLLM, TruncatedAnswer


class Person(BaseModel):
    """Somebody."""

    name: str = Field(description="the first name")
    age: int = Field(ge=0, le=150)


if __name__ == "__main__":
    text = "Anna is 34 years old and lives in Rome. Who is it?"
    chat = ChatLibertai(temperature=0, max_tokens=48)
    print(chat.with_structured_output(Person).invoke(text))
    for part in chat.with_structured_output(Person.model_json_schema()).stream(text):
        print(part)
    llm = LibertaiLLM(temperature=0, max_tokens=48)
    print(llm.with_structured_output(Person).invoke(f"{text}\nJSON: "))
    try:
        print(chat.with_structured_output(Person, max_tokens=4).invoke(text))
    except TruncatedAnswer as error:
        print("too few tokens:", error.llm_output)
