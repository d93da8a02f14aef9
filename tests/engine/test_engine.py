"""The engine as its users see it: threads, event loops, reuse, limits, faults."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from libertai_engine.config import EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.errors import (
    ContextOverflow,
    EngineUnavailable,
    GenerationFailed,
    InvalidRequest,
    SlotFileError,
)
from libertai_engine.model.batch import Batch, Row
from libertai_engine.model.runner import ModelRunner
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import FinishReason, Request
from libertai_engine.stream import Stream
from tests.fakes import random_model

GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0)


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    config = EngineConfig(model=str(tiny_model), num_slots=4, batch_size=32)
    with load_engine(config, progress=False) as loaded:
        yield loaded


def prompt_of(engine: Engine, text: str) -> tuple[int, ...]:
    return tuple(engine.tokenizer.encode(text, add_special=True))


def answer(engine: Engine, request: Request) -> list[int]:
    """The generated tokens of one request."""
    return [token.token_id for delta in engine.submit(request) for token in delta.tokens]


def greedy(engine: Engine, text: str, max_tokens: int = 12) -> Request:
    return Request(prompt_ids=prompt_of(engine, text), sampling=GREEDY, max_tokens=max_tokens)


def wait_until_idle(engine: Engine, timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while engine.load.num_idle_slots < engine.num_slots or engine.load.num_waiting:
        assert time.monotonic() < deadline, engine.load
        time.sleep(0.005)


def test_many_threads_and_many_event_loops_agree(engine: Engine) -> None:
    """The same requests from threads and from loops at once give the same tokens as alone."""
    texts = [f"user {number}: tell me" for number in range(12)]
    alone = [answer(engine, greedy(engine, text)) for text in texts]

    async def read(text: str) -> list[int]:
        stream = engine.submit(greedy(engine, text))
        return [token.token_id async for delta in stream for token in delta.tokens]

    async def gather() -> list[list[int]]:
        return await asyncio.gather(*(read(text) for text in texts))

    with ThreadPoolExecutor(8) as pool:
        loops = [pool.submit(asyncio.run, gather()) for _ in range(2)]
        threads = list(pool.map(lambda text: answer(engine, greedy(engine, text)), texts))
        assert threads == alone
        assert all(loop.result() == alone for loop in loops)
    wait_until_idle(engine)


def finish_of(stream: Stream) -> tuple[int, int]:
    last = list(stream)[-1].finish
    assert last is not None
    return last.num_prompt_tokens, last.num_cached


def test_only_the_new_tokens_are_evaluated(engine: Engine) -> None:
    """A prompt that continues an answer finds all of it in the slot."""
    first = greedy(engine, "The little girl who liked to read", 8)
    generated = answer(engine, first)
    longer = Request(
        prompt_ids=(*first.prompt_ids, *generated, *prompt_of(engine, "and then")[1:]),
        sampling=GREEDY,
        max_tokens=1,
    )
    _, num_cached = finish_of(engine.submit(longer))
    # The last generated token was sampled but never evaluated.
    assert num_cached == len(first.prompt_ids) + len(generated) - 1


def test_without_cache_prompt_everything_is_evaluated(engine: Engine) -> None:
    """`cache_prompt` off reuses nothing, and the answer is the same."""
    cached = greedy(engine, "once upon a time there was")
    fresh = Request(
        prompt_ids=cached.prompt_ids, sampling=GREEDY, max_tokens=12, cache_prompt=False
    )
    assert answer(engine, cached) == answer(engine, fresh) == answer(engine, cached)
    assert finish_of(engine.submit(fresh))[1] == 0


def test_prefill_only_fills_the_cache(engine: Engine) -> None:
    """`max_tokens` 0 evaluates the prompt and generates nothing."""
    prompt_ids = prompt_of(engine, "a prompt that is evaluated ahead of its use")
    stream = engine.submit(Request(prompt_ids=prompt_ids, max_tokens=0))
    deltas = list(stream)
    assert len(deltas) == 1 and deltas[0].finish is not None
    assert deltas[0].finish.num_generated == 0
    _, num_cached = finish_of(engine.submit(Request(prompt_ids=(*prompt_ids, 9), max_tokens=1)))
    assert num_cached == len(prompt_ids)


def test_seeded_sampling_repeats_itself_in_any_slot(engine: Engine) -> None:
    """The same seed gives the same text in every slot, alone or beside others."""
    sampling = SamplingParams(seed=7, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0)
    prompt_ids = prompt_of(engine, "the river runs")
    requests = [
        Request(prompt_ids=prompt_ids, sampling=sampling, max_tokens=16, slot=slot)
        for slot in range(engine.num_slots)
    ]
    alone = [answer(engine, request) for request in requests]
    streams = [engine.submit(request) for request in requests]
    together = [
        [token.token_id for delta in stream for token in delta.tokens] for stream in streams
    ]
    assert together == alone == [alone[0]] * len(requests)
    other = SamplingParams(seed=8, temperature=1.5, top_k=0, top_p=1.0, min_p=0.0)
    assert answer(engine, Request(prompt_ids=prompt_ids, sampling=other, max_tokens=16)) != alone[0]


@pytest.mark.parametrize(
    ("change", "error", "field"),
    [
        ({"prompt_ids": ()}, InvalidRequest, "prompt"),
        ({"prompt_ids": (10**6,)}, InvalidRequest, "prompt"),
        ({"prompt_ids": (5,) * 512}, ContextOverflow, "prompt"),
        ({"slot": 4}, InvalidRequest, "slot"),
    ],
)
def test_wrong_requests_never_reach_the_model(
    engine: Engine, change: dict[str, object], error: type[InvalidRequest], field: str
) -> None:
    """They are refused at once, naming the field."""
    with pytest.raises(error) as caught:
        engine.submit(Request(**{"prompt_ids": (1,), **change}))  # type: ignore[arg-type]
    assert caught.value.field == field


def test_the_context_ends_the_answer(engine: Engine) -> None:
    """Without a limit the answer ends with the lane, and says that it was cut."""
    sampling = SamplingParams(seed=1, ignore_eos=True)
    deltas = list(engine.submit(Request(prompt_ids=(5,) * 500, sampling=sampling)))
    finish = deltas[-1].finish
    assert finish is not None and finish.truncated and finish.reason is FinishReason.LIMIT
    assert finish.num_prompt_tokens + finish.num_generated == engine.context_size


def test_leaving_frees_the_slot(engine: Engine) -> None:
    """An aborted request stops between two steps, whether it runs or waits."""
    sampling = SamplingParams(seed=1, ignore_eos=True)
    streams = [
        engine.submit(Request(prompt_ids=(5, number), sampling=sampling)) for number in range(8)
    ]
    for stream in streams[:4]:
        next(stream)
    for stream in streams:
        stream.abort()
    wait_until_idle(engine)
    assert answer(engine, greedy(engine, "still there"))


def test_neighbours_of_an_abort_are_untouched(engine: Engine) -> None:
    """What others generate does not change when somebody leaves."""
    request = greedy(engine, "the birds sang", 40)
    alone = answer(engine, request)
    stream = engine.submit(request)
    leaving = [
        engine.submit(
            Request(prompt_ids=(5, number), sampling=SamplingParams(seed=1, ignore_eos=True))
        )
        for number in range(3)
    ]
    seen = []
    for delta in stream:
        seen += [token.token_id for token in delta.tokens]
        if leaving and len(seen) % 5 == 0:
            leaving.pop().abort()
    for other in leaving:
        other.abort()
    assert seen == alone
    wait_until_idle(engine)


class Faulty(ModelRunner):
    """A real runner that can be told to break."""

    poison = -1  # a batch with this token raises
    nan = -1  # rows with this token give no numbers
    lost = -1  # a batch with this token loses a row of logits
    hold: threading.Event | None = None  # wait for this before each step

    def run(self, batch: Batch) -> torch.Tensor:
        if self.hold is not None:
            self.hold.wait()
        tokens = [token for row in batch.rows for token in row.token_ids]
        if self.poison in tokens:
            raise RuntimeError("boom")
        logits = super().run(batch)
        wanting = [row for row in batch.rows if row.num_logits]
        for index, row in enumerate(wanting):
            if self.nan in row.token_ids:
                logits[index] = float("nan")
        return logits[1:] if self.lost in tokens else logits


@pytest.fixture
def faulty(engine: Engine) -> Iterator[tuple[Engine, Faulty]]:
    assert engine.model is not None
    runner = Faulty(engine.model.module, num_slots=2, context_size=64, device=engine.model.device)
    config = EngineConfig(num_slots=2, max_queue=1, batch_size=32)
    with Engine(runner, engine.tokenizer, config, engine.model) as broken:
        yield broken, runner
        if runner.hold is not None:
            runner.hold.set()


@pytest.mark.parametrize("fault", ["poison", "nan"])
def test_a_broken_step_hurts_only_its_request(faulty: tuple[Engine, Faulty], fault: str) -> None:
    """An exception in the model, or logits that are no numbers, fail one request alone."""
    engine, runner = faulty
    request = greedy(engine, "good neighbours", 30)
    alone = answer(engine, request)
    setattr(runner, fault, 77)
    good = engine.submit(request)
    first = next(good)
    bad = engine.submit(Request(prompt_ids=(1, 77, 77), sampling=GREEDY, max_tokens=3))
    with pytest.raises(GenerationFailed):
        list(bad)
    rest = [token.token_id for delta in good for token in delta.tokens]
    assert [token.token_id for token in first.tokens] + rest == alone
    wait_until_idle(engine)


def test_a_broken_choice_of_tokens_ends_no_engine(faulty: tuple[Engine, Faulty]) -> None:
    """Whatever the sampler throws, the requests of that step fail and the next ones run."""
    engine, runner = faulty
    runner.lost = 77
    with pytest.raises(GenerationFailed, match="choosing"):
        answer(engine, Request(prompt_ids=(1, 77), sampling=GREEDY, max_tokens=3))
    assert len(answer(engine, Request(prompt_ids=(1, 78), sampling=GREEDY, max_tokens=3))) == 3
    wait_until_idle(engine)


def test_the_queue_is_bounded(faulty: tuple[Engine, Faulty]) -> None:
    """Slots and queue are filled, the next one is told to come back; later all is well again."""
    engine, runner = faulty
    runner.hold = threading.Event()
    request = Request(prompt_ids=(5, 6), sampling=GREEDY, max_tokens=2)
    streams = [engine.submit(request) for _ in range(3)]
    with pytest.raises(EngineUnavailable, match="queue is full"):
        engine.submit(request)
    runner.hold.set()
    assert all(list(stream) for stream in streams)
    assert answer(engine, request)


def test_sequential_requests_are_never_refused(faulty: tuple[Engine, Faulty]) -> None:
    """The slot is free before the reader hears of the end."""
    engine, _ = faulty
    for _ in range(100):
        assert answer(engine, Request(prompt_ids=(5,), sampling=GREEDY, max_tokens=1, slot=0))
        assert engine.load.num_idle_slots == 2


def test_closing_reaches_every_reader(faulty: tuple[Engine, Faulty]) -> None:
    """Running and waiting readers hear of it; later submits are refused; closing twice is fine."""
    engine, _ = faulty
    sampling = SamplingParams(seed=1, ignore_eos=True)
    request = Request(prompt_ids=(5,), sampling=sampling, max_tokens=10**6)
    streams = [engine.submit(request) for _ in range(3)]
    next(streams[0])
    engine.close()
    engine.close()
    for stream in streams:
        with pytest.raises(EngineUnavailable):
            list(stream)
    assert not engine.is_alive
    with pytest.raises(EngineUnavailable, match="closed"):
        engine.submit(request)


def test_a_forgotten_engine_stops_its_thread(engine: Engine) -> None:
    """Without a reference left, the thread ends by itself."""
    assert engine.model is not None
    runner = ModelRunner(
        engine.model.module, num_slots=1, context_size=32, device=engine.model.device
    )
    forgotten = Engine(runner, engine.tokenizer, EngineConfig(num_slots=1), engine.model)
    before = {thread for thread in threading.enumerate() if thread.name == "libertai-engine"}
    del forgotten, runner
    gc.collect()
    after = {thread for thread in threading.enumerate() if thread.name == "libertai-engine"}
    assert len(before - after) == 1


def test_the_interpreter_can_leave_while_generating(tiny_model: Path) -> None:
    """A program that ends in the middle of an answer ends cleanly and at once."""
    code = (
        "from libertai_engine import *\n"
        f"engine = load_engine(EngineConfig(model={str(tiny_model)!r}), progress=False)\n"
        "sampling = SamplingParams(seed=1, ignore_eos=True)\n"
        "stream = engine.submit(Request(prompt_ids=(5,), sampling=sampling))\n"
        "next(stream)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_more_conversations_than_slots_keep_their_tokens(engine: Engine) -> None:
    """Twelve conversations on four slots: each finds its first turn again."""
    turns = [greedy(engine, f"conversation {number} begins with words", 4) for number in range(12)]
    answers = [answer(engine, turn) for turn in turns]
    for turn, generated in zip(turns, answers, strict=True):
        prompt_ids = (*turn.prompt_ids, *generated, 9, 10)
        request = Request(prompt_ids=prompt_ids, sampling=GREEDY, max_tokens=1)
        _, num_cached = finish_of(engine.submit(request))
        assert num_cached == len(turn.prompt_ids) + len(generated) - 1


def test_an_answer_goes_on_beyond_the_context(engine: Engine) -> None:
    """With a shift allowed, the number of tokens is exact although the context is too small."""
    sampling = SamplingParams(temperature=0.0, ignore_eos=True)
    prompt_ids = tuple(range(10, 30)) * 24
    request = Request(
        prompt_ids=prompt_ids, sampling=sampling, max_tokens=600, num_keep=8, can_shift=True
    )
    finish = list(engine.submit(request))[-1].finish
    assert finish is not None and finish.reason is FinishReason.LIMIT and finish.truncated
    assert finish.num_generated in range(600, 604)
    assert finish.num_in_cache < engine.context_size


def test_what_lies_in_a_shifted_lane_is_not_reused(engine: Engine) -> None:
    """A prompt that reads like a shifted context is answered as if nothing were cached."""
    size, num_keep = engine.context_size, 8
    prompt_ids = tuple(range(10, 30)) * 24
    sampling = SamplingParams(temperature=0.0, ignore_eos=True)
    filling = Request(
        prompt_ids=prompt_ids,
        sampling=sampling,
        max_tokens=size - len(prompt_ids) + 4,
        num_keep=num_keep,
        can_shift=True,
    )
    written = (*prompt_ids, *answer(engine, filling))[: size - 1]
    num_dropped = (size - 1 - num_keep - 1) // 2
    looks_cached = (*written[: num_keep + 1], *written[num_keep + 1 + num_dropped :])
    probs = []
    for is_cached in (True, False):
        request = Request(
            prompt_ids=looks_cached,
            sampling=replace(sampling, num_probs=5),
            max_tokens=1,
            cache_prompt=is_cached,
        )
        delta = list(engine.submit(request))[-1]
        assert delta.finish is not None
        assert (delta.finish.num_cached > num_keep) == is_cached
        probs.append(dict(delta.tokens[0].probs))
    assert probs[0] == pytest.approx(probs[1], rel=1e-4)


def test_a_shift_turns_keys_as_if_they_had_been_there(engine: Engine) -> None:
    """One layer sees no history, so its shifted lane must equal the freshly evaluated one."""
    module = random_model("llama", num_hidden_layers=1)
    runner = ModelRunner(module, num_slots=2, context_size=64, device="cpu")
    tokens = tuple(range(10, 40))
    runner.run(Batch((Row(0, 0, tokens, 1),)))
    runner.shift(0, 5, 10, 30)
    shifted = runner.run(Batch((Row(0, 20, (99,), 1),)))
    fresh = (*tokens[:5], *tokens[15:], 99)
    expected = runner.run(Batch((Row(1, 0, fresh, 1),)))
    torch.testing.assert_close(shifted, expected, rtol=1e-4, atol=1e-4)


def test_a_model_without_rotary_positions_says_so(engine: Engine) -> None:
    """Learned positions cannot be moved: a request that would need it is refused, others run."""
    module = random_model("gpt2")
    runner = ModelRunner(module, num_slots=1, context_size=64, device="cpu")
    with Engine(runner, engine.tokenizer, EngineConfig(num_slots=1), None) as fixed:
        request = Request(prompt_ids=(5, 6), sampling=GREEDY, max_tokens=100, can_shift=True)
        with pytest.raises(InvalidRequest, match="cannot be shifted"):
            fixed.submit(request)
        assert answer(fixed, Request(prompt_ids=(5, 6), sampling=GREEDY, max_tokens=3))


def test_one_reader_follows_several_requests(engine: Engine) -> None:
    """Requests submitted together share a stream; each has its index, its finish, its answer."""
    requests = [greedy(engine, text) for text in ("one two", "the birds", "a story about stars")]
    expected = [answer(engine, request) for request in requests]
    together = [replace(request, index=index) for index, request in enumerate(requests)]
    deltas = list(engine.submit(*together))
    assert sum(delta.finish is not None for delta in deltas) == 3
    for index, tokens in enumerate(expected):
        mine = [delta for delta in deltas if delta.index == index]
        assert [token.token_id for delta in mine for token in delta.tokens] == tokens
        assert mine[-1].finish is not None


def test_an_error_of_one_ends_all_that_came_with_it(faulty: tuple[Engine, Faulty]) -> None:
    """The reader gets one error, and the slots of the others are free again."""
    engine, runner = faulty
    runner.poison = 77
    endless = SamplingParams(seed=1, ignore_eos=True)
    with pytest.raises(GenerationFailed):
        list(
            engine.submit(
                Request(prompt_ids=(5, 6), sampling=endless),
                Request(prompt_ids=(1, 77), sampling=GREEDY, max_tokens=3, index=1),
            )
        )
    wait_until_idle(engine)


def test_a_slot_goes_to_disk_and_back(engine: Engine, tmp_path: Path) -> None:
    """A restored slot spares the evaluation that filled it, and the answer is the same."""
    request = replace(greedy(engine, "a long story about the small river and the sea"), slot=1)
    expected = answer(engine, request)
    path = tmp_path / "river.safetensors"
    saved = engine.save_slot(1, path)
    assert saved.num_tokens >= len(request.prompt_ids) and saved.num_bytes == path.stat().st_size
    assert engine.erase_slot(1) == saved.num_tokens
    assert engine.restore_slot(2, path) == saved
    stream = engine.submit(replace(request, slot=2))
    deltas = list(stream)
    assert [token.token_id for delta in deltas for token in delta.tokens] == expected
    assert deltas[-1].finish is not None
    assert deltas[-1].finish.num_cached == len(request.prompt_ids) - 1


def test_a_file_that_does_not_fit_leaves_the_slot_as_it_was(engine: Engine, tmp_path: Path) -> None:
    """Missing, random, cut, or another model's: an error that says so, and nothing is lost."""
    request = replace(greedy(engine, "words that must stay"), slot=0)
    answer(engine, request)
    good = tmp_path / "good"
    engine.save_slot(0, good)
    random_bytes, cut, bomb = tmp_path / "random", tmp_path / "cut", tmp_path / "bomb"
    random_bytes.write_bytes(b"\x93" * 500)
    cut.write_bytes(good.read_bytes()[:-100])
    bomb.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    foreign = tmp_path / "foreign"
    module = random_model("llama", seed=9)
    runner = ModelRunner(module, num_slots=1, context_size=512, device="cpu")
    with Engine(runner, engine.tokenizer, EngineConfig(num_slots=1), None) as other:
        answer(other, replace(request, slot=None))
        other.save_slot(0, foreign)
    for path in (tmp_path / "missing", random_bytes, cut, bomb, foreign):
        with pytest.raises(SlotFileError, match="Unable to restore slot") as caught:
            engine.restore_slot(0, path)
        assert str(tmp_path) not in str(caught.value)
    _, num_cached = finish_of(engine.submit(request))
    assert num_cached == len(request.prompt_ids) - 1


