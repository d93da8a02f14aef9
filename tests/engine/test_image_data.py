"""Requests that show images: transformers' own tokens, in their places, reused across turns."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import ContextOverflow, EngineError, InvalidRequest, NotSupported
from libertai_engine.model.images import Blindness
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from libertai_engine.wire.parse import Limits, parse_completion
from tests.fake_vision import (
    GREEDY,
    LLAVA_TOKENS,
    VISION_FAMILIES,
    base64_of,
    encode,
    image_body,
    image_data,
    own_tokens,
    picture,
    save_vision_model,
)
from tests.fakes import CONTEXT_SIZE

IMAGE_TOKEN = 400  # the id of `<image>`
THREE = "one<image> two <image>\nand three:<image> what is it?"


def load(folder: Path, **options: Any) -> Engine:
    settings = {"num_slots": 2, "batch_size": 16, **options}
    return load_engine(EngineConfig(model=str(folder), **settings), progress=False)


@pytest.fixture(scope="module")
def api(vision_models: dict[str, Path]) -> Iterator[CompletionAPI]:
    with load(vision_models["llava"]) as engine:
        yield CompletionAPI(engine)


def tokens_of(engine: Engine, asked: dict[str, Any]) -> list[int]:
    """What a body generates, in tokens."""
    limits = Limits(
        num_slots=engine.num_slots, context_size=engine.context_size, vision=engine.vision
    )
    (request,) = parse_completion(asked, engine.tokenizer, limits).requests
    return [token.token_id for delta in engine.submit(request) for token in delta.tokens]


@pytest.mark.parametrize("batch_size", [7, 512])
@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_three_images_as_transformers_would(
    vision_models: dict[str, Path], family: str, batch_size: int
) -> None:
    """Greedy tokens are those of `generate`, also where a step's border cuts an image."""
    folder = vision_models[family]
    expected = own_tokens(folder, THREE, [picture(seed) for seed in (0, 1, 2)], 12)
    with load(folder, batch_size=batch_size) as engine:
        got = tokens_of(engine, image_body(THREE, 0, 1, 2, ignore_eos=False))
        ended = [token for token in expected if token not in engine.tokenizer.eos_ids]
        # NOTE: a character that the limit would cut in half may be finished beyond it.
        assert len(ended) >= 3 and got[: len(ended)] == ended and len(got) <= len(ended) + 3


def test_the_order_in_the_prompt_decides(api: CompletionAPI) -> None:
    """Images stand where their tags are, whatever the order of `image_data`."""
    straight = api.complete(image_body("a<image> b<image> c", 0, 1))
    images = image_data(0, 1)
    crossed = image_body("a<image> b<image> c", 0, 1)
    crossed["image_data"] = [images[1], images[0]]
    assert api.complete(crossed)["content"] == straight["content"]
    swapped = crossed | {"prompt": "a[img-1] b[img-0] c"}
    assert api.complete(swapped)["content"] != straight["content"]


def test_an_image_may_be_shown_twice(api: CompletionAPI) -> None:
    """One entry, two tags; the same as two entries of one picture."""
    once = image_body("a[img-0] b[img-0] c", 3)
    assert (
        api.complete(once)["content"]
        == api.complete(image_body("a<image> b<image> c", 3, 3))["content"]
    )


def test_ids_default_to_the_index(api: CompletionAPI) -> None:
    """As on the server of 2023; numbers need not be in order, nor small."""
    images = image_data(0, 1)
    expected = api.complete(image_body("a<image> b<image> c", 0, 1))["content"]
    bare = [{"data": image["data"]} for image in images]
    assert (
        api.complete(image_body("a[img-0] b[img-1] c") | {"image_data": bare})["content"]
        == expected
    )
    named = [images[0] | {"id": 2_000_000_000}, images[1] | {"id": 7}]
    prompt = "a[img-2000000000] b[img-7] c"
    assert api.complete(image_body(prompt) | {"image_data": named})["content"] == expected


def test_the_prompt_comes_back_as_it_was(api: CompletionAPI) -> None:
    """Tags, and not what they were turned into."""
    result = api.complete(image_body("look: <image>", 0))
    assert result["prompt"] == "look: [img-0]"
    assert result["tokens_evaluated"] > LLAVA_TOKENS


