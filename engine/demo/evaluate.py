"""How often the model is right, asked through the package. In: a model folder. Out: a table, JSON.

    python engine/demo/evaluate.py engine/libertai_engine/demo_model

Without a grammar, the prompt goes to `Client.complete` and the answer is read as it is. With one,
`ChatLibertai` binds the tools or asks for the schema, so that the answer cannot have another form.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

from langchain_core.exceptions import OutputParserException

from libertai_llm import Client
from libertai_llm.errors import LibertaiError
from libertai_llm.langchain import ChatLibertai
from libertai_llm.prompt import ChatTemplate
from questions import KINDS_OF_QUESTIONS, Question, questions
from scores import Score, save, table

# NOTE: what is asked for is mostly in the question, so nothing may be punished for coming again.
GREEDY: dict[str, Any] = {"temperature": 0, "repeat_penalty": 1.0, "max_tokens": 160}


def free(client: Client, template: ChatTemplate, asked: Question) -> bool:
    """Return whether the greedy answer is right, with nothing that holds it to a form."""
    prompt = template.render(asked.chat, asked.tools or None)
    given = client.complete(prompt, stop=template.stops, **GREEDY)
    return asked.accepts(given.content)


def held(chat: ChatLibertai, asked: Question) -> bool:
    """Return whether the greedy answer is right when a grammar holds it to calls or JSON."""
    if asked.schema is not None:
        model = chat.with_structured_output(asked.schema)
        return bool(json.dumps(model.invoke(asked.chat)) == json.dumps(asked.found))
    answer = chat.bind_tools(asked.tools).invoke(asked.chat)
    if asked.calls:
        given = [(each["name"], each["args"]) for each in answer.tool_calls]
        return given == list(asked.calls) and not answer.invalid_tool_calls
    return not answer.tool_calls and asked.accepts(str(answer.content))


def _holds(asked: Question) -> bool:
    last = asked.chat[-1]["role"] == "user"
    return asked.schema is not None or (bool(asked.tools) and last)


def score(folder: Path, kind: str, count: int, seed: int) -> Score:
    """Return the shares of right answers to `count` questions of one kind."""
    asked, began = list(questions(kind, count, seed)), time.monotonic()
    with (
        Client(engine=str(folder)) as client,
        ChatLibertai(engine=str(folder), **GREEDY) as chat,
    ):
        props = client.props()
        template = ChatTemplate(props.chat_template, props.bos_token or "", props.eos_token or "")
        right = sum(free(client, template, each) for each in asked)
        holding = [each for each in asked if _holds(each)]
        right_held = sum(_held_safely(chat, each) for each in holding)
    share = right_held / len(holding) if holding else None
    return Score(kind, count, right / count, share, (time.monotonic() - began) / count)


def _held_safely(chat: ChatLibertai, asked: Question) -> bool:
    """Return False, too, where the answer was cut off or is no JSON."""
    try:
        return held(chat, asked)
    except (LibertaiError, OutputParserException):
        return False


def main() -> None:
    """Print the table for one model, line by line, and save it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", default="", help="kinds whose name matches this")
    parser.add_argument("--out", type=Path, help="where to save the scores as JSON")
    args = parser.parse_args()
    scores = []
    for kind in KINDS_OF_QUESTIONS:
        if re.search(args.only, kind):
            scores.append(score(args.folder, kind, args.count, args.seed))
            print(table(scores).splitlines()[-1], flush=True)
    if args.out:
        save(args.out, scores, {"count": args.count, "seed": args.seed})


if __name__ == "__main__":
    main()
