"""The documented LangChain class, imported instead of written out, in a chain.

Run: python examples/seed/langchain_program.py (LIBERTAI_API_BASE names the server)
"""

import os

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from libertai_llm.langchain import Libertai

API_BASE = os.environ.get("LIBERTAI_API_BASE", "http://127.0.0.1:8080")

openhermes = Libertai(api_base=API_BASE)

if __name__ == "__main__":
    prompt = PromptTemplate.from_template("User: {question}\nAssistant: ")
    chain = prompt | openhermes | StrOutputParser()
    print(chain.invoke({"question": "Hello, how are you?"}))
