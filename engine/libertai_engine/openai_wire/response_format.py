"""The field `response_format`: what kind of text an answer has to be.

In: a body. Out: the JSON schema of the answer, or None for free text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libertai_engine.errors import InvalidRequest
from libertai_engine.wire.coerce import Body, wrong

FIELD = "response_format"
OBJECT: Mapping[str, Any] = {"type": "object"}


def parse_response_format(body: Body) -> Any:
    """A schema, None if there is none to be kept.

    `{"type": "json_object"}` may have a `schema`, as llama.cpp's server has it;
    `{"type": "json_schema", "json_schema": {"schema": …}}` is OpenAI's. `strict` or not, the answer
    keeps to the schema. Raises `InvalidRequest` naming the field.
    """
    asked = body.get(FIELD, _to_object, {})
    kind = asked.get("type", "text")
    if kind not in ("text", "json_object", "json_schema"):
        raise wrong(f"{FIELD}.type", "one of text, json_object, json_schema")
    if kind == "text":
        return None
    for other in ("grammar", "json_schema"):
        if body.fields.get(other):
            raise InvalidRequest(f"`{FIELD}` and `{other}` exclude each other", field=FIELD)
    if kind == "json_object":
        schema = asked.get("schema")
        return OBJECT if schema is None else schema
    described = Body(_to_object(f"{FIELD}.json_schema", asked.get("json_schema")))
    if described.fields.get("schema") is None:
        raise InvalidRequest(f"`{FIELD}.json_schema.schema` is required", field=FIELD)
    return described.fields["schema"]


def _to_object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise wrong(name, "an object")
    return value
