"""What a GBNF text allows, said by the engine's own matcher, byte by byte.

In: a grammar's text. Out: verdicts on whole texts and on beginnings.
"""

from __future__ import annotations

from functools import cache

from libertai_engine.grammar.compiler import GrammarCompiler
from libertai_engine.grammar.matcher import GrammarMatcher
from libertai_engine.grammar.vocabulary import TokenFacts, TokenVocabulary

END = 256


@cache
def _compiler() -> GrammarCompiler:
    """Over a vocabulary of the 256 bytes and an end."""
    facts = TokenFacts(
        pieces=[*(bytes([byte]) for byte in range(256)), b""],
        control={"<end>": END},
        end_ids=frozenset({END}),
        encode=lambda text: list(text.encode()),
        find=lambda text: None,
    )
    return GrammarCompiler(lambda: TokenVocabulary(facts, END + 1))


class Language:
    """The texts of a grammar. Invariant: it compiles in the engine."""

    def __init__(self, text: str) -> None:
        self._compiled = _compiler().gbnf(text)

    def accepts(self, text: str) -> bool:
        """Whether the text is in the language."""
        matcher = self._after(text)
        return matcher is not None and matcher.is_complete

    def begins(self, text: str) -> bool:
        """Whether some text of the language begins so."""
        return self._after(text) is not None

    def _after(self, text: str) -> GrammarMatcher | None:
        matcher = self._compiled.matcher()
        for byte in text.encode():
            if not matcher.allows(byte):
                return None
            matcher.accept(byte)
        return matcher
