"""Several prompts in one request, and which answer belongs to which. No I/O.

In: the prompts, a server's `/props`, and what it answered. Out: whether it may be asked for all of
them, and a completion for each prompt in their order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from libertai_llm.checks import check_prompt
from libertai_llm.errors import InvalidOption, InvalidReply
from libertai_llm.types import Completion, Props

MAX_TOGETHER = 32  # what our own server takes in one request


def groups_of(prompts: Iterable[Any]) -> Iterator[list[Any]]:
    """Checked prompts, in groups that can be asked for together. Raises `InvalidOption`.

    A prompt with token ids is a group of its own.
    """
    if isinstance(prompts, (str, bytes)) or not isinstance(prompts, Iterable):
        raise InvalidOption("`prompts` must be a list of prompts", field="prompts")
    group: list[Any] = []
    for prompt in [check_prompt(each) for each in prompts]:
        is_alone = not isinstance(prompt, str)
        if group and (is_alone or len(group) == MAX_TOGETHER):
            yield group
            group = []
        if is_alone:
            yield [prompt]
        else:
            group.append(prompt)
    if group:
        yield group


def takes_several(props: Props) -> bool:
    """Whether a server answers several prompts with one array: today's llama-server and ours.

    NOTE: a server of 2023 takes an array, too, answers in any order, and every few times not at
    all, to nobody, until it is started again. It cannot tell its build; those that can are safe.
    """
    return isinstance(props.raw.get("build_info"), str)


def read_several(reply: Any, prompts: Sequence[str]) -> list[Completion]:
    """The answers, in the order of the prompts. Raises `InvalidReply` if there is not one each."""
    if not isinstance(reply, list) or len(reply) != len(prompts):
        raise InvalidReply(f"expected an array of {len(prompts)} answers")
    return [Completion.from_wire(each) for each in reply]
