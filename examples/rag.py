"""Retrieval and an answer in one chain: a tiny retriever finds the passages that share words.

Run: python examples/rag.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

import re

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from libertai_llm.langchain import ChatLibertai

PASSAGES = [
    "The library opens at 9 o'clock and closes at 18 o'clock.",
    "The museum is closed on Monday. A ticket costs 12 euros.",
    "The shop Mirabel was founded in 1984. Mirabel is led by Eva Brown.",
]


def words(text: str) -> set[str]:
    """The longer words of a text."""
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def retrieve(question: str) -> str:
    """The passage that has most words of the question."""
    return max(PASSAGES, key=lambda passage: len(words(passage) & words(question)))


if __name__ == "__main__":
    prompt = ChatPromptTemplate([("user", "Context: {context}\n\nQuestion: {question}")])
    model = ChatLibertai(temperature=0, max_tokens=32, repeat_penalty=1.0)
    found = {"context": RunnableLambda(retrieve), "question": RunnablePassthrough()}
    chain = found | prompt | model | StrOutputParser()
    for question in ("What does a ticket to the museum cost?", "When was Mirabel founded?"):
        print(f"> {question}\n{retrieve(question)}\n= {chain.invoke(question)}")
