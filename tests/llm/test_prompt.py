"""Chat templates: what the prompt looks like, which stops it implies, what it refuses."""

from __future__ import annotations

import pytest

from libertai_llm.errors import LibertaiError
from libertai_llm.prompt import ChatTemplate, ChatTemplateError, merge_stops

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello, how are you?"},
    {"role": "assistant", "content": "Fine. And you? "},
    {"role": "user", "content": "Good."},
]
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{{ 'USER: ' if m.role == 'user' else 'ASSISTANT: ' }}"
    "{{ m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def test_a_server_that_tells_nothing_gets_chatml() -> None:
    """The default is ChatML, letter by letter, and the answers' own spaces survive."""
    assert ChatTemplate().render(TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHello, how are you?<|im_end|>\n"
        "<|im_start|>assistant\nFine. And you? <|im_end|>\n"
        "<|im_start|>user\nGood.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("answer", ["x", " x ", "\n\nx\n", "", "{{ 7 * 7 }}", "{% raw %}", "<b>&"])
def test_the_next_prompt_continues_the_last_prompt_and_its_answer(answer: str) -> None:
    """Whatever the answer was, prompt + answer is a prefix of the next turn's prompt."""
    template = ChatTemplate()
    first = template.render(TALK)
    more = [*TALK, {"role": "assistant", "content": answer}, {"role": "user", "content": "So?"}]
    assert template.render(more).startswith(first + answer)


READS_PARTS = (
    "{% for m in messages %}{{ m['role'] }}:{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}<image>"
    "{% endif %}{% endfor %}<end>\n{% endfor %}"
)


def test_a_template_that_reads_parts_gets_parts() -> None:
    """Models with eyes have such; over plain text it would write nothing, and say nothing."""
    template = ChatTemplate(READS_PARTS)
    assert template.render(TALK[2:]) == "assistant:Fine. And you? <end>\nuser:Good.<end>\n"
    assert template.stops == ["<end>"]


def test_chatml_shows_earlier_tool_calls() -> None:
    """Calls in the history are part of the prompt, as plain JSON and not as HTML."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": "<é>"}}}
    prompt = ChatTemplate().render([{"role": "assistant", "content": "", "tool_calls": [call]}])
    assert prompt == (
        "<|im_start|>assistant\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": "<é>"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>assistant\n"
    )


def test_the_leading_bos_text_is_left_to_the_server() -> None:
    """One BOS at the front is removed, and only there."""
    template = ChatTemplate("{{ bos_token }}{{ bos_token }}{{ messages[0].content }}", "<s>")
    assert template.render([{"role": "user", "content": "a<s>"}]) == "<s>a<s>"
    assert ChatTemplate("{{ bos_token }}x").render([]) == "x"


@pytest.mark.parametrize(
    ("source", "stops"),
    [
        (None, ["<|im_end|>"]),
        (LLAMA_3, ["<|eot_id|>"]),
        (LLAMA_2, ["</s>"]),
        (VICUNA, ["\nUSER:"]),
        ("{{ messages[0].content }}", []),
        ("{{ raise_exception('no') }}", []),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", []),
    ],
)
def test_the_template_tells_what_ends_a_turn(source: str | None, stops: list[str]) -> None:
    """Stops are read off the template itself, for marker styles and for plain role names."""
    assert ChatTemplate(source, "<s>", "</s>").stops == stops


def test_templates_may_use_what_models_ship() -> None:
    """raise_exception, strftime_now, tojson with indent, loop controls and whitespace trimming."""
    template = ChatTemplate(
        "{% for m in messages %}\n"
        "    {% if m.role == 'skip' %}{% continue %}{% endif %}\n"
        "{{ m.content }}|{% break %}\n"
        "{% endfor %}\n"
        "{% generation %}{{ {'a': ['é']} | tojson(indent=1) }}{% endgeneration %}"
        "|{{ strftime_now('%Y') | length }}|{{ tools[0].n }}"
    )
    messages = [{"role": "skip", "content": "no"}, {"role": "user", "content": "yes"}]
    text = template.render(messages, tools=[{"n": 1}])
    assert text.split("|")[0].strip() == "yes"
    assert text.split("|")[1:] == ['{\n "a": [\n  "é"\n ]\n}', "4", "1"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% for %}", "failed"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 1 }}", "failed"),
        ("{{ 1 / 0 }}", "failed"),
        ("{{ messages.nothing.at_all }}", "failed"),
        ("{{ range(10 ** 9) | list }}", "too big"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not allowed"),
    ],
)
def test_a_broken_or_hostile_template_is_a_typed_error(source: str, words: str) -> None:
    """Never a bare jinja2 error, and nothing outside the sandbox is reached."""
    with pytest.raises(ChatTemplateError, match=words) as caught:
        ChatTemplate(source).render([{"role": "user", "content": "x"}])
    assert isinstance(caught.value, LibertaiError)
    assert isinstance(caught.value, ValueError)


def test_rendering_leaves_the_messages_alone() -> None:
    """The caller's dicts are the same before and after."""
    messages = [{"role": "user", "content": "x"}]
    ChatTemplate("{% set messages = [] %}{{ messages }}").render(messages)
    assert messages == [{"role": "user", "content": "x"}]


TOOL = {"type": "function", "function": {"name": "add", "description": "", "parameters": {}}}
ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "é": "ü"}}}
WITH_CALL = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "so", "tool_calls": [ADD, ADD]},
    {"role": "tool", "content": "3"},
]
CALLED = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "é": "ü"}}\n</tool_call>'


