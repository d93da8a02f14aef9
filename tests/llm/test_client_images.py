"""`image_data` through the clients: bytes or base64, near and far, to a model that sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from libertai_llm import AsyncClient, Client
from libertai_llm.errors import BadRequest
from libertai_llm.types import Props
from tests.engine.serving import running
from tests.fake_vision import GREEDY, LLAVA_TOKENS, encode, image_data, picture, save_vision_model

PROMPT = "see [img-0] and [img-1] now"


@pytest.fixture(scope="module", params=["in-process", "http"])
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    folder = save_vision_model(tmp_path_factory.mktemp("llava"))
    with load_engine(EngineConfig(model=str(folder), num_slots=1), progress=False) as engine:
        if request.param == "in-process":
            yield {"engine": engine}
            return
        with running(CompletionAPI(engine)) as server:
            yield {"base_url": server.url}


async def test_images_as_bytes_and_as_base64(target: dict[str, Any]) -> None:
    """The same answer from both, from both clients; the second one from the cache."""
    raw = [{"data": encode(picture(seed)), "id": seed} for seed in (0, 1)]
    with Client(**target) as client:
        first = client.complete(PROMPT, image_data=raw, max_tokens=6, **GREEDY)
        second = client.complete(PROMPT, image_data=image_data(0, 1), max_tokens=6, **GREEDY)
    async with AsyncClient(**target) as async_client:
        third = await async_client.complete(PROMPT, image_data=raw, max_tokens=6, **GREEDY)
    assert first.content == second.content == third.content
    assert second.tokens_cached == first.tokens_evaluated - 1 > 2 * LLAVA_TOKENS


def test_a_refused_image_is_a_bad_request(target: dict[str, Any]) -> None:
    """With the server's words."""
    with (
        Client(**target) as client,
        pytest.raises(BadRequest, match=r"`image_data\[0\].data` is not a whole PNG"),
    ):
        client.complete("[img-0]", image_data=[{"data": b"no image", "id": 0}])


def test_props_tell_whether_images_are_seen(target: dict[str, Any]) -> None:
    """True here; None where nothing is told, False where they would go another way."""
    with Client(**target) as client:
        assert client.props().sees_images is True
    told = {"modalities": {"vision": True}}
    assert Props.from_wire(told | {"media_marker": "<__media__>"}).sees_images is False
    assert Props.from_wire({"modalities": {"vision": False}}).sees_images is False
    for silent in ({}, {"modalities": None}, {"modalities": {"vision": "yes"}}):
        assert Props.from_wire(silent).sees_images is None
