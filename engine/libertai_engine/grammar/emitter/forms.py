"""The two forms of a grammar for llguidance.

In: a `Grammar` and the `SpecialTokens` of the vocabulary. Out: Lark text.
"""

from __future__ import annotations

from contextlib import suppress

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.emitter.lark import written
from libertai_engine.grammar.emitter.merge import merged
from libertai_engine.grammar.emitter.rules import (
    Rules,
    SpecialTokens,
    normalised,
    planted,
    written_out,
)
from libertai_engine.grammar.emitter.tail_recursion import solved
from libertai_engine.grammar.syntax import Grammar

__all__ = ["SpecialTokens", "emit_chars", "emit_merged"]


def emit_chars(grammar: Grammar, tokens: SpecialTokens) -> str:
    """The exact form: every lexeme is one code point, so the lexer never has a choice.

    Raises InvalidRequest (`field="grammar"`) if no text matches, or over a limit of size.
    """
    return written(_prepared(grammar, tokens), tokens)


def emit_merged(grammar: Grammar, tokens: SpecialTokens) -> str:
    """The fast form: runs of characters are one lexeme where the lexer provably tells them apart.

    Allows exactly what `emit_chars` does, and is that form where finding out would take too long.
    Raises InvalidRequest (`field="grammar"`) as it does.
    """
    rules = _prepared(grammar, tokens)
    fast = merged(rules)
    with suppress(InvalidRequest):  # too large in this form alone, perhaps
        return written(fast or rules, tokens)
    return written(rules, tokens)


def _prepared(grammar: Grammar, tokens: SpecialTokens) -> Rules:
    return written_out(normalised(planted(grammar, tokens)), solved)