def test_a_slot_file_that_cannot_be_written_is_an_error(engine: Engine, tmp_path: Path) -> None:
    """A folder that does not exist, or a slot that does not."""
    with pytest.raises(SlotFileError, match="Unable to save slot"):
        engine.save_slot(0, tmp_path / "nowhere" / "file")
    with pytest.raises(InvalidRequest, match="slot"):
        engine.save_slot(99, tmp_path / "file")


def test_a_job_waits_for_its_slot(faulty: tuple[Engine, Faulty], tmp_path: Path) -> None:
    """A busy slot is saved when its request has ended, not in the middle of it."""
    engine, _ = faulty
    stream = engine.submit(Request(prompt_ids=(5, 6), sampling=GREEDY, max_tokens=20, slot=0))
    next(stream)
    saved = engine.save_slot(0, tmp_path / "file")
    finish = list(stream)[-1].finish
    assert finish is not None and saved.num_tokens == finish.num_in_cache


def test_a_job_that_was_given_up_keeps_closing_from_nobody(faulty: tuple[Engine, Faulty]) -> None:
    """Cancelled while its slot was busy, and not looked at since: all others still hear of it."""
    engine, runner = faulty
    endless = SamplingParams(seed=1, ignore_eos=True)
    request = Request(prompt_ids=(5,), sampling=endless, max_tokens=10**6, can_shift=True, slot=0)
    stream = engine.submit(request)
    next(stream)
    hold = runner.hold = threading.Event()

    async def give_up() -> None:
        await asyncio.sleep(0.1)  # the step that was running has ended
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(engine.aerase_slot(0), 0.1)

    asyncio.run(give_up())
    closer = threading.Thread(target=engine.close, daemon=True)
    closer.start()
    hold.set()
    closer.join(10)

    def read() -> None:
        with suppress(EngineUnavailable):
            list(stream)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    assert not reader.is_alive()


def test_interrupts_leave_nothing_locked(tiny_model: Path) -> None:
    """Hundreds of interrupts at random moments: the engine goes on, and every slot is free."""
    code = f"""
import random, signal
from libertai_engine import *

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
draw = random.Random(0)
endless = SamplingParams(seed=1, ignore_eos=True)
with load_engine(EngineConfig(model={str(tiny_model)!r}, num_slots=2), progress=False) as engine:
    for _ in range(400):
        stream = engine.submit(Request(prompt_ids=(5, 6), sampling=endless))
        try:
            signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.0005, 0.008))
            for delta in stream:
                pass
        except KeyboardInterrupt:
            pass
        signal.setitimer(signal.ITIMER_REAL, 0)
        stream.abort()
    short = Request(prompt_ids=(5, 6), sampling=endless, max_tokens=4)
    print(len(list(engine.submit(short))) > 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "True\n", done.stderr[-2000:]
