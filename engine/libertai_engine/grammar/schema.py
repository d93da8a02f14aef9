"""A JSON schema as a request gives it to one that llguidance follows to the letter.

In: a decoded schema. Out: the same in llguidance's terms, or an error that names the place in the
schema. llguidance ignores what it does not know and takes `oneOf` for `anyOf`; here everything that
would make the grammar looser than the schema is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from libertai_engine.errors import InvalidRequest
from libertai_engine.grammar.schema_keywords import (
    ASSERTIONS,
    NEUTRAL,
    SCHEMA_LISTS,
    SCHEMA_MAPS,
    SCHEMAS,
    asserts,
    check_value,
    exclude_integers,
    inward,
    is_narrow,
)

MAX_DEPTH = 200  # two for a property
MAX_NODES = 20_000
MAX_TRIALS = 200  # parts that are compiled by themselves to find the one at fault

# White space as llama.cpp's converter allows it, between the marks of JSON: nothing, a space, or
# one or two line breaks and an indent.
WHITE_SPACE = r"[ ]|\n{1,2}[ \t]{0,20}"

Native = dict[str, Any] | bool
Compile = Callable[[Any], str]  # what is wrong with a native schema, "" if nothing is


class SchemaDocument:
    """One schema, checked for what can be said without compiling it.

    Raises `InvalidRequest` naming `field` and the place, as in `#/properties/a`.
    """

    def __init__(self, schema: Any, field: str) -> None:
        self._schema = schema
        self._field = field
        self._closed = _Reader(schema, field, is_open=False)
        if not _prune(self._closed.parts):
            raise refusal(field, "#", "nothing that ends satisfies it")

    def check(self, compile_native: Compile) -> None:
        """Raise what is wrong with it, found by compiling."""
        if self._closed.has_one_of:
            # NOTE: whether the branches of a `oneOf` exclude each other is to be seen while
            # objects are still open: {"a": 1} is in two branches that do not forbid `a`.
            self._check(_Reader(self._schema, self._field, is_open=True), compile_native)
        self._check(self._closed, compile_native, coerce_one_of=True)

    def to_native(self, *, is_compact: bool) -> Native:
        """What llguidance compiles, once it is checked."""
        white = (
            {"whitespace_flexible": False} if is_compact else {"whitespace_pattern": WHITE_SPACE}
        )
        return _native(self._closed, {"$ref": "#/$defs/0"}, coerce_one_of=True, **white)

    def _check(self, reader: _Reader, compile_native: Compile, **options: Any) -> None:
        error = compile_native(_native(reader, {"$ref": "#/$defs/0"}, **options))
        if not error:
            return
        for path, part in reader.places[:MAX_TRIALS]:  # the inner ones come first
            reason = compile_native(_native(reader, part, **options))
            if reason:
                raise refusal(self._field, path, reason)
        raise refusal(self._field, "#", error)


def refusal(field: str, path: str, reason: str) -> InvalidRequest:
    """The error for a place in a schema."""
    return InvalidRequest(f"`{field}` cannot be used: {path}: {reason}", field=field)


def _native(reader: _Reader, part: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    settings = {"json_allow_general_unicode_escapes": True, **options}
    return {**part, "$defs": reader.parts, "x-guidance": settings}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a schema stands, how deep, and whether its objects stay open (see `_Reader`)."""

    path: str
    depth: int
    is_open: bool

    def inner(self, name: str) -> _Place:
        """The place of what has this name in it."""
        escaped = name.replace("~", "~0").replace("/", "~1")
        return replace(self, path=f"{self.path}/{escaped}", depth=self.depth + 1)


