"""Schemas by their place in a document, and what has to hold at one value at once.

In: a document (a decoded JSON schema). Out: `Place`s, checked keyword values, and by `expand` the
alternatives of a value: each a tuple of schemas that hold together, with references, `allOf`,
`anyOf` and `oneOf` followed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from typing import Any, TypeAlias
from urllib.parse import unquote

from libertai_llm.errors import UnsupportedSchema
from libertai_llm.gbnf.automata import Automaton

MAX_DEPTH = 128
MAX_NODES = 200_000
MAX_BITS = 1_024
MAX_ALTERNATIVES = 256
TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

# They say something about a value that no grammar of ours expresses. Everything that is not named
# here or read below is a remark, as the specification has it for unknown keywords.
_NOT_EXPRESSIBLE = (
    *("not", "then", "else", "contains", "unevaluatedItems", "unevaluatedProperties"),
    *("dependentRequired", "dependentSchemas", "dependencies", "$dynamicRef", "$recursiveRef"),
    *("extends", "disallow", "divisibleBy"),
)
# What a schema without a `type` then speaks about.
_KINDS = {
    "object": (
        *("properties", "required", "additionalProperties", "patternProperties"),
        *("propertyNames", "minProperties", "maxProperties"),
    ),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}


@dataclass(frozen=True, slots=True)
class Document:
    """A whole schema.

    Invariant: no deeper than `MAX_DEPTH`, and of JSON's types only; `checked` are the pointers of
    those `oneOf` whose options were found exclusive, `automata` what its patterns and formats were
    found to be.
    """

    root: Any
    ignored: frozenset[str] = frozenset()
    checked: set[str] = field(default_factory=set)
    automata: dict[tuple[str, str], Automaton] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Place:
    """A schema and where it stands, as a JSON pointer. Equal if pointer and document are."""

    pointer: str
    schema: Mapping[str, Any] | bool = field(compare=False)
    document: Document = field(compare=False)

    def get(self, keyword: str) -> Any:
        """The keyword's value; None if it is absent or to be ignored."""
        if isinstance(self.schema, bool) or keyword in self.document.ignored:
            return None
        return self.schema.get(keyword)

    def has(self, keyword: str) -> bool:
        """Whether the keyword is given, be it as null."""
        is_ignored = keyword in self.document.ignored
        return not isinstance(self.schema, bool) and keyword in self.schema and not is_ignored

    def error(self, what: str, *keys: str | int) -> UnsupportedSchema:
        """An error that names this place, or the one below it."""
        return UnsupportedSchema(what, path=self.below(*keys))

    def below(self, *keys: str | int) -> str:
        """The pointer of a part of this schema."""
        escaped = (str(key).replace("~", "~0").replace("/", "~1") for key in keys)
        return "/".join([self.pointer, *escaped])

    def child(self, *keys: str | int) -> Place:
        """The schema below it under these keys. Raises `UnsupportedSchema` if it is none."""
        found: Any = self.schema
        for key in keys:
            found = found[key]
        return _place(self.below(*keys), found, self.document)

    def children(self, keyword: str) -> list[Place]:
        """The schemas that a keyword lists."""
        value = self.get(keyword)
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise self.error("expected a list of schemas", keyword)
        return [self.child(keyword, index) for index in range(len(value))]

    def keys(self, keyword: str) -> Collection[str]:
        """The names under which a keyword holds schemas."""
        value = self.get(keyword)
        if value is None:
            return ()
        if not isinstance(value, Mapping):
            raise self.error("expected an object of schemas", keyword)
        return value.keys()

    def count(self, keyword: str) -> int | None:
        """A keyword's whole number, not below 0; None if it is absent."""
        value = self.number(keyword)
        if value is None:
            return None
        if value < 0 or value != int(value):
            raise self.error("expected a whole number, not below 0", keyword)
        return int(value)

    def number(self, keyword: str) -> Decimal | None:
        """A keyword's number; None if it is absent."""
        value = self.get(keyword)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error("expected a number", keyword)
        return Decimal(repr(value))

    def text(self, keyword: str) -> str | None:
        """A keyword's text; None if it is absent."""
        value = self.get(keyword)
        if value is not None and not isinstance(value, str):
            raise self.error("expected a text", keyword)
        return value

    def names(self, keyword: str) -> list[str]:
        """A keyword's list of texts."""
        value = self.get(keyword)
        if value is None:
            return []
        if not isinstance(value, list | tuple) or any(not isinstance(each, str) for each in value):
            raise self.error("expected a list of texts", keyword)
        return list(value)

    def flag(self, keyword: str) -> bool:
        """A keyword's true or false; false if it is absent."""
        value = self.get(keyword)
        if value is not None and not isinstance(value, bool):
            raise self.error("expected true or false", keyword)
        return bool(value)

    def target(self) -> Place | None:
        """What `$ref` refers to; None without one."""
        reference = self.text("$ref")
        return None if reference is None else self._find(reference)

    def types(self) -> frozenset[str] | None:
        """The types it allows, `integer` only where `number` is not; None: it does not say."""
        value = self.get("type")
        if value is None:
            return None
        given = list(value) if isinstance(value, list | tuple) else [value]
        for each in given:
            if each not in TYPES:
                raise self.error(f"`{each}` is no type of JSON", "type")
        if self.flag("nullable"):
            given.append("null")
        return frozenset(given) - ({"integer"} if "number" in given else set())

    def lists(self) -> list[list[Any]]:
        """The values that `const` lists, and those that `enum` does, as far as they are given."""
        found = [[self.get("const")]] if self.has("const") else []
        value = self.get("enum")
        if value is not None:
            if not isinstance(value, list | tuple):
                raise self.error("expected a list of values", "enum")
            found.append(list(value))
        return found

    def check(self) -> None:
        """Raises `UnsupportedSchema` for a keyword that no grammar expresses."""
        for keyword in _NOT_EXPRESSIBLE:
            if self.has(keyword):
                raise self.error(f"`{keyword}` cannot be expressed in a grammar", keyword)

    def _find(self, reference: str) -> Place:
        base, found = self._resource()
        pointer = unquote(reference.removeprefix("#"))
        if not reference.startswith("#") or (pointer and not pointer.startswith("/")):
            raise self.error(f"`{reference}` is not within this schema", "$ref")
        for key in pointer.split("/")[1:]:
            try:
                found = _below(found, key)
            except (KeyError, IndexError, ValueError, TypeError):
                raise self.error(f"`{reference}` leads nowhere", "$ref") from None
        return _place(base + pointer, found, self.document)

    def _resource(self) -> tuple[str, Any]:
        """What `#` means here: the nearest schema around with an `$id` of its own, or the root."""
        pointer, found = "#", self.document.root
        nearest = pointer, found
        for key in self.pointer.split("/")[1:]:
            pointer, found = f"{pointer}/{key}", _below(found, key)
            own = found.get("$id") if isinstance(found, Mapping) else None
            # NOTE: up to draft 7, `#name` is the name of a place and no base.
            if isinstance(own, str) and not own.startswith("#"):
                nearest = pointer, found
        return nearest


