"""The parts of `overheads.py` that need an engine: steps, HTTP, prefixes, prompts that join, start.

In: nothing. Out: a `Table` each.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from libertai_engine.api import CompletionAPI
from libertai_engine.config import EngineConfig, ServerConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.http.lifecycle import Lifecycle
from libertai_engine.http.run import DrainingServer, listen
from libertai_engine.model.batch import Batch
from libertai_engine.model.runner import ModelRunner
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from libertai_engine.server import build_app

GREEDY = SamplingParams(temperature=0.0, repeat_penalty=1.0, ignore_eos=True)
DEFAULT = SamplingParams(seed=1, ignore_eos=True)
PROMPT = "Tell me a story about a cat and the sea."
STREAMS = 8
LONG = 2000  # tokens of a long prompt
NEW = 8  # tokens that follow a cached prefix
ANSWER = 100  # tokens of an answer
ROUNDS = 5

# One connection for each stream, in a process of its own: prints seconds and events.
CLIENT = """if True:
    import socket, sys, threading, time
    port, streams, body = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3].encode()
    head = "POST /completion HTTP/1.1\\r\\nhost: 127.0.0.1\\r\\nconnection: close\\r\\n"
    head += f"content-type: application/json\\r\\ncontent-length: {len(body)}\\r\\n\\r\\n"
    counts = []
    def read():
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + body)
            got = b"".join(iter(lambda: connection.recv(65536), b""))
        counts.append(got.count(b"data: "))
    begun = time.perf_counter()
    threads = [threading.Thread(target=read) for _ in range(streams)]
    for each in threads: each.start()
    for each in threads: each.join()
    print(time.perf_counter() - begun, sum(counts))
"""


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, what the figures are, and the figures."""

    title: str
    text: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As a section."""
        rows = [self.head, ["---"] * len(self.head), *self.lines]
        body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return f"\n## {self.title}\n\n{self.text}\n\n{body}"


class Stopwatch:
    """A runner that notes how long each step of the model takes, and what lies between two.

    `pauses` holds what passed from the end of one to the beginning of the next, and how much of
    that was processor time of the engine's thread.
    """

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._ended: tuple[float, float] | None = None
        self.seconds: list[float] = []
        self.pauses: list[tuple[float, float]] = []

    def clear(self) -> None:
        """Begin anew."""
        self._ended = None
        self.seconds.clear()
        self.pauses.clear()

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def run(self, batch: Batch) -> torch.Tensor:
        """The runner's own, timed."""
        begun = (time.perf_counter(), time.thread_time())
        if self._ended is not None:
            self.pauses.append((begun[0] - self._ended[0], begun[1] - self._ended[1]))
        logits = self._runner.run(batch)
        self._ended = (time.perf_counter(), time.thread_time())
        self.seconds.append(self._ended[0] - begun[0])
        return logits


def small_model() -> LlamaForCausalLM:
    """56 million random parameters in bf16, with the demo model's vocabulary beneath 3,000."""
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        vocab_size=32_000,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(torch.bfloat16).eval()


@contextmanager
def small_engine(module: LlamaForCausalLM, **changes: int) -> Iterator[tuple[Engine, Stopwatch]]:
    """An engine on it, without guesses, whose model is timed."""
    with load_engine(EngineConfig(model="demo")) as demo:
        tokenizer = demo.tokenizer
    runner = ModelRunner(module, num_slots=5, context_size=4096, device="cpu")
    watch = Stopwatch(runner)
    config = EngineConfig(num_slots=5, max_draft=0, **changes)
    with Engine(watch, tokenizer, config, None) as engine:  # type: ignore[arg-type]
        yield engine, watch


