"""A conversation on the terminal, turn by turn."""

from __future__ import annotations

import io
import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from libertai_engine.__main__ import main
from libertai_engine.cli.chat import Chat
from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.model.batch import Batch
from libertai_engine.model.runner import ModelRunner
from libertai_engine.sequence import Request


class Interrupted(ModelRunner):
    """A real runner during whose first step somebody presses Ctrl-C."""

    is_pressed = True

    def run(self, batch: Batch) -> torch.Tensor:
        if not self.is_pressed:
            self.is_pressed = True
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.2)
        return super().run(batch)


def test_an_answer_stopped_before_it_began_leaves_no_trace(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The conversation goes on as if nothing had been asked."""
    config = EngineConfig(model=str(tiny_model), num_slots=1)
    with load_engine(config, progress=False) as engine:
        assert engine.model is not None
        runner = Interrupted(engine.model.module, num_slots=1, context_size=128, device="cpu")
        with Engine(runner, engine.tokenizer, config, engine.model) as slow:
            request = Request(prompt_ids=(), max_tokens=3)
            chat = Chat(slow, request, system=None, is_verbose=False)
            runner.is_pressed = False
            chat.turn("hello")
            assert chat.messages == []
            chat.turn("hello again")
            assert [message["role"] for message in chat.messages] == ["user", "assistant"]


def test_a_chat_samples_as_the_model_suggests(
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its generation configuration decides, where it can; flags win over it."""
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    suggested = {"do_sample": True, "temperature": 1.5, "top_k": 1, "top_p": "much"}
    (tmp_path / "generation_config.json").write_text(json.dumps(suggested))

    def answers(*flags: str) -> set[str]:
        told = set()
        for seed in "1234":
            monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
            assert main(["chat", str(tmp_path), "-n", "6", "-s", seed, *flags]) == 0
            told.add(capsys.readouterr().out)
        return told

    assert len(answers()) == 1, "only the likeliest token is kept"
    assert len(answers("--top-k", "0")) > 1
    with load_engine(EngineConfig(model=str(tmp_path)), progress=False) as engine:
        assert engine.model is not None
        assert engine.model.sampling == {"temperature": 1.5, "top_k": 1}, "the third cannot be"
