"""The blocking client: completions, tokens, and facts about a server.

In: prompts and options. Out: `Completion`s, or the chunks of one as they come. Where the calls go
is `target`'s rule, what they send is `plan`'s, how often they are tried is the driver's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, overload

import requests

from libertai_llm import facts, plan
from libertai_llm.call import Call
from libertai_llm.drive_sync import Driver
from libertai_llm.embeddings import (
    Vector,
    batches_of,
    check_texts,
    embedding_options,
    naming_texts,
)
from libertai_llm.errors import APIError
from libertai_llm.http_sync import HTTPTransport
from libertai_llm.params import infill_parts
from libertai_llm.plan import Caller, Plan
from libertai_llm.replies import as_object
from libertai_llm.session import Session
from libertai_llm.several import groups_of, takes_several
from libertai_llm.timeouts import Timeouts
from libertai_llm.transport import JSON, Transport
from libertai_llm.types import Completion, CompletionChunk, Health, Props, TokenPiece, content_of


class Client:
    """A client of one llama-like API: a server, or an engine in this process.

    Safe from many threads; close it, or use it with `with`. Without `session=` a call belongs to no
    conversation: cookies are kept, a slot is not. Every method raises `LibertaiError`.

    `base_url`, `engine`: see `libertai_llm.target`. `api_key`: sent as a Bearer token (default:
    `LIBERTAI_API_KEY`). `timeouts`: `Timeouts`, or a number of seconds for the whole call.
    `max_retries`: attempts after the first, see `RetryPolicy`. `session`: a `requests.Session` of
    your own for proxies, certificates, auth; ours ignores proxies and .netrc of the environment.
    `headers`: sent with every request. Pickling keeps the settings without any secret (the key
    then comes from the environment); copying shares the client.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        engine: Any = None,
        api_key: str | None = None,
        timeouts: Timeouts | float | None = None,
        max_retries: int = 2,
        session: requests.Session | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._plan = Plan.make(
            base_url,
            engine,
            api_key=api_key,
            timeouts=timeouts,
            max_retries=max_retries,
            headers=headers,
            brings_auth=_brings_auth(session),
        )
        self._is_session_ours = session is None
        self._transport, self._default = _connect(self._plan, session)
        self._driver = Driver(self._transport)
        self._several: bool | None = None

    @property
    def target(self) -> str:
        """Where the calls go, without secrets."""
        return self._plan.target

    @property
    def timeouts(self) -> Timeouts:
        """The limits of a call that sets none."""
        return self._plan.timeouts

    def complete(
        self,
        prompt: Any,
        *,
        session: Session | None = None,
        timeouts: Timeouts | float | None = None,
        **options: Any,
    ) -> Completion:
        """Complete a prompt: text, or token ids and strings that together are one prompt.

        `options` are the fields of `CompletionParams`, or their wire names.
        """
        caller = Caller.of(session, self._default, timeouts)
        return self._driver.whole(self._plan.completion(prompt, options, caller, is_stream=False))

    def stream(
        self,
        prompt: Any,
        *,
        session: Session | None = None,
        timeouts: Timeouts | float | None = None,
        **options: Any,
    ) -> Generator[CompletionChunk, None, None]:
        """Complete a prompt, chunk by chunk. The last chunk has the whole answer in `final`.

        Closing the generator ends the generation on the other side.
        """
        caller = Caller.of(session, self._default, timeouts)
        return self._driver.chunks(self._plan.completion(prompt, options, caller, is_stream=True))

    def complete_many(
        self,
        prompts: Iterable[Any],
        *,
        timeouts: Timeouts | float | None = None,
        **options: Any,
    ) -> list[Completion]:
        """Complete several prompts, all with the same options; the answers are in their order.

        Texts are asked for together (at most 32) if the server is known to take that, else one by
        one; a prompt with token ids always by itself. `timeouts` are those of one request. The
        first error is raised.
        """
        answers: list[Completion] = []
        caller = Caller.of(None, self._default, timeouts)
        for group in groups_of(prompts):
            if len(group) > 1 and self._takes_several(timeouts):
                call = self._plan.several(group, options, caller)
                answers += self._driver.several(call, group)
            else:
                answers += [self.complete(each, timeouts=timeouts, **options) for each in group]
        return answers

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        prompt: str | None = None,
        files: Mapping[str, str] | None = None,
        session: Session | None = None,
        timeouts: Timeouts | float | None = None,
        **options: Any,
    ) -> Completion:
        """What belongs between two pieces of code.

        `prompt` is how the missing part begins; `files` are other texts that belong to it, by their
        names. A server of 2023 knows neither. What does not fit the context is left out.
        """
        caller = Caller.of(session, self._default, timeouts)
        body = infill_parts(prefix, suffix, prompt, files)
        return self._driver.whole(self._plan.infill(body, options, caller, is_stream=False))

    def infill_stream(
        self,
        prefix: str,
        suffix: str,
        *,
        prompt: str | None = None,
        files: Mapping[str, str] | None = None,
        session: Session | None = None,
        timeouts: Timeouts | float | None = None,
        **options: Any,
    ) -> Generator[CompletionChunk, None, None]:
        """`infill`, chunk by chunk."""
        caller = Caller.of(session, self._default, timeouts)
        body = infill_parts(prefix, suffix, prompt, files)
        return self._driver.chunks(self._plan.infill(body, options, caller, is_stream=True))

    def embed(
        self,
        texts: Iterable[str],
        *,
        input_type: str | None = None,
        truncate: bool = False,
        dimensions: int | None = None,
        batch_size: int = 32,
        on_progress: Callable[[int], None] | None = None,
        timeouts: Timeouts | float | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> list[Vector]:
        """A vector for each text, all of the same length.

        `input_type` ("query" or "document") has our own server put in front what its model wants
        there; `truncate` has it cut what is too long for the model, which is an error otherwise;
        `dimensions` keeps the first so many numbers. `batch_size` texts are sent together, if the
        server is known to take that; `on_progress` is told how many more are done. `timeouts` are
        those of one request.
        """
        caller = Caller.of(None, self._default, timeouts)
        options = embedding_options(input_type, truncate, dimensions, extra_body)
        checked = check_texts(texts)
        are_together = len(checked) > 1 and self._embeds_several(timeouts)
        size = batch_size if are_together else 1
        vectors: list[Vector] = []
        for batch in batches_of(checked, size):
            call = self._plan.embedding(batch, options, caller)
            with naming_texts(len(vectors)):
                vectors += self._driver.vectors(call, len(batch))
            if on_progress is not None:
                on_progress(len(batch))
        return vectors

    @overload
    def tokenize(
        self,
        text: str,
        *,
        add_special: bool = False,
        parse_special: bool = True,
        with_pieces: Literal[False] = False,
    ) -> list[int]: ...

    @overload
    def tokenize(
        self,
        text: str,
        *,
        add_special: bool = False,
        parse_special: bool = True,
        with_pieces: Literal[True],
    ) -> list[TokenPiece]: ...

    def tokenize(
        self,
        text: str,
        *,
        add_special: bool = False,
        parse_special: bool = True,
        with_pieces: bool = False,
    ) -> list[int] | list[TokenPiece]:
        """Token ids of a text; with pieces, ids and bytes.

        `add_special` puts the model's first token (BOS) in front, `parse_special` reads control
        tokens in the text. A server of 2023 knows neither: no BOS, control tokens are read.
        """
        body = plan.tokenize_body(text, add_special, parse_special, with_pieces)
        reply = self._object("/tokenize", body)
        return plan.token_pieces(reply) if with_pieces else plan.token_ids(reply)

    def detokenize(self, ids: Iterable[int]) -> str:
        """The text of token ids."""
        return content_of(self._object("/detokenize", plan.detokenize_body(ids)))

    def apply_template(self, messages: Iterable[Mapping[str, Any]]) -> str:
        """The prompt that the server's chat template makes of `{"role", "content"}` messages.

        A server of 2023 has no such route (`NotFound`).
        """
        body = plan.template_body(messages)
        return plan.prompt_of(self._object("/apply-template", body))

    def props(self) -> Props:
        """What the server tells of its model and slots."""
        return Props.from_wire(self._object("/props", None))

    def health(self) -> Health:
        """Whether requests are taken now; asked once. A server of 2023 is asked for its props.

        Raises `TransportError` if nobody is there.
        """
        try:
            return plan.health_of(as_object(self._driver.once(self._simple("/health", None))))
        except APIError as error:
            found = plan.health_of_refusal(error)
        if found is None:
            self._driver.once(self._simple("/props", None))
        return found or Health(is_ready=True, status="ok")

    def slots(self) -> list[facts.SlotState]:
        """The server's slots as they are now. Raises `NotSupported` where they are not shown."""
        return facts.slots_of(self._driver.reply(self._simple("/slots", None)))

    def save_slot(self, slot: int, filename: str) -> facts.SlotFile:
        """Save what a slot holds to a file in the server's folder for slots.

        Waits until nobody runs in the slot. Raises `NotSupported` if there is no such folder.
        """
        path = facts.slot_path(slot, "save")
        return facts.SlotFile.from_wire(self._object(path, facts.slot_file_body(filename)))

    def restore_slot(self, slot: int, filename: str) -> facts.SlotFile:
        """Put a saved slot back, into this or another slot: `slot_id=slot` then continues it.

        Raises `BadRequest` for a file that is not there, or was saved from another model.
        """
        path = facts.slot_path(slot, "restore")
        return facts.SlotFile.from_wire(self._object(path, facts.slot_file_body(filename)))

    def erase_slot(self, slot: int) -> facts.ErasedSlot:
        """Empty a slot."""
        return facts.ErasedSlot.from_wire(self._object(facts.slot_path(slot, "erase"), {}))

    def models(self) -> list[facts.ModelInfo]:
        """The models that the server offers."""
        return facts.models_of(self._object("/v1/models", None))

    def close(self) -> None:
        """Let go of connections or engine. Closing twice is fine."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._plan!r})"

    def __copy__(self) -> Client:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Client:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._is_session_ours:
            raise TypeError("a client with a requests.Session of yours cannot be pickled")
        return plan.make_again, (Client, self._plan.arguments)

    def _object(
        self, path: str, body: JSON | None, timeouts: Timeouts | float | None = None
    ) -> JSON:
        return as_object(self._driver.reply(self._simple(path, body, timeouts)))

    def _simple(
        self, path: str, body: JSON | None, timeouts: Timeouts | float | None = None
    ) -> Call:
        return self._plan.simple(path, body, Caller.of(None, self._default, timeouts))

    def _embeds_several(self, timeouts: Timeouts | float | None) -> bool:
        """Whether texts may be sent together, asked for once."""
        if self._several is None:
            is_local = self._plan.endpoint is None
            self._several = is_local or self._takes_several(timeouts)
        return self._several

    def _takes_several(self, timeouts: Timeouts | float | None) -> bool:
        try:
            return takes_several(Props.from_wire(self._object("/props", None, timeouts)))
        except APIError:
            return False


def _connect(found: Plan, session: requests.Session | None) -> tuple[Transport, Session]:
    """The transport of a plan, and the conversation of the calls that belong to none."""
    if found.endpoint is not None:
        over_http = HTTPTransport(found.endpoint, session=session)
        return over_http, over_http.default
    from libertai_llm.local import LocalTransport

    return LocalTransport(found.engine), Session()


def _brings_auth(session: requests.Session | None) -> bool:
    if session is None:
        return False
    return session.auth is not None or "Authorization" in session.headers