def random_prompt(seed: int, length: int = LONG) -> tuple[int, ...]:
    """Token ids that share no prefix with another seed's."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(5, 3000, (length,), generator=generator).tolist()
    return tuple(ids)


def steps() -> Table:
    """Everything around the model's forward pass."""
    with load_engine(EngineConfig(model="demo")) as demo:
        assert demo.model is not None
        runner = ModelRunner(demo.model.module, num_slots=8, context_size=1024, device="cpu")
        prompt = tuple(demo.tokenizer.encode(PROMPT, add_special=True))
        watch = Stopwatch(runner)
        config = EngineConfig(num_slots=8, max_draft=0)
        lines = []
        with Engine(watch, demo.tokenizer, config, None) as engine:  # type: ignore[arg-type]
            for name, sampling in (("greedy", GREEDY), ("default", DEFAULT)):
                for streams in (1, STREAMS):
                    pause, busy = _pause(engine, watch, prompt, sampling, streams)
                    cells = (f"{pause:.2f}", f"{busy:.2f}", f"{busy / streams:.3f}")
                    lines.append((name, str(streams), *cells))
    return Table(
        "A step without the model",
        "Milliseconds between the end of one forward pass and the beginning of the next: sampling, "
        "text, stop words, delivery, scheduling; 3,072 tokens in the vocabulary.",
        ("sampling", "streams", "a step", "of them at work", "work a token"),
        lines,
    )


def _pause(
    engine: Engine,
    watch: Stopwatch,
    prompt: tuple[int, ...],
    sampling: SamplingParams,
    streams: int,
) -> tuple[float, float]:
    """Median milliseconds between two steps of the model, and how many of them were work."""
    watch.clear()
    for _ in range(ROUNDS):
        requests = [
            Request(prompt_ids=prompt, max_tokens=ANSWER, index=index, sampling=sampling)
            for index in range(streams)
        ]
        for _delta in engine.submit(*requests):
            pass
    pauses, works = zip(*watch.pauses, strict=True)
    return 1e3 * statistics.median(pauses), 1e3 * statistics.median(works)


def http() -> Table:
    """What the server adds to a token."""
    body = {"prompt": PROMPT, "n_predict": ANSWER, "temperature": 0, "ignore_eos": True}
    ways: dict[str, list[float]] = {"dicts in-process": [], "HTTP": []}
    with load_engine(EngineConfig(model="demo", num_slots=STREAMS, max_draft=0)) as engine:
        api, config = CompletionAPI(engine), ServerConfig(port=0)
        lifecycle, listener = Lifecycle(api), listen(config)
        server = DrainingServer(build_app(lifecycle, config), lifecycle, config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        port = listener.getsockname()[1]
        for _ in range(ROUNDS):
            ways["dicts in-process"].append(_in_process(api, body))
            ways["HTTP"].append(_over_http(port, {**body, "stream": True}))
        server.should_exit = True
        thread.join()
    added = statistics.median(
        theirs - ours for ours, theirs in zip(ways["dicts in-process"], ways["HTTP"], strict=True)
    )
    lines = [(name, f"{statistics.median(found):.3f}") for name, found in ways.items()]
    return Table(
        f"HTTP at {STREAMS} streams",
        "Milliseconds a token of the demo model, all streams together; the goal is that HTTP adds "
        "less than 0.3. The client is a process of its own.",
        ("way", "a token"),
        [*lines, ("HTTP adds (median of rounds)", f"{added:.3f}")],
    )


def _in_process(api: CompletionAPI, body: dict[str, object]) -> float:
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(sum(1 for _ in api.stream(body))))
        for _ in range(STREAMS)
    ]
    begun = time.perf_counter()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return 1e3 * (time.perf_counter() - begun) / sum(counts)


