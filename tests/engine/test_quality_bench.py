"""The program that measures quantized models: its figures belong to what they are said to be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_program_measures_every_precision(tiny_model: Path, tmp_path: Path) -> None:
    """Table, JSON and plot; sizes fall with the bits, and what is compared with itself is equal."""
    program = [sys.executable, str(ROOT / "engine" / "bench" / "quality.py")]
    flags = ["--model", f"tiny={tiny_model}", "--out", str(tmp_path)]
    done = subprocess.run([*program, *flags], capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "quantisation.json").read_text())["results"]
    assert [row["dtype"] for row in rows] == ["fp32", "bf16", "int8", "int4"]
    assert [row["model"] for row in rows] == ["tiny"] * 4
    sizes = [row["mib"] for row in rows]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 2 * sizes[1]
    exact, plain, fine, coarse = (row["divergence"] for row in rows)
    assert plain == 0 < fine < coarse and exact < coarse
    assert done.stdout.strip() in (tmp_path / "quantisation.md").read_text()
    assert (tmp_path / "quantisation.png").stat().st_size > 1000
