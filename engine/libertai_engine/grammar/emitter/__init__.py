"""From a grammar's tree to the text that llguidance compiles.

In: a `Grammar` and the `SpecialTokens` of the vocabulary. Out: a grammar in llguidance's dialect of
Lark that allows the same token sequences. `emit_chars` gives the plain form, `emit_merged` the fast
one.

How: `rules` plants the tree into a `forest`, where every node is in normal form, strikes what
cannot match and writes out calls; `tail_recursion` turns rules that end in themselves into
repetitions; `merge` makes runs of characters one lexeme, by what `regular`, `automaton`, `follow`
and `absorb` find out; `lark` writes the result down.
"""

from libertai_engine.grammar.emitter.forms import SpecialTokens, emit_chars, emit_merged

__all__ = ["SpecialTokens", "emit_chars", "emit_merged"]
