"""Reads GBNF, the language in which llama.cpp is told grammars.

In: the text of a grammar and what finds a token by its text. Out: a `Grammar`, or an
`InvalidRequest` that says line, column and what was expected.

The syntax is that of llama.cpp's `llama-grammar.cpp` of 2026, a superset of that of December 2023.
What would hang llama.cpp is refused: {m,n} with m > n, and left recursion wherever it hides; so is
a grammar that no finite text fits. The parser uses no recursion, and its limits keep any text to
about a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from libertai_engine.grammar.limits import GrammarLimits
from libertai_engine.grammar.rule_graph import RuleGraph
from libertai_engine.grammar.scanner import Scanner
from libertai_engine.grammar.syntax import (
    Alternation,
    Concatenation,
    Grammar,
    Literal,
    Node,
    Reference,
    Repetition,
)
from libertai_engine.grammar.terminals import TerminalReader

_ROOT = "root"
_EMPTY = Literal("")
_QUANTIFIERS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
# A tree higher than this is cut in two, so that whoever walks one rule may do so recursively.
_MAX_HEIGHT = 40
_LONGEST_QUOTE = 80


@dataclass(frozen=True, slots=True)
class _Item:
    """What a quantifier may follow.

    `weight` is how many rules llama.cpp makes of it, at least one; `height` that of its tree;
    `quantifiers` how many follow it already.
    """

    node: Node
    weight: int = 1
    height: int = 1
    quantifiers: int = 0


@dataclass(slots=True)
class _Group:
    """A rule's body or a bracketed part of it, half read.

    Invariant: `options` holds at least the sequence being read; `last` is its last item, unless
    that is empty and no quantifier may follow.
    """

    opened_at: int
    options: list[list[_Item]] = field(default_factory=lambda: [[]])
    last: _Item | None = None
    rules_made: int = 0

    def add(self, item: _Item | None) -> None:
        """Appends an item; None is one that stands for the empty text."""
        self.last = item
        if item is not None:
            self.options[-1].append(item)

    def replace_last(self, item: _Item | None) -> None:
        """Puts a quantified item in the place of the plain one."""
        self.options[-1].pop()
        self.add(item)

    def begin_option(self) -> None:
        self.options.append([])
        self.last = None

    def closed(self) -> _Item:
        """The whole group as one item."""
        sequences = [_joined(items, Concatenation) for items in self.options]
        whole = _joined(sequences, Alternation)
        return _Item(whole.node, 1 + self.rules_made, whole.height)


def _joined(items: list[_Item], kind: type[Concatenation] | type[Alternation]) -> _Item:
    if not items:
        return _Item(_EMPTY)
    if len(items) == 1:
        return items[0]
    height = 1 + max(item.height for item in items)
    return _Item(kind(tuple(item.node for item in items)), height=height)


@dataclass(frozen=True, slots=True)
class _Definition:
    """A rule as read. `parts` are what was cut off its tree, by the names it refers to them."""

    body: Node
    position: int
    parts: dict[str, Node]
    references: dict[str, int]  # each with the position where it is first referred to


def parse_gbnf(
    text: str,
    *,
    token_id_of: Callable[[str], int | None],
    limits: GrammarLimits | None = None,
) -> Grammar:
    """The grammar that `text` describes, every rule of it, used or not.

    A rule defined twice is what its last definition says. Rules with a "_" in their name are parts
    of deeply nested ones: no tree of a rule is higher than 50 nodes.

    Args:
        text: GBNF.
        token_id_of: the id of the one token that a text such as "<think>" is, brackets included;
            None if it is not exactly one token.
        limits: how large the grammar may be.

    Raises:
        InvalidRequest: the text is not GBNF, has no rule `root`, uses a rule it does not define,
            is left-recursive, fits no finite text or exceeds a limit. `field` is "grammar".
    """
    limits = limits or GrammarLimits()
    scanner = Scanner(text)
    if len(text.encode("utf-8", "surrogatepass")) > limits.text_bytes:
        raise scanner.failure(f"the grammar is larger than {limits.text_bytes} bytes")
    if "\0" in text:
        raise scanner.failure("a grammar cannot hold a NUL character", text.index("\0"))
    definitions = _Parser(scanner, TerminalReader(scanner, token_id_of, limits), limits).read()
    rules = _linked(scanner, definitions)
    _check_language(scanner, definitions, RuleGraph.of(rules))
    return Grammar(rules, _ROOT)


def _linked(scanner: Scanner, definitions: dict[str, _Definition]) -> dict[str, Node]:
    """All rules and their parts. Raises InvalidRequest: one that is needed is not there."""
    for definition in definitions.values():
        for name, position in definition.references.items():
            if name not in definitions:
                quote = name[:_LONGEST_QUOTE]
                raise scanner.failure(f'the rule "{quote}" is not defined', position)
    if _ROOT not in definitions:
        raise scanner.expected(f'a rule named "{_ROOT}"')
    rules = {name: definition.body for name, definition in definitions.items()}
    for definition in definitions.values():
        rules |= definition.parts
    return rules


def _check_language(
    scanner: Scanner, definitions: dict[str, _Definition], graph: RuleGraph
) -> None:
    cycle = [name for name in graph.left_recursion() if name in definitions]
    if cycle:
        names = [name[:_LONGEST_QUOTE] for name in [*cycle, cycle[0]]]
        way = " -> ".join(names if len(names) < 10 else [*names[:4], "...", *names[-4:]])
        raise scanner.failure(f"left recursion: {way}", definitions[cycle[0]].position)
    if _ROOT in graph.endless_rules():
        message = f'no finite text fits the rule "{_ROOT}"'
        raise scanner.failure(message, definitions[_ROOT].position)


class _Parser:
    """Reads rules. Invariant: the scanner stands where the next item, rule or end is."""

    def __init__(self, scanner: Scanner, terminals: TerminalReader, limits: GrammarLimits) -> None:
        self._scanner = scanner
        self._terminals = terminals
        self._limits = limits
        self._num_items = 0
        self._rule = ""
        self._parts: dict[str, Node] = {}
        self._references: dict[str, int] = {}

    def read(self) -> dict[str, _Definition]:
        """All rules of the text by name. Raises InvalidRequest: it is not GBNF, or too large."""
        found: dict[str, _Definition] = {}
        num_rules = 0
        self._scanner.skip_space(newlines=True)
        while self._scanner.peek():
            num_rules += 1
            self._check(num_rules, self._limits.rules, "rules")
            position = self._scanner.position
            self._rule = self._scanner.name("the name of a rule")
            self._parts, self._references = {}, {}
            body = self._rule_body()
            found[self._rule] = _Definition(body, position, self._parts, self._references)
        return found

    def _rule_body(self) -> Node:
        """What follows a rule's name, its line end included."""
        self._scanner.skip_space(newlines=False)
        self._scanner.expect('"::="', "::=")
        self._scanner.skip_space(newlines=True)
        body = self._alternatives()
        if not self._scanner.skip_newline() and self._scanner.peek():
            raise self._scanner.expected("an item of a rule or the end of the line")
        self._scanner.skip_space(newlines=True)
        return body

    def _alternatives(self) -> Node:
        """Reads as far as a rule's body goes, group by group."""
        open_groups = [_Group(self._scanner.position)]
        while symbol := self._scanner.peek():
            if symbol == "(":
                open_groups.append(self._opened(len(open_groups)))
            elif symbol == "|":
                self._begin_option(open_groups[-1])
            elif symbol == ")" and len(open_groups) > 1:
                self._close(open_groups)
            elif not self._take_item(open_groups[-1], symbol, len(open_groups) > 1):
                break
        if len(open_groups) > 1:
            place = self._scanner.place(open_groups[-1].opened_at)
            raise self._scanner.expected(f'an item or the closing ")" of what begins in {place}')
        return open_groups[0].closed().node

    def _opened(self, depth: int) -> _Group:
        self._check(depth, self._limits.depth, "groups in each other")
        self._count_item()
        group = _Group(self._scanner.position)
        self._scanner.skip("(")
        self._scanner.skip_space(newlines=True)
        return group

    def _begin_option(self, group: _Group) -> None:
        self._count_item()
        self._scanner.skip("|")
        self._scanner.skip_space(newlines=True)
        group.begin_option()

    def _close(self, open_groups: list[_Group]) -> None:
        item = open_groups.pop().closed()
        self._scanner.skip(")")
        self._scanner.skip_space(newlines=len(open_groups) > 1)
        open_groups[-1].rules_made += item.weight
        open_groups[-1].add(self._lowered(item))

    def _take_item(self, group: _Group, symbol: str, is_nested: bool) -> bool:
        """Reads one item or quantifier. False: something else comes next."""
        self._count_item()
        if self._terminals.starts_with(symbol):
            node = self._terminals.read()
            group.add(None if node is None else _Item(node))
        elif symbol in _QUANTIFIERS or symbol == "{":
            self._quantify(group, symbol, is_nested)
        elif self._scanner.comes_name():
            group.add(self._reference())
        else:
            return False
        self._scanner.skip_space(newlines=is_nested)
        return True

    def _reference(self) -> _Item:
        position = self._scanner.position
        name = self._scanner.name("the name of a rule")
        self._references.setdefault(name, position)
        return _Item(Reference(name))

    def _quantify(self, group: _Group, symbol: str, is_nested: bool) -> None:
        start = self._scanner.position
        item = group.last
        if item is None:
            raise self._scanner.failure(f'expected an item to repeat before "{symbol}"')
        self._check(item.quantifiers + 1, self._limits.depth, "quantifiers of one item")
        self._scanner.skip(symbol)
        low, high = _QUANTIFIERS.get(symbol) or self._counts(start, is_nested)
        weight = item.weight * (high or low or 1)
        if weight > item.weight:
            self._check(weight, self._limits.repetitions, "repetitions in each other", start)
        group.rules_made += 1 if high is None else high - low
        if high == 0:
            group.replace_last(None)
        else:
            node = item.node if (low, high) == (1, 1) else Repetition(item.node, low, high)
            repeated = _Item(node, weight, item.height + 1, item.quantifiers + 1)
            group.replace_last(self._lowered(repeated))

    def _counts(self, start: int, is_nested: bool) -> tuple[int, int | None]:
        """What stands between "{" and "}"."""
        low = self._count("a number", is_nested)
        high: int | None = low
        if self._scanner.skip(","):
            self._scanner.skip_space(newlines=is_nested)
            is_bounded = not self._scanner.comes("}")
            high = self._count('a number or "}"', is_nested) if is_bounded else None
            self._scanner.expect('"}"', "}")
        else:
            self._scanner.expect('"," or "}"', "}")
        self._check(low, self._limits.repetitions, "repetitions", start)
        if high is not None and high < low:
            message = f"expected a maximum of at least {low}, found {high}"
            raise self._scanner.failure(message, start)
        return low, None if high is None or high > self._limits.repetitions else high

    def _count(self, what: str, is_nested: bool) -> int:
        self._scanner.skip_space(newlines=is_nested)
        count = self._scanner.number(what)
        self._scanner.skip_space(newlines=is_nested)
        return count

    def _lowered(self, item: _Item) -> _Item:
        """The item, or a reference to it as a rule of its own if its tree is too high."""
        if item.height < _MAX_HEIGHT:
            return item
        name = f"{self._rule}_{len(self._parts) + 1}"
        self._parts[name] = item.node
        return _Item(Reference(name), item.weight, quantifiers=item.quantifiers)

    def _count_item(self) -> None:
        self._num_items += 1
        self._check(self._num_items, self._limits.items, "items")

    def _check(self, number: int, limit: int, what: str, position: int | None = None) -> None:
        if number > limit:
            raise self._scanner.failure(f"more than {limit} {what}", position)
