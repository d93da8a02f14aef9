"""What `info` tells of who multiplies."""

from __future__ import annotations

from pathlib import Path

import pytest

from libertai_engine.__main__ import main
from libertai_engine.kernels import library
from libertai_engine.kernels.library import Library


def told(model: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The row called `kernels`."""
    assert main(["info", str(model), *flags]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    return rows["kernels"].strip()


def test_info_tells_for_which_instructions(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or why there are none."""
    found = library.native()
    said = told(tiny_model, capsys)
    if isinstance(found, Library):
        assert said == f"native, for {found.instructions}"
    else:
        assert said == f"torch's ({found.reason})"


def test_info_tells_that_torch_was_asked_for(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wish is a reason."""
    said = told(tiny_model, capsys, "--kernels", "torch")
    assert said == "torch's (torch's kernels were asked for)"