class _Reader:
    """Reads a schema into `parts`: what `$ref`s lead to, under new names; "0" is the schema itself.

    `places` are all schemas in it with their paths, inner ones first. Only what is reached is
    read. Unless `is_open`, an object that names properties and says nothing of others has no
    others, except where several schemas hold for it at once and might name theirs elsewhere.
    """

    def __init__(self, schema: Any, field: str, *, is_open: bool) -> None:
        self.parts: dict[str, Native] = {}
        self.places: list[tuple[str, dict[str, Any]]] = []
        self.has_one_of = False
        self._schema = schema
        self._field = field
        self._names: dict[tuple[str, bool], str] = {}
        self._num_nodes = 0
        self._queue: list[tuple[str, bool]] = []
        self._refer("#", is_open)
        for pointer, each_open in self._queue:  # grows while it is read
            target = self._find(pointer)
            self.parts[self._names[pointer, each_open]] = self._read(
                target, _Place(pointer, 0, each_open)
            )

    def _refer(self, pointer: str, is_open: bool) -> str:
        key = (pointer, is_open)
        if key not in self._names:
            self._names[key] = str(len(self._names))
            self._queue.append(key)
        return f"#/$defs/{self._names[key]}"

    def _find(self, pointer: str) -> Any:
        """What a JSON pointer (RFC 6901) leads to."""
        target = self._schema
        for step in pointer.split("/")[1:]:
            name = step.replace("%25", "%").replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and name.isdecimal() and int(name[:9]) < len(target):
                target = target[int(name[:9])]
            elif isinstance(target, Mapping) and name in target:
                target = target[name]
            else:
                raise refusal(self._field, pointer, "`$ref` leads nowhere")
        return target

    def _read(self, node: Any, place: _Place) -> Native:
        if isinstance(node, bool):
            return node
        if not isinstance(node, Mapping):
            raise refusal(self._field, place.path, "a schema must be an object, true or false")
        self._num_nodes += 1
        if place.depth > MAX_DEPTH or self._num_nodes > MAX_NODES:
            limits = f"{MAX_DEPTH} levels and {MAX_NODES} schemas"
            raise refusal(self._field, place.path, f"a schema may have at most {limits}")
        if _num_conjuncts(node) > 1:
            place = replace(place, is_open=True)
        made: dict[str, Any] = {}
        for name, value in _modern(node).items():
            self._read_keyword(made, name, value, place.inner(name))
        if not place.is_open and _names_all_it_needs(made):
            made["additionalProperties"] = False
        if place.is_open or is_narrow(made):
            exclude_integers(made)
        self.places.append((place.path, made))
        return made

    def _read_keyword(self, made: dict[str, Any], name: str, value: Any, place: _Place) -> None:
        """Add a keyword to `made` in native terms, or leave out one that asserts nothing."""
        if name in NEUTRAL:
            if value != NEUTRAL[name]:
                raise refusal(self._field, place.path, f"`{name}` is not supported")
            return
        reason = check_value(name, value)
        if reason:
            raise refusal(self._field, place.path, reason)
        if name == "$ref":
            if value != "#" and not value.startswith("#/"):
                reason = "only a `$ref` inside the schema can be followed"
                raise refusal(self._field, place.path, reason)
            made[name] = self._refer(value, place.is_open)
        elif name in SCHEMAS:
            made[name] = self._read(value, place)
        elif name in SCHEMA_MAPS:
            made[name] = {key: self._read(each, place.inner(key)) for key, each in value.items()}
        elif name in SCHEMA_LISTS:
            self.has_one_of = self.has_one_of or name == "oneOf"
            made[name] = [
                self._read(each, place.inner(str(index))) for index, each in enumerate(value)
            ]
        elif asserts(name, value):
            made[name] = inward(name, value)


def _modern(node: Mapping[str, Any]) -> dict[str, Any]:
    """A tuple of `items` in the words of draft 2020-12; elsewhere it is ignored or an error."""
    if not isinstance(node.get("items"), list):
        return {name: value for name, value in node.items() if name != "additionalItems"}
    made: dict[str, Any] = {}
    for name, value in node.items():
        if name == "items":
            made["prefixItems"] = value
            made["items"] = node.get("additionalItems", True)
        elif name not in ("additionalItems", "prefixItems"):
            made[name] = value
    return made


def _num_conjuncts(node: Mapping[str, Any]) -> int:
    """How many schemas hold at once for what `node` describes."""
    all_of = node.get("allOf")
    own = any(name in node for name in (*ASSERTIONS, *SCHEMAS, *SCHEMA_MAPS, "prefixItems"))
    others = sum(name in node for name in ("anyOf", "oneOf", "$ref"))
    return (len(all_of) if isinstance(all_of, list) else 0) + others + own


def _names_all_it_needs(made: Mapping[str, Any]) -> bool:
    """Whether an object can do without properties that it does not name."""
    named = made.get("properties")
    if named is None or "additionalProperties" in made:
        return False
    return set(made.get("required", ())) <= set(named) and "minProperties" not in made


def _prune(parts: dict[str, Native]) -> bool:
    """Forbid the parts that nothing finite satisfies; False if the schema itself is one.

    A part is finite if it is so whenever those are that are known to be: the least fixed point.
    """
    finite: set[str] = set()
    while True:
        found = {name for name in parts if name not in finite and _is_finite(parts[name], finite)}
        if not found:
            break
        finite |= found
    for name in parts:
        if name not in finite:
            parts[name] = False
    return "0" in finite


def _is_finite(node: Native, finite: set[str]) -> bool:
    if isinstance(node, bool):
        return node
    if "$ref" in node and node["$ref"].rpartition("/")[2] not in finite:
        return False
    if not all(_is_finite(each, finite) for each in node.get("allOf", ())):
        return False
    for name in ("anyOf", "oneOf"):
        if name in node and not any(_is_finite(each, finite) for each in node[name]):
            return False
    if "enum" in node or "const" in node or "type" not in node:
        return True
    kinds = node["type"] if isinstance(node["type"], list) else [node["type"]]
    return any(_is_kind_finite(kind, node, finite) for kind in kinds)


def _is_kind_finite(kind: str, node: Mapping[str, Any], finite: set[str]) -> bool:
    if kind == "object":
        named = node.get("properties", {})
        return all(_is_finite(named.get(name, True), finite) for name in node.get("required", ()))
    if kind == "array":
        first = node.get("prefixItems", [])
        count = int(node.get("minItems", 0))
        needed = [*first[:count], *([node.get("items", True)] if count > len(first) else [])]
        return all(_is_finite(each, finite) for each in needed)
    return True
