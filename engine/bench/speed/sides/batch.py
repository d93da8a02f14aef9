"""transformers' `generate_batch`: its continuous batching, on a paged cache.

In: a model folder. Out: answers of prompts that are scheduled together. It tells no times of single
tokens, so an answer has two: the first, of no tokens, and the end.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from speed.sides.base import Answer, Load, Work
from speed.sides.generate import DTYPES

BATCH_SIZE = 512  # as the others have it
PAGE_SIZE = 256


class GenerateBatch:
    """`model.generate_batch`, greedily."""

    def __init__(self) -> None:
        disable_progress_bar()
        self._model: Any = None

    def load(self, load: Load) -> dict[str, str]:
        """From safetensors, in the dtype that was asked for."""
        torch.set_num_threads(load.threads)
        self._model = AutoModelForCausalLM.from_pretrained(
            load.model, dtype=DTYPES[load.precision], attn_implementation="sdpa"
        ).eval()
        # NOTE: left alone, it fills nearly all free memory with its cache, at every call anew.
        self._batching = ContinuousBatchingConfig(
            page_size=PAGE_SIZE,
            num_blocks=load.num_slots * (1 + load.context_size // PAGE_SIZE),
            max_batch_tokens=BATCH_SIZE,
        )
        return {"precision": load.precision}

    def answer(self, work: Work) -> Answer:
        """All prompts at once. Raises `ValueError` for a late one."""
        if work.late is not None:
            raise ValueError("generate_batch takes all prompts at once")
        config = GenerationConfig(
            max_new_tokens=work.new, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        begin = time.perf_counter()
        out = self._model.generate_batch(
            inputs=work.prompts,
            generation_config=config,
            continuous_batching_config=self._batching,
            progress_bar=False,
            warmup=False,
        )
        seconds = time.perf_counter() - begin
        answers = [list(each.generated_tokens) for each in out.values()]
        if len(answers) != len(work.prompts) or any(len(each) != work.new for each in answers):
            raise RuntimeError(f"generate_batch gave {[len(each) for each in answers]} tokens")
        streams = len(answers)
        return Answer(
            began=[0.0] * streams,
            times=[[0.0, seconds]] * streams,
            counts=[[0, work.new]] * streams,
            token_ids=answers,
            num_held=[0] * streams,
        )

    def close(self) -> None:
        """Let the model go."""
        self._model = None
