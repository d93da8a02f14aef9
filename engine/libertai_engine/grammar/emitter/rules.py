"""Rules over a forest: from the syntax tree to normal form.

In: a `Grammar` and what the vocabulary says of tokens. Out: `Rules`, in which only rules that call
themselves, directly or through others, are called; all others are written out in their place.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TypeAlias

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.emitter.code_points import bits_of
from libertai_engine.grammar.emitter.forest import NEVER, Call, Choice, Forest, Loop, Never, Series
from libertai_engine.grammar.syntax import (
    Alternation,
    Chars,
    Concatenation,
    Grammar,
    Literal,
    Node,
    Reference,
    Repetition,
    Token,
)

# NOTE: more nodes than any grammar of 256 KB that people write; the time to emit grows with it.
MAX_NODES = 200_000


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What the emitter must know of the vocabulary.

    `ids_by_text`: control tokens, which no text is ever tokenised to unless it is marked so.
    `end_ids`: the tokens that end an answer. `unused_ids`: what no grammar ever allows, such as the
    padding behind the last real token. Invariant: an id is not below 0.
    """

    ids_by_text: Mapping[str, int] = field(default_factory=dict)
    end_ids: frozenset[int] = frozenset()
    unused_ids: frozenset[int] = frozenset()


@dataclass(slots=True)
class Rules:
    """Bodies of rules by number. Invariant: `root` and every call is the number of a rule."""

    forest: Forest
    bodies: dict[int, int]
    root: int

    def called_by(self, body: int) -> list[int]:
        """The rules that a node calls."""
        return list(bits_of(self.forest.calls(body)))


def planted(grammar: Grammar, tokens: SpecialTokens) -> Rules:
    """The rules of a grammar as they stand in it, in a new forest."""
    forest = Forest(MAX_NODES)
    numbers = {name: number for number, name in enumerate(grammar.rules)}
    gardener = _Gardener(forest, numbers, tokens)
    bodies = {numbers[name]: gardener.plant(body) for name, body in grammar.rules.items()}
    return Rules(forest, bodies, numbers[grammar.root])


