"""Requests with images that cannot be: a 400 each, and a server that answers on.

In-process through `CompletionAPI`, then over HTTP, where good requests are the same too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import load_engine
from libertai_engine.errors import InvalidRequest
from libertai_engine.model.images import PromptImage, is_image_id
from libertai_engine.wire.prompts import fit_prompt
from tests.engine.serving import Running, running
from tests.fake_vision import base64_of, encode, image_body, picture


@pytest.fixture(scope="module")
def api(vision_models: dict[str, Path]) -> Iterator[CompletionAPI]:
    config = EngineConfig(model=str(vision_models["llava"]), num_slots=2, batch_size=16)
    with load_engine(config, progress=False) as engine:
        yield CompletionAPI(engine)


PNG = base64_of(encode(picture(0)))
HOSTILE: dict[str, tuple[Any, str, str]] = {
    "not a list": ({"data": PNG}, "[img-0]", "must be an array of objects"),
    "a string": (PNG, "[img-0]", "must be an array of objects"),
    "not objects": ([PNG], "[img-0]", r"image_data\[0\]` must be an object"),
    "no data": ([{"id": 0}], "[img-0]", r"image_data\[0\]\.data` must be a string"),
    "data is a number": ([{"data": 5}], "[img-0]", r"image_data\[0\]\.data` must be a string"),
    "id is text": ([{"data": PNG, "id": "x"}], "[img-0]", r"image_data\[0\]\.id` must be"),
    "id is negative": ([{"data": PNG, "id": -1}], "[img-0]", "an integer between 0 and"),
    "id is large": ([{"data": PNG, "id": 2**31}], "[img-0]", "an integer between 0 and"),
    "id twice": ([{"data": PNG}, {"data": PNG, "id": 0}], "[img-0]", "is given twice"),
    "bad base64": ([{"data": "*" * 40}], "[img-0]", "must be an image file in base64"),
    "cut base64": ([{"data": PNG[:-3]}], "[img-0]", "must be an image file in base64"),
    "not ASCII": ([{"data": "ééé="}], "[img-0]", "must be an image file in base64"),
    "lone surrogate": ([{"data": "\ud800"}], "[img-0]", "in base64"),
    "data URI": ([{"data": f"data:image/png;base64,{PNG}"}], "[img-0]", "in base64"),
    "empty": ([{"data": ""}], "[img-0]", "not a whole PNG, JPEG, WebP or GIF"),
    "one pixel": ([{"data": base64_of(encode(picture(0, 1, 1)))}], "[img-0]", "smaller than 4"),
    "truncated": (
        [{"data": base64_of(encode(picture(0), "JPEG")[:200])}],
        "[img-0]",
        "not a whole",
    ),
    "SVG": ([{"data": base64_of(b"<svg width='9' height='9'/>")}], "[img-0]", "not a whole"),
    "file address": ([{"data": "file:///etc/passwd"}], "[img-0]", "in base64"),
    "web address": ([{"data": "http://127.0.0.1/a.png"}], "[img-0]", "in base64"),
    "address in base64": ([{"data": base64_of(b"http://127.0.0.1/")}], "[img-0]", "not a whole"),
    "a thousand": ([{"data": PNG}] * 1000, "[img-0]", "at most 8 images"),
    "too large": ([{"data": "A" * 28_000_004}], "[img-0]", "too large"),
    "unknown number": ([{"data": PNG}], "[img-0][img-3]", "no image with id 3"),
    "none at all": ([], "[img-0]", "no image with id 0"),
    "not shown": ([{"data": PNG}, {"data": PNG}], "[img-0]", r"no `\[img-1\]` in the prompt"),
    "open tag": ([{"data": PNG}], "[img-0] [img-", "broken tag"),
    "no number": ([{"data": PNG}], "[img-0] [img-x]", "broken tag"),
    "signed number": ([{"data": PNG}], "[img-0] [img--1]", "broken tag"),
    "endless number": ([{"data": PNG}], "[img-0] [img-99999999999]", "broken tag"),
    "foreign digits": ([{"data": PNG}], "[img-0] [img-٣]", "broken tag"),
    "tag in a tag": ([{"data": PNG}], "[img-[img-0]]", "broken tag"),
    "tokens only": ([{"data": PNG}], "", r"no `\[img-0\]` in the prompt"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_refused(api: CompletionAPI, case: str) -> None:
    """A 400 that names the field, says what is wrong, and repeats nothing of what was sent."""
    images, prompt, message = HOSTILE[case]
    asked = {"prompt": prompt or [5, 6], "image_data": images, "n_predict": 1}
    with pytest.raises(InvalidRequest, match=message) as refused:
        api.complete(asked)
    assert refused.value.field is not None and refused.value.field.startswith("image_data")
    assert "image_data" in str(refused.value) and len(str(refused.value)) < 200
    assert api.complete({"prompt": "and now?", "n_predict": 1})["stop"]


@pytest.fixture(scope="module")
def server(api: CompletionAPI) -> Iterator[Running]:
    with running(api, max_body_bytes=4096, max_image_body_bytes=200_000) as running_server:
        yield running_server


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in result if key not in {"timings", "slot_id", "id_slot"}}


def test_over_http_as_in_process(server: Running, api: CompletionAPI) -> None:
    """The same objects, whole and streamed."""
    asked = image_body("one<image> two<image><image> what?", 0, 1, 2, n_probs=2)
    near = api.complete(asked)
    assert isinstance(near, dict)
    assert without_times(server.post("/completion", asked).json) == without_times(near)
    far = server.post("/completion", asked | {"stream": True}).events
    assert "".join(event["content"] for event in far) == near["content"]
    assert [set(event) for event in far] == [set(event) for event in api.stream(asked)]


@pytest.mark.parametrize("case", ["unknown number", "truncated", "a string", "one pixel"])
def test_refusals_over_http(server: Running, case: str) -> None:
    """Status 400 with the error object, and the server answers on."""
    images, prompt, _ = HOSTILE[case]
    reply = server.post("/completion", {"prompt": prompt, "image_data": images})
    assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
    assert "image_data" in reply.error["message"]
    assert server.get("/health").json == {"status": "ok"}


def test_bodies_with_images_may_be_larger(server: Running) -> None:
    """A limit of their own, for a model that is shown images."""
    large = image_body("<image>", 0) | {"note": "x" * 100_000}
    assert server.post("/completion", large).status == 200
    assert server.post("/completion", large | {"note": "x" * 300_000}).status == 413


def test_a_cut_never_takes_a_part_of_an_image() -> None:
    """Wherever it stands: a long prompt loses words only, or is left for the engine to refuse."""
    image = PromptImage({"pixels": torch.zeros(1)}, (8, 9, 9, 8), 9)
    num_cut = 0
    for place in range(60):
        words = list(range(100, 160))
        prompt = [*words[:place], *image.token_ids, *words[place:]]
        fitted = fit_prompt(prompt, 4, 24, None, [image])
        text = [each for each in fitted.token_ids if each >= 100 and not is_image_id(each)]
        shown = [each for each in fitted.token_ids if each not in text]
        assert shown == list(image.token_ids)
        assert fitted.is_cut == (len(text) < 60)
        num_cut += fitted.is_cut
    assert 0 < num_cut < 60
