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
MODULES += ("speed.plots", "speed.process", "speed.readme", "speed.record", "speed.shapes")
MODULES += ("speed.shelf", "speed.sides.base", "speed.sides.generate", "speed.sides.ours")
MODULES += ("speed.cases.streams", "speed.sides.steered", "speed.tables", "profile_step")
DOCS = BENCH.parent.parent / "docs" / "bench"


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


def skip_of(bench: Any, **more: Any) -> Any:
    given = {"group": "answers", "model": "1.1B", "precision": "bf16", "case": "256 + 16 tokens"}
    return bench.record.Skip(**given | {"reason": "no memory"} | more)


def report_of(bench: Any, *rows: Any, skipped: tuple[Any, ...] = ()) -> Any:
    machine = {"processor": "2 cores"}
    return bench.record.Report(machine=machine, rows=list(rows), skipped=list(skipped))


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


def test_a_side_that_does_not_answer_in_time_is_ended(bench: Any) -> None:
    """With a reason that names it; to end it again does no harm."""
    with bench.process.Process("limits", 1, patience=0.05) as side:
        with pytest.raises(bench.process.SideFailed, match="limits: no answer within") as told:
            side.call("bandwidth")
        assert told.value.side == "limits"
        with pytest.raises(bench.process.SideFailed):
            side.call("bandwidth")


def test_too_few_tokens_are_no_answer(bench: Any) -> None:
    """Every stream has as many as were asked for, the late one its one."""
    work = bench.base.Work(prompts=[[1], [2]], new=2, late=[3])
    given = {"began": [0.0] * 3, "times": [[1.0]] * 3, "token_ids": [[]] * 3, "num_held": [0] * 3}
    assert not bench.base.Answer(**given, counts=[[1, 1], [3], [1]]).difference(work)
    assert "[2, 1, 1]" in bench.base.Answer(**given, counts=[[1, 1], [1], [1]]).difference(work)
    assert bench.base.Answer(**given, counts=[[1, 1], [2]]).difference(work)


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
    assert lines["decode, bf16"][3:] == ("1.25 (1.10 to 1.50)", "3", "", "yes")
    assert lines["decode, int8"][3:] == ("1.10 (1.00 to 1.20)", "3", "1.60", "no")
    assert lines["HTTP at 8 streams, ms a token more"][3:] == ("0.40 (0.10 to 0.50)", "3", "", "no")
    assert lines["prefill, bf16"][3:] == ("not measured", "", "", "")


