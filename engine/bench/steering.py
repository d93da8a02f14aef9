"""A model of random weights that writes what it is told to.

In: a model runner, and the whole text of a prompt and its answer. Out: a runner for an engine that
takes as long as ever, and whose most likely token is always the next one of that text.
"""

from __future__ import annotations

from typing import Any

import torch

from libertai_engine.model.batch import Batch
from libertai_engine.model.runner import ModelRunner
from libertai_engine.text.tokenizer import Tokenizer

SURE = 1e4  # a logit that none of the model's comes near


class SteeredRunner:
    """Everything is the other runner's but one logit in each row.

    Invariant: `_lanes` holds the tokens that lie in the slots. What follows a text is worked out
    once and remembered, so that repeated answers are not slower than the model is.
    """

    def __init__(self, runner: ModelRunner, tokenizer: Tokenizer, text: str) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._text = text
        self._lanes: dict[int, list[int]] = {}
        self._known: dict[tuple[int, ...], int | None] = {}
        self.num_steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, batch: Batch) -> torch.Tensor:
        """Logits `[rows, vocab]` of the model, with one of them raised in each row."""
        logits = self._runner.run(batch)
        self.num_steps += 1
        index = 0
        for row in batch.rows:
            lane = self._lanes.setdefault(row.slot, [])
            lane[row.start :] = row.token_ids
            for end in range(row.end - row.num_logits + 1, row.end + 1):
                token_id = self._next(tuple(lane[:end]))
                if token_id is not None:
                    logits[index, token_id] = SURE
                index += 1
        return logits

    def _next(self, token_ids: tuple[int, ...]) -> int | None:
        """What follows; None behind a draft that the text does not go on with."""
        if token_ids not in self._known:
            self._known[token_ids] = self._find(list(token_ids))
        return self._known[token_ids]

    def _find(self, token_ids: list[int]) -> int | None:
        said = self._tokenizer.decode(token_ids)
        if not self._text.startswith(said):
            return None
        rest = self._text[len(said) :]
        return self._tokenizer.encode_behind(rest)[0] if rest else min(self._tokenizer.eos_ids)
