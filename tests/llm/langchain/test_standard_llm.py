"""What LangChain's standard suites ask of chat models, asked of the plain LLM, which has none.

In: the bundled model, in this process and over HTTP. Out: the same behaviour in both.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Annotated, Any, Literal

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseLLM
from langchain_core.load import dumpd, load
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import GenerationChunk
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableConfig
from pydantic import BaseModel, Field
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from libertai_engine.engine import Engine
from libertai_llm.langchain import LibertaiLLM

OPTIONS: dict[str, Any] = {"max_tokens": 16, "temperature": 0, "repeat_penalty": 1.0}
PROMPT = "Once upon a time"
LONG = "Once there was a quick brown fox, and a lazy dog that it jumped over. " * 3


class Answer(BaseModel):
    """An answer."""

    number: Literal[3, 7] = Field(description="the number")
    is_sure: bool | None = None


class AnswerV1(BaseModelV1):
    """An answer."""

    number: int


class AnswerDict(TypedDict):
    """An answer."""

    is_sure: Annotated[bool, ..., "whether it is"]


class Listener(BaseCallbackHandler):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.started: list[dict[str, Any]] = []
        self.ended: list[Any] = []

    def on_llm_start(self, *_: Any, **given: Any) -> None:
        self.started.append(given)

    def on_llm_new_token(self, token: Any, **_: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: Any, **_: Any) -> None:
        self.ended.append(response)


class TestUnit:
    """Construction, parameters, serialisation: nothing is called."""

    def make(self, **options: Any) -> LibertaiLLM:
        return LibertaiLLM(base_url="http://127.0.0.1:9", model="open-hermes", **options)

    def test_init(self) -> None:
        """The standard parameters are all known."""
        model = self.make(
            temperature=0, max_tokens=100, timeout=60, stop=[], max_retries=2, api_key="test"
        )
        assert isinstance(model, BaseLLM) and model.model == "open-hermes"

    def test_init_from_env(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The key is found, and not shown."""
        monkeypatch.setenv("LIBERTAI_API_KEY", "key-from-env")
        model = self.make()
        assert model.api_key is not None and model.api_key.get_secret_value() == "key-from-env"
        assert "key-from-env" not in repr(model)

    @pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
    @pytest.mark.parametrize(
        "schema", [Answer, AnswerV1, AnswerDict, Answer.model_json_schema()], ids=range(4)
    )
    def test_with_structured_output(self, schema: Any, method: Any) -> None:
        """Every schema in every method."""
        assert self.make().with_structured_output(schema, method=method) is not None

    def test_standard_params(self) -> None:
        """Provider, model, kind, temperature, limit and stops, overrides included."""
        model = self.make(temperature=0.5, max_tokens=7)
        assert model._get_ls_params(stop=["b"], model="other") == {
            "ls_provider": "libertai",
            "ls_model_name": "other",
            "ls_model_type": "llm",
            "ls_temperature": 0.5,
            "ls_max_tokens": 7,
            "ls_stop": ["b"],
        }

    @pytest.mark.filterwarnings("ignore:The function `load` is in beta")
    def test_serdes(self) -> None:
        """There and back, without the key."""
        model = self.make(api_key="hush-hush", top_k=3)
        dumped = dumpd(model)
        assert "hush-hush" not in str(dumped)
        loaded = load(
            dumped,
            secrets_map={"LIBERTAI_API_KEY": "hush-hush"},
            valid_namespaces=["libertai_llm"],
            allowed_objects="all",
        )
        assert dumpd(loaded) == dumped and loaded.top_k == 3