def test_strings_in_a_mixed_prompt_show_images(api: CompletionAPI) -> None:
    """Around token ids, too."""
    token_ids = api.tokenize({"content": "a cat"})["tokens"]
    mixed = image_body("") | {
        "prompt": ["look", *token_ids, "[img-0] what?"],
        "image_data": image_data(0),
    }
    plain = image_body("") | {"prompt": ["look", *token_ids, " what?"], "image_data": None}
    more = api.complete(mixed)["tokens_evaluated"] - api.complete(plain)["tokens_evaluated"]
    assert more == LLAVA_TOKENS


def test_several_prompts_share_the_images(api: CompletionAPI) -> None:
    """Each shows those that it names; all together name every one."""
    images = image_data(0, 1)
    several = image_body("") | {"prompt": ["a[img-0] b", "c[img-1][img-0] d"], "image_data": images}
    results = api.complete(several)
    first = api.complete(image_body("a[img-0] b") | {"image_data": images[:1]})
    second = api.complete(image_body("c[img-1][img-0] d") | {"image_data": images})
    assert [each["content"] for each in results] == [first["content"], second["content"]]


def test_the_images_own_token_as_text(api: CompletionAPI) -> None:
    """Somebody who writes `<image>` shows nothing, and moves no image from its place."""
    around = api.complete(
        image_body("") | {"prompt": "<image> a[img-0] <image>", "image_data": image_data(0)}
    )
    without = api.complete(image_body("") | {"prompt": " a[img-0] ", "image_data": image_data(0)})
    assert around["tokens_evaluated"] >= without["tokens_evaluated"] + 2
    assert around["content"] != without["content"]


def test_two_conversations_with_different_images_in_one_batch(api: CompletionAPI) -> None:
    """Neither sees the other's picture."""
    asked = [
        image_body("see <image> now", seed, n_predict=24, cache_prompt=True) for seed in (0, 1)
    ]
    alone = [api.complete(each)["content"] for each in asked]
    assert alone[0] != alone[1]
    streams = [api.stream(each) for each in asked]
    texts = ["", ""]
    for _ in range(30):
        for index, stream in enumerate(streams):
            texts[index] += next(stream, {"content": ""})["content"]
    assert texts == alone


def test_a_turn_that_keeps_the_image_evaluates_only_what_is_new(api: CompletionAPI) -> None:
    """`cache_n` counts the tokens of images, and the answer is that of an empty cache."""
    first = api.complete(image_body("see <image> and <image> now", 4, 5, cache_prompt=True))
    text = "see <image> and <image> now" + first["content"] + " then?"
    second = api.complete(image_body(text, 4, 5, cache_prompt=True))
    assert second["timings"]["cache_n"] >= first["tokens_evaluated"] > 2 * LLAVA_TOKENS
    assert second["timings"]["prompt_n"] < LLAVA_TOKENS
    assert second["content"] == api.complete(image_body(text, 4, 5, cache_prompt=False))["content"]


def test_another_image_is_not_taken_from_the_cache(api: CompletionAPI) -> None:
    """Equal words around an image that differs: all from the image on is evaluated."""
    one = api.complete(image_body("see <image> now", 6, cache_prompt=True))
    other = api.complete(image_body("see <image> now", 7, cache_prompt=True))
    before = api.engine.tokenizer.encode("see <image> now", add_special=True).index(IMAGE_TOKEN)
    assert other["timings"]["cache_n"] == before
    fresh = api.complete(image_body("see <image> now", 7, cache_prompt=False))
    assert other["content"] == fresh["content"] != one["content"]


def test_prefixes_with_images_are_copied_and_stored(vision_models: dict[str, Path]) -> None:
    """From one slot to another, through the host store and back; no image is evaluated twice."""
    with load(vision_models["llava"], num_slots=2) as engine:
        api = CompletionAPI(engine)
        expected = api.complete(image_body("see <image> now", 0, slot_id=0, cache_prompt=True))
        copied = api.complete(image_body("see <image> now", 0, slot_id=1, cache_prompt=True))
        for slot in (0, 1):  # push it out of both slots
            api.complete(image_body(f"nothing {slot} to see", slot_id=slot, image_data=None))
        stored = api.complete(image_body("see <image> now", 0, slot_id=1, cache_prompt=True))
        for each in (copied, stored):
            assert each["timings"]["prompt_n"] == 1
            assert each["content"] == expected["content"]


