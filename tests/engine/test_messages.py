"""Chat messages: what is taken, what is refused by name, and the prompt that comes of them."""

from __future__ import annotations

from typing import Any

import pytest

from libertai_engine.errors import EngineError, InvalidRequest, NotSupported
from libertai_engine.text.tokenizer import Tokenizer
from libertai_engine.wire.coerce import Body
from libertai_engine.wire.messages import parse_chat
from tests.engine.serving import Running
from tests.engine.text.test_tokenizer import byte_level
from tests.fakes import BOS, tiny_tokenizer

HELLO = {"role": "user", "content": "Hello"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer())


def prompt_of(tokenizer: Tokenizer, *messages: Any, **fields: Any) -> str:
    return parse_chat(Body({"messages": list(messages), **fields}), tokenizer).text


def test_the_models_template_is_written_without_its_bos(tokenizer: Tokenizer) -> None:
    """Encoding puts BOS in front, once; roles and letters are as they were given."""
    text = prompt_of(tokenizer, {"role": "system", "content": "Be brief."}, HELLO)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.encode(BOS + text, add_special=True) == tokenizer.encode(
        text, add_special=True
    )


def test_a_turn_can_be_left_unopened(tokenizer: Tokenizer) -> None:
    """`add_generation_prompt`, as llama-server has it."""
    assert prompt_of(tokenizer, HELLO, add_generation_prompt=False).endswith("Hello<|im_end|>\n")


def test_parts_of_text_are_joined(tokenizer: Tokenizer) -> None:
    """Nothing comes between them: an earlier answer must come back letter by letter."""
    parts = [{"type": "text", "text": "Hel"}, {"type": "input_text", "text": "lo"}]
    assert prompt_of(tokenizer, {"role": "user", "content": parts}) == prompt_of(tokenizer, HELLO)


def test_the_developer_is_the_system(tokenizer: Tokenizer) -> None:
    """OpenAI's newer name; templates know the older one."""
    text = prompt_of(tokenizer, {"role": "developer", "content": "x"}, HELLO)
    assert text == prompt_of(tokenizer, {"role": "system", "content": "x"}, HELLO)


def test_a_model_without_a_template_gets_chatml_and_its_stop_word(tokenizer: Tokenizer) -> None:
    """Its tokenizer has no token that would end the turn."""
    prompt = parse_chat(Body({"messages": [HELLO]}), Tokenizer(byte_level()))
    assert prompt.text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert prompt.stop == ("<|im_end|>",)
    assert parse_chat(Body({"messages": [HELLO]}), tokenizer).stop == ()


def test_templates_in_messages_are_text(tokenizer: Tokenizer) -> None:
    """Only the model's own template is a program."""
    assert "{{ 7 * 7 }}" in prompt_of(tokenizer, {"role": "user", "content": "{{ 7 * 7 }}"})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": ["Hello"]}, "messages[0]"),
    ({"messages": [HELLO, {"content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        "messages[0].content[0].text",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0].type",
    ),
    ({"messages": [{**HELLO, "name": 5}]}, "messages[0].name"),
    ({"messages": [HELLO], "add_generation_prompt": "yes"}, "add_generation_prompt"),
]


@pytest.mark.parametrize(("fields", "named"), WRONG, ids=[named for _, named in WRONG])
def test_wrong_messages_are_named(tokenizer: Tokenizer, fields: dict[str, Any], named: str) -> None:
    """Down to the part of the message."""
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(Body(fields), tokenizer)
    assert caught.value.field == named and f"`{named}`" in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"tool_choice": "auto"},
        {"tool_choice": {"type": "function"}},
        {"functions": [{}]},
        {"chat_template": "{{ 1 }}"},
        {"chat_template_kwargs": {"a": 1}},
        {"messages": [HELLO, {"role": "tool", "content": "42"}]},
        {"messages": [HELLO, {"role": "assistant", "content": "", "tool_calls": [{}]}]},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_not_supported_is_never_ignored(
    tokenizer: Tokenizer, fields: dict[str, Any]
) -> None:
    """An answer that knows nothing of the tools would be a wrong answer."""
    with pytest.raises(NotSupported) as caught:
        parse_chat(Body({"messages": [HELLO], **fields}), tokenizer)
    assert caught.value.field and f"`{caught.value.field}`" in str(caught.value)
    none: dict[str, Any] = {"tools": [], "tool_choice": "none", "functions": None}
    assert parse_chat(Body({"messages": [HELLO], **none}), tokenizer).text


def test_a_template_that_refuses(tokenizer: Tokenizer) -> None:
    """Its words reach the caller, as a wrong request."""
    hf = tiny_tokenizer()
    hf.chat_template = "{{ raise_exception('only one message') }}"
    with pytest.raises(EngineError, match="only one message"):
        prompt_of(Tokenizer(hf), HELLO)


def test_over_http(server: Running, tokenizer: Tokenizer) -> None:
    """The route answers with a prompt, which /completion takes as it is."""
    reply = server.post("/apply-template", {"messages": [HELLO]})
    assert reply.json == {"prompt": prompt_of(tokenizer, HELLO)}
    assert server.post("/apply-template", {"messages": []}).error["code"] == 400
    answer = server.post("/completion", {**reply.json, "n_predict": 1})
    assert answer.json["tokens_evaluated"] == len(
        tokenizer.encode(reply.json["prompt"], add_special=True)
    )
