"""The program behind `make bench`: its models, its processes, its figures and its pages.

In: engine/bench, which is a folder of programs and no package. Out: nothing; the models are tiny.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from libertai_engine.config import DTYPES

BENCH = Path(__file__).parent.parent.parent / "engine" / "bench"
MODULES = ("run", "speed.cases", "speed.contest", "speed.gguf_file", "speed.goals", "speed.plan")
MODULES += ("speed.plots", "speed.process", "speed.record", "speed.shapes", "speed.shelf")
MODULES += ("speed.sides.base", "speed.sides.generate", "speed.sides.ours", "speed.sides.steered")
MODULES += ("speed.tables",)


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """Its modules, by their last names."""
    sys.path.insert(0, str(BENCH))
    made = {name.rpartition(".")[2]: importlib.import_module(name) for name in MODULES}
    yield SimpleNamespace(**made)
    sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def shape(bench: Any) -> Any:
    """A model of a few thousand weights; columns are whole groups of 32."""
    return bench.shapes.Shape(
        name="tiny", hidden=64, ffn=96, layers=2, heads=4, kv_heads=2, vocab=400
    )


@pytest.fixture(scope="module")
def model(bench: Any, shape: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder. Read it, never write."""
    folder = tmp_path_factory.mktemp("bench") / "tiny"
    bench.shapes.write_model(shape, folder)
    return folder


def load_of(bench: Any, model: Path, **more: Any) -> Any:
    given = {"precision": "fp32", "threads": 1, "num_slots": 3, "context_size": 128} | more
    return bench.base.Load(model=str(model), **given)


def row_of(bench: Any, **more: Any) -> Any:
    given: dict[str, Any] = {
        "group": "answers",
        "model": "1.1B",
        "precision": "bf16",
        "case": "256 + 16 tokens",
        "measure": "decode",
        "values": {"libertai": [10.0, 12.0, 11.0], "llama.cpp": [8.0, 8.0, 10.0]},
    }
    return bench.record.Row(**given | more)


def report_of(bench: Any, *rows: Any) -> Any:
    return bench.record.Report(machine={"processor": "2 cores"}, rows=list(rows), skipped=["this"])


def test_shapes_are_as_large_as_their_names_say(bench: Any) -> None:
    """60 M, 0.5 B and 1.1 B parameters, within a tenth."""
    sizes = {name: shape.num_parameters for name, shape in bench.shapes.SHAPES.items()}
    wanted = {"60M": 60e6, "0.5B": 0.5e9, "1.1B": 1.1e9}
    assert set(sizes) == set(wanted)
    assert all(abs(size / wanted[name] - 1) < 0.1 for name, size in sizes.items())
    assert bench.shapes.SHAPES["60M"].num_read == sizes["60M"], "a tied head is read whole"


def test_transformers_and_we_answer_alike_from_the_written_folder(
    bench: Any, model: Path, shape: Any
) -> None:
    """Streams at once, and a late one; times go up and every token is counted."""
    ours, peer = bench.ours.Ours(), bench.generate.Generate()
    options = {"max_draft": 0}
    ours.load(load_of(bench, model, options=options))
    peer.load(load_of(bench, model))
    work = bench.base.Work(prompts=[[300, 301, 302, 303], [310, 311, 312, 313]], new=9)
    mine, theirs = ours.answer(work), peer.answer(work)
    joined = ours.answer(replace(work, late=[320] * 40, late_after=3))
    ours.close()
    for a, b, counts in zip(mine.token_ids, theirs.token_ids, mine.counts, strict=True):
        assert a[:9] == b[:9] and len(b) == 9 <= sum(counts)
    assert theirs.num_tokens == 18 and theirs.seconds > 0 < mine.rate()
    assert len(joined.times) == 3 and joined.began[2] > 0 < joined.first(2)
    assert all(a <= b for times in joined.times for a, b in pairwise(times))


def test_gguf_holds_the_same_weights(bench: Any, model: Path, shape: Any, tmp_path: Path) -> None:
    """Exactly in bf16, and no further away than a step of the scale in 8 and 4 bits."""
    import gguf
    from safetensors.torch import load_file

    weights = load_file(model / "model.safetensors")
    for precision, apart in (("bf16", 0.0), ("int8", 1 / 127), ("int4", 1 / 7)):
        path = tmp_path / f"{precision}.gguf"
        bench.gguf_file.write_gguf(shape, model, path, precision)
        found = {each.name: each for each in gguf.GGUFReader(path).tensors}
        assert len(found) == len(weights)
        for name, weight in weights.items():
            tensor = found[bench.gguf_file.rename(name)]
            values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(weight.shape))
            wanted = np.sort(weight.float().numpy(), axis=0)  # heads are turned, columns are not
            assert np.abs(np.sort(values, axis=0) - wanted).max() <= apart * np.abs(wanted).max()


def test_gguf_and_folder_make_the_same_logits(
    bench: Any, model: Path, shape: Any, tmp_path: Path
) -> None:
    """Rotary halves and neighbours are told apart: transformers reads the file back."""
    from transformers import AutoModelForCausalLM, GgufConfig

    bench.gguf_file.write_gguf(shape, model, tmp_path / "tiny.gguf", "fp32")
    ids = torch.tensor([[300, 301, 302, 303, 304]])
    direct = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    dequantize = GgufConfig(dequantize=True)
    read = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="tiny.gguf", dtype=torch.float32, quantization_config=dequantize
    )
    torch.testing.assert_close(read(ids).logits, direct(ids).logits, rtol=1e-4, atol=1e-5)