Alternative: TypeAlias = tuple[Place, ...]

# Keywords that bring in further schemas for the same value.
APPLICATORS = ("$ref", "allOf", "anyOf", "oneOf")


def open_document(schema: Any, ignored: Collection[str]) -> Place:
    """The root of a schema. Raises `UnsupportedSchema` if it is too deep, too large, or no JSON."""
    _check_json(schema)
    return _place("#", schema, Document(schema, frozenset(ignored)))


def _below(found: Any, escaped: str) -> Any:
    """What a JSON value has under one key of a pointer. Raises as a lookup does."""
    key = escaped.replace("~1", "/").replace("~0", "~")
    return found[int(key) if isinstance(found, list | tuple) else key]


def _place(pointer: str, schema: Any, document: Document) -> Place:
    if not isinstance(schema, bool | Mapping):
        raise UnsupportedSchema("expected a schema: an object, true or false", path=pointer)
    return Place(pointer, schema, document)


def _check_json(schema: Any) -> None:
    queue: list[tuple[Any, str, int]] = [(schema, "#", 0)]
    nodes = 0
    while queue:
        value, pointer, depth = queue.pop()
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            limit = f"nested deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else "too large"
            raise UnsupportedSchema(f"the schema is {limit}", path=pointer[:200])
        for key, inner in _parts(value, pointer):
            queue.append((inner, f"{pointer}/{key}", depth + 1))


