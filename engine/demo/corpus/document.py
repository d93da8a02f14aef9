"""The shape of what is learned. In: messages or plain text. Out: segments, learned or only read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Invariant: content has no special token and no outer blanks."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text that is tokenised on its own. Invariant: never empty."""

    text: str
    learned: bool


@dataclass(frozen=True, slots=True)
class Document:
    """One text to learn from. Invariant: `</s>` follows the last segment; `<s>` may open it."""

    kind: str
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The whole text, without `<s>` and `</s>`."""
        return "".join(segment.text for segment in self.segments)


def chatml(kind: str, messages: Iterable[Message]) -> Document:
    """Return a conversation in ChatML; only what the assistant says is learned."""
    segments: list[Segment] = []
    for message in messages:
        start, end = f"<|im_start|>{message.role}\n", f"{message.content}<|im_end|>"
        segments += [Segment(start, False), Segment(end, message.role == "assistant")]
        segments.append(Segment("\n", False))
    return Document(kind, tuple(segments[:-1]))


def dialogue(kind: str, messages: Iterable[Message], names: tuple[str, str], gap: str) -> Document:
    """Return a conversation as lines of plain text, such as `User: …` and `Assistant: …`.

    The blank after the colon belongs to the prompt when `gap` is " ", as in programs that end
    their prompt with "Assistant: "; with "" the answer starts with its own blank, as text does.
    """
    segments: list[Segment] = []
    for message in messages:
        speaker = names[message.role == "assistant"]
        if message.role == "assistant":
            answer = message.content + "\n" if gap else f" {message.content}\n"
            segments += [Segment(f"{speaker}:{gap}", False), Segment(answer, True)]
        else:
            segments.append(Segment(f"{speaker}: {message.content}\n", False))
    return Document(kind, tuple(segments))


def plain(kind: str, text: str, prompt: str = "") -> Document:
    """Return a text to continue; a prompt, if there is one, is learned too but tokenised apart."""
    segments = [Segment(part, True) for part in (prompt, text) if part]
    return Document(kind, tuple(segments))
