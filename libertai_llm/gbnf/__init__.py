"""JSON schema to GBNF text: the parts behind `libertai_llm.grammar`.

In: plain dicts and text. Out: plain text. Imports go down this list only: charsets, expressions,
patterns, automata, numbers and formats, places, values, shapes, compiler, writer.
"""