def test_a_template_without_tools_is_told_in_words() -> None:
    """Tools go into the system message, the user's own or a new one."""
    for messages in (TALK, TALK[1:]):
        prompt = ChatTemplate(LLAMA_3).render(messages, [TOOL])
        system = prompt.partition("<|eot_id|>")[0]
        assert '{"name": "add", "description": "", "parameters": {}}' in system
        assert "<tool_call>" in system and system.startswith("<|start_header_id|>system")
        assert ("Be brief." in system) == (messages is TALK)
    assert "<tools>" in ChatTemplate().render(TALK, [TOOL])
    assert "<tools>" not in ChatTemplate().render(TALK, [])


def test_a_template_without_calls_shows_them_as_text() -> None:
    """Calls in the answer that made them, results as the user's words; letter by letter."""
    prompt = ChatTemplate(LLAMA_3).render(WITH_CALL)
    assert f"so\n{CALLED}\n{CALLED}<|eot_id|>" in prompt
    assert "user<|end_header_id|>\n\n<tool_response>\n3\n</tool_response><|eot_id|>" in prompt


def test_a_template_with_tools_and_calls_gets_them() -> None:
    """As data, untouched."""
    source = (
        "{{ tools[0].function.name }}{{ messages[1].tool_calls | length }}{{ messages[2].role }}"
    )
    assert ChatTemplate(source).render(WITH_CALL, [TOOL]) == "add2tool"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "none"),
        ("{{ messages[0].content.split('</think>')[-1] }}", "optional"),
        ("{{ messages[0].content }}<think>\n", "begun"),
    ],
)
def test_whether_a_model_thinks_is_read_off_its_template(source: str | None, expected: str) -> None:
    """A template that drops thoughts has a model that thinks; one may open the thoughts itself."""
    template = ChatTemplate(source)
    assert template.reasoning(template.render(TALK)) == expected


@pytest.mark.parametrize(
    ("lists", "merged"),
    [
        ((), []),
        ((None, [], ""), []),
        ((["a", "b"], ["b", "c"], "d"), ["a", "b", "c", "d"]),
        ((["", "a"], ("a",)), ["a"]),
    ],
)
def test_stops_merge_in_order_and_once(
    lists: tuple[list[str] | str | None, ...], merged: list[str]
) -> None:
    """A stop given twice counts once, an empty one never, a string is one word."""
    assert merge_stops(*lists) == merged