def test_a_side_lives_in_a_process_of_its_own(bench: Any, model: Path) -> None:
    """It answers over the pipe, tells its memory, and an error is one line, not the end."""
    with bench.process.Process("libertai", 1) as side:
        with pytest.raises(bench.process.SideFailed, match="libertai: ModelLoadError"):
            side.call("load", load_of(bench, model / "nowhere"))
        side.call("load", load_of(bench, model))
        answer = side.answer(bench.base.Work(prompts=[[300, 301, 302]], new=4))
        assert len(answer.times[0]) >= 4 and side.memory()["resident"] > 1e6


def test_quotations_are_in_their_prompt(bench: Any) -> None:
    """Nearly all of the answer can be looked up."""
    prompt, answer = bench.steered.quotation()
    quoted = [line for line in answer.splitlines() if line in prompt]
    assert sum(map(len, quoted)) > 0.6 * len(answer)


def test_ratios_are_round_by_round_and_above_one_is_better(bench: Any) -> None:
    """Of times, less is better; of speeds, more."""
    row = row_of(bench)
    assert row.ratios("llama.cpp") == [1.25, 1.5, 1.1]
    slow = row_of(bench, measure="first token")
    assert slow.ratios("llama.cpp") == pytest.approx([0.8, 2 / 3, 1 / 1.1])


def test_goals_are_judged_by_the_middle_round(bench: Any) -> None:
    """Ratios, shares and plain numbers; what was not measured is said to be so."""
    share = {"libertai": [10.0, 12.0, 11.0], "limit": [16.0, 15.0, 20.0]}
    http = {"libertai": [0.1, 0.5, 0.4]}
    rows = [
        row_of(bench),
        row_of(bench, precision="int8", values=share | {"llama.cpp": [10.0, 10.0, 10.0]}),
        row_of(bench, group="http", model="60M", measure="over HTTP, a token", values=http),
    ]
    lines = {line[0]: line for line in bench.goals.lines(report_of(bench, *rows))}
    assert lines["decode, bf16"][3:] == ("1.25 (1.10 to 1.50)", "", "yes")
    assert lines["decode, int8"][3:] == ("1.10 (1.00 to 1.20)", "1.60", "no")
    assert lines["HTTP at 8 streams, ms a token more"][3:] == ("0.40 (0.10 to 0.50)", "", "no")
    assert lines["prefill, bf16"][3:] == ("not measured", "", "")


def test_a_later_run_replaces_what_it_measured(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of an earlier run keep the rest; all are written again, pictures too."""
    first = report_of(bench, row_of(bench), row_of(bench, precision="int8"))
    newer = report_of(bench, row_of(bench, values={"libertai": [20.0], "llama.cpp": [10.0]}))
    bench.run.keep(first, tmp_path)
    bench.run.keep(newer, tmp_path)
    assert bench.run.main(["--draw", "--out", str(tmp_path)]) == 0
    read = bench.record.read(tmp_path / "speed.json")
    assert {row.precision: row.median() for row in read.rows} == {"int8": 11.0, "bf16": 20.0}
    text = (tmp_path / "speed.md").read_text()
    assert "2.00 (2.00 to 2.00)" in text and "1.25 (1.10 to 1.50)" in text and "- this" in text
    assert {path.name for path in tmp_path.iterdir()} == {
        *("speed.json", "speed.md", "speed_answers.png")
    }
    assert text in capsys.readouterr().out and (tmp_path / "speed_answers.png").stat().st_size


def test_series_are_drawn_as_lines(bench: Any, tmp_path: Path) -> None:
    """A panel for each precision, with the limit where one is known."""
    rows = [
        row_of(bench, group="streams", measure="total", case=f"{x} streams", x=x, values=values)
        for x, values in ((1.0, {"libertai": [1.0], "limit": [2.0]}), (8.0, {"libertai": [4.0]}))
    ]
    (path,) = bench.plots.draw(report_of(bench, *rows), tmp_path)
    assert path.name == "speed_streams.png" and path.stat().st_size > 0


def test_flags_choose_what_is_measured(bench: Any) -> None:
    """Sizes stay in their order; every group has cases for every choice of flags; names differ."""
    args = bench.run.parse_args(["--quick", "--precision", "int4", "--precision", "bf16"])
    assert (args.model, args.precision, args.rounds) == (["60M"], ["bf16", "int4"], 2)
    args = bench.run.parse_args(["--model", "1.1B", "--model", "60M", "--only", "answers"])
    assert args.model == ["60M", "1.1B"] and args.only == ["answers"]
    scope = bench.plan.Scope(models=args.model, precisions=args.precision)
    cases = [case for make in bench.cases.GROUPS.values() for case in make(scope)]
    names = [(each.group, each.setup.model, each.setup.precision, each.label) for each in cases]
    assert len(set(names)) == len(names) > 50
    assert {each.group for each in cases} == set(bench.tables.TITLES) == set(bench.cases.GROUPS)
    assert {each.setup.precision for each in cases} <= set(DTYPES)
    assert all(name in bench.process.SIDES for each in cases for name in each.setup.sides)
    with pytest.raises(SystemExit):
        bench.run.parse_args(["--only", "everything"])
