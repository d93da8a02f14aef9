"""What can be said of a grammar as a whole: which rules recur on their left, which end at all.

In: rules. Out: names. Everything here takes time linear in the size of the grammar and no
recursion, so that a hostile grammar finds nothing to exhaust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from libertai_engine.grammar.syntax import (
    Alternation,
    Chars,
    Concatenation,
    Literal,
    Node,
    Reference,
    Repetition,
    Token,
)


@dataclass(frozen=True, slots=True)
class RuleGraph:
    """Every node of every rule, numbered.

    Invariant: `children[i]` are the numbers of the nodes that node i is made of; for a reference,
    the body of its rule. The rules' bodies come first, in the order of `names`.
    """

    names: tuple[str, ...]
    nodes: list[Node]
    children: list[list[int]]

    @classmethod
    def of(cls, rules: Mapping[str, Node]) -> RuleGraph:
        """`rules` must define every name they refer to."""
        number_of = {name: number for number, name in enumerate(rules)}
        nodes = list(rules.values())
        children: list[list[int]] = []
        # NOTE: `nodes` grows while it is read; that is the walk.
        for node in nodes:
            if isinstance(node, Reference):
                children.append([number_of[node.name]])
            else:
                parts = parts_of(node)
                children.append(list(range(len(nodes), len(nodes) + len(parts))))
                nodes.extend(parts)
        return cls(tuple(rules), nodes, children)

    def endless_rules(self) -> list[str]:
        """Names of the rules that no finite text fits."""
        ends = self._least(_ends_at_once)
        return [name for name, end in zip(self.names, ends, strict=False) if not end]

    def left_recursion(self) -> list[str]:
        """Names along one way from a rule back to itself with nothing read in between.

        Without any such way the list is empty.
        """
        nullable = self._least(_empty_at_once)
        cycle = self._cycle([list(self._leftmost(number, nullable)) for number in self._numbers()])
        nodes = (self.nodes[number] for number in cycle)
        return [node.name for node in nodes if isinstance(node, Reference)]

    def _numbers(self) -> range:
        return range(len(self.nodes))

    def _leftmost(self, number: int, nullable: list[bool]) -> Iterator[int]:
        """Parts of a node that may come first in it."""
        is_sequence = isinstance(self.nodes[number], Concatenation)
        for child in self.children[number]:
            yield child
            if is_sequence and not nullable[child]:
                return

    def _least(self, at_once: Callable[[Node], bool]) -> list[bool]:
        """Of which nodes a property holds: it does at once, or by their parts.

        All parts of a sequence must have it, one part of anything else.
        """
        parents: list[list[int]] = [[] for _ in self.nodes]
        missing = [1] * len(self.nodes)
        for number, parts in enumerate(self.children):
            if isinstance(self.nodes[number], Concatenation):
                missing[number] = len(parts)
            for part in parts:
                parents[part].append(number)
        holds = [at_once(node) for node in self.nodes]
        todo = [number for number in self._numbers() if holds[number]]
        while todo:
            for parent in parents[todo.pop()]:
                missing[parent] -= 1
                if missing[parent] == 0 and not holds[parent]:
                    holds[parent] = True
                    todo.append(parent)
        return holds

    def _cycle(self, edges: list[list[int]]) -> list[int]:
        """Numbers along one cycle of `edges`, empty if there is none. Depth first."""
        is_done = [False] * len(edges)
        for start in range(len(self.names)):
            path: dict[int, Iterator[int]] = {} if is_done[start] else {start: iter(edges[start])}
            while path:
                number = next(reversed(path))
                follower = next(path[number], None)
                if follower is None:
                    is_done[number] = True
                    del path[number]
                elif follower in path:
                    return list(path)[list(path).index(follower) :]
                elif not is_done[follower]:
                    path[follower] = iter(edges[follower])
        return []


def parts_of(node: Node) -> tuple[Node, ...]:
    """The nodes that a node is written with."""
    if isinstance(node, Concatenation):
        return node.items
    if isinstance(node, Alternation):
        return node.options
    return (node.item,) if isinstance(node, Repetition) else ()


def _empty_at_once(node: Node) -> bool:
    if isinstance(node, Repetition):
        return node.low == 0
    return node in (Literal(""), Concatenation(()))


def _ends_at_once(node: Node) -> bool:
    if isinstance(node, Literal):
        return not any(0xD800 <= ord(char) <= 0xDFFF for char in node.text)
    if isinstance(node, Chars):
        return bool(node.ranges)
    return isinstance(node, Token) or _empty_at_once(node)
