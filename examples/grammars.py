"""Answers held to a JSON schema, and to a grammar of one's own, with the plain client.

Run: python examples/grammars.py
LIBERTAI_API_BASE names a server; without it the bundled demo model answers in this process.
"""

from __future__ import annotations

import json

from libertai_llm import Client
from libertai_llm.errors import UnsupportedSchema
from libertai_llm.grammar import GrammarWriter, json_schema_grammar

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "languages": {"type": "array", "items": {"enum": ["de", "en", "fr"]}, "maxItems": 2},
    },
    "required": ["name", "age", "languages"],
}

if __name__ == "__main__":
    with Client() as client:
        grammar = json_schema_grammar(PERSON, spacing="fixed")
        prompt = "Anna is 34 years old and speaks French. As JSON: "
        answer = client.complete(prompt, grammar=grammar, max_tokens=128, temperature=0)
        print(json.loads(answer.content))
        writer = GrammarWriter()
        verdict = writer.add_rule("verdict", '"yes" | "no"')
        number = writer.add_schema({"type": "integer", "minimum": 1, "maximum": 10})
        text = writer.text(f"{verdict} {writer.literal(', certainty ')} {number}")
        print(client.complete("Is Rome in Italy? ", grammar=text, max_tokens=32).content)
    try:
        json_schema_grammar({"type": "array", "uniqueItems": True})
    except UnsupportedSchema as error:
        print("not as a grammar:", error)
