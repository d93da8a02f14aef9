"""Writes rules in llguidance's dialect of Lark.

In: `Rules`. Out: the text of a grammar for `LLMatcher.grammar_from_lark` or `LLMatcher` itself.

How the dialect is read decides whether the text means what the rules mean:

- A lowercase name is a rule; its parts are cut into lexemes by a lexer that always takes the
  longest match and never takes it back. A lexeme that is one code point leaves it no choice, since
  no character's UTF-8 is the beginning of another's: such a grammar means exactly its rules.
- An uppercase name is one lexeme, a regular expression. Whether it may span more than one code
  point is not decided here but where `Lexeme` nodes are made.
- Names, not groups, carry the structure: the dialect allows 30 nested groups only, equal parts are
  then one symbol, and its {m,n} keeps counted repetition short.
- NOTE: llguidance follows names recursively, and a chain of a few thousand would overflow the stack
  of the whole process. So `start` mentions every rule zero times (`name~0`, the empty text), in an
  order in which each finds those it needs done already. What a circle of rules leaves is counted
  and refused beyond `DEEPEST`.
- NOTE: of several lexemes that take the token at hand, llguidance follows the first alone. So the
  tokens that a grammar names are made disjoint: `!<[1]>`, next to `<[2]>`, is `<[2]> | <[^1,2]>`.
  Where a token could also be read as text, it follows the named token, and in both forms the text
  is lost: `!<[1]>* "x"` needs one "x" more than llama.cpp does. Control tokens are never text.
- All characters are written as numbers, so nothing of a user's text can be read as syntax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.code_points import Ranges
from libertai_engine.grammar.emitter.forest import (
    Call,
    Choice,
    Lexeme,
    Loop,
    OneOf,
    OneToken,
    Series,
    Text,
)
from libertai_engine.grammar.emitter.rules import Rules, SpecialTokens

# NOTE: a stack of 8 MB holds a chain of 2,000 names.
DEEPEST = 500
# llguidance numbers its symbols with 16 bits.
MOST_SYMBOLS = 60_000
MOST_NAMED_TOKENS = 256

# Without this, text that the grammar forces could be written with one tokenisation only.
HEADER = '%llguidance {"no_forcing": true}\n'


Item: TypeAlias = "tuple[str, str]"  # a name or a regular expression, and how often it comes
Options: TypeAlias = "list[list[Item]]"


def written(rules: Rules, tokens: SpecialTokens) -> str:
    """The text of the grammar. Raises InvalidRequest where llguidance could not hold it."""
    writer = _Writer(rules, tokens)
    start = writer.item(rules.forest.call(rules.root))
    definitions = writer.definitions()
    _check_size(definitions)
    lines = [HEADER, f"start: {_warm_up(start, definitions)}{start}\n"]
    for name, options in definitions.items():
        warm = _warm_up(name, definitions) if name in writer.lexemes else ""
        lines.append(f"{name}: {warm}{_joined(options)}\n")
    return "".join(lines)


def _joined(options: Options) -> str:
    return " | ".join(" ".join(atom + times for atom, times in items) for items in options)


class _Writer:
    """Names for nodes, and what each name stands for.

    Invariant: every name handed out is either defined or waits in `_todo`.
    """

    def __init__(self, rules: Rules, tokens: SpecialTokens) -> None:
        self._rules = rules
        self._forest = rules.forest
        self._defined: dict[str, Options] = {}
        self._todo: dict[str, Callable[[], Options]] = {}
        self._tokens = _Tokens(rules, tokens)
        self.lexemes: set[str] = set()

    def definitions(self) -> dict[str, Options]:
        """Every name that was handed out, and every name that those need."""
        while self._todo:
            name, options = self._todo.popitem()
            self._defined[name] = []  # known from here on, as a rule may call itself
            self._defined[name] = options()
        return self._defined

    def _named(self, name: str, options: Callable[[], Options]) -> str:
        if name not in self._defined:
            self._todo[name] = options
        return name

    def item(self, node: int) -> str:
        """What a rule calls a node."""
        shape = self._forest[node]
        if isinstance(shape, Call):
            body = self._rules.bodies[shape.rule]
            return self._named(f"r{shape.rule}", lambda: self._options(body))
        if isinstance(shape, Text) and len(shape.text) == 1:
            return self._character(shape.text)
        return self._named(f"n{node}", lambda: self._options(node))

    def _character(self, character: str) -> str:
        return self._named(f"c{ord(character):x}", lambda: [[(_regex_of_text(character), "")]])

    def _options(self, node: int) -> Options:
        match self._forest[node]:
            case Choice(options):
                return [self._items(option) for option in options]
            case Loop(item, low, high):
                return [[(self.item(item), _times(low, high))]]
            case OneOf(ranges):
                return [[(_regex_of_ranges(ranges), "")]]
            case OneToken() as token:
                return [[(each, "")] for each in self._tokens.disjoint(token)]
            case Lexeme(item):
                self.lexemes.add(f"T{item}")
                return [[(self._named(f"T{item}", lambda: self._lexical(item)), "")]]
            case _:
                return [self._items(node)]

    def _items(self, node: int) -> list[Item]:
        match self._forest[node]:
            case Series(()):
                return [('""', "")]
            case Series(items):
                return [item for each in items for item in self._items_of_one(each)]
            case _:
                return self._items_of_one(node)

    def _items_of_one(self, node: int) -> list[Item]:
        shape = self._forest[node]
        if isinstance(shape, Text):
            return [(self._character(each), "") for each in shape.text]
        return [(self.item(node), "")]

    def _lexical(self, node: int) -> Options:
        """What stands behind an uppercase name."""
        match self._forest[node]:
            case Choice(options):
                return [[(self._part(option), "")] for option in options]
            case Loop(item, low, high):
                return [[(self._part(item), _times(low, high))]]
            case Series(items) if items:
                return [[(self._part(item), "") for item in items]]
            case _:
                return [[(self._part(node), "")]]

    def _part(self, node: int) -> str:
        match self._forest[node]:
            case Text(text):
                return _regex_of_text(text)
            case OneOf(ranges):
                return _regex_of_ranges(ranges)
            case _:
                return self._named(f"T{node}", lambda: self._lexical(node))


class _Tokens:
    """The tokens that a grammar names. Invariant: they and the excluded ones are disjoint."""

    def __init__(self, rules: Rules, tokens: SpecialTokens) -> None:
        nodes = rules.forest.below(rules.bodies.values())
        shapes = (rules.forest[node] for node in nodes)
        self._excluded = tokens.end_ids | tokens.unused_ids
        named = {shape.token_id for shape in shapes if isinstance(shape, OneToken)}
        self._named = sorted(named - self._excluded)
        if len(named) > MOST_NAMED_TOKENS:
            raise InvalidRequest("the grammar names too many tokens", field="grammar")

    def disjoint(self, token: OneToken) -> list[str]:
        """Atoms that stand for the same tokens, none of which shares a token with another."""
        if not token.is_negated:
            return [f"<[{token.token_id}]>"]
        others = [each for each in self._named if each != token.token_id]
        excluded = _as_ranges({token.token_id, *others, *self._excluded})
        return [*(f"<[{each}]>" for each in others), f"<[^{excluded}]>"]


def _as_ranges(ids: Iterable[int]) -> str:
    pairs = joined_numbers(ids)
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in pairs)


def joined_numbers(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as sorted ranges, both ends inclusive."""
    ranges: list[tuple[int, int]] = []
    for each in sorted(numbers):
        if ranges and each == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], each)
        else:
            ranges.append((each, each))
    return ranges