def _parts(value: Any, pointer: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise UnsupportedSchema(f"the key {key!r} is no text", path=pointer)
            yield key.replace("~", "~0").replace("/", "~1"), inner
    elif isinstance(value, list | tuple):
        yield from ((str(index), inner) for index, inner in enumerate(value))
    elif isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise UnsupportedSchema("half a surrogate pair is no text", path=pointer)
    elif not (value is None or isinstance(value, bool | int | float)):
        raise UnsupportedSchema(f"{type(value).__name__} is no JSON", path=pointer)
    elif isinstance(value, float) and not isfinite(value):
        raise UnsupportedSchema(f"{value} is no JSON", path=pointer)
    elif isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise UnsupportedSchema(f"a number of more than {MAX_BITS} bits", path=pointer)


@dataclass(frozen=True, slots=True)
class _State:
    """An alternative in the making. Invariant: `choices` wait until `pending` is empty.

    With each pending place go the places that led to it without leaving the value, by which a
    schema that refers to itself is found.
    """

    pending: tuple[tuple[Place, frozenset[str]], ...]
    choices: tuple[tuple[tuple[Place, ...], frozenset[str]], ...] = ()
    leaves: tuple[Place, ...] = ()
    seen: frozenset[str] = frozenset()


def expand(places: Collection[Place], *, on_one_of: Callable[[Place], None]) -> list[Alternative]:
    """What a value that satisfies all the places may satisfy in detail.

    Each alternative is a tuple of schemas of which only the keywords about the value itself are
    left to be read. `on_one_of` sees every schema with a `oneOf`, which is followed as an `anyOf`
    is. Raises `UnsupportedSchema` for a schema that is defined by itself, and for more
    alternatives than `MAX_ALTERNATIVES`.
    """
    states = [_State(tuple((place, frozenset()) for place in places))]
    found: dict[Alternative, None] = {}
    steps = 0
    while states:
        steps += 1
        if steps > 50 * MAX_ALTERNATIVES or len(found) + len(states) > MAX_ALTERNATIVES:
            raise next(iter(places)).error("too many combinations of alternatives")
        state = _settle(states.pop(), on_one_of)
        if state is None or not types_of(state.leaves):
            continue
        if not state.choices:
            found[state.leaves] = None
            continue
        (options, trail), *others = state.choices
        for option in reversed(options):
            states.append(_State(((option, trail),), tuple(others), state.leaves, state.seen))
    return list(found)


def _settle(state: _State, on_one_of: Callable[[Place], None]) -> _State | None:
    """Follow all that is not a choice; None if nothing can satisfy it."""
    pending, choices, leaves = list(state.pending), list(state.choices), list(state.leaves)
    seen = set(state.seen)
    while pending:
        place, trail = pending.pop(0)
        if place.pointer in trail:
            raise place.error("this schema is defined by itself")
        if place.schema is False:
            return None
        if place.schema is True or place.pointer in seen:
            continue
        place.check()
        seen.add(place.pointer)
        trail = trail | {place.pointer}
        if any(keyword not in _IN_PLACE for keyword in place.schema):
            leaves.append(place)
        target = place.target()
        both = ([target] if target else []) + place.children("allOf")
        pending[:0] = [(each, trail) for each in both]
        if place.has("oneOf"):
            on_one_of(place)
        for keyword in ("anyOf", "oneOf"):
            if place.has(keyword):
                choices.append((tuple(place.children(keyword)), trail))
    return _State((), tuple(choices), tuple(leaves), frozenset(seen))


_IN_PLACE = frozenset({*APPLICATORS, "$defs", "definitions", "title", "description", "default"})


def types_of(leaves: Alternative) -> frozenset[str]:
    """The types that a value may have which satisfies all of these.

    Where none says its type, it is the one that their keywords speak about, if any: `properties`
    means an object.
    """
    allowed = frozenset(TYPES) - {"integer"}
    is_told = False
    for place in leaves:
        types = place.types()
        is_told = is_told or types is not None or bool(place.lists())
        allowed = allowed if types is None else _common(allowed, types)
    if is_told:
        return allowed
    kinds = {
        kind
        for kind, keywords in _KINDS.items()
        if any(place.has(keyword) for place in leaves for keyword in keywords)
    }
    return frozenset(kinds) or allowed


def _common(one: frozenset[str], other: frozenset[str]) -> frozenset[str]:
    common = one & other
    for narrow, wide in ((one, other), (other, one)):
        if "integer" in narrow and "number" in wide:
            common |= {"integer"}
    return common