def test_a_saved_slot_keeps_its_images(vision_models: dict[str, Path], tmp_path: Path) -> None:
    """Ids mean the same in the next process, so a restored slot is reused."""
    asked = image_body("see <image> now", 0, slot_id=0, cache_prompt=True)
    with load(vision_models["llava"]) as engine:
        expected = CompletionAPI(engine).complete(asked)
        engine.save_slot(0, tmp_path / "slot")
    with load(vision_models["llava"]) as engine:
        engine.restore_slot(0, tmp_path / "slot")
        again = CompletionAPI(engine).complete(asked)
        assert again["timings"]["prompt_n"] == 1 and again["content"] == expected["content"]
        other = CompletionAPI(engine).complete(image_body("see <image> now", 1, cache_prompt=True))
        assert other["timings"]["cache_n"] < LLAVA_TOKENS


def test_features_that_were_forgotten_are_computed_again(vision_models: dict[str, Path]) -> None:
    """A table that keeps nothing gives the same answers, in the smallest steps."""
    with load(vision_models["llava"], feature_bytes=0, batch_size=3) as engine:
        forgetful = CompletionAPI(engine).complete(image_body(THREE, 0, 1, 2))
    with load(vision_models["llava"]) as engine:
        assert (
            forgetful["content"]
            == CompletionAPI(engine).complete(image_body(THREE, 0, 1, 2))["content"]
        )


def test_penalties_and_probabilities_know_text_only(api: CompletionAPI) -> None:
    """A whole window of image tokens changes nothing, and no id beyond the vocabulary comes out."""
    options = {"n_probs": 5, "temperature": 0, "ignore_eos": True}
    strict = {"repeat_penalty": 1.5, "presence_penalty": 1.0, "frequency_penalty": 1.0}
    window = {"repeat_last_n": LLAVA_TOKENS + 1, "n_predict": 1}
    plain = api.complete(image_body("see<image>", 0, **options, n_predict=1, repeat_penalty=1.0))
    punished = api.complete(image_body("see<image>", 0, **options | strict | window))
    free = api.complete(
        image_body("see<image>", 0, **options | strict | window | {"repeat_last_n": 0})
    )
    assert free["completion_probabilities"] == plain["completion_probabilities"]
    # The window reaches back over the image to the word before it.
    assert punished["completion_probabilities"] != free["completion_probabilities"]
    for token in api.complete(image_body(THREE, 0, 1, 2, **options | strict))[
        "completion_probabilities"
    ]:
        assert len(token["probs"]) == 5


def test_an_answer_goes_on_when_the_context_is_full(api: CompletionAPI) -> None:
    """The older half leaves, be it of an image; what is said stays text."""
    filler = "word " * 60
    result = api.complete(
        image_body(f"<image>{filler}", 0, n_predict=CONTEXT_SIZE, ignore_eos=True)
    )
    assert result["truncated"] and result["tokens_predicted"] >= CONTEXT_SIZE


def test_text_alone_on_a_model_with_eyes(
    api: CompletionAPI, vision_models: dict[str, Path]
) -> None:
    """The language model's own answer; without `image_data`, a tag is text."""
    text = "what is [img-0] then"
    expected = own_tokens(vision_models["llava"], text, [], 9)
    asked = {"prompt": text, "n_predict": 9, **GREEDY, "ignore_eos": False}
    assert tokens_of(api.engine, asked)[:9] == expected


