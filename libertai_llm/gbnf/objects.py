"""JSON objects that satisfy given schemas.

In: the schemas that hold for one object, and the rules of the values within. Out: an expression of
it. Which property may come next is one rule each, so optional properties in every combination take
room in proportion to their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from libertai_llm.gbnf import automata, strings
from libertai_llm.gbnf.automata import Automaton
from libertai_llm.gbnf.expressions import NEVER, Expr, Ref, Text, alt, optional, repeat, seq
from libertai_llm.gbnf.patterns import PatternError
from libertai_llm.gbnf.places import Alternative, Place, types_of
from libertai_llm.gbnf.shapes import Context, json_text, limits
from libertai_llm.gbnf.values import (
    accepts,
    alternatives,
    is_free_object,
    key_pattern,
    listed_values,
    property_schemas,
)

_MAX_PATTERNS = 6


@dataclass(frozen=True, slots=True)
class _Entry:
    """A property by name. `pair` is `"name": value`."""

    pair: Expr
    is_required: bool


@dataclass(frozen=True, slots=True)
class _State:
    """Before the entry `at`: how many more properties there must, and may, be. None: any number."""

    at: int
    low: int
    high: int | None


def object_(leaves: Alternative, context: Context, hint: str) -> Expr:
    """The objects that satisfy all the schemas."""
    low, high = limits(leaves, "minProperties", "maxProperties")
    names = _names(leaves)
    required = {name for place in leaves for name in place.names("required")}
    entries = [_entry(name, name in required, leaves, context) for name in names]
    free = _Free(
        leaves,
        tuple(names),
        tuple((place, text) for place in leaves for text in place.keys("patternProperties")),
        tuple(place.child("propertyNames") for place in leaves if place.has("propertyNames")),
    )
    members = _Members(entries, free.pair(context, hint), leaves[0], context, hint)
    content, may_be_empty = members.expr(low, high)
    return context.spacing.enclosed("{", content, "}", may_be_empty=may_be_empty)


def _names(leaves: Alternative) -> list[str]:
    """Every property that is named, in the order of the schemas."""
    named = [name for place in leaves for name in place.keys("properties")]
    named += [name for place in leaves for name in place.names("required")]
    for place in leaves:
        named += _listed_names(place) or ()
    return list(dict.fromkeys(named))


def _listed_names(place: Place) -> list[str] | None:
    """The names that `propertyNames` lists; None if it does not list them."""
    if not place.has("propertyNames"):
        return None
    found: list[str] = []
    for leaves in alternatives([place.child("propertyNames")]):
        listed = listed_values(leaves)
        if listed is None:
            return None
        found += [value for value in listed if isinstance(value, str)]
    return found


def _entry(name: str, is_required: bool, leaves: Alternative, context: Context) -> _Entry:
    schemas = property_schemas(leaves, name)
    naming = [place.child("propertyNames") for place in leaves if place.has("propertyNames")]
    if schemas is None or not accepts(naming, name):
        return _Entry(NEVER, is_required)
    value = context.value(schemas, name)
    return _Entry(seq(Text(json_text(name)), context.spacing.colon, value), is_required)


class _Members:
    """The properties of one object on their way into rules.

    Invariant: `refs` holds a rule for each state that was referred to; those in `unwritten` are
    still to be defined.
    """

    def __init__(
        self,
        entries: Sequence[_Entry],
        free: Expr,
        place: Place,
        context: Context,
        hint: str,
    ) -> None:
        self.entries = entries
        self.free = free
        self.place = place
        self.context = context
        self.hint = hint
        self.refs: dict[_State, Ref] = {}
        self.unwritten: deque[_State] = deque()
        # How many required entries there are from each on.
        self.required = [0]
        for entry in reversed(entries):
            self.required.insert(0, self.required[0] + entry.is_required)

    def expr(self, low: int, high: int | None) -> tuple[Expr, bool]:
        """The members, at least one, and whether there may be none as well."""
        start = self._state(0, low, high)
        may_be_empty = not start.low and not self.required[0]
        if start.high is not None and start.high < max(start.low, self.required[0]):
            return NEVER, False
        found = self._body(start)
        while self.unwritten:
            state = self.unwritten.popleft()
            self.context.rules.define(self.refs[state], self._body(state))
        return found, may_be_empty

    def _state(self, at: int, low: int, high: int | None) -> _State:
        """The state, with counts dropped that cannot matter any more."""
        left = len(self.entries) - at
        low = 0 if low <= self.required[at] else low
        if high is not None and self.free == NEVER and high >= left:
            high = None
        return _State(at, low, high)

    def _pick(self, state: _State) -> Expr:
        """The rule of the members from this state on, at least one of them."""
        if state.at >= len(self.entries) - 1:
            return self._body(state)
        if state not in self.refs:
            self.refs[state] = self.context.rules.reserve(self.hint)
            self.unwritten.append(state)
        return self.refs[state]

    def _body(self, state: _State) -> Expr:
        parts: list[Expr] = []
        while True:
            if state.high is not None and state.high <= 0:
                return NEVER
            if state.at == len(self.entries):
                return seq(*parts, self._free_pairs(state))
            entry = self.entries[state.at]
            behind = self._state(
                state.at + 1, state.low - 1, None if state.high is None else state.high - 1
            )
            must_go_on = bool(behind.low > 0 or self.required[behind.at])
            if not (entry.is_required and must_go_on):
                break
            parts += [entry.pair, self.context.spacing.comma]
            state = behind
        parts.append(self._last_or_optional(entry, state, behind, must_go_on))
        return seq(*parts)

    def _last_or_optional(
        self, entry: _Entry, state: _State, behind: _State, must_go_on: bool
    ) -> Expr:
        more = seq(self.context.spacing.comma, self._pick(behind))
        taken = seq(entry.pair, more if must_go_on else optional(more))
        if entry.is_required:
            return taken
        without = self._state(state.at + 1, state.low, state.high)
        return alt(taken, self._pick(without))

    def _free_pairs(self, state: _State) -> Expr:
        if self.free == NEVER:
            return NEVER
        if state.low > 1:
            raise self.place.error(
                "a grammar cannot tell whether names that are free are unique", "minProperties"
            )
        more = seq(self.context.spacing.comma, self.free)
        return seq(self.free, repeat(more, 0, None if state.high is None else state.high - 1))


@dataclass(frozen=True, slots=True)
class _Free:
    """Properties whose names are not listed.

    `names` are those that are, `patterns` those of `patternProperties`, each with its owner, and
    `naming` the schemas of `propertyNames`.
    """

    leaves: Alternative
    names: tuple[str, ...]
    patterns: tuple[tuple[Place, str], ...]
    naming: tuple[Place, ...]

    def pair(self, context: Context, hint: str) -> Expr:
        """One of them; `NEVER` if there may be none."""
        if len(self.patterns) > _MAX_PATTERNS:
            raise self.leaves[0].error(f"more than {_MAX_PATTERNS} patterns", "patternProperties")
        if any(_listed_names(place) is not None for place in self.leaves):
            return NEVER
        pairs = []
        for names, chosen in self._classes():
            schemas = self._schemas(chosen)
            if schemas is not None and not names.is_empty:
                value = context.value(schemas, f"{hint}-value")
                pairs.append(seq(self._key(names, context, hint), context.spacing.colon, value))
        found = alt(*pairs)
        return found if found == NEVER else context.named(found, f"{hint}-pair")

    def _classes(self) -> list[tuple[Automaton, tuple[tuple[Place, str], ...]]]:
        """Names sorted by the patterns that match them."""
        place = self.leaves[0]
        try:
            free = automata.difference(_naming(place, self.naming), automata.exactly(self.names))
            found: list[tuple[Automaton, tuple[tuple[Place, str], ...]]] = [(free, ())]
            for owner, text in self.patterns:
                matched = key_pattern(owner, text)
                found = [
                    part
                    for names, chosen in found
                    for part in (
                        (automata.difference(names, matched), chosen),
                        (automata.intersection(names, matched), (*chosen, (owner, text))),
                    )
                    if not part[0].is_empty
                ]
                automata.check_size(sum(len(names.edges) for names, _ in found))
        except PatternError as error:
            raise place.error(f"the names of its properties are beyond us: {error}") from None
        order = {each: index for index, each in enumerate(self.patterns)}
        return sorted(found, key=lambda part: (len(part[1]), [order[each] for each in part[1]]))

    def _schemas(self, chosen: Sequence[tuple[Place, str]]) -> list[Place] | None:
        """What a property has to satisfy whose name is matched by just these patterns."""
        found: list[Place] = []
        is_known = is_free_object(self.leaves)
        for place in self.leaves:
            own = [place.child("patternProperties", text) for p, text in chosen if p is place]
            if not own and place.has("additionalProperties"):
                own = [place.child("additionalProperties")]
            found += own
            is_known = is_known or bool(own)
        if not is_known or any(place.schema is False for place in found):
            return None
        return found

    def _key(self, names: Automaton, context: Context, hint: str) -> Expr:
        if names == automata.EVERYTHING:
            return context.any_string()
        inner = automata.to_expr(names, f"{hint}-name", strings.escaped, context.rules)
        return seq(Text('"'), inner, Text('"'))


def _naming(place: Place, naming: Sequence[Place]) -> Automaton:
    """The names that `propertyNames` allows."""
    if not naming:
        return automata.EVERYTHING
    options = [leaves for leaves in alternatives(naming) if "string" in types_of(leaves)]
    if len(options) > 1:
        raise place.error("names with alternatives", "propertyNames")
    return strings.texts(options[0]) or automata.EVERYTHING if options else automata.exactly(())
