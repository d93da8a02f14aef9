"""`libertai-engine bench`: figures of a real tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from libertai_engine.__main__ import main

SHORT = ["--prompt", "24", "--new", "4", "--streams", "3,1", "--rounds", "2", "-t", "1"]


def test_figures_are_a_table_or_json(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same names in both; each a number with its range, and all rounds in JSON."""
    assert main(["bench", str(tiny_model), *SHORT]) == 0
    table = dict(
        re.split(r" {2,}", line, maxsplit=1) for line in capsys.readouterr().out.splitlines()
    )
    assert main(["bench", str(tiny_model), *SHORT, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [*table] == [*told["engine"], *(each["name"] for each in told["figures"])]
    assert {"prompt", "answer", "first token, prompt cached", "3 streams at once"} < set(table)
    assert "1 streams at once" not in table and table["threads"] == "1"
    for figure in told["figures"]:
        assert len(figure["values"]) == 2 and min(figure["values"]) > 0
        assert re.fullmatch(r"[\d.,e+]+ \S+ \([\d.,e+]+ to [\d.,e+]+\)", table[figure["name"]])


def test_the_dtype_is_that_of_the_weights(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no flag says so, because the model's folder does."""
    assert main(["quantize", str(tiny_model), "--dtype", "int8", "--out", str(tmp_path / "q")]) == 0
    capsys.readouterr()
    assert main(["bench", str(tmp_path / "q"), *SHORT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"]["dtype"] == "int8"


@pytest.mark.parametrize(
    "flags",
    [
        *(["--prompt", "3"], ["--new", "1"], ["--rounds", "0"], ["--streams", "0"]),
        *(["--streams", "a"], ["-c", "300"]),
    ],
)
def test_wrong_numbers_are_told(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, the flag named, nothing loaded."""
    with pytest.raises(SystemExit) as caught:
        main(["bench", "/nowhere", *flags])
    assert caught.value.code == 2
    assert flags[0] in capsys.readouterr().err.splitlines()[-1]
