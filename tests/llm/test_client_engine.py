"""Both clients on a real engine, in this process and over HTTP: the same answers, no slot lost."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_llm import (
    AsyncClient,
    Client,
    Completion,
    Session,
    SessionStore,
    Timeouts,
    errors,
)
from libertai_llm.engines import SHARED_ENGINES, Lease, SharedEngines
from libertai_llm.types import Timings
from tests.engine.serving import Running, running
from tests.llm.conftest import MakeClient
from tests.llm.scripted_server import wait_until

ENDLESS = {"max_tokens": -1, "ignore_eos": True}


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with load_engine(EngineConfig(model=str(tiny_model), num_slots=2), progress=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def server(engine: Engine) -> Iterator[Running]:
    with running(CompletionAPI(engine)) as server:
        yield server


@pytest.fixture(params=["engine", "engine with limits", "http"])
def client(
    request: pytest.FixtureRequest, any_client: MakeClient, engine: Engine, server: Running
) -> Any:
    """Either client, on the same engine, by all three ways."""
    if request.param == "http":
        return any_client(server.url)
    limits = Timeouts(first_token=60, between_tokens=60, total=120)
    return any_client(engine=engine, timeouts=limits if "limits" in request.param else None)


def is_idle(engine: Engine) -> bool:
    return engine.load.num_running == 0 and engine.load.num_waiting == 0


def timeless(answer: Completion) -> Completion:
    """Without what differs from run to run: times, the slot, and what was reused."""
    return replace(
        answer, timings=Timings(), slot_id=0, tokens_cached=0, generation_settings={}, raw={}
    )


def test_a_completion(client: Any, engine: Engine) -> None:
    """The same answer by every way, whole and streamed."""
    # Without the cache every run computes in the same steps, so the figures agree to the last bit.
    options: dict[str, Any] = {"max_tokens": 8, "temperature": 0, "n_probs": 2, "stop": ["zzz"]}
    options["cache_prompt"] = False
    with Client(engine=engine) as reference:
        expected = reference.complete("Once upon a time", **options)
    assert expected.stop_type in ("limit", "eos")
    assert len(expected.probs) == expected.tokens_predicted > 0
    assert timeless(client.complete("Once upon a time", **options)) == timeless(expected)
    chunks = list(client.stream("Once upon a time", **options))
    assert timeless(chunks[-1].final) == timeless(expected)
    assert "".join(chunk.content for chunk in chunks) == expected.content
    assert sum((chunk.probs for chunk in chunks), ()) == expected.probs
    assert [chunk.final for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_a_conversation_reuses_its_context(client: Any) -> None:
    """The second turn evaluates only what is new, in the slot of the first."""
    session = Session()
    first = client.complete("The quick brown fox", session=session, max_tokens=4, temperature=0)
    prompt = "The quick brown fox" + first.content + " and then"
    second = client.complete(prompt, session=session, max_tokens=4, temperature=0)
    assert second.slot_id == first.slot_id == session.slot_id >= 0
    assert second.tokens_cached >= first.tokens_evaluated - 1
    assert second.timings.prompt_n == second.tokens_evaluated - second.tokens_cached


@pytest.mark.parametrize("is_keyed", [True, False], ids=["keys", "texts"])
async def test_more_conversations_than_slots(
    engine: Engine, server: Running, is_keyed: bool
) -> None:
    """Eight at once on two slots, three turns each: later turns evaluate only what is new."""
    for client in (AsyncClient(engine=engine), AsyncClient(server.url)):
        store = SessionStore()

        async def talk(
            number: int, client: AsyncClient = client, store: SessionStore = store
        ) -> None:
            key = str(number) if is_keyed else None
            prompt, known = f"{number}{is_keyed} once there was number {number}.", 0
            for _ in range(3):
                with store.checkout(key, prompt) as session:
                    answer = await client.complete(
                        prompt, session=session, max_tokens=6, temperature=0, ignore_eos=True
                    )
                assert answer.tokens_cached >= known, f"conversation {number} lost its context"
                prompt += answer.content + f" Then {number} went on."
                known = answer.tokens_evaluated - 1

        async with client:
            await asyncio.gather(*(talk(number) for number in range(8)))
        assert len(store) == 8


def test_tokens_and_facts(client: Any, engine: Engine) -> None:
    """Tokenize, detokenize, props and health say the same by every way."""
    ids = client.tokenize("Hello, wörld")
    assert ids == engine.tokenizer.encode("Hello, wörld", add_special=False)
    assert client.tokenize("x", add_special=True)[0] == engine.tokenizer.bos_id
    assert client.detokenize(ids).strip() == "Hello, wörld"
    pieces = client.tokenize("é🦙", with_pieces=True)
    assert b"".join(each.piece for each in pieces).decode().strip() == "é🦙"
    props = client.props()
    assert (props.context_size, props.total_slots) == (engine.context_size, 2)
    assert "<|im_start|>" in props.chat_template and props.model == engine.name
    assert client.health().is_ready


def test_a_chat_becomes_a_prompt(client: Any) -> None:
    """By the model's own template; what it refuses names the message."""
    prompt = client.apply_template([{"role": "user", "content": "Hi"}])
    assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(errors.BadRequest, match=r"messages\[0\].role"):
        client.apply_template([{"role": "robot", "content": "Hi"}])
    with pytest.raises(errors.InvalidOption):
        client.apply_template(["Hi"])


