"""Grammars of JSON schemas on the server of December 2023, which knows nothing but GBNF.

In: a recording of that server, one answer a schema. Out: that it reads every grammar, and writes
what the grammar allows. A grammar that it cannot read ends that server: no answer comes any more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from vcr.request import Request

from libertai_llm import Client
from libertai_llm.grammar import json_schema_grammar
from tests.llm.grammar.cases import recorded_cases
from tests.llm.grammar.language import Language

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]
plain = pytest.mark.parametrize("server", ["dec2023"], indirect=True)
# One recording of all would be a file that nobody opens.
N_PARTS = 4


@pytest.fixture
def vcr_config(vcr_config: dict[str, Any]) -> dict[str, Any]:
    """In the recording a grammar is its digest, and settings, which repeat it, are left out."""
    scrub_request = vcr_config["before_record_request"]
    scrub_response = vcr_config["before_record_response"]

    def before_record_request(request: Request) -> Request:
        kept = scrub_request(request)
        body = json.loads(kept.body)
        # NOTE: vcr calls this for what it reads from a recording, too.
        if "::=" in body["grammar"]:
            body["grammar"] = hashlib.sha256(body["grammar"].encode()).hexdigest()
        kept.body = json.dumps(body).encode()
        return kept

    def before_record_response(response: dict[str, Any]) -> dict[str, Any]:
        kept = scrub_response(response)
        reply = json.loads(kept["body"]["string"])
        reply.pop("generation_settings", None)
        return {**kept, "body": {"string": json.dumps(reply).encode()}}

    return {
        **vcr_config,
        "before_record_request": before_record_request,
        "before_record_response": before_record_response,
    }


@pytest.fixture
def client(server: Any, vcr: Any) -> Iterator[Client]:
    """Our synchronous client on that server."""
    with Client(server.url, max_retries=0) as made:
        yield made


@plain
@pytest.mark.parametrize("part", range(N_PARTS))
def test_every_grammar_is_read_and_kept_to(client: Client, server: Any, part: int) -> None:
    """The most likely answer of a model that writes no JSON by itself is in the language."""
    for name, case in list(recorded_cases().items())[part::N_PARTS]:
        text = json_schema_grammar(case.schema)
        server.settle()
        answer = client.complete(
            "Return the", grammar=text, max_tokens=24, temperature=0, cache_prompt=False
        )
        language = Language(text)
        assert answer.content and language.begins(answer.content), name
        if answer.stop_type == "eos":
            assert language.accepts(answer.content), name
