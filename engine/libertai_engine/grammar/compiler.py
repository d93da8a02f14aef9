"""Texts of grammars and JSON schemas to compiled grammars, each compiled once.

In: what a request says. Out: a `CompiledGrammar`, from which each sequence gets a matcher of its
own. Compiling may take a second: it is done by the thread that submits, never by the engine's.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import llguidance

from libertai_engine.errors import EngineUnavailable, InvalidRequest
from libertai_engine.grammar.emitter import SpecialTokens, emit_chars, emit_merged
from libertai_engine.grammar.gbnf import parse_gbnf
from libertai_engine.grammar.matcher import GrammarMatcher, short
from libertai_engine.grammar.schema import SchemaDocument
from libertai_engine.grammar.vocabulary import TokenVocabulary

MAX_COMPLETION = 400  # tokens of the shortest answer that is looked for
CAPACITY = 64  # compiled grammars that are kept
MAX_BYTES = 256 << 10  # of a grammar's or schema's text

# `step_max_items` at its default of 50,000 ends real grammars after some tokens; the other limits
# bound a step to well below a second, and the memory of one matcher to some tens of MB.
LIMITS = llguidance.LLParserLimits(
    step_max_items=1_000_000, max_items_in_row=5000, max_lexer_states=50_000, verbose_errors=False
)

# The masks are to be the language itself: without this, text that must follow could only be
# written in the tokenizer's own way. What is forced is decided by the engine.
PREAMBLE = '%llguidance {"no_forcing": true}\n'

EMITTERS = (emit_merged, emit_chars)  # the fast form first, the exact one last
Form = Callable[[], str]  # a text in llguidance's Lark dialect, made when it is needed


class CompiledGrammar:
    """What an answer is held to. Shared by threads; `text` is as the request gave it.

    Invariant: `_templates` have consumed nothing and are only copied.
    """

    def __init__(
        self, field: str, text: str, vocabulary: TokenVocabulary, forms: Sequence[Form]
    ) -> None:
        self.field = field
        self.text = text
        self._vocabulary = vocabulary
        self._forms = list(forms)
        self._templates: list[llguidance.LLMatcher] = []
        self._lock = threading.Lock()
        self._copy(0)

    @cached_property
    def completion(self) -> tuple[int, ...] | None:
        """Some tokens that are a whole answer, if any were found."""
        found = self.matcher().completion(MAX_COMPLETION)
        return None if found is None else tuple(found)

    def matcher(self) -> GrammarMatcher:
        """A matcher for one sequence."""
        return GrammarMatcher(self._copies(), self._vocabulary, self.field)

    def _copies(self) -> Iterator[llguidance.LLMatcher]:
        index = 0
        while index < len(self._templates) or self._forms:
            yield self._copy(index)
            index += 1

    def _copy(self, index: int) -> llguidance.LLMatcher:
        # NOTE: one native object asked by two threads at once raises.
        with self._lock:
            if index == len(self._templates):
                self._templates.append(self._build())
            return self._templates[index].deep_copy()

    def _build(self) -> llguidance.LLMatcher:
        """The matcher of the first form that compiles; that form and those before it are used."""
        error = ""
        while self._forms:
            try:
                native = compile_lark(self._forms.pop(0)(), self._vocabulary)
            except InvalidRequest:
                if self._forms:
                    continue
                raise
            if not native.is_error():
                return native
            error = error or native.get_error()
        raise InvalidRequest(f"`{self.field}` cannot be compiled: {short(error)}", field=self.field)


class GrammarCompiler:
    """Compiles for one tokenizer. Safe in any thread.

    `make_vocabulary` is called once, when the first grammar comes: it may take a second.
    Invariant: at most `CAPACITY` grammars are kept, those that were asked for last; one that is
    being compiled is among them, so that nobody compiles it again.
    """

    def __init__(self, make_vocabulary: Callable[[], TokenVocabulary]) -> None:
        self._make_vocabulary = make_vocabulary
        self._known: OrderedDict[tuple[str, str], Future[CompiledGrammar]] = OrderedDict()
        self._lock = threading.Lock()
        self._vocabulary_lock = threading.Lock()

    def gbnf(self, text: str) -> CompiledGrammar:
        """The language of a GBNF grammar. Raises `InvalidRequest` for the field `grammar`, saying
        line and column."""
        return self._get(("grammar", text), lambda: self._compile_gbnf(text))

    def _compile_gbnf(self, text: str) -> CompiledGrammar:
        vocabulary = self._vocabulary
        grammar = parse_gbnf(text, token_id_of=vocabulary.find)
        tokens = SpecialTokens(
            ids_by_text=vocabulary.control,
            end_ids=vocabulary.end_ids,
            unused_ids=vocabulary.unused_ids,
        )
        forms = [partial(emit, grammar, tokens) for emit in EMITTERS]
        return CompiledGrammar("grammar", text, vocabulary, forms)

    def json_schema(
        self, schema: Any, *, field: str = "json_schema", is_compact: bool = False
    ) -> CompiledGrammar:
        """JSON that the schema (an object or a boolean) describes.

        Properties come in the schema's order; where it does not speak of further ones there are
        none. White space is what `SchemaDocument` says, none if `is_compact`. Raises
        `InvalidRequest` naming `field` and the place in the schema that is wrong, that nothing
        satisfies, or that asks for what cannot be guaranteed.
        """
        text = _dump(schema, field)
        return self._get(
            (f"{field}, compact" if is_compact else field, text),
            lambda: self._compile_schema(text, field, is_compact),
        )

    def _compile_schema(self, text: str, field: str, is_compact: bool) -> CompiledGrammar:
        with _as_request_error(field):
            schema = json.loads(text)
        document = SchemaDocument(schema, field)
        document.check(lambda part: short(self._compile_json(part).get_error()))
        form = _json_lark(document.to_native(is_compact=is_compact))
        return CompiledGrammar(field, text, self._vocabulary, [lambda: form])

    def _compile_json(self, native_schema: Any) -> llguidance.LLMatcher:
        return compile_lark(_json_lark(native_schema), self._vocabulary)

    @cached_property
    def _made_vocabulary(self) -> TokenVocabulary:
        return self._make_vocabulary()

    @property
    def _vocabulary(self) -> TokenVocabulary:
        with self._vocabulary_lock:
            return self._made_vocabulary

    def _get(self, key: tuple[str, str], make: Callable[[], CompiledGrammar]) -> CompiledGrammar:
        with self._lock:
            found = self._known.get(key)
            future = self._known.setdefault(key, Future()) if found is None else found
            self._known.move_to_end(key)
            while len(self._known) > CAPACITY:
                self._known.popitem(last=False)
        if found is None:  # outside the lock: who asks for another grammar does not wait
            self._make(key, future, make)
        return future.result()

    def _make(
        self,
        key: tuple[str, str],
        future: Future[CompiledGrammar],
        make: Callable[[], CompiledGrammar],
    ) -> None:
        """Compile for everybody who waits for the same grammar; a failure is not kept."""
        try:
            future.set_result(make())
        except BaseException as error:
            with self._lock:
                self._known.pop(key, None)
            if isinstance(error, Exception):
                future.set_exception(error)
                return
            # NOTE: a Ctrl-C is for the thread that it came to, not for those that wait.
            future.set_exception(EngineUnavailable("compiling the grammar was interrupted"))
            raise


def compile_lark(text: str, vocabulary: TokenVocabulary) -> llguidance.LLMatcher:
    """A matcher in its first state, or in its error state if that cannot be."""
    grammar = llguidance.LLMatcher.grammar_from_lark(text)
    return llguidance.LLMatcher(vocabulary.native, grammar, log_level=0, limits=LIMITS)


def _json_lark(native_schema: Any) -> str:
    return f"{PREAMBLE}start: %json {json.dumps(native_schema)}"


def _dump(schema: Any, field: str) -> str:
    with _as_request_error(field):
        text = json.dumps(schema, allow_nan=False)
        text.encode()
    if len(text) > MAX_BYTES:
        raise InvalidRequest(f"`{field}` must have at most {MAX_BYTES} bytes", field=field)
    return text


@contextmanager
def _as_request_error(field: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"`{field}` is no JSON schema: {error}", field=field) from None
