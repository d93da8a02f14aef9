"""Group 8: LlamaIndex's query and chat engines run on the model, in all their modes.

The model is random: what is proven is that every mode asks in a form that is answered, that sources
and objects come back, and that what is streamed is what is said.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from llama_index.core import Document, PromptTemplate, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.response.schema import PydanticResponse, StreamingResponse
from llama_index.core.chat_engine.types import ChatMode
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import LLMRerank, StructuredLLMRerank
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.selectors import LLMSingleSelector, PydanticSingleSelector
from llama_index.core.tools import QueryEngineTool
from llama_index.core.utils import set_global_tokenizer

from libertai_llm.llama_index import Libertai
from tests.llm.langchain.scripted import ScriptedServer
from tests.llm.llama_index.conftest import MakeLLM
from tests.llm.llama_index.toolbox import Weather

CITIES = ("Paris lies on the Seine.", "Rome lies on the Tiber.", "Oslo lies on a fjord.")
QUESTION = "On what does Rome lie?"
# No text and no answer of the model's is what these are about.
WITHOUT_ANSWER = {ResponseMode.NO_TEXT, ResponseMode.CONTEXT_ONLY}
QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class WordEmbedding(BaseEmbedding):
    """Texts of the same words have the same vector: enough to be ranked."""

    def _vector(self, text: str) -> list[float]:
        vector = [0.0] * 64
        for word in text.lower().replace(".", " ").replace("?", " ").split():
            vector[hashlib.md5(word.encode()).digest()[0] % 64] += 1.0
        return vector

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._vector(text)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._vector(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._vector(query)


@pytest.fixture(autouse=True)
def _words_are_tokens() -> Any:
    """LlamaIndex counts words, and fetches no tokenizer."""
    set_global_tokenizer(str.split)
    yield
    set_global_tokenizer(None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def index() -> VectorStoreIndex:
    documents = [Document(text=text) for text in CITIES]
    splitter = SentenceSplitter(tokenizer=str.split, chunking_tokenizer_fn=str.splitlines)
    return VectorStoreIndex.from_documents(
        documents, embed_model=WordEmbedding(), transformations=[splitter]
    )


def memory() -> ChatMemoryBuffer:
    return ChatMemoryBuffer.from_defaults(token_limit=4000, tokenizer_fn=str.split)


@pytest.mark.parametrize("mode", ResponseMode)
async def test_query_engines_answer(
    make_llm: MakeLLM,
    index: VectorStoreIndex,
    mode: ResponseMode,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole, awaited and streamed, with the passages that were read."""
    llm = make_llm(max_tokens=8)
    # NOTE: two of the modes ask for the default model, even if another one is given.
    monkeypatch.setattr(Settings, "_llm", llm)
    options = {"similarity_top_k": 2, "response_mode": mode}
    engine = index.as_query_engine(llm=llm, **options)
    answer = engine.query(QUESTION)
    awaited = await engine.aquery(QUESTION)
    assert "Rome" in answer.source_nodes[0].get_content()
    assert str(answer) == str(awaited)
    if mode in WITHOUT_ANSWER:
        return
    assert str(answer).strip() not in {"", "Empty Response"}
    if "accumulate" not in mode.value:
        streamed = index.as_query_engine(llm=llm, streaming=True, **options).query(QUESTION)
        assert isinstance(streamed, StreamingResponse)
        assert "".join(streamed.response_gen).strip() == str(answer).strip()


async def test_summaries_are_gathered_at_once(make_llm: MakeLLM, index: VectorStoreIndex) -> None:
    """`use_async` makes event loops of its own."""
    llm = make_llm(max_tokens=8)
    engine = SummaryIndex.from_documents([Document(text=text) for text in CITIES]).as_query_engine(
        llm=llm, response_mode=ResponseMode.ACCUMULATE, use_async=True
    )
    assert str(await engine.aquery(QUESTION)).count("Response") == 3


@pytest.mark.parametrize(
    "mode",
    [
        ChatMode.SIMPLE,
        ChatMode.CONTEXT,
        ChatMode.CONDENSE_QUESTION,
        ChatMode.CONDENSE_PLUS_CONTEXT,
        ChatMode.BEST,
    ],
)
async def test_chat_engines_answer(
    make_llm: MakeLLM, index: VectorStoreIndex, mode: ChatMode
) -> None:
    """Whole, streamed, awaited, and both; each turn is remembered as it was said."""
    llm = make_llm(max_tokens=8)
    engine: Any = index.as_chat_engine(chat_mode=mode, llm=llm, memory=memory(), similarity_top_k=1)
    said = [engine.chat("Hello!").response]
    said.append("".join(engine.stream_chat("And Rome?").response_gen))
    said.append((await engine.achat("And Oslo?")).response)
    stream = await engine.astream_chat("And Paris?")
    said.append("".join([text async for text in stream.async_response_gen()]))
    told = [each.content for each in engine.chat_history if each.role == "assistant"]
    assert all(said) and [each.strip() for each in said] == [str(each).strip() for each in told]