class _Gardener:
    """Plants syntax trees into a forest. Invariant: works off a stack of its own, at any depth."""

    def __init__(self, forest: Forest, numbers: Mapping[str, int], tokens: SpecialTokens) -> None:
        self._forest = forest
        self._numbers = numbers
        self._tokens = tokens
        self._never = tokens.end_ids | tokens.unused_ids
        texts = {text: at for text, at in tokens.ids_by_text.items() if at not in self._never}
        longest_first = sorted(filter(None, texts), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def plant(self, root: Node) -> int:
        """The number of a syntax tree: every node after its children."""
        todo: list[tuple[Node, bool]] = [(root, False)]
        done: list[int] = []
        while todo:
            node, is_open = todo.pop()
            below = _below(node)
            if below and not is_open:
                todo.append((node, True))
                todo.extend((child, False) for child in reversed(below))
                continue
            first = len(done) - len(below)
            done[first:] = [self._planted(node, done[first:])]
        return done[0]

    def _planted(self, node: Node, below: list[int]) -> int:
        match node:
            case Concatenation():
                return self._forest.series(below)
            case Alternation():
                return self._forest.choice(below)
            case Repetition(_, low, high):
                return self._forest.loop(below[0], low, high)
            case _:
                return self._planted_leaf(node)

    def _planted_leaf(self, node: Literal | Chars | Token | Reference) -> int:
        match node:
            case Literal(text):
                return self._literal(text)
            case Chars(ranges):
                return self._forest.one_of(ranges)
            case Token(token_id, is_negated):
                return self._token(token_id, is_negated)
            case Reference(name):
                return self._forest.call(self._numbers[name])

    def _token(self, token_id: int, is_negated: bool) -> int:
        """NOTE: no place of a grammar admits a token that ends the answer, as in llama.cpp."""
        if token_id in self._never and not is_negated:
            return NEVER
        return self._forest.token(token_id, is_negated)

    def _literal(self, text: str) -> int:
        """The text, in which every control token may come as that token or spelled out.

        Where texts of tokens overlap, the first one counts and of those the longest, as when a
        tokenizer splits them off.
        """
        parts, end = [], 0
        for found in self._special.finditer(text):
            parts.append(self._forest.text(text[end : found.start()]))
            token = self._forest.token(self._tokens.ids_by_text[found[0]], False)
            parts.append(self._forest.choice([self._forest.text(found[0]), token]))
            end = found.end()
        return self._forest.series([*parts, self._forest.text(text[end:])])


def _below(node: Node) -> tuple[Node, ...]:
    match node:
        case Concatenation(items):
            return items
        case Alternation(options):
            return options
        case Repetition(item, _, _):
            return (item,)
        case _:
            return ()


def normalised(rules: Rules) -> Rules:
    """The rules without what no text can match.

    A rule is impossible if its body is, once the calls of impossible rules are struck. One that
    merely never comes to an end is not: its beginnings are texts that one can write.
    """
    never = _impossible(rules)
    if rules.root in never:
        raise InvalidRequest("the grammar matches no text at all", field="grammar")
    struck = dict.fromkeys(never, NEVER)
    known: dict[int, int] = {}
    left = {
        rule: rewritten(rules.forest, body, struck, known)
        for rule, body in rules.bodies.items()
        if rule not in never
    }
    return Rules(rules.forest, left, rules.root)


def _impossible(rules: Rules) -> set[int]:
    never: set[int] = set()
    order = [rule for component in components(rules) for rule in component]
    before = -1
    while len(never) > before:
        before = len(never)
        for rule in order:
            if rules.bodies[rule] in _never_below(rules.forest, rules.bodies[rule], never):
                never.add(rule)
    return never


def _never_below(forest: Forest, root: int, never: set[int]) -> set[int]:
    found: set[int] = set()
    for node in forest.below([root]):
        match forest[node]:
            case Never():
                found.add(node)
            case Call(rule) if rule in never:
                found.add(node)
            case Series(items) if not found.isdisjoint(items):
                found.add(node)
            case Choice(options) if found.issuperset(options):
                found.add(node)
            case Loop(item, low, _) if low > 0 and item in found:
                found.add(node)
    return found


def rewritten(
    forest: Forest, root: int, calls: Mapping[int, int], known: MutableMapping[int, int]
) -> int:
    """The node with calls replaced; `known` remembers what became of every node seen."""
    for node in forest.below([root], known):
        shape = forest[node]
        if isinstance(shape, Call) and shape.rule in calls:
            known[node] = calls[shape.rule]
        else:
            known[node] = forest.rebuilt(shape, known.__getitem__)
    return known[root]


Solver: TypeAlias = Callable[[Forest, Mapping[int, int]], "Mapping[int, int] | None"]


def written_out(rules: Rules, solve: Solver) -> Rules:
    """The rules with every rule that does not call itself written in the place of its calls.

    `solve` gets the bodies of rules that call each other and may say what they stand for without
    doing so. A call and the body of its rule stand for the same texts, and the calls of rules that
    are not part of a circle can be replaced innermost first, so the language stays.
    """
    known: dict[int, int] = {}
    calls: dict[int, int] = {}
    left: dict[int, int] = {}
    for component in components(rules):
        # What becomes of a call within the circle is not known before the circle is solved.
        seen = ChainMap[int, int]({}, known)
        bodies = {
            rule: rewritten(rules.forest, rules.bodies[rule], calls, seen) for rule in component
        }
        is_circle = len(component) > 1 or component[0] in rules.called_by(
            rules.bodies[component[0]]
        )
        written = solve(rules.forest, bodies) if is_circle else bodies
        if not is_circle or written is None:
            known.update(seen.maps[0])
        calls.update(written or {})
        left.update(bodies if written is None else {})
    if rules.root in calls:
        left[rules.root] = calls[rules.root]
    return Rules(rules.forest, left, rules.root)


def components(rules: Rules) -> list[list[int]]:
    """The rules that the root needs, in groups that call each other; callees come first.

    Tarjan's algorithm, with a stack of its own in place of recursion.
    """
    finder = _Tarjan(rules)
    finder.visit(rules.root)
    return finder.components


class _Tarjan:
    """One search. Invariant: `_open` holds visited rules that are in no component yet."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._order: dict[int, int] = {}
        self._lowest: dict[int, int] = {}
        self._open: dict[int, None] = {}
        self.components: list[list[int]] = []

    def visit(self, root: int) -> None:
        """Find the components that can be reached from a rule."""
        path = [(root, self._entered(root))]
        while path:
            rule, callees = path[-1]
            for callee in callees:
                if callee not in self._order:
                    path.append((callee, self._entered(callee)))
                    break
                if callee in self._open:
                    self._lowest[rule] = min(self._lowest[rule], self._order[callee])
            else:
                path.pop()
                if path:
                    caller = path[-1][0]
                    self._lowest[caller] = min(self._lowest[caller], self._lowest[rule])
                self._close(rule)

    def _entered(self, rule: int) -> Iterator[int]:
        self._order[rule] = self._lowest[rule] = len(self._order)
        self._open[rule] = None
        return iter(self._rules.called_by(self._rules.bodies[rule]))

    def _close(self, rule: int) -> None:
        if self._lowest[rule] < self._order[rule]:
            return
        component: list[int] = []
        while not component or component[-1] != rule:
            component.append(self._open.popitem()[0])
        self.components.append(component)
