"""Errors are LangChain's and the client's at once, and tell no secret."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
from langchain_core import exceptions as langchain
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage

from libertai_engine.engine import Engine
from libertai_llm import errors
from libertai_llm.langchain import ChatLibertai, LibertaiLLM
from libertai_llm.langchain.errors import as_model_error
from tests.llm.langchain.scripted import ScriptedServer

OVERFLOW = {
    "error": {
        "code": 400,
        "type": "exceed_context_size_error",
        "message": "the request exceeds the available context size",
        "n_prompt_tokens": 9000,
        "n_ctx": 4096,
    }
}
STATUSES = [
    (400, langchain.ModelInvalidRequestError, errors.BadRequest, False),
    (422, langchain.ModelInvalidRequestError, errors.BadRequest, False),
    (401, langchain.ModelAuthenticationError, errors.AuthenticationError, False),
    (402, langchain.ModelPermissionDeniedError, errors.PaymentRequired, False),
    (403, langchain.ModelPermissionDeniedError, errors.PermissionDenied, False),
    (429, langchain.ModelRateLimitError, errors.RateLimited, True),
    (500, langchain.ModelAPIError, errors.ServerError, True),
    (501, langchain.ModelInvalidRequestError, errors.NotSupported, False),
    (503, langchain.ModelAPIError, errors.Unavailable, True),
]


def calls(model: Any) -> list[Any]:
    """The ways to ask that end in a request."""
    return [lambda: model.invoke("x"), lambda: list(model.stream("x"))]


async def acalls(model: Any) -> list[Any]:
    async def drain() -> None:
        async for _ in model.astream("x"):
            pass

    return [model.ainvoke("x"), drain()]


@pytest.mark.parametrize("kind", [ChatLibertai, LibertaiLLM])
@pytest.mark.parametrize(("status", "theirs", "ours", "is_retryable"), STATUSES)
async def test_each_status_has_its_exception(
    server: ScriptedServer,
    kind: Any,
    status: int,
    theirs: type[Exception],
    ours: type[Exception],
    is_retryable: bool,
) -> None:
    """Whole or streamed, blocking or not: caught as LangChain's and as the client's error."""
    server.failure = (status, {"detail": "no, because"})
    model = kind(base_url=server.url, max_retries=0)
    caught = []
    for call in calls(model):
        with pytest.raises(theirs, match="no, because") as found:
            call()
        caught.append(found.value)
    for work in await acalls(model):
        with pytest.raises(theirs, match="no, because") as found:
            await work
        caught.append(found.value)
    assert all(isinstance(error, ours) for error in caught)
    assert [error.is_retryable for error in caught] == [is_retryable] * 4
    await model.aclose()


def test_a_too_long_prompt_is_a_context_overflow(
    server: ScriptedServer, tiny_engine: Engine
) -> None:
    """Summarising middleware catches this type; the counts are there, over HTTP and in-process."""
    server.failure = (400, OVERFLOW)
    with (
        ChatLibertai(base_url=server.url) as chat,
        pytest.raises(langchain.ContextOverflowError) as found,
    ):
        chat.invoke("x")
    assert isinstance(found.value, errors.ContextWindowExceeded)
    assert (found.value.n_prompt_tokens, found.value.n_ctx) == (9000, 4096)
    chat, question = ChatLibertai(engine=tiny_engine), "word " * tiny_engine.context_size
    with pytest.raises(langchain.ContextOverflowError) as found:
        chat.invoke(question)
    assert isinstance(found.value, errors.ContextWindowExceeded)
    assert (found.value.n_prompt_tokens or 0) > (found.value.n_ctx or 0) == tiny_engine.context_size
    allowed = chat.invoke(question, context_shift=True, max_tokens=2)
    assert allowed.response_metadata["truncated"]


def test_nobody_there_is_a_connection_error() -> None:
    """Also a ConnectionError of Python's."""
    with pytest.raises(langchain.ModelConnectionError) as found:
        LibertaiLLM(base_url="http://127.0.0.1:9", max_retries=0).invoke("x")
    assert isinstance(found.value, ConnectionError)
    assert found.value.is_retryable


def test_out_of_time_is_a_timeout_error(server: ScriptedServer) -> None:
    """The constructor's limit or the call's own; also a TimeoutError of Python's."""
    server.delay = 0.5
    with LibertaiLLM(base_url=server.url, timeout=30, max_retries=0) as llm:
        with pytest.raises(langchain.ModelTimeoutError) as found:
            llm.invoke("x", timeout=0.1)
        assert isinstance(found.value, TimeoutError)


class Listener(BaseCallbackHandler):
    """Keeps what a trace of a failed call would hold."""

    def __init__(self) -> None:
        self.responses: list[Any] = []

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.responses.append(kwargs["response"])


def test_a_trace_of_an_error_holds_no_header(server: ScriptedServer) -> None:
    """LangChain writes an error's response into traces: body and status, but no Set-Cookie."""
    server.failure = (500, {"detail": "broken"})
    listener = Listener()
    chat = ChatLibertai(base_url=server.url, max_retries=0)
    with chat, pytest.raises(langchain.ModelAPIError):
        chat.invoke([HumanMessage("x")], config={"callbacks": [listener]})
    message = listener.responses[0].generations[0][0].message
    assert message.response_metadata == {
        "body": {"detail": "broken"},
        "headers": {},
        "status_code": 500,
    }


def test_the_callers_mistakes_stay_what_they_are() -> None:
    """There is no LangChain type for an unknown option."""
    error = errors.UnknownOption("unknown option `x`", field="x")
    assert as_model_error(error) is error


def every_error() -> list[type[errors.LibertaiError]]:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in kinds if issubclass(kind, (errors.APIError, errors.TransportError))]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_of_the_client_has_a_langchain_kind(
    kind: type[errors.LibertaiError],
) -> None:
    """Nothing is lost on the way: message, attributes, retry advice, and it can be pickled."""
    error = kind("it failed")
    error.partial_text = "so far"
    twin = as_model_error(error)
    assert isinstance(twin, kind)
    assert isinstance(twin, langchain.ModelError)
    assert as_model_error(twin) is twin
    for each in (twin, copy.copy(twin), pickle.loads(pickle.dumps(twin))):
        assert str(each) == str(error)
        assert each.partial_text == "so far"
        assert each.is_retryable is error.is_retryable