def test_a_later_run_replaces_what_it_measured(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of an earlier run keep the rest; all are written again, pictures too."""
    first = report_of(bench, row_of(bench), row_of(bench, precision="int8", made="before"))
    values = {"libertai": [20.0], "llama.cpp": [10.0]}
    newer = report_of(bench, row_of(bench, values=values, made="now"))
    bench.run.keep(first, tmp_path)
    bench.run.keep(newer, tmp_path)
    assert bench.run.main(["--draw", "--out", str(tmp_path)]) == 0
    read = bench.record.read(tmp_path / "speed.json")
    assert {row.precision: row.median() for row in read.rows} == {"int8": 11.0, "bf16": 20.0}
    text = (tmp_path / "speed.md").read_text()
    assert "2.00 (2.00 to 2.00)" in text and "1.25 (1.10 to 1.50)" in text
    assert "Measured: 1.1B int8 before; 1.1B bf16 now." in text or (
        "Measured: 1.1B bf16 now; 1.1B int8 before." in text
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        *("speed.json", "speed.md", "speed_answers.png")
    }
    assert text in capsys.readouterr().out and (tmp_path / "speed_answers.png").stat().st_size


def test_what_failed_is_told_until_it_is_measured(bench: Any) -> None:
    """Earlier figures stay when a later run fails; a later success takes the complaint away."""
    before, failed = report_of(bench, row_of(bench)), report_of(bench, skipped=(skip_of(bench),))
    both = before.updated(failed)
    assert both.rows == before.rows and "answers, 1.1B bf16" in bench.tables.page(both)
    assert both.updated(before).skipped == []
    other = report_of(bench, skipped=(skip_of(bench, precision="int8"),))
    assert len(both.updated(other).skipped) == 2


class FakeCase:
    """A case of some rounds; `fails` are numbers of rounds at which a side, or the case, fails."""

    group, x = "answers", None

    def __init__(self, bench: Any, label: str, fails: dict[int, Exception]) -> None:
        self.setup = bench.plan.Setup(model="60M", precision="bf16", sides=("limits",))
        self.label, self.fails, self.num_runs = label, fails, 0

    def run(self, place: Any) -> dict[str, dict[str, float]]:
        """The number of the round, for each side that is there."""
        self.num_runs += 1
        if self.num_runs in self.fails:
            raise self.fails[self.num_runs]
        sides = {"libertai": 1.0 * self.num_runs, **dict.fromkeys(place.sides, 1.0)}
        return {"decode": sides}


def test_a_failure_ends_a_case_or_a_side_and_not_the_run(bench: Any, tmp_path: Path) -> None:
    """A peer that fails is left out, with a word on it; a case that fails is left out, too."""
    gone, ours = (bench.process.SideFailed(side, "gone") for side in ("limits", "libertai"))
    cases = [
        FakeCase(bench, "whole", {}),
        FakeCase(bench, "wrong", {2: ValueError("what\nis this")}),
        FakeCase(bench, "without", {2: gone}),
        FakeCase(bench, "ours", {1: ours}),
        FakeCase(bench, "last", {}),
    ]
    terms = bench.contest.Terms(
        rounds=2, seconds=9.0, threads=1, folder=tmp_path, peers=frozenset(), made="now"
    )
    ticks: list[str] = []
    reports = list(bench.contest.run(cases, terms, {}, ticks.append))
    rows = {row.case: row for report in reports for row in report.rows}
    told = {skip.case: skip.reason for report in reports for skip in report.skipped}
    assert [tick.rpartition(" ")[2] for tick in ticks] == [case.label for case in cases]
    assert rows["whole"].values == {"libertai": [2.0, 3.0], "limits": [1.0, 1.0]}
    assert set(rows["without"].values) == set(rows["last"].values) == {"libertai"}
    assert set(rows) == {"whole", "without", "last"} and rows["whole"].made == "now"
    assert told["wrong"] == "ValueError: what is this" and told["ours"] == "libertai: gone"
    assert told["without"] == told["last"] == "limits: gone"


def test_a_case_ends_after_its_rounds_or_its_time(bench: Any, tmp_path: Path) -> None:
    """Time alone does not end it before a few rounds, unless a round is very long."""
    terms = bench.contest.Terms(
        rounds=5, seconds=10.0, threads=1, folder=tmp_path, peers=frozenset()
    )
    ends = [(5, 1.0), (3, 11.0), (1, 31.0)]
    goes_on = [(4, 1.0), (2, 11.0), (1, 29.0)]
    assert all(terms.is_enough(*each) for each in ends)
    assert not any(terms.is_enough(*each) for each in goes_on)


def test_limit_of_streams_counts_prompts_and_steps(bench: Any) -> None:
    """One stream: its prompt and its steps; many: multiplying takes longer than reading."""
    setup = bench.plan.Setup(model="60M", precision="bf16", sides=())
    one, many = (bench.streams.Streams(setup=setup, streams=count) for count in (1, 16))
    assert one.limit(160.0, 23.0) == pytest.approx(24 / (16 / 160 + 23 / 23))
    assert many.limit(160.0, 23.0) == pytest.approx(16 * 24 / (16 * 16 / 160 + 23 * 16 / 160))


def test_readme_tells_the_figures_of_the_report(bench: Any) -> None:
    """Its table is that of docs/bench; another report makes another one."""
    text = (DOCS.parent.parent / "README.md").read_text()
    report = bench.record.read(DOCS / "speed.json")
    assert bench.readme.filled(text, report) == text
    assert (DOCS / "speed.md").read_text() == bench.tables.page(report, profile=bench.run.PROFILE)
    other = bench.readme.filled(text, report_of(bench, row_of(bench)))
    assert other.count("\n| 1.1B bf16 ") == 1 and "1.25 (1.10 to 1.50)" in other
    with pytest.raises(ValueError, match="one table"):
        bench.readme.filled("# Nothing", report)


def test_samples_are_told_apart_by_function(bench: Any) -> None:
    """Shares of the samples that were taken, which must be some."""
    lines = [
        "   7f01 void kernels::tile<kernels::Bf16, 8, 1>(int, long) (/root/kernels-0a.so)",
        "   7f02 void kernels::attend_chunk<8>(float) (/root/kernels-0a.so)",
        "   7f03 [unknown] (/tmp/perf-17.map)",
        "   7f04 _PyEval_EvalFrameDefault (/usr/bin/python3.11)",
        "no sample",
    ]
    shares = bench.profile_step.shares_of(lines)
    wanted = {"matrices": 0.5, "attention": 0.25, "Python": 0.25}
    assert {name: share for name, share in shares.items() if share} == wanted
    with pytest.raises(ValueError, match="saw nothing"):
        bench.profile_step.shares_of(["no sample"])


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
