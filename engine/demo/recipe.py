"""Every number of the demo model. In: nothing. Out: one frozen record, shown in the model card."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the model is made. Invariant: one recipe, on one machine, makes one model."""

    seed: int = 2024
    # tokenizer
    vocabulary: int = 2560
    tokenizer_documents: int = 20_000
    # model
    hidden: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    feed_forward: int = 512
    positions: int = 1024
    rope_theta: float = 10_000.0
    # training; tokens are counted without padding
    beginning_tokens: int = 400_000  # of `tokens`
    tokens: int = 4_000_000
    ending_tokens: int = 2_400_000  # after `tokens`
    ending_share: float = 0.5  # of the rates
    tokens_per_pass: int = 1_024
    passes_per_step: int = 1
    documents_per_round: int = 1_024
    warmup_tokens: int = 60_000
    matrix_rate: float = 4e-3
    other_rate: float = 1e-2
    weight_decay: float = 0.05
    clip: float = 1.0
    validation_documents: int = 300
    rounds_per_validation: int = 5
    # how often `<s>` opens a document: servers put it there, chat templates do not
    bos_share: float = 0.85