async def test_objects_come_from_query_engines(make_llm: MakeLLM, index: VectorStoreIndex) -> None:
    """`output_cls`, and a structured model."""
    llm = make_llm(max_tokens=300)
    for engine in (
        index.as_query_engine(llm=llm, output_cls=Weather),
        index.as_query_engine(
            llm=llm, output_cls=Weather, response_mode=ResponseMode.TREE_SUMMARIZE
        ),
    ):
        for answer in (engine.query(QUESTION), await engine.aquery(QUESTION)):
            assert isinstance(answer, PydanticResponse)
            assert isinstance(answer.response, Weather)


@pytest.mark.parametrize("streaming", [False, True])
async def test_answers_are_filtered(
    server: ScriptedServer, index: VectorStoreIndex, streaming: bool
) -> None:
    """`structured_answer_filtering`: passages that do not answer are passed over."""

    def answer(prompt: str) -> str:
        fits = "On the Tiber." if "Rome lies" in prompt else ""
        found = {"answer": fits or "No.", "query_satisfied": bool(fits)}
        if "<tools>" not in prompt:
            return json.dumps(found)
        body = json.dumps({"name": "StructuredRefineResponse", "arguments": found})
        return f"<tool_call>\n{body}\n</tool_call>"

    server.answer = answer
    synthesizer = get_response_synthesizer(
        llm=Libertai(base_url=server.url),
        response_mode=ResponseMode.REFINE,
        structured_answer_filtering=True,
        streaming=streaming,
    )
    nodes = index.as_retriever(similarity_top_k=3).retrieve(QUESTION)
    response = synthesizer.synthesize(QUESTION, nodes)
    # NOTE: LlamaIndex streams only what the last passage says.
    is_stream = isinstance(response, StreamingResponse)
    text = "".join(response.response_gen) if is_stream else str(response)
    assert text == "On the Tiber."
    assert all("grammar" in sent for sent in server.completions)


async def test_routers_choose(server: ScriptedServer, index: VectorStoreIndex) -> None:
    """By a text that is parsed, or by an object that is held to its class."""
    choice = {"choice": 2, "reason": "it is about rivers"}

    def answer(prompt: str) -> str:
        if "choice" not in prompt:
            return "On the Tiber."
        if "<tools>" in prompt:
            found = {"index": 2, "reason": "rivers"}
            body = json.dumps({"name": "SingleSelection", "arguments": found})
            return f"<tool_call>\n{body}\n</tool_call>"
        return json.dumps([choice])

    server.answer = answer
    llm = Libertai(base_url=server.url)
    engine = index.as_query_engine(llm=llm)
    tools = [
        QueryEngineTool.from_defaults(engine, name=name, description=f"Facts about {name}.")
        for name in ("food", "rivers")
    ]
    for selector in (
        LLMSingleSelector.from_defaults(llm=llm),
        PydanticSingleSelector.from_defaults(llm=llm),
    ):
        router = RouterQueryEngine.from_defaults(tools, llm=llm, selector=selector)
        for response in (router.query(QUESTION), await router.aquery(QUESTION)):
            assert str(response) == "On the Tiber."
            assert response.metadata["selector_result"].selections[0].index == 1


@QUIET
async def test_questions_are_taken_apart(server: ScriptedServer, index: VectorStoreIndex) -> None:
    """Sub-questions, each asked of its engine, and an answer of their answers."""
    questions = [{"sub_question": "On what does Rome lie?", "tool_name": "cities"}]

    def answer(prompt: str) -> str:
        if "sub_question" in prompt:
            return f"```json\n{json.dumps({'items': questions})}\n```"
        return "On the Tiber."

    server.answer = answer
    llm = Libertai(base_url=server.url)
    tool = QueryEngineTool.from_defaults(
        index.as_query_engine(llm=llm), name="cities", description="Facts about cities."
    )
    engine = SubQuestionQueryEngine.from_defaults(
        [tool],
        llm=llm,
        question_gen=LLMQuestionGenerator.from_defaults(llm=llm),
        verbose=False,
        use_async=False,
    )
    response = engine.query(QUESTION)
    assert str(response) == "On the Tiber."
    assert "Sub question: On what does Rome lie?" in response.source_nodes[0].get_content()


async def test_passages_are_ranked(server: ScriptedServer, index: VectorStoreIndex) -> None:
    """By a model that names them, in words or as an object."""
    nodes = index.as_retriever(similarity_top_k=3).retrieve("Oslo")
    server.answer = lambda prompt: "Doc: 1, Relevance: 9"
    llm = Libertai(base_url=server.url)
    (best,) = LLMRerank(llm=llm, top_n=1).postprocess_nodes(nodes, query_str="Oslo")
    assert best.score == 9
    server.answer = lambda prompt: json.dumps(
        {"documents": [{"document_number": 1, "relevance": 8}]}
    )
    (best,) = StructuredLLMRerank(llm=llm, top_n=1).postprocess_nodes(nodes, query_str="Oslo")
    assert best.score == 8


async def test_prompts_are_predicted(make_llm: MakeLLM) -> None:
    """`predict`, `apredict`, `stream` and `astream` say the same."""
    llm, prompt = make_llm(cache_prompt=False), PromptTemplate("Tell me of {city}.")
    whole = llm.predict(prompt, city="Rome")
    assert whole == await llm.apredict(prompt, city="Rome")
    assert whole == "".join(llm.stream(prompt, city="Rome"))
    assert whole == "".join([text async for text in await llm.astream(prompt, city="Rome")])
    assert whole == llm.chat([ChatMessage("Tell me of Rome.")]).message.content