def _times(low: int, high: int | None) -> str:
    match low, high:
        case 0, None:
            return "*"
        case 1, None:
            return "+"
        case 0, 1:
            return "?"
    return f"{{{low},{'' if high is None else high}}}"


def _regex_of_text(text: str) -> str:
    return "/" + "".join(map(_escaped, map(ord, text))) + "/"


def _regex_of_ranges(ranges: Ranges) -> str:
    return "/[" + "".join(f"{_escaped(low)}-{_escaped(high)}" for low, high in ranges) + "]/"


def _escaped(code_point: int) -> str:
    return f"\\u{{{code_point:x}}}"


def _check_size(definitions: Mapping[str, Options]) -> None:
    """NOTE: an upper bound; llguidance turns an option of several items into a symbol, and a
    counted repetition into a few dozen."""
    counted = 64
    symbols = sum(
        1 + len(options) + counted * any(times.startswith("{") for _, times in options[0])
        for options in definitions.values()
    )
    if symbols > MOST_SYMBOLS:
        raise InvalidRequest("the grammar is too large", field="grammar")


def _warm_up(start: str, definitions: Mapping[str, Options]) -> str:
    """What to put before `start` so that nothing is nested too deeply; see this module's notes."""
    order, deepest = _visited([start], definitions)
    if deepest <= DEEPEST // 2:
        return ""
    is_lexical = start.startswith("T")
    order = [each for each in order[:-1] if each.startswith("T") == is_lexical]
    if _visited(order, definitions)[1] > DEEPEST:
        raise InvalidRequest(
            "the rules of the grammar call each other in too long a circle", field="grammar"
        )
    return "".join(f"{name}~0 " for name in order)


def _visited(starts: Iterable[str], definitions: Mapping[str, Options]) -> tuple[list[str], int]:
    """The names in the order in which llguidance gets done with them, and how deep it goes."""
    order: list[str] = []
    seen: set[str] = set()
    deepest = 0
    for start in starts:
        path = [(start, _mentioned(definitions[start]))] if start not in seen else []
        seen.add(start)
        while path:
            deepest = max(deepest, len(path))
            name = next((each for each in path[-1][1] if each not in seen), None)
            if name is None:
                order.append(path.pop()[0])
            elif name in definitions:
                seen.add(name)
                path.append((name, _mentioned(definitions[name])))
    return order, deepest


def _mentioned(options: Options) -> Iterator[str]:
    return (atom for items in options for atom, _ in items if atom[0] in "cnrT")
