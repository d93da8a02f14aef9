"""Tool use in the Hermes form. In: offered tools, records, words. Out: conversations with calls.

Every text of them is written word for word as `chat_template.jinja` writes it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from corpus.document import Message
from corpus.extraction import task
from corpus.offering import Offer, Use, offers, unfitting, use
from corpus.phrases import choose
from corpus.words import Words

NO_TOOL = "I have no tool for that."
INTRODUCTION = (
    "# Tools\n\nYou may call functions to help with the question of the user. Their signatures are "
    "within <tools></tools>:\n<tools>"
)
INSTRUCTION = (
    "\n</tools>\n\nFor each call, write a JSON object with the name and the arguments within "
    '<tool_call></tool_call>:\n<tool_call>\n{"name": <name>, "arguments": <arguments>}\n'
    "</tool_call>"
)
SYSTEMS = (
    "You are a helpful assistant.",
    "You are a [friendly|useful|helpful] assistant[ with tools| that uses tools|].",
    "Use [the|a] [tool|tools] when [it helps|needed].",
)
WHICH = (
    "[Which|What] tool [helps here|is needed|do I need|fits][: {q}|? {q}]",
    "[Name|Tell me] the [right |]tool[ for this|]: {q}",
    "{q} [Which|What] tool [answers this|can do this]?",
)
NONE = "None."


def system_text(rng: random.Random, schemas: Sequence[Mapping[str, Any]], start: str) -> str:
    """Return the system message that offers the tools, as the chat template writes it."""
    listed = "".join("\n" + json.dumps(each, ensure_ascii=False) for each in schemas)
    return (f"{start}\n\n" if start else "") + INTRODUCTION + listed + INSTRUCTION


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """Return one call as the assistant writes it."""
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def turns(each: Use, *, told: bool) -> list[Message]:
    """Return a question and its call; with `told`, the result and the answer, too."""
    made = [Message("user", each.question)]
    made.append(Message("assistant", call_text(each.name, each.arguments)))
    if told:
        result = f"<tool_response>\n{each.result}\n</tool_response>"
        made += [Message("user", result), Message("assistant", each.answer)]
    return made


def _start(rng: random.Random) -> str:
    return choose(rng, rng.choice(SYSTEMS)) if rng.random() < 0.4 else ""


def calling(
    rng: random.Random,
    words: Words,
    count: int,
    small_talk: Sequence[Message] = (),
    *,
    kept: bool = False,
) -> list[Message]:
    """Return a conversation with `count` tools: calls, results, and questions without a tool."""
    offered = offers(rng, words, count)
    messages = [Message("system", system_text(rng, [o.schema for o in offered], _start(rng)))]
    for _ in range(rng.choice([1, 2, 3, 4, 5, 6])):
        style = rng.random()
        if style < 0.27:
            asked = unfitting(rng, words, offered)
            messages += [Message("user", asked), Message("assistant", NO_TOOL)]
        elif style < 0.34 and small_talk:
            messages += small_talk
            small_talk = ()
        elif style < 0.37:
            messages += _two_calls(rng, words, rng.choice(offered))
        elif style < 0.4:
            messages += _told_as_json(use(rng, words, rng.choice(offered), kept=kept))
        else:
            made = use(rng, words, rng.choice(offered), kept=kept)
            messages += turns(made, told=rng.random() < 0.6)
    return messages


def _told_as_json(each: Use) -> list[Message]:
    """Return a question, its call and the result as an object that the question asked for."""
    found = {**each.arguments, "result": each.result}
    keys = list(found)
    asked = f"{each.question} Answer as JSON with {', '.join(keys[:-1])} and result."
    made = turns(each, told=True)
    answer = Message("assistant", json.dumps(found, ensure_ascii=False))
    return [Message("user", asked if keys[:-1] else each.question), *made[1:3], answer]


def _two_calls(rng: random.Random, words: Words, of: Offer) -> list[Message]:
    """Return a question that needs the same tool twice."""
    first, second = use(rng, words, of), use(rng, words, of)
    asked = f"{first.question.rstrip('.?')} and {second.question[:1].lower()}{second.question[1:]}"
    calls = [call_text(each.name, each.arguments) for each in (first, second)]
    results = [
        Message("user", f"<tool_response>\n{each.result}\n</tool_response>")
        for each in (first, second)
    ]
    told = Message("assistant", f"{first.answer} {second.answer}")
    return [Message("user", asked), Message("assistant", "\n".join(calls)), *results, told]


def filling(rng: random.Random, words: Words, *, kept: bool = False) -> list[Message]:
    """Return an extraction whose schema is a tool that must be called."""
    made = task(rng, words, kept=kept)
    name = rng.choice([made.schema.get("title", "Record"), "extract", "answer", "save_record"])
    parameters = {key: value for key, value in made.schema.items() if key != "title"}
    about = rng.choice(["", "The data of the text.", f"A {str(name).lower()}."])
    function = {"name": name, "description": about, "parameters": parameters}
    system = system_text(rng, [{"type": "function", "function": function}], _start(rng))
    asked = choose(rng, rng.choice(["{t}", "[Extract|Save] this: {t}"])).replace("{t}", made.text)
    answer = call_text(str(name), made.found)
    return [Message("system", system), Message("user", asked), Message("assistant", answer)]


def choosing(rng: random.Random, words: Words, count: int, *, kept: bool = False) -> list[Message]:
    """Return questions for the name of the tool that would help, which is the hard part of a call.

    Only names are learned here, so many choices fit into few tokens.
    """
    offered = offers(rng, words, count)
    asking = rng.choice(WHICH)
    if rng.random() < 0.2:
        messages = [Message("system", system_text(rng, [o.schema for o in offered], ""))]
    else:
        listed = "\n".join(
            f"- {each.name}: {each.schema['function']['description']}" for each in offered
        )
        head = rng.choice(["Tools", "You have these tools"])
        messages = [Message("system", f"{head}:\n{listed}")]
    for _ in range(rng.randint(5, 12)):
        if rng.random() < 0.27:
            asked, name = unfitting(rng, words, offered), NONE
        else:
            made = use(rng, words, rng.choice(offered), kept=kept)
            asked, name = made.question, made.name
        messages.append(Message("user", choose(rng, asking).replace("{q}", asked)))
        messages.append(Message("assistant", name))
    return messages
