"""Each grammar is compiled once, however many ask for it and however it ends."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest

from libertai_engine.errors import EngineUnavailable, InvalidRequest
from libertai_engine.grammar.compiler import CAPACITY, GrammarCompiler
from libertai_engine.grammar.vocabulary import TokenVocabulary
from tests.engine.grammar.tokenizers_of_every_kind import make_vocabulary

GBNF = 'root ::= "a" [0-9]+'


class Vocabularies:
    """Makes the vocabulary when it may; every compilation waits for it."""

    def __init__(self) -> None:
        self.may_go = Event()
        self.started = Event()

    def __call__(self) -> TokenVocabulary:
        self.started.set()
        assert self.may_go.wait(30)
        return make_vocabulary("sentencepiece")


@pytest.fixture
def compiler() -> GrammarCompiler:
    return GrammarCompiler(lambda: make_vocabulary("sentencepiece"))


def test_who_asks_for_a_grammar_that_is_being_compiled_gets_the_same_one() -> None:
    """Eight threads at once, while the first one compiles: one result, not eight equal ones."""
    vocabularies = Vocabularies()
    compiler, gate = GrammarCompiler(vocabularies), Barrier(8)

    def ask() -> object:
        gate.wait(30)
        return compiler.gbnf(GBNF)

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask) for _ in range(8)]
        assert vocabularies.started.wait(30)
        vocabularies.may_go.set()
        found = [answer.result(30) for answer in answers]
    assert len({id(each) for each in found}) == 1
    assert compiler.gbnf(GBNF) is found[0]


def test_a_failure_reaches_everybody_who_waited_and_is_not_kept(compiler: GrammarCompiler) -> None:
    """A broken grammar fails again, by itself, the next time."""
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(compiler.gbnf, "root ::= (") for _ in range(4)]
        errors = [answer.exception(30) for answer in answers]
    assert all(isinstance(each, InvalidRequest) for each in errors)
    with pytest.raises(InvalidRequest) as again:
        compiler.gbnf("root ::= (")
    assert again.value not in errors


def test_an_interrupt_is_for_the_thread_it_came_to() -> None:
    """Who waited for that grammar gets an error of the engine; who asks again gets the grammar."""
    vocabularies, interrupts = Vocabularies(), [KeyboardInterrupt()]

    def make() -> TokenVocabulary:
        made = vocabularies()
        if interrupts:
            raise interrupts.pop()
        return made

    compiler = GrammarCompiler(make)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(compiler.gbnf, GBNF)
        assert vocabularies.started.wait(30)
        waiting = pool.submit(compiler.gbnf, GBNF)
        while not waiting.running():
            time.sleep(0.001)
        time.sleep(0.05)  # it now waits for the first one
        vocabularies.may_go.set()
        assert isinstance(first.exception(30), KeyboardInterrupt)
        assert isinstance(waiting.exception(30), EngineUnavailable)
    assert compiler.gbnf(GBNF).field == "grammar"


def test_a_grammar_that_is_being_compiled_holds_up_no_other_request() -> None:
    """Who asks for something else meanwhile is answered at once."""
    vocabularies = Vocabularies()
    compiler = GrammarCompiler(vocabularies)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(compiler.gbnf, GBNF)
        assert vocabularies.started.wait(30)
        refused = pool.submit(compiler.json_schema, {"type": {1}})
        assert isinstance(refused.exception(30), InvalidRequest)
        assert not waiting.done()
        vocabularies.may_go.set()
        assert waiting.result(30).field == "grammar"


def test_the_grammars_asked_for_last_are_kept(compiler: GrammarCompiler) -> None:
    """The one that nobody asked for the longest is compiled anew."""
    first, second = compiler.gbnf('root ::= "0"'), compiler.gbnf('root ::= "1"')
    for number in range(2, CAPACITY):
        compiler.gbnf(f'root ::= "{number}"')
    assert compiler.gbnf('root ::= "0"') is first
    compiler.gbnf('root ::= "one more"')
    assert compiler.gbnf('root ::= "0"') is first
    assert compiler.gbnf('root ::= "1"') is not second


@pytest.mark.parametrize("schema", [float("nan"), {"enum": ["\ud800"]}, {"enum": [10**5000]}])
def test_what_is_no_json_is_refused_by_name(compiler: GrammarCompiler, schema: object) -> None:
    """Also what json writes but does not read again."""
    with pytest.raises(InvalidRequest, match="`response_format`") as error:
        compiler.json_schema(schema, field="response_format")
    assert error.value.field == "response_format"
