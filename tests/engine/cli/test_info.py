"""What `info` tells of who multiplies."""

from __future__ import annotations

from pathlib import Path

import pytest

from libertai_engine.__main__ import main
from libertai_engine.kernels import library
from libertai_engine.kernels.library import Library


def rows(model: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, str]:
    """What is told, by name."""
    assert main(["info", str(model), *flags]) == 0
    lines = (line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    return {name: value.strip() for name, value in lines}


def told(model: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The row called `kernels`."""
    return rows(model, capsys, *flags)["kernels"]


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


def test_info_tells_where_the_compiled_code_lies(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that it can be moved or removed; without any there is nothing to tell."""
    found = library.native()
    if isinstance(found, Library) and found.path.exists():
        assert rows(tiny_model, capsys)["compiled code"] == str(found.path)
    assert "compiled code" not in rows(tiny_model, capsys, "--kernels", "torch")


@pytest.mark.parametrize("flag", ["-c", "-b", "--prefill-ms", "--draft-max", "--parallel"])
def test_info_has_no_flags_that_it_would_ignore(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs nothing."""
    with pytest.raises(SystemExit):
        main(["info", "demo", flag, "9"])
    assert "unrecognized arguments" in capsys.readouterr().err


def test_info_minds_its_processors(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those which nobody has are an error here, too."""
    with pytest.raises(SystemExit, match="2"):
        main(["info", str(tiny_model), "--cpus", "60000"])
    assert "argument --cpus: `cpus` must be some of" in capsys.readouterr().err