def _over_http(port: int, body: dict[str, object]) -> float:
    command = [sys.executable, "-c", CLIENT, str(port), str(STREAMS), json.dumps(body)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, count = out.split()
    return 1e3 * float(seconds) / int(count)


def prefixes(rounds: int = 3) -> Table:
    """The first token behind a prefix that is known."""
    found: dict[str, list[float]] = {}
    with small_engine(small_model()) as (engine, watch), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slot.safetensors"
        for number in range(rounds):
            for name, ratio in _prefix_round(engine, watch, path, number):
                found.setdefault(name, []).append(ratio)
    lines = [
        (name, f"{statistics.median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}")
        for name, ratios in found.items()
    ]
    return Table(
        f"First token behind {LONG:,} cached ones and {NEW} new ones",
        "In units of the model's step that evaluates the new tokens, which a fresh slot would need "
        "too; 56 million parameters. The goal is 1.3. What a slot holds goes to the host store "
        "before it is overwritten; of a file, reading it is counted.",
        ("where the prefix is", "ratio", "range"),
        lines,
    )


def _prefix_round(
    engine: Engine, watch: Stopwatch, path: Path, number: int
) -> Iterator[tuple[str, float]]:
    base = random_prompt(number)

    def first(slot: int, before: Callable[[], object] = lambda: None) -> float:
        """Seconds to the first token over the model's own."""
        watch.clear()
        prompt = (*base, *random_prompt(1000 + len(times), NEW))
        times.append(0.0)
        begun = time.perf_counter()
        before()
        with closing(engine.submit(Request(prompt_ids=prompt, max_tokens=1, slot=slot))) as stream:
            next(stream)
        return (time.perf_counter() - begun) / sum(watch.seconds)

    times: list[float] = []
    for slot in range(5):
        engine.erase_slot(slot)
    _evaluate(engine, base, 0)
    yield "the same slot", first(0)
    yield "another slot, empty", first(1)
    _evaluate(engine, random_prompt(100 + number), 2)
    yield "another slot, which holds something else", first(2)
    for slot in range(3):
        _evaluate(engine, random_prompt(200 + 10 * number + slot), slot)
    engine.erase_slot(3)
    yield "the host store", first(3)
    engine.save_slot(3, path)
    for slot in range(5):
        engine.erase_slot(slot)
    yield "a file", first(4, lambda: engine.restore_slot(4, path))


def _evaluate(engine: Engine, prompt: tuple[int, ...], slot: int) -> None:
    for _ in engine.submit(Request(prompt_ids=prompt, max_tokens=0, slot=slot)):
        pass


def joining() -> Table:
    """What running answers notice of a long prompt."""
    module, lines = small_model(), []
    for limit in (0, 100, 30):
        with small_engine(module, prefill_ms=limit) as (engine, _):
            first_token, gaps = _join(engine)
        cells = [f"{1e3 * gaps[int(share * len(gaps))]:.0f}" for share in (0.5, 0.99)]
        lines.append((str(limit or "none"), *cells, f"{1e3 * gaps[-1]:.0f}", f"{first_token:.2f}"))
    return Table(
        f"A prompt of {LONG:,} tokens joins four answers",
        "Milliseconds between two tokens of the answers while the prompt is evaluated, and seconds "
        "to the prompt's own first token, by `--prefill-ms`; 56 million parameters.",
        ("limit, ms", "p50", "p99", "longest", "first token, s"),
        lines,
    )


def _join(engine: Engine) -> tuple[float, list[float]]:
    """Seconds to the first token, and the sorted gaps of the others until then."""
    stamps: list[list[float]] = [[] for _ in range(4)]
    streams = []

    def read(index: int) -> None:
        request = Request(prompt_ids=random_prompt(index, 20), sampling=GREEDY)
        stream = engine.submit(request)
        streams.append(stream)
        stamps[index].extend(time.perf_counter() for _ in stream)

    readers = [threading.Thread(target=read, args=(index,)) for index in range(4)]
    for each in readers:
        each.start()
    while min(map(len, stamps)) < 20 and any(each.is_alive() for each in readers):
        time.sleep(0.01)
    begun = time.perf_counter()
    with closing(engine.submit(Request(prompt_ids=random_prompt(9), max_tokens=1))) as stream:
        next(stream)
    end = time.perf_counter()
    for each in streams:
        each.abort()
    for reader in readers:
        reader.join()
    gaps = [
        after - before
        for times in stamps
        for before, after in zip(times, times[1:], strict=False)
        if begun < after and before < end
    ]
    return end - begun, sorted(gaps)


def start(rounds: int = 2) -> Table:
    """From nothing to an engine that answers."""
    stages = {
        "import torch": "import torch",
        "and transformers": "import torch; from transformers import PreTrainedModel",
        "and the engine": "import libertai_engine.api, libertai_engine.server",
        "and the demo model": "from libertai_engine.engine import load_engine; load_engine('demo')",
    }
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, code in stages.items():
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            times[name].append(time.perf_counter() - begun)
    times["the port answers (503 until then)"] = [_seconds_to_port() for _ in range(rounds)]
    return Table(
        "Start",
        "Seconds of a new process, native kernels compiled before.",
        ("until", "seconds"),
        [(name, f"{statistics.median(found):.2f}") for name, found in times.items()],
    )


def _seconds_to_port() -> float:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "libertai_engine", "serve", "--port", str(port)]
    begun = time.perf_counter()
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while time.perf_counter() < begun + 60:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.01)
        return time.perf_counter() - begun
    finally:
        server.terminate()
        server.wait()
