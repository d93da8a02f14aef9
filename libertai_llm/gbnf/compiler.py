"""One JSON schema as rules.

In: the root of a document. Out: rules by name, of which every one stands for some text at least.
Works off a queue, one value at a time, so neither nesting nor recursion of a schema is recursion
here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from libertai_llm.errors import UnsupportedSchema
from libertai_llm.gbnf import arrays, automata, objects, strings
from libertai_llm.gbnf.automata import Automaton
from libertai_llm.gbnf.charsets import EVERYTHING, Ranges
from libertai_llm.gbnf.expressions import (
    EMPTY,
    NEVER,
    Alt,
    Expr,
    Ref,
    Repeat,
    Seq,
    Text,
    alt,
    chars,
    children,
    references,
    repeat,
    seq,
)
from libertai_llm.gbnf.numerals import numerals
from libertai_llm.gbnf.patterns import PatternError
from libertai_llm.gbnf.places import APPLICATORS, TYPES, Alternative, Place, types_of
from libertai_llm.gbnf.shapes import Context, Spacing, json_text
from libertai_llm.gbnf.values import (
    alternatives,
    fits,
    identity,
    is_free_object,
    listed_values,
)

MAX_RULES = 4_000
MAX_VALUES = 5_000
# Up to here, listed texts are written one by one; beyond, as a tree of their beginnings.
_MAX_PLAIN_VALUES = 16


class Compiler:
    """Rules in the making. Invariant: every reserved rule is defined once `compile` returns.

    `new_name` gives names that no other rule has. The rules of `basics` are named, not made.
    """

    def __init__(self, spacing: Spacing, new_name: Callable[[str], str]) -> None:
        self.rules: dict[str, Expr] = {}
        self._new_name = new_name
        self._known: dict[tuple[str, ...], Ref] = {}
        self._shared: dict[Hashable, Ref] = {}
        self._queue: deque[tuple[Ref, tuple[Place, ...], str]] = deque()
        self._context = Context(self, spacing, self.value, lambda: Ref("string"))

    def compile(self, root: Place, hint: str) -> Ref:
        """The rule of the whole schema. Raises `UnsupportedSchema`."""
        found = self.value([root], hint)
        while self._queue:
            ref, places, its_hint = self._queue.popleft()
            self.define(ref, self._expr(places, its_hint))
        if found.name not in self.rules:
            return found
        self.rules = _productive(self.rules)
        if found.name not in self.rules:
            raise root.error("no value satisfies this schema")
        found = Ref(_target(found.name, self.rules))
        self.rules = _without_aliases(self.rules, found.name)
        return found

    def reserve(self, hint: str) -> Ref:
        """A rule that is still to be defined."""
        if len(self._known) + len(self.rules) > 2 * MAX_RULES:
            raise UnsupportedSchema(f"the grammar would have more than {MAX_RULES} rules")
        return Ref(self._new_name(hint))

    def define(self, ref: Ref, expr: Expr) -> None:
        """Say what a reserved rule stands for."""
        self.rules[ref.name] = expr
        if len(self.rules) > MAX_RULES:
            raise UnsupportedSchema(f"the grammar would have more than {MAX_RULES} rules")

    def value(self, places: Sequence[Place], hint: str) -> Ref:
        """The rule of what satisfies all the schemas."""
        unique = tuple(dict.fromkeys(place for place in places if place.schema is not True))
        if not any(place.schema is False or place.schema for place in unique):
            return Ref("value")
        key = tuple(place.pointer for place in unique)
        if key not in self._known:
            hint = _name_of(unique[0]) or hint
            self._known[key] = self.reserve(hint)
            self._queue.append((self._known[key], unique, hint))
        return self._known[key]

    def _expr(self, places: tuple[Place, ...], hint: str) -> Expr:
        found = alternatives(places)
        listed = [leaves for leaves in found if _is_listed(leaves)]
        open_types = _open_types(leaves for leaves in found if leaves not in listed)
        if open_types >= frozenset(TYPES) - {"integer"}:
            return Ref("value")
        others = [leaves for leaves in found if leaves not in listed]
        parts = [self._of_alternative(leaves, places, open_types, hint) for leaves in others]
        values = self._values(listed, others)
        return alt(*parts, *self._literals(values, hint))

    def _of_alternative(
        self, leaves: Alternative, places: Alternative, open_types: frozenset[str], hint: str
    ) -> Expr:
        kinds = sorted(types_of(leaves), key=TYPES.index)
        is_plain = not any(place.has(word) for place in leaves for word in APPLICATORS)
        if is_plain and leaves != places and not open_types.intersection(kinds):
            # Other values are of this very kind, or the schema is recursive: one rule for all.
            return self.value(leaves, hint)
        parts: list[Expr] = []
        for kind in kinds:
            if kind in open_types:
                parts.append(Ref(kind))
            elif not (kind == "integer" and "number" in open_types):
                parts.append(self._of_type(kind, leaves, hint))
        return alt(*parts)

    def _values(self, listed: list[Alternative], others: list[Alternative]) -> list[Any]:
        """The listed values that satisfy what stands beside them, and are not allowed anyway."""
        found: dict[Any, Any] = {}
        for leaves in listed:
            values = listed_values(leaves) or []
            if len(values) > MAX_VALUES:
                raise leaves[0].error(f"more than {MAX_VALUES} values", "enum")
            for value in values:
                if fits(leaves, value) and not any(fits(other, value) for other in others):
                    found.setdefault(identity(value), value)
        return list(found.values())

    def _literals(self, values: list[Any], hint: str) -> list[Expr]:
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) <= _MAX_PLAIN_VALUES:
            return [self._literal(value) for value in values]
        try:
            automaton = automata.exactly(texts)
        except PatternError:
            return [self._literal(value) for value in values]
        inner = automata.to_expr(automaton, hint, strings.escaped, self)
        others = [self._literal(value) for value in values if not isinstance(value, str)]
        return [seq(Text('"'), inner, Text('"')), *others]

    def _literal(self, value: Any) -> Expr:
        spacing = self._context.spacing
        if isinstance(value, Mapping):
            pairs = [
                seq(Text(json_text(name)), spacing.colon, self._literal(inner))
                for name, inner in value.items()
            ]
            return spacing.enclosed("{", _joined(pairs, spacing), "}", may_be_empty=False)
        if isinstance(value, list | tuple):
            items = [self._literal(inner) for inner in value]
            return spacing.enclosed("[", _joined(items, spacing), "]", may_be_empty=False)
        return Text(json_text(value))

    def _of_type(self, kind: str, leaves: Alternative, hint: str) -> Expr:
        if kind == "object":
            return objects.object_(leaves, self._context, hint)
        if kind == "array":
            return arrays.array(leaves, self._context, hint)
        if kind == "string":
            return self._string(leaves, hint)
        return self._number(kind, leaves, hint)

    def _number(self, kind: str, leaves: Alternative, hint: str) -> Expr:
        written = numerals(leaves, is_integer=kind == "integer")
        if written is None:
            return Ref(kind)
        return self._automaton(written, hint, chars)

    def _string(self, leaves: Alternative, hint: str) -> Expr:
        characters = strings.characters(leaves)
        if characters is None:
            low, high = strings.length_bounds(leaves)
            if high is not None and high < low:
                return NEVER
            inner = repeat(Ref("char"), low, high)
        else:
            inner = self._automaton(strings.texts(leaves) or characters, hint, self._escaped)
        return seq(Text('"'), inner, Text('"'))

    def _automaton(
        self, automaton: Automaton, hint: str, chars_of: Callable[[Ranges], Expr]
    ) -> Expr:
        """What the automaton accepts, in the rules of an equal one if there was one before."""
        if automaton.is_empty:
            return NEVER
        key = (automaton, chars_of is chars)
        if key not in self._shared:
            self._shared[key] = self.reserve(hint)
            expr = automata.to_expr(automaton, hint, chars_of, self)
            self.define(self._shared[key], expr)
        return self._shared[key]

    def _escaped(self, ranges: Ranges) -> Expr:
        return Ref("char") if ranges == EVERYTHING else strings.escaped(ranges)


def _is_listed(leaves: Alternative) -> bool:
    return any(place.lists() for place in leaves)


def _open_types(found: Iterable[Alternative]) -> frozenset[str]:
    """The types of which an alternative allows every value."""
    return frozenset(
        kind for leaves in found for kind in types_of(leaves) if not _is_constrained(kind, leaves)
    )


def _is_constrained(kind: str, leaves: Alternative) -> bool:
    if kind == "string":
        is_free = strings.characters(leaves) is None and strings.length_bounds(leaves) == (0, None)
        return not is_free
    if kind in ("integer", "number"):
        return numerals(leaves, is_integer=kind == "integer") is not None
    if kind == "object":
        counts = ("minProperties", "maxProperties", "propertyNames")
        return not is_free_object(leaves) or any(p.has(k) for p in leaves for k in counts)
    keywords = ("items", "prefixItems", "minItems", "maxItems", "uniqueItems")
    return kind == "array" and any(p.has(k) for p in leaves for k in keywords)


def _joined(items: list[Expr], spacing: Spacing) -> Expr:
    parts: list[Expr] = []
    for item in items:
        parts += [spacing.comma, item] if parts else [item]
    return seq(*parts)


def _name_of(place: Place) -> str:
    """The name of a definition or property; "" for a place that has none of its own."""
    keys = place.pointer.split("/")
    named = len(keys) > 2 and keys[-2] in ("properties", "$defs", "definitions")
    return keys[-1] if named else ""


def _productive(rules: Mapping[str, Expr]) -> dict[str, Expr]:
    """The rules without what stands for no text, such as an endless recursion."""
    users: dict[str, list[str]] = {}
    for name, expr in rules.items():
        for used in references(expr):
            users.setdefault(used, []).append(name)
    good: set[str] = set()
    queue = deque(rules)
    while queue:
        name = queue.popleft()
        if name not in good and _is_productive(rules[name], good, rules):
            good.add(name)
            queue.extend(users.get(name, ()))
    return {name: _pruned(rules[name], good, rules) for name in rules if name in good}


def _without_aliases(rules: Mapping[str, Expr], root: str) -> dict[str, Expr]:
    """The rules that the root needs, and none that is only another name for a rule."""
    kept: dict[str, Expr] = {}
    queue = deque([root])
    while queue:
        name = queue.popleft()
        if name in rules and name not in kept:
            kept[name] = _renamed(rules[name], rules)
            queue.extend(sorted(references(kept[name])))
    return kept


def _target(name: str, rules: Mapping[str, Expr]) -> str:
    while isinstance(expr := rules.get(name), Ref):
        name = expr.name
    return name


def _renamed(expr: Expr, rules: Mapping[str, Expr]) -> Expr:
    if isinstance(expr, Ref):
        return Ref(_target(expr.name, rules))
    inner = [_renamed(child, rules) for child in children(expr)]
    if isinstance(expr, Seq):
        return seq(*inner)
    if isinstance(expr, Alt):
        return alt(*inner)
    return repeat(inner[0], expr.low, expr.high) if isinstance(expr, Repeat) else expr


def _is_productive(expr: Expr, good: set[str], rules: Mapping[str, Expr]) -> bool:
    if isinstance(expr, Ref):
        return expr.name in good or expr.name not in rules
    if isinstance(expr, Repeat) and expr.low == 0:
        return True
    each = (_is_productive(child, good, rules) for child in children(expr))
    return any(each) if isinstance(expr, Alt) else all(each)


def _pruned(expr: Expr, good: set[str], rules: Mapping[str, Expr]) -> Expr:
    if not _is_productive(expr, good, rules):
        return NEVER
    inner = [_pruned(child, good, rules) for child in children(expr)]
    if isinstance(expr, Seq):
        return seq(*inner)
    if isinstance(expr, Alt):
        return alt(*(child for child in inner if child != NEVER))
    if isinstance(expr, Repeat):
        return EMPTY if inner[0] == NEVER else repeat(inner[0], expr.low, expr.high)
    return expr
