"""Fill-in-the-middle: what stands around a gap, between the model's own tokens for it.

In: how to find a token by its name; then the text before and behind a gap. Out: the model's
`FimTokens`, and the token ids of a prompt that the model answers with what belongs into the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

# What llama-server writes where a model expects names that no request tells.
REPOSITORY, CURRENT_FILE, UNNAMED_FILE = "myproject", "filename", "tmp"
SNIPPET = "\n\n--- snippet ---\n\n"
SUFFIX_SHARE = 4  # of what is too long, the suffix keeps at least one part in four


@dataclass(frozen=True, slots=True)
class _Convention:
    """One family's names. `more_ends` are its tokens that end a filling, next to the usual ones."""

    prefix: str
    suffix: str
    middle: str
    repository: str = ""
    file: str = ""
    more_ends: tuple[str, ...] = ()


# As the models' authors trained them: Qwen-Coder and CodeGemma, StarCoder and Granite, SantaCoder,
# DeepSeek, CodeLlama, GLM.
_CONVENTIONS = (
    _Convention(
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        repository="<|repo_name|>",
        file="<|file_sep|>",
        more_ends=("<|fim_pad|>", "<|file_separator|>"),
    ),
    _Convention(
        "<fim_prefix>",
        "<fim_suffix>",
        "<fim_middle>",
        repository="<repo_name>",
        file="<file_sep>",
        more_ends=("<fim_pad>",),
    ),
    _Convention("<fim-prefix>", "<fim-suffix>", "<fim-middle>", more_ends=("<fim-pad>",)),
    _Convention("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    _Convention("▁<PRE>", "▁<SUF>", "▁<MID>", more_ends=("▁<EOT>",)),
    _Convention("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FimTokens:
    """Ids of a model's fill-in-the-middle tokens.

    `prefix`, `suffix` and `middle` stand in front of the text before the gap, the text behind it,
    and the answer. `repository` and `file` stand in front of names, None where a model has none.
    `ends` end an answer.
    """

    prefix: int
    suffix: int
    middle: int
    repository: int | None
    file: int | None
    ends: frozenset[int]


def find_fim_tokens(find: Callable[[str], int | None]) -> FimTokens | None:
    """The tokens of the first convention whose three main ones exist; None if there is none.

    `find` tells the id of a token by its exact name.
    """
    for names in _CONVENTIONS:
        prefix, suffix, middle = find(names.prefix), find(names.suffix), find(names.middle)
        if prefix is None or suffix is None or middle is None:
            continue
        repository = find(names.repository) if names.repository else None
        file = find(names.file) if names.file else None
        ends = [repository, file, *map(find, names.more_ends)]
        return FimTokens(
            prefix=prefix,
            suffix=suffix,
            middle=middle,
            repository=repository,
            file=file,
            ends=frozenset(end for end in ends if end is not None),
        )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """Another file or snippet of the project."""

    name: str = UNNAMED_FILE
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Text around a gap: `prefix` before it, `suffix` behind it, `start` begins its filling."""

    prefix: str = ""
    suffix: str = ""
    start: str = ""
    files: tuple[File, ...] = ()


class PlainEncoder(Protocol):
    """The part of a tokenizer that is needed here. Neither method reads control tokens."""

    def encode_plain(self, text: str) -> list[int]:
        """Ids of a text that begins a prompt."""
        ...

    def encode_behind(self, text: str) -> list[int]:
        """Ids of a text that follows other tokens."""
        ...


def encode_gap(
    gap: Gap, tokens: FimTokens, tokenizer: PlainEncoder, room: int
) -> tuple[list[int], bool]:
    """Ids of the prompt, without BOS, and whether something was left out to make it fit.

    `prefix` text `suffix` text `middle` start; other files in front, as llama-server has them. If
    that is more than `room` tokens, files go first, the first one before the others, then the
    beginning of the prefix and the end of the suffix, which keeps a quarter if it needs it.
    """
    start = tokenizer.encode_behind(gap.start)
    before, behind = tokenizer.encode_plain(gap.prefix), tokenizer.encode_behind(gap.suffix)
    budget = max(0, room - len(start) - 3)
    kept_before, kept_behind = _cut(before, behind, budget)
    left = budget - len(kept_before) - len(kept_behind)
    files, num_left_out = _encode_files(gap.files, tokens, tokenizer, left)
    prompt = [
        *files,
        tokens.prefix,
        *kept_before,
        tokens.suffix,
        *kept_behind,
        tokens.middle,
        *start,
    ]
    is_whole = (before, behind) == (kept_before, kept_behind) and not num_left_out
    return prompt, not is_whole


def _cut(before: list[int], behind: list[int], budget: int) -> tuple[list[int], list[int]]:
    """The end of `before` and the beginning of `behind`, together at most `budget` tokens."""
    num_behind = min(len(behind), max(budget // SUFFIX_SHARE, budget - len(before)))
    num_before = min(len(before), budget - num_behind)
    return before[len(before) - num_before :], behind[:num_behind]


def _encode_files(
    files: Sequence[File], tokens: FimTokens, tokenizer: PlainEncoder, room: int
) -> tuple[list[int], int]:
    """The last of the files that fit, with the names around them, and how many did not fit."""
    if not files:
        return [], 0
    top = _named(tokens.repository, REPOSITORY, tokenizer)
    bottom = _named(tokens.file, CURRENT_FILE, tokenizer)
    encoded = [_encode_file(file, tokens, tokenizer) for file in files]
    size = len(top) + len(bottom) + sum(map(len, encoded))
    for index, file in enumerate(encoded):
        if size <= room:
            return [*top, *chain.from_iterable(encoded[index:]), *bottom], index
        size -= len(file)
    return [], len(files)


def _named(token: int | None, name: str, tokenizer: PlainEncoder) -> list[int]:
    return [] if token is None else [token, *tokenizer.encode_behind(f"{name}\n")]


def _encode_file(file: File, tokens: FimTokens, tokenizer: PlainEncoder) -> list[int]:
    if tokens.file is None:
        return tokenizer.encode_behind(SNIPPET + file.text)
    return _named(tokens.file, file.name, tokenizer) + tokenizer.encode_behind(file.text)
