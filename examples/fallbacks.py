"""A chain that goes on when a server is down: the next model answers instead.

Run: python examples/fallbacks.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from libertai_llm.errors import LibertaiError
from libertai_llm.langchain import ChatLibertai

if __name__ == "__main__":
    nobody = ChatLibertai(base_url="http://127.0.0.1:9", max_retries=0)
    working = ChatLibertai(temperature=0, max_tokens=32, repeat_penalty=1.0)
    model = nobody.with_fallbacks([working], exceptions_to_handle=(LibertaiError,))
    chain = ChatPromptTemplate([("user", "What is {a} plus {b}?")]) | model | StrOutputParser()
    try:
        nobody.invoke("Hello")
    except LibertaiError as error:
        print(f"the first model: {type(error).__name__}, may be repeated: {error.is_retryable}")
    print("the chain:", chain.invoke({"a": 3, "b": 4}))
    print("".join(chain.stream({"a": 2, "b": 5})))
