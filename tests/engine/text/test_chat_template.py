"""Chat templates: what they can use, and that they can hurt nobody."""

from __future__ import annotations

import re
from typing import Any

import pytest

from libertai_engine.errors import InvalidRequest
from libertai_engine.text import chat_template
from libertai_engine.text.chat_template import CHATML, MAX_PROMPT_CHARS

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <b>"},
]


def render(template: str, messages: list[dict[str, Any]] | None = None, **options: Any) -> str:
    """The template over two messages, with <s> and </s>."""
    return chat_template.render(
        template, MESSAGES if messages is None else messages, bos_token="<s>", eos_token="</s>",
        **options,
    )  # fmt: skip


def test_chatml_is_the_template_of_models_without_one() -> None:
    """With and without the opening of the answer."""
    turns = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b><|im_end|>\n"
    assert render(CHATML) == turns + "<|im_start|>assistant\n"
    assert render(CHATML, add_generation_prompt=False) == turns


READS_PARTS = (
    "{% for m in messages %}{{ m['role'] }}:{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% elif part['type'] == 'image' %}<image>"
    "{% endif %}{% endfor %};{% endfor %}"
)


def test_a_template_that_reads_parts_gets_parts() -> None:
    """Models with eyes have such; over plain text it would write nothing, and say nothing."""
    assert render(READS_PARTS) == "system:Be brief.;user:Hi <b>;"
    both = (
        "{% for m in messages %}{{ m['content'] if m['content'] is string else 1/0 }}{% endfor %}"
    )
    assert render(both) == "Be brief.Hi <b>"


def test_templates_get_tokens_and_tools() -> None:
    """tojson writes plain JSON, not HTML-safe JSON."""
    template = "{{ bos_token }}{{ tools | tojson }}{{ eos_token }}"
    assert render(template, tools=[{"name": "é<'"}]) == '<s>[{"name": "é<\'"}]</s>'
    assert render("{{ tools is none }}") == "True"
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}") == (
        '{\n "a": 2,\n "b": 1\n}'
    )


def test_blocks_leave_no_blank_lines() -> None:
    """trim_blocks and lstrip_blocks, as templates are written for."""
    lines = ("{% for m in messages %}", "    {% if true %}", "{{ m.role }}", "    {% endif %}")
    template = "\n".join([*lines, "{% endfor %}"])
    assert render(template) == "system\nuser\n"


def test_loops_can_break_and_continue() -> None:
    """The loop control extension is on."""
    template = (
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}"
    )
    assert render(template) == "system"


def test_generation_marks_are_transparent() -> None:
    """They mark what a trainer looks at."""
    assert render("a{% generation %}{{ messages[0].role }}{% endgeneration %}b") == "asystemb"


def test_the_date_can_be_asked_for() -> None:
    """Some templates put today's date into the system prompt."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))


def test_a_template_may_refuse_the_messages() -> None:
    """Its words reach the client."""
    with pytest.raises(InvalidRequest, match="roles must alternate") as raised:
        render("{{ raise_exception('roles must alternate') }}")
    assert raised.value.field == "messages"


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[9].role.nothing }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{% include 'secrets' %}",
        "{% set ns = namespace() %}{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_whatever_goes_wrong_is_an_invalid_request(template: str) -> None:
    """Broken, unlucky and malicious templates alike."""
    with pytest.raises(InvalidRequest, match="chat template cannot render"):
        render(template)
    assert MESSAGES[0] == {"role": "system", "content": "Be brief."}


def test_the_prompt_has_a_largest_size() -> None:
    """Checked while it grows, not when it is done."""
    body = "{% for j in range(50000) %}{{ 'x' * 1000 }}{% endfor %}"
    endless = "{% for i in range(50000) %}" + body + "{% endfor %}"
    with pytest.raises(InvalidRequest, match="too long a prompt"):
        render(endless)
    exact = [{"role": "user", "content": "x" * MAX_PROMPT_CHARS}]
    assert len(render("{{ messages[0].content }}", exact)) == MAX_PROMPT_CHARS
