"""libertai_engine with a model that writes what it is told to (see `steering.py`).

In: a model folder. Out: seconds and steps for known answers: a form of 20 fields, in three ways,
and an answer that quotes its prompt, with drafts and without.
"""

from __future__ import annotations

import json
import time

from form import DOCUMENT, SCHEMA
from libertai_engine import Engine, EngineConfig, Request
from libertai_engine.grammar.compiler import CompiledGrammar
from libertai_engine.model.loader import LoadedModel, load_model
from libertai_engine.model.runner import ModelRunner
from libertai_engine.processors import settle
from libertai_engine.text.tokenizer import Tokenizer
from passages import PASSAGES
from speed.sides.base import Load
from speed.sides.ours import UNTIL_END
from steering import SteeredRunner

FORM_PROMPT = "Fill in the form:\n"
QUOTED = (31, 7, 18)  # where the passages begin that the answer quotes, three in a row


class Steered:
    """Engines on one model, one for each text and way of writing it."""

    def __init__(self) -> None:
        self._model: LoadedModel | None = None
        self._engines: dict[tuple[str, ...], tuple[Engine, SteeredRunner]] = {}

    def load(self, load: Load) -> dict[str, str]:
        """Load the weights; engines are made when they are needed."""
        self._load = load
        self._config = EngineConfig(
            model=load.model, dtype=load.precision, measures_quality=False, num_slots=1
        )
        settle(load.threads, None)
        self._model = load_model(self._config, progress=False)
        return {"precision": load.precision}

    def fill_form(self, way: str) -> dict[str, float]:
        """The form as compact JSON: "free" of a grammar, "sampled" by it, or "forced".

        The last is what the engine does by itself: it drafts what the grammar lets foresee, too.
        """
        text = json.dumps(DOCUMENT, separators=(",", ":"))
        engine, runner = self._engine("form", way, FORM_PROMPT + text)
        grammar = None if way == "free" else engine.grammars.json_schema(SCHEMA, is_compact=True)
        return self._write(engine, runner, FORM_PROMPT, text, grammar)

    def quote(self, way: str) -> dict[str, float]:
        """An answer out of passages: "plain", or with "drafts"."""
        prompt, answer = quotation()
        engine, runner = self._engine("quote", way, prompt + answer)
        return self._write(engine, runner, prompt, answer, None)

    def _engine(self, subject: str, way: str, text: str) -> tuple[Engine, SteeredRunner]:
        key = (subject, way)
        if key not in self._engines:
            self._engines[key] = self._make(way, text)
        return self._engines[key]

    def _make(self, way: str, text: str) -> tuple[Engine, SteeredRunner]:
        assert self._model is not None
        model = self._model
        config = EngineConfig(
            model=self._load.model,
            dtype=self._load.precision,
            num_slots=1,
            forces_tokens=way == "forced",
            **({} if way in ("drafts", "forced") else {"max_draft": 0}),
        )
        runner = ModelRunner(
            model.module,
            num_slots=1,
            context_size=self._load.context_size,
            device=model.device,
            kernels=config.kernels,
        )
        tokenizer = Tokenizer(model.tokenizer, eos_ids=model.eos_ids)
        steered = SteeredRunner(runner, tokenizer, text)
        return Engine(steered, tokenizer, config, None), steered

    def _write(
        self,
        engine: Engine,
        runner: SteeredRunner,
        prompt: str,
        answer: str,
        grammar: CompiledGrammar | None,
    ) -> dict[str, float]:
        """Seconds behind the first token, tokens and steps. Raises if the text is another."""
        runner.num_steps = 0
        prompt_ids = tuple(engine.tokenizer.encode_behind(prompt))
        request = Request(
            prompt_ids=prompt_ids, sampling=UNTIL_END, grammar=grammar, cache_prompt=False
        )
        deltas, times = [], []
        for delta in engine.submit(request):
            deltas.append(delta)
            times.append(time.perf_counter())
        text = "".join(delta.text for delta in deltas)
        if text != answer:
            raise RuntimeError(f"another text than it should be: {text[:200]!r}")
        num_tokens = sum(len(delta.tokens) for delta in deltas)
        return {
            "seconds": times[-1] - times[0],
            "tokens": float(num_tokens),
            "steps": float(runner.num_steps),
        }

    def close(self) -> None:
        """Stop all engines."""
        for engine, _ in self._engines.values():
            engine.close()


def quotation() -> tuple[str, str]:
    """A prompt of all passages with a question, and an answer of which most is in them."""
    told = [f"[{number}] {each.text}\n" for number, each in enumerate(PASSAGES)]
    asked = " ".join(PASSAGES[number].question for number in QUOTED)
    quotes = ["".join(told[number : number + 3]) for number in QUOTED]
    prompt = f"Passages:\n{''.join(told)}\nQuestions: {asked}\nAnswer:"
    return prompt, f" Of these I would name\n{'and furthermore'.join(quotes)}and no others.\n"