def test_refusals_are_the_same(client: Any, engine: Engine) -> None:
    """Class, status, type and numbers of an error do not depend on the way."""
    with pytest.raises(errors.ContextWindowExceeded) as caught:
        client.complete("word " * 2000)
    assert caught.value.n_ctx == engine.context_size
    assert (caught.value.n_prompt_tokens or 0) > engine.context_size
    assert (caught.value.status, caught.value.type) == (400, "exceed_context_size_error")
    for call in (client.complete, lambda *a, **k: list(client.stream(*a, **k))):
        with pytest.raises(errors.BadRequest, match="slot") as refused:
            call("x", slot_id=99)
        assert refused.value.status == 400 and refused.value.type == "invalid_request_error"
    with pytest.raises(errors.NotSupported):
        client.infill("a", "b")
    with pytest.raises(errors.NotSupported):
        list(client.infill_stream("a", "b"))


def test_a_full_context(client: Any, engine: Engine) -> None:
    """Strict unless the caller allows a cut; then it is said, and answers go past the end."""
    n_ctx = engine.context_size
    too_long = engine.tokenizer.encode("word " * n_ctx, add_special=True)[: n_ctx + 5]
    for ask in (client.complete, lambda *a, **k: list(client.stream(*a, **k))):
        with pytest.raises(errors.ContextWindowExceeded) as caught:
            ask(too_long, max_tokens=4)
        assert (caught.value.n_prompt_tokens, caught.value.n_ctx) == (n_ctx + 5, n_ctx)
    cut = client.complete(too_long, max_tokens=4, context_shift=True)
    assert cut.truncated and cut.tokens_evaluated < n_ctx
    options = {"max_tokens": 9, "ignore_eos": True}
    ended = client.complete(too_long[: n_ctx - 4], **options)
    assert (ended.truncated, ended.stop_type, ended.tokens_predicted) == (True, "limit", 4)
    shifted = client.complete(too_long[: n_ctx - 4], context_shift=True, **options)
    assert shifted.truncated and shifted.tokens_predicted >= 9


def test_a_slot_of_another_engine_is_forgotten(client: Any) -> None:
    """A session whose slot does not exist here goes on with any."""
    answer = client.complete("x", session=Session(slot_id=50), max_tokens=1)
    assert answer.slot_id in (0, 1)


def test_leaving_a_stream_frees_its_slot(client: Any, engine: Engine) -> None:
    """The engine stops when nobody reads any more."""
    chunks = client.stream("Once", **ENDLESS)
    next(chunks)
    assert not is_idle(engine)
    chunks.close()
    assert wait_until(lambda: is_idle(engine))


def test_too_late_in_process(any_client: MakeClient, engine: Engine) -> None:
    """A limit ends the call, says which, keeps the text so far, and frees the slot."""
    client = any_client(engine=engine, timeouts=0.3)
    forever: dict[str, Any] = {"max_tokens": 10**6, "ignore_eos": True, "context_shift": True}
    begun = time.monotonic()
    with pytest.raises(errors.TimedOut) as caught:
        list(client.stream("Once", **forever))
    assert caught.value.phase == "total" and time.monotonic() - begun < 5
    with pytest.raises(errors.TimedOut):
        client.complete("Once", **forever)
    assert wait_until(lambda: is_idle(engine))


