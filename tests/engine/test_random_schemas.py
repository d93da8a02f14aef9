"""Random schemas, answered by random weights: what ends is valid, all of it.

`LIBERTAI_SCHEMAS=1000` looks at that many new ones, each in two samplings.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from tests.engine.grammar.random_schemas import closed_schema

DEEP = int(os.environ.get("LIBERTAI_SCHEMAS", "0"))
FIRST_SEED = time.time_ns() % 10**9 if DEEP else 0
WAYS = ({"temperature": 0.0}, {"temperature": 1.0, "top_k": 0, "top_p": 1, "min_p": 0})
LIMIT = 400


@pytest.fixture(scope="module")
def api(long_model: Path) -> Iterator[CompletionAPI]:
    config = EngineConfig(model=str(long_model), context_size=512, threads=1)
    with load_engine(config, progress=False) as engine:
        yield CompletionAPI(engine)


def test_every_answer_that_ends_is_valid(api: CompletionAPI) -> None:
    """No schema is refused, and each answer is JSON and valid, however the tokens were chosen."""
    outcomes: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + (DEEP or 60)):
        schema = closed_schema(seed)
        jsonschema.Draft202012Validator.check_schema(schema)
        way = WAYS[seed % 2]
        asked = {"prompt": f"number {seed}", "n_predict": LIMIT, "seed": seed, **way}
        result = api.complete({**asked, "json_schema": schema, "compact_json": seed % 3 == 0})
        assert isinstance(result, dict)
        outcomes[result["stop_type"]] += 1
        if result["stopped_eos"]:
            value = json.loads(result["content"])
            error = jsonschema.Draft202012Validator(schema).iter_errors(value)
            assert not [*error], (seed, schema, result["content"])
        else:
            assert result["tokens_predicted"] >= LIMIT
    print(f"\n{outcomes}, seeds from {FIRST_SEED}")
    assert outcomes["eos"] > 0.8 * outcomes.total()