class StandardSuite:
    """The integration tests. `self.model` is made for each."""

    model: LibertaiLLM

    def test_invoke(self) -> None:
        """Text in, text out; messages are taken as well."""
        assert isinstance(self.model.invoke(PROMPT), str) and self.model.invoke(PROMPT)
        assert self.model.invoke([SystemMessage("Be."), HumanMessage("Hello")])

    async def test_ainvoke(self) -> None:
        """The same without blocking."""
        assert await self.model.ainvoke(PROMPT) == self.model.invoke(PROMPT)

    def test_stream(self) -> None:
        """Several pieces, which make up the text."""
        pieces = list(self.model.stream(PROMPT))
        assert len(pieces) > 3 and "".join(pieces) == self.model.invoke(PROMPT)

    async def test_astream(self) -> None:
        """The same without blocking."""
        pieces = [piece async for piece in self.model.astream(PROMPT)]
        assert len(pieces) > 3 and "".join(pieces) == self.model.invoke(PROMPT)

    async def test_astream_events(self) -> None:
        """Start, pieces and end of a model inside of a chain."""
        chain = PromptTemplate.from_template("Once upon {when}") | self.model | StrOutputParser()
        events = [event async for event in chain.astream_events({"when": "a"}, version="v2")]
        kinds = [event["event"] for event in events]
        assert "on_llm_start" in kinds and "on_llm_end" in kinds
        pieces = [each["data"]["chunk"] for each in events if each["event"] == "on_llm_stream"]
        assert len(pieces) > 3

    def test_batch(self) -> None:
        """Each prompt has its own answer, in order."""
        prompts = [PROMPT, "Hello", "1 2 3"]
        assert self.model.batch(prompts) == [self.model.invoke(each) for each in prompts]

    async def test_abatch(self) -> None:
        """The same without blocking."""
        prompts = [PROMPT, "Hello", "1 2 3"]
        assert await self.model.abatch(prompts) == self.model.batch(prompts)

    async def test_generate(self) -> None:
        """Several prompts at once, their tokens summed, with what is known of each."""
        result = self.model.generate([PROMPT, "Hello"])
        assert len(result.generations) == 2 and result.llm_output is not None
        counted = [each[0].generation_info["usage_metadata"] for each in result.generations]
        total = sum(usage["total_tokens"] for usage in counted)
        assert result.llm_output["token_usage"]["total_tokens"] == total
        texts = [each[0].text for each in result.generations]
        again = await self.model.agenerate([PROMPT, "Hello"])
        assert [each[0].text for each in again.generations] == texts

    @pytest.mark.parametrize("is_streamed", [False, True])
    def test_usage_metadata(self, is_streamed: bool) -> None:
        """Counts and metadata, once; the name of the model among them."""
        if is_streamed:
            chunks = list(self.model._stream(PROMPT))
            told = [each for each in chunks if "usage_metadata" in (each.generation_info or {})]
            assert len(told) == 1
            whole: GenerationChunk = reduce(add, chunks)
            info = whole.generation_info
        else:
            info = self.model.generate([PROMPT]).generations[0][0].generation_info
        assert info is not None
        usage = info["usage_metadata"]
        assert usage["input_tokens"] == len(self.model.get_token_ids(PROMPT)) + 1
        assert 0 < usage["output_tokens"] <= OPTIONS["max_tokens"] + 3
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
        assert info["model_name"] == "demo" and info["finish_reason"] in ("stop", "length")

    def test_cache_read(self) -> None:
        """What the server has of a prompt is told, and grows."""
        self.model.invoke(LONG)
        info = self.model.generate([LONG]).generations[0][0].generation_info
        assert info is not None
        usage = info["usage_metadata"]
        assert usage["input_token_details"]["cache_read"] == usage["input_tokens"] - 1

    def test_stop_sequence(self) -> None:
        """Given to the call or bound; the text ends before it."""
        text = self.model.invoke(PROMPT)
        word = text.split()[2]
        for cut in (
            self.model.invoke(PROMPT, stop=[word]),
            self.model.bind(stop=[word]).invoke(PROMPT),
            "".join(self.model.stream(PROMPT, stop=[word])),
        ):
            assert cut == text[: text.index(word)]

    def test_overrides(self) -> None:
        """Options of one call, the model's name among them."""
        short = self.model.generate([PROMPT], max_tokens=2, model="demo").generations[0][0]
        assert short.generation_info is not None
        assert short.generation_info["finish_reason"] == "length"
        assert self.model.invoke(PROMPT).startswith(short.text)

    def test_callbacks(self) -> None:
        """Start with the parameters, every token, the end with the result."""
        listener = Listener()
        text = self.model.invoke(PROMPT, {"callbacks": [listener]}, temperature=0.0)
        assert "".join(listener.tokens) == text
        assert listener.started[0]["invocation_params"]["temperature"] == 0.0
        assert listener.ended[0].generations[0][0].text == text

    def test_cache(self) -> None:
        """LangChain's own cache answers the same question once, and no other question."""
        model = self.model.model_copy(update={"cache": InMemoryCache(), "temperature": 1.0})
        first = model.invoke(PROMPT, seed=1)
        assert model.invoke(PROMPT, seed=1) == first
        assert model.invoke(PROMPT, seed=1, grammar='root ::= "yes"') == "yes"

    def test_grammar(self) -> None:
        """A completion is what its grammar says, whole and streamed."""
        grammar = 'root ::= ("yes" | "no") "."'
        assert self.model.invoke("Is it?", grammar=grammar) in ("yes.", "no.")
        assert "".join(self.model.stream("Is it?", grammar=grammar)) in ("yes.", "no.")

    @pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
    async def test_structured_output(self, method: Any) -> None:
        """Objects of the schema, in every way to call."""
        schema = Answer.model_json_schema()
        for given, kind in ((Answer, Answer), (schema, dict)):
            chain = self.model.with_structured_output(given, method=method, max_tokens=64)
            found = [chain.invoke("Answer:"), await chain.ainvoke("Answer:")]
            found.append(list(chain.stream("Answer:"))[-1])
            found.append([each async for each in chain.astream("Answer:")][-1])
            assert all(isinstance(each, kind) for each in found)
            for each in found:
                Answer.model_validate(each if isinstance(each, dict) else each.model_dump())

    def test_structured_output_of_other_classes(self) -> None:
        """Pydantic's first version, and TypedDict."""
        first = self.model.with_structured_output(AnswerV1, max_tokens=64).invoke("Answer:")
        assert isinstance(first, AnswerV1)
        second = self.model.with_structured_output(AnswerDict, max_tokens=64).invoke("Answer:")
        assert isinstance(second["is_sure"], bool)

    def test_logprobs(self) -> None:
        """One entry for each token, whose texts make up the completion."""
        found = self.model.generate([PROMPT], logprobs=True, top_logprobs=2).generations[0][0]
        assert found.generation_info is not None
        entries = found.generation_info["logprobs"]["content"]
        assert "".join(each["token"] for each in entries) == found.text
        assert all(len(each["top_logprobs"]) == 2 for each in entries)

    def test_conversation(self) -> None:
        """One thread: the second prompt pays for what is new only."""
        config: RunnableConfig = {"configurable": {"thread_id": f"{type(self).__name__}"}}
        text = self.model.invoke(LONG, config)
        listener = Listener()
        self.model.invoke(f"{LONG}{text} And then", {**config, "callbacks": [listener]})
        info = listener.ended[0].generations[0][0].generation_info
        usage = info["usage_metadata"]
        assert usage["input_token_details"]["cache_read"] > usage["input_tokens"] / 2


class TestInProcess(StandardSuite):
    """The suite on an engine in this process."""

    @pytest.fixture(autouse=True)
    def _use(self, demo_engine: Engine) -> None:
        self.model = LibertaiLLM(engine=demo_engine, **OPTIONS)


class TestOverHTTP(StandardSuite):
    """The suite on the same engine behind a real server."""

    @pytest.fixture(autouse=True)
    def _use(self, demo_url: str) -> None:
        self.model = LibertaiLLM(base_url=demo_url, **OPTIONS)
