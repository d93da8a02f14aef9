"""From documents to tensors. In: documents and the tokenizer. Out: padded batches of like size.

Documents of like length share a batch, so little is padding and no document sees another one.
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


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents side by side, padded at the end. Invariant: ids[:, :-1] predict labels[:, 1:]."""

    ids: torch.Tensor  # [documents, positions] int64
    labels: torch.Tensor  # [documents, positions] int64, IGNORED where nothing is learned
    tokens: int  # without padding


def encode(document: Document, tokenizer: Tokenizer, *, bos: bool, positions: int) -> Encoded:
    """Return the ids of a document, cut to `positions`; each segment is tokenised on its own."""
    ids = [tokenizer.token_to_id("<s>")] if bos else []
    labels = [IGNORED] * len(ids)
    for segment in document.segments:
        part = tokenizer.encode(segment.text, add_special_tokens=False).ids
        ids += part
        labels += part if segment.learned else [IGNORED] * len(part)
    end = tokenizer.token_to_id("</s>")
    return Encoded([*ids, end][:positions], [*labels, end][:positions])


def collate(documents: Sequence[Encoded], pad: int) -> Batch:
    """Return one batch of documents of about the same length."""
    longest = max(len(document.ids) for document in documents)
    ids = torch.full((len(documents), longest), pad)
    labels = torch.full((len(documents), longest), IGNORED)
    for row, document in enumerate(documents):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
        labels[row, : len(document.labels)] = torch.tensor(document.labels)
    return Batch(ids, labels, sum(len(document.ids) for document in documents))


def _cut(documents: Iterable[Encoded], size: int) -> Iterator[list[Encoded]]:
    """Cut sorted documents into groups of at most `size` padded tokens, or one document."""
    group: list[Encoded] = []
    for document in documents:
        if group and len(document.ids) * (len(group) + 1) > size:
            yield group
            group = []
        group.append(document)
    if group:
        yield group


def batches(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    rng: random.Random,
    *,
    size: int,
    positions: int,
    bos_share: float,
) -> list[Batch]:
    """Return all documents as batches of at most `size` padded tokens, in random order."""
    encoded = [
        encode(document, tokenizer, bos=rng.random() < bos_share, positions=positions)
        for document in documents
    ]
    encoded.sort(key=lambda document: len(document.ids))
    pad = tokenizer.token_to_id("<pad>")
    made = [collate(group, pad) for group in _cut(encoded, size)]
    rng.shuffle(made)
    return made
