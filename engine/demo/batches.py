"""From documents to tensors. In: documents and the tokenizer. Out: packed passes of one size.

Documents of like length form a group of padded rows; groups of all lengths fill a pass, one after
the other. So little is padding, no document sees another one, and every pass has a bit of all.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from corpus.document import Document

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """One document as token ids. Invariant: a label is its id where learned, IGNORED elsewhere."""

    ids: list[int]
    labels: list[int]
    opening: list[bool]  # whether an id is the first of an answer


@dataclass(frozen=True, slots=True)
class Pass:
    """Groups of rows, one after the other. Invariant: ids[t] predicts labels[t]."""

    ids: torch.Tensor  # [size] int64
    labels: torch.Tensor  # [size] int64, IGNORED where nothing is learned
    opening: torch.Tensor  # [size] bool: the label is the first of an answer
    positions: torch.Tensor  # [size] int64, from 0 in each row
    groups: tuple[tuple[int, int], ...]  # (rows, length); what they leave of the size is empty
    tokens: int  # without padding


def encode(document: Document, tokenizer: Tokenizer, *, bos: bool, positions: int) -> Encoded:
    """Return the ids of a document, cut to `positions`; each segment is tokenised on its own."""
    ids = [tokenizer.token_to_id("<s>")] if bos else []
    labels, opening = [IGNORED] * len(ids), [False] * len(ids)
    for segment in document.segments:
        part = tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids += part
        labels += part if segment.learned else [IGNORED] * len(part)
        opening += [segment.learned and at == 0 for at in range(len(part))]
    end = tokenizer.token_to_id("</s>")
    return Encoded([*ids, end][:positions], [*labels, end][:positions], [*opening, False])


Group = list[Encoded]


def _size(group: Sequence[Encoded]) -> int:
    # NOTE: the last token of a document predicts nothing, so a row is one shorter.
    return len(group) * (len(group[-1].ids) - 1)


def _cut(documents: Iterable[Encoded], size: int) -> Iterator[Group]:
    """Cut sorted documents into groups of at most `size` padded tokens, or one document."""
    group: Group = []
    for document in documents:
        if group and (len(document.ids) - 1) * (len(group) + 1) > size:
            yield group
            group = []
        group.append(document)
    if group:
        yield group


def _fill(waiting: list[Group], size: int) -> Iterator[list[Group]]:
    """Take groups in their order into passes of at most `size`, later ones that still fit first."""
    while waiting:
        chosen, left = [], size
        for group in list(waiting):
            if _size(group) <= left:
                chosen.append(group)
                waiting.remove(group)
                left -= _size(group)
            if left < 16:
                break
        yield chosen


def collate(groups: Sequence[Group], size: int, pad: int) -> Pass:
    """Return one pass of whole groups."""
    ids, labels = torch.full((size,), pad), torch.full((size,), IGNORED)
    opening = torch.zeros(size, dtype=torch.bool)
    positions = torch.zeros(size, dtype=torch.int64)
    at, shapes = 0, []
    for group in groups:
        length = len(group[-1].ids) - 1
        for document in group:
            count = len(document.ids) - 1
            ids[at : at + count] = torch.tensor(document.ids[:-1])
            labels[at : at + count] = torch.tensor(document.labels[1:])
            opening[at : at + count] = torch.tensor(document.opening[1 : count + 1])
            positions[at : at + length] = torch.arange(length)
            at += length
        shapes.append((len(group), length))
    tokens = sum(len(document.ids) for group in groups for document in group)
    return Pass(ids, labels, opening, positions, tuple(shapes), tokens)


def passes(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    rng: random.Random,
    *,
    size: int,
    group: int,
    positions: int,
    bos_share: float,
) -> list[Pass]:
    """Return all documents as passes of `size` tokens in random order, made of groups."""
    encoded = [
        encode(document, tokenizer, bos=rng.random() < bos_share, positions=positions)
        for document in documents
    ]
    encoded.sort(key=lambda document: len(document.ids))
    groups = list(_cut(encoded, group))
    rng.shuffle(groups)
    pad = tokenizer.token_to_id("<pad>")
    made = [collate(chosen, size, pad) for chosen in _fill(groups, size)]
    rng.shuffle(made)
    return made
