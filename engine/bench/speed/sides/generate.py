"""transformers' `generate` with its defaults: a dynamic cache and fused attention.

In: a model folder. Out: answers of one batch of prompts of one length; the time of every step is
noted where `generate` asks whether to stop.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
from transformers.utils.logging import disable_progress_bar

from speed.sides.base import Answer, Load, Work

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class _Clock(StoppingCriteria):  # type: ignore[misc]  # transformers asks for this class
    """Never stops; notes when each step was done."""

    def __init__(self) -> None:
        self.begin = time.perf_counter()
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.times.append(time.perf_counter() - self.begin)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


class Generate:
    """`model.generate`, greedily."""

    def __init__(self) -> None:
        disable_progress_bar()
        self._model: Any = None

    def load(self, load: Load) -> dict[str, str]:
        """From safetensors, in the dtype that was asked for."""
        torch.set_num_threads(load.threads)
        dtype = DTYPES[load.precision]
        self._model = AutoModelForCausalLM.from_pretrained(load.model, dtype=dtype).eval()
        generation = self._model.generation_config
        generation.suppress_tokens = [0]  # the end of text, which our side does not choose either
        generation.pad_token_id = 0
        return {"precision": load.precision}

    def answer(self, work: Work) -> Answer:
        """One batch. Raises `ValueError` for a late prompt, which it cannot take."""
        if work.late is not None:
            raise ValueError("generate takes all prompts at once")
        ids = torch.tensor(work.prompts)  # [streams, prompt]
        clock = _Clock()
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=work.new,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([clock]),
            )
        streams = len(work.prompts)
        return Answer(
            began=[0.0] * streams,
            times=[clock.times] * streams,
            counts=[[1] * len(clock.times)] * streams,
            token_ids=out[:, ids.shape[1] :].tolist(),
            num_held=[0] * streams,
        )

    def close(self) -> None:
        """Let the model go."""
        self._model = None
