"""How large a grammar may be.

In: nothing. Out: limits that the parser holds a text to.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """Bounds on a GBNF text. Invariant: every limit is positive."""

    text_bytes: int = 256 * 1024
    rules: int = 5_000
    items: int = 50_000  # literals, classes, references, tokens, groups, quantifiers and "|"
    depth: int = 200  # groups in groups, and quantifiers on quantifiers
    repetitions: int = 2_000  # llama.cpp's own, of {m,n} and of what stands in it
    token_text: int = 256  # characters of a `<text>`
