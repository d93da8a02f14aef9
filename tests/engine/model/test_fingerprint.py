"""When lanes may move from one model to another."""

from __future__ import annotations

from pathlib import Path

import pytest

from libertai_engine.config import EngineConfig
from libertai_engine.model.fingerprint import fingerprint
from libertai_engine.model.loader import load_model
from tests.fakes import random_model, save_tiny_model

OTHER_ROTATION = {"rope_type": "default", "rope_theta": 500.0}


@pytest.mark.parametrize(
    "changes", [{"rope_parameters": OTHER_ROTATION}, {"rms_norm_eps": 0.5}, {"seed": 1}]
)
def test_whatever_changes_a_key_changes_the_name(changes: dict[str, object]) -> None:
    """Settings too: with the same weights they make other keys and values."""
    assert fingerprint(random_model(**changes), 64) != fingerprint(random_model(), 64)


def test_the_place_of_a_model_does_not_change_its_name(tmp_path: Path) -> None:
    """A model that has been moved still reads its slot files."""
    names = set()
    for folder in (tmp_path / "here", tmp_path / "there"):
        config = EngineConfig(model=str(save_tiny_model(folder)), dtype="fp32", device="cpu")
        names.add(fingerprint(load_model(config, progress=False).module, 64))
    assert len(names) == 1
