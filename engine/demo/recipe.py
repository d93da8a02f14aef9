"""Every number of the demo model. In: nothing. Out: one frozen record, shown in the model card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the model is made. Invariant: one recipe, on one machine, makes one model."""

    seed: int = 2024
    # tokenizer
    vocabulary: int = 3072
    blank_words: int = 512  # of the vocabulary: frequent words with the blank in front
    tokenizer_documents: int = 12_000
    # model
    hidden: int = 256
    layers: int = 5
    heads: int = 4
    kv_heads: int = 2
    feed_forward: int = 512
    positions: int = 1024
    rope_theta: float = 10_000.0
    # training; tokens are counted without padding
    beginning_tokens: int = 2_000_000  # of `tokens`
    tokens: int = 7_400_000
    ending_tokens: int = 90_200_000  # after `tokens`, the rates going on
    tokens_per_pass: int = 3_072
    tokens_per_group: int = 512
    passes_per_step: int = 2
    documents_per_round: int = 1_024
    warmup_tokens: int = 100_000
    matrix_rate: float = 4e-3
    other_rate: float = 8e-3
    weight_decay: float = 0.05
    clip: float = 1.0
    # the first token of an answer decides what it will be: a call or none, which name
    opening_weight: float = 3.0
    validation_documents: int = 300
    rounds_per_validation: int = 8
    # how often `<s>` opens a document: servers put it there, chat templates do not
    bos_share: float = 0.85
