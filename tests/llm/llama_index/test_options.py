"""Group 3: prompts, formatted or not; options of a call act on that call, and wrong ones do not."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage

from libertai_llm.errors import InvalidOption, UnknownOption
from libertai_llm.llama_index import Libertai
from tests.llm.langchain.scripted import ScriptedServer
from tests.llm.option_values import OPTIONS

CALLS = ("chat", "stream_chat", "complete", "stream_complete")
# A server's own field of the same name is what LlamaIndex calls the text before a chat.
# A schema becomes a grammar, which `test_structured` looks at.
NAMES = sorted(set(OPTIONS) - {"system_prompt", "json_schema"})


def call(llm: Libertai, method: str, **options: Any) -> Any:
    """A method by its name, to its end."""
    given: Any = "Hello!" if "complete" in method else [ChatMessage("Hello!")]
    result = getattr(llm, method)(given, **options)
    return list(result) if method.startswith("stream") else result


def test_texts_are_formatted_once(server: ScriptedServer) -> None:
    """`completion_to_prompt` is applied to a text, unless it is formatted already."""
    plain = Libertai(base_url=server.url)
    dressed = Libertai(base_url=server.url, completion_to_prompt=lambda text: f"Q: {text}\nA:")
    plain.complete("Hello!")
    dressed.complete("Hello!")
    dressed.complete("Hello!", formatted=True)
    dressed.complete("Hello!", True)
    list(dressed.stream_complete(prompt="Hello!"))
    prompts = [each["prompt"] for each in server.completions]
    assert prompts == ["Hello!", "Q: Hello!\nA:", "Hello!", "Hello!", "Q: Hello!\nA:"]


def test_messages_go_through_the_template(server: ScriptedServer) -> None:
    """The given template, else the server's, else ChatML; its end of a turn stops the answer."""
    messages = [ChatMessage("Be brief.", role="system"), ChatMessage("Hello!")]
    Libertai(base_url=server.url).chat(messages)
    source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[END]{% endfor %}[assistant]"
    Libertai(base_url=server.url, chat_template=source).chat(messages=messages)
    server.props = {"chat_template": source.replace("[assistant]", "[bot]")}
    Libertai(base_url=server.url).chat(messages)
    one, two, three = server.completions
    assert one["prompt"].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert one["stop"] == ["<|im_end|>"]
    assert two["prompt"] == "[system]Be brief.[END][user]Hello![END][assistant]"
    assert two["stop"] == ["[END]"] and three["prompt"].endswith("[bot]")


def test_a_function_for_messages_replaces_the_template(server: ScriptedServer) -> None:
    """LlamaIndex's own way to say how messages are written."""
    llm = Libertai(
        base_url=server.url,
        messages_to_prompt=lambda messages: "|".join(str(each.content) for each in messages),
    )
    llm.chat([ChatMessage("a"), ChatMessage("b", role="assistant")])
    list(llm.stream_chat([ChatMessage("c")]))
    assert [each["prompt"] for each in server.completions] == ["a|b", "c"]


def test_system_prompt_comes_first(server: ScriptedServer) -> None:
    """In the template for a chat model, before the text for one that is none."""
    prompt = PromptTemplate("Say {word}.")
    Libertai(base_url=server.url, system_prompt="Be brief.").predict(prompt, word="no")
    Libertai(base_url=server.url, system_prompt="Be brief.", is_chat_model=False).predict(
        prompt, word="no"
    )
    chat, text = (each["prompt"] for each in server.completions)
    assert chat.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nSay no.")
    assert text == "Be brief.\n\nSay no."


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_the_model_s_or_the_call_s(server: ScriptedServer, name: str) -> None:
    """The constructor's value reaches the server; a call's replaces it for that call only."""
    own, given, wire = OPTIONS[name]
    llm = Libertai(base_url=server.url, **{name: own})
    for method in CALLS:
        call(llm, method, **{name: given})
        call(llm, method)
    sent = [each[wire] for each in server.completions]
    assert sent[0] == sent[2] and sent[1] == sent[3] and sent == sent[:2] * 4
    assert sent[0] != sent[1]


def test_stop_words_add_up(server: ScriptedServer) -> None:
    """The model's, the call's, and the template's."""
    llm = Libertai(base_url=server.url, stop=["Observation:"])
    llm.chat([ChatMessage("Hello!")], stop=["User:"])
    llm.complete("Hello!", stop="User:")
    llm.complete("Hello!")
    stops = [each["stop"] for each in server.completions]
    words = ["Observation:", "User:"]
    assert stops == [[*words, "<|im_end|>"], words, words[:1]]


def test_stop_words_end_the_answer(server: ScriptedServer) -> None:
    """What the model says after one is not heard, as an agent needs it."""
    server.answer = lambda prompt: "Action: add\nObservation: 12"
    answer = Libertai(base_url=server.url, stop=["Observation:"]).chat([ChatMessage("3 plus 4?")])
    assert answer.message.content == "Action: add\n"
    assert answer.additional_kwargs["stopping_word"] == "Observation:"


@pytest.mark.parametrize("method", CALLS)
def test_unknown_options_are_refused(server: ScriptedServer, method: str) -> None:
    """A misspelt one is named, with what may have been meant; nothing is sent."""
    llm = Libertai(base_url=server.url)
    with pytest.raises(UnknownOption, match="temperature"):
        call(llm, method, temprature=1)
    with pytest.raises(InvalidOption):
        call(llm, method, max_tokens="many")
    assert not server.completions


@pytest.mark.parametrize("method", ["chat", "complete"])
def test_what_is_asked_is_given_once(server: ScriptedServer, method: str) -> None:
    """Without a prompt or messages, and with two, it is the caller's mistake."""
    llm = Libertai(base_url=server.url)
    name = "messages" if method == "chat" else "prompt"
    given: Any = [ChatMessage("Hello!")] if method == "chat" else "Hello!"
    with pytest.raises((TypeError, ValueError)):
        getattr(llm, method)()
    with pytest.raises(TypeError):
        getattr(llm, method)(given, **{name: given})
    assert not server.completions


def test_further_fields_go_into_extra_body(server: ScriptedServer) -> None:
    """What only one server knows is sent as it is, the call's beside the model's."""
    llm = Libertai(base_url=server.url, extra_body={"lora": 1}, model="one")
    llm.complete("Hello!", extra_body={"beam": 2})
    (sent,) = server.completions
    assert (sent["lora"], sent["beam"], sent["model"]) == (1, 2, "one")