def test_images_count_as_tokens(api: CompletionAPI) -> None:
    """`ContextOverflow` tells all of them; an image is never cut, words before it are."""
    words = "word " * CONTEXT_SIZE
    exact = {"context_shift": False}
    with pytest.raises(ContextOverflow) as refused:
        api.complete(image_body(f"{words}<image>", 0, **exact))
    with pytest.raises(ContextOverflow) as plain:
        api.complete(image_body(words, image_data=None, **exact))
    assert refused.value.num_prompt_tokens - plain.value.num_prompt_tokens == LLAVA_TOKENS
    cut = api.complete(image_body(f"{words}<image> so?", 0))
    assert cut["truncated"] and cut["tokens_evaluated"] < CONTEXT_SIZE
    for lost in (f"<image>{words}", f"{words[: len(words) // 2]}<image>{words}"):
        with pytest.raises(ContextOverflow) as refused:
            api.complete(image_body(lost, 0))
        assert refused.value.num_prompt_tokens > CONTEXT_SIZE


def test_more_images_than_any_context_are_not_written_out(api: CompletionAPI) -> None:
    """Tags are cheap to send; what they stand for is counted before it is made."""
    started = time.monotonic()
    with pytest.raises(ContextOverflow) as refused:
        api.complete(image_body("[img-0]" * 100_000, 0))
    assert refused.value.num_prompt_tokens == 100_000 * LLAVA_TOKENS
    assert time.monotonic() - started < 2


def test_a_model_of_text_ignores_images(long_model: Path) -> None:
    """Whatever they are; the tag is text, as on the server of 2023."""
    with load(long_model, context_size=128) as engine:
        api = CompletionAPI(engine)
        plain = api.complete({"prompt": "a [img-1] b", "n_predict": 4, **GREEDY})
        given = api.complete(
            {"prompt": "a [img-1] b", "n_predict": 4, **GREEDY, "image_data": "anything"}
        )
        assert given["content"] == plain["content"]
        assert api.props()["modalities"] == {"vision": False, "audio": False}


def test_a_vision_tower_that_cannot_be_used(tmp_path: Path) -> None:
    """501 with the reason for requests with images; all others are answered."""
    folder = save_vision_model(tmp_path)
    (folder / "processor_config.json").unlink()
    with load(folder) as engine:
        api = CompletionAPI(engine)
        assert isinstance(engine.vision, Blindness)
        with pytest.raises(NotSupported, match=r"`image_data`.*processor cannot be loaded"):
            api.complete(image_body("<image>", 0))
        assert api.complete(image_body("[img-0]", image_data=[]))["content"]
        assert api.props()["modalities"]["vision"] is False


def test_props_and_chunks_say_that_images_are_seen(api: CompletionAPI) -> None:
    """Under today's key, and under that of 2023."""
    assert api.props()["modalities"] == {"vision": True, "audio": False}
    *chunks, final = api.stream(image_body("see <image>", 0))
    assert chunks and all(chunk["multimodal"] is True for chunk in chunks)
    assert final["stop"]


def test_an_image_that_is_not_with_its_request(api: CompletionAPI) -> None:
    """Ids of images cannot be smuggled in as numbers."""
    engine = api.engine
    assert engine.vision is not None and not isinstance(engine.vision, Blindness)
    image = engine.vision.read(encode(picture(0)))
    prompt = (1, *image.token_ids)
    with pytest.raises(InvalidRequest, match="`prompt` has a token id outside"):
        engine.submit(Request(prompt_ids=prompt, sampling=SamplingParams()))
    with pytest.raises(InvalidRequest, match="`prompt` must be an integer between"):
        api.complete(image_body("") | {"prompt": list(prompt), "image_data": None})


def test_errors_keep_the_engine(api: CompletionAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tower that fails on one picture ends that request only."""
    engine = api.engine
    assert engine.model is not None
    module: Any = engine.model.module
    good = module.get_image_features
    calls: list[int] = []

    def features(**inputs: Any) -> Any:
        calls.append(1)
        if inputs["pixel_values"][0, 0, 0, 0] == bad:
            raise RuntimeError("broken tower")
        return good(**inputs)

    vision: Any = engine.vision
    bad = vision.read(encode(picture(31))).inputs["pixel_values"][0, 0, 0, 0]
    monkeypatch.setattr(module, "get_image_features", features)
    healthy = api.stream(image_body("see <image> now", 30))
    next(healthy)
    with pytest.raises(EngineError, match="the model failed"):
        api.complete(
            image_body("see <image> now", 31, image_data=[{"data": base64_of(encode(picture(31)))}])
        )
    assert list(healthy)[-1]["stop"] and calls
