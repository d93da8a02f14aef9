"""Tool use in plain lines, as a ReAct agent asks for. In: tools of `offering.py`. Out: messages.

The user writes `Observation:` for the tool. What agents put in front is long; here are short forms,
with the descriptions of the tools as LlamaIndex writes them.
"""

from __future__ import annotations

import json
import random

from corpus.agents import NO_TOOL
from corpus.document import Message
from corpus.offering import Offer, offers, unfitting, use
from corpus.phrases import choose
from corpus.words import Words

DESCRIBED = "> Tool Name: {name}\nTool Description: {about}\nTool Args: {schema}\n"
# {d} the tools, {n} their names.
HEADERS = (
    "Tools:\n{d}\nWrite `Thought:`, then `Action:` with one of {n} and `Action Input:` with JSON, "
    "or `Answer:` with the answer.",
    "You [have|may use] these tools:\n{d}\n## [Output|Form]\n\nThought: [what you think|why]\n"
    "Action: [the tool|tool name], one of {n}\nAction Input: [its input|the arguments] as JSON\n\n"
    "[When you know the answer|At the end], write:\n\nThought: ...\nAnswer: ...",
    "{d}\n[Start|Always start] with a Thought. Then write an Action ({n}) and its Action Input, or "
    "an Answer.",
)
NEED = (
    "The current language of the user is: English. I need to use a tool to help me answer the "
    "question."
)
DONE = "I can answer without using any more tools. I'll use the user's language to answer"
CANNOT = "I cannot answer the question with the provided tools."


def _described(of: Offer) -> str:
    function = of.schema["function"]
    schema = json.dumps(function["parameters"], ensure_ascii=False)
    form = DESCRIBED.replace("{name}", of.name).replace("{about}", function["description"])
    return form.replace("{schema}", schema)


def reacting(rng: random.Random, words: Words, count: int, *, kept: bool = False) -> list[Message]:
    """Return questions with thoughts, actions, observations and answers."""
    offered = offers(rng, words, count)
    header = choose(rng, rng.choice(HEADERS))
    told = "\n".join(_described(each) for each in offered)
    names = ", ".join(each.name for each in offered)
    messages = [Message("system", header.replace("{d}", told).replace("{n}", names))]
    for _ in range(rng.choice([1, 2, 3])):
        if rng.random() < 0.25:
            asked = unfitting(rng, words, offered)
            messages += [Message("user", asked), _final(CANNOT, NO_TOOL)]
            continue
        made = use(rng, words, rng.choice(offered), kept=kept)
        given = json.dumps(made.arguments, ensure_ascii=False)
        action = f"Thought: {NEED}\nAction: {made.name}\nAction Input: {given}"
        messages += [Message("user", made.question), Message("assistant", action)]
        messages += [Message("user", f"Observation: {made.result}"), _final(DONE, made.answer)]
    return messages


def _final(thought: str, answer: str) -> Message:
    return Message("assistant", f"Thought: {thought}\nAnswer: {answer}")