def test_too_late_although_every_token_is_there_at_once(
    any_client: MakeClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that never makes its reader wait has a limit, too."""

    async def at_once(_api: CompletionAPI, _body: Any) -> AsyncIterator[dict[str, Any]]:
        for _ in range(200_000):
            yield {"content": "x", "stop": False}

    monkeypatch.setattr(CompletionAPI, "astream", at_once)
    client = any_client(engine=engine, timeouts=0.1)
    with pytest.raises(errors.TimedOut) as caught:
        list(client.stream("Once"))
    assert caught.value.phase == "total" and caught.value.partial_text.startswith("xx")


@pytest.mark.parametrize("how", ["complete", "stream"])
def test_closing_ends_what_another_thread_waits_for(engine: Engine, how: str) -> None:
    """With limits, too: the waiting thread gets an error at once, and the slot is free."""
    client = Client(engine=engine, timeouts=60)
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            options: dict[str, Any] = {"max_tokens": 10**6, "ignore_eos": True}
            answer = getattr(client, how)("Once upon", context_shift=True, **options)
            list(answer)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert wait_until(lambda: not is_idle(engine))
    client.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(caught[0], errors.LibertaiError)
    assert wait_until(lambda: is_idle(engine))


@pytest.mark.parametrize("how", ["complete", "stream"])
def test_closing_just_before_a_call_begins(engine: Engine, how: str) -> None:
    """Whoever closes while another thread is about to ask leaves no thread behind for it."""
    client = Client(engine=engine, timeouts=60)
    lease = client._transport._lease  # type: ignore[attr-defined]
    find = lease.api

    def api(path: str) -> Any:
        found = find(path)
        client.close()
        return found

    lease.api = api
    known = set(threading.enumerate())
    with pytest.raises(errors.LibertaiError, match="closed"):
        list(getattr(client, how)("Once"))
    left = {each for each in threading.enumerate() if each.name == "libertai-llm"} - known
    assert not left


async def test_cancelling_frees_the_slot(engine: Engine, server: Running) -> None:
    """A cancelled task, by either way, whole or streamed."""
    for client in (AsyncClient(engine=engine), AsyncClient(server.url)):
        async with client:
            task = asyncio.create_task(client.complete("Once", **ENDLESS))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(wait_until, lambda: is_idle(engine))


async def test_many_at_once_in_process(engine: Engine) -> None:
    """Twenty tasks on two slots: every answer is the one it gets alone."""
    prompts = [f"number {n} is" for n in range(20)]
    options = {"max_tokens": 5, "temperature": 0}
    with Client(engine=engine) as alone:
        expected = [alone.complete(each, **options).content for each in prompts]
    async with AsyncClient(engine=engine) as client:
        found = await asyncio.gather(*(client.complete(each, **options) for each in prompts))
    assert [each.content for each in found] == expected


def test_one_name_is_one_engine(tiny_model: Path) -> None:
    """Clients of one name share an engine, however the folder is written; the last closes it."""
    other = f"{tiny_model}/../{tiny_model.name}"
    first, second = Client(engine=str(tiny_model)), Client(engine=other)
    leases = [client._transport._lease for client in (first, second)]  # type: ignore[attr-defined]
    engines = [lease.api().engine for lease in leases]
    assert engines[0] is engines[1]
    first.close()
    assert engines[0].is_alive and second.complete("x", max_tokens=1)
    with pytest.raises(errors.LibertaiError, match="closed"):
        first.complete("x")
    second.close()
    second.close()
    assert not engines[0].is_alive
    with Client(engine=str(tiny_model)) as again:
        assert again.complete("x", max_tokens=1)


def test_a_forgotten_client_lets_go(tiny_model: Path) -> None:
    """No `close` needed: the engine goes with its last user."""
    client = Client(engine=str(tiny_model))
    client.complete("x", max_tokens=1)
    engine = client._transport._lease.api().engine  # type: ignore[attr-defined]
    del client
    gc.collect()
    assert wait_until(lambda: not engine.is_alive)


def test_a_running_engine_is_not_closed(engine: Engine) -> None:
    """What the caller started, the caller ends."""
    with Client(engine=engine) as client:
        client.complete("x", max_tokens=1)
    assert engine.is_alive


def test_a_closed_engine(any_client: MakeClient, tiny_model: Path) -> None:
    """Unavailable at once: it will not open again, so there is no retry."""
    closed = load_engine(EngineConfig(model=str(tiny_model)), progress=False)
    closed.close()
    client = any_client(engine=closed, max_retries=5)
    begun = time.monotonic()
    with pytest.raises(errors.Unavailable):
        client.complete("x")
    assert time.monotonic() - begun < 1
    assert not client.health().is_ready


def test_a_model_that_cannot_be_loaded(any_client: MakeClient, tmp_path: Path) -> None:
    """Typed, with what is wrong; and the next attempt starts afresh."""
    (tmp_path / "config.json").write_text("{}")
    client = any_client(engine=str(tmp_path))
    for _ in range(2):
        with pytest.raises(errors.ModelNotLoaded):
            client.complete("x")


class CountingEngine:
    """An engine that only remembers being closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


LAST_LINE = """
import time
from libertai_engine.worker import Worker
from libertai_llm import Client

close = Worker.close

def slowly(worker):
    time.sleep(0.5)
    close(worker)
    print("closed")

Worker.close = slowly
client = Client(engine="demo")
client.complete("Hello", max_tokens=1)
del client
"""


def test_a_program_ends_after_its_engines(tmp_path: Path) -> None:
    """A client that is forgotten in a program's last line still closes its engine in peace."""
    ended = subprocess.run(
        [sys.executable, "-c", LAST_LINE],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ended.stdout == "closed\n", ended.stderr


def test_the_bundled_model_hides_behind_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder called "demo" in the working directory is not taken for the bundled model."""
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    with Client(engine="demo") as client:
        assert client.complete("Hello", max_tokens=1).tokens_predicted == 1


def test_engines_are_counted() -> None:
    """Loaded once, closed with the last user, loaded again after that; failures leave nothing."""
    loaded: list[CountingEngine] = []

    def load(model: str) -> CountingEngine:
        if model == "bad":
            raise errors.ModelNotLoaded("bad")
        loaded.append(CountingEngine())
        return loaded[-1]

    engines = SharedEngines(load)
    assert engines.acquire("a") is engines.acquire("a") is loaded[0]
    engines.release("a")
    assert not loaded[0].is_closed
    engines.release("a")
    assert loaded[0].is_closed
    assert engines.acquire("a") is loaded[1]
    engines.release("a")
    engines.release("a")
    engines.release("never")
    with pytest.raises(errors.ModelNotLoaded):
        engines.acquire("bad")
    engines.release("bad")


def test_without_the_engines_packages(tmp_path: Path) -> None:
    """A plain installation says what to install, and speaks HTTP without complaint."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from libertai_llm import Client, errors\n"
        "Client('http://127.0.0.1:9').close()\n"
        "try:\n"
        "    Client(engine='demo').complete('x')\n"
        "except errors.EngineNotInstalled as error:\n"
        "    assert isinstance(error, ImportError)\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'libertai-llm[engine]'" in done.stdout


def _in_a_fork(client: Client, results: Any) -> None:
    try:
        client.complete("x")
    except Exception as error:
        results.put((type(error).__name__, str(error), len(SHARED_ENGINES._entries)))


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_is_refused_in_words(tiny_model: Path) -> None:
    """A child process cannot use its parent's engine thread; it says so instead of hanging."""
    with Client(engine=str(tiny_model)) as client:
        client.complete("x", max_tokens=1)
        context = multiprocessing.get_context("fork")
        results = context.Queue()
        child = context.Process(target=_in_a_fork, args=(client, results))
        child.start()
        kind, message, num_engines = results.get(timeout=30)
        child.join(30)
    assert kind == "ModelNotLoaded" and "fork" in message and num_engines == 0
    results.close()


def test_an_unused_lease_loads_nothing() -> None:
    """Making and closing a client of a model costs nothing."""
    lease = Lease("no/such-model")
    assert lease.name == "no/such-model"
    lease.release()
