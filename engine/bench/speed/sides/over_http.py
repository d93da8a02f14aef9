"""libertai_engine's server, asked by one client over plain sockets.

In: a model folder. Out: answers as events, read in one event loop. The client has the same cores as
the server, so what it takes counts as the server's.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from typing import Any

from speed.sides.base import Answer, Load, Work

READY = re.compile(r"listening on http://([\d.]+):(\d+)")


class OverHttp:
    """A server as a process of its own. Invariant: it ends with this side."""

    def load(self, load: Load) -> dict[str, str]:
        """Start `libertai-engine serve` and wait until it listens."""
        options = {
            "--port": 0,
            "--dtype": load.precision,
            "--threads": load.threads,
            "--parallel": load.num_slots,
            "--ctx-size": load.context_size,
            "--draft-max": 0,
        }
        flags = [str(part) for pair in options.items() for part in pair]
        self._server = subprocess.Popen(
            [sys.executable, "-m", "libertai_engine", "serve", load.model, *flags],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._server.stderr is not None
        said = []
        for line in self._server.stderr:
            said.append(line)
            found = READY.search(line)
            if found:
                self._host, self._port = found[1], int(found[2])
                return {}
        raise RuntimeError(f"the server did not start: {''.join(said)[-500:]}")

    def answer(self, work: Work) -> Answer:
        """All prompts at once, each on a connection of its own."""
        return asyncio.run(self._answer_all(work))

    async def _answer_all(self, work: Work) -> Answer:
        begin = time.perf_counter()
        asked = [self._ask(ids, work.new, begin) for ids in work.prompts]
        told = await asyncio.gather(*asked)
        streams = len(told)
        return Answer(
            began=[0.0] * streams,
            times=[times for times, _ in told],
            counts=[_counts(times, final) for times, final in told],
            token_ids=[[] for _ in told],
            num_held=[final["tokens_cached"] for _, final in told],
        )

    async def _ask(
        self, ids: list[int], new: int, begin: float
    ) -> tuple[list[float], dict[str, Any]]:
        """Times of events, and the last one's JSON."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        body = json.dumps(
            {
                "prompt": ids,
                "n_predict": new,
                "stream": True,
                "temperature": 0,
                "repeat_penalty": 1.0,
                "ignore_eos": True,
            }
        ).encode()
        head = (
            f"POST /completion HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        times: list[float] = []
        final: dict[str, Any] = {}
        async for line in reader:
            if line.startswith(b"data: "):
                times.append(time.perf_counter() - begin)
                if b'"stop":true' in line.replace(b" ", b""):
                    final = json.loads(line[len(b"data: ") :])
        writer.close()
        if not final:
            raise RuntimeError("a stream ended without its last event")
        return times, final

    def close(self) -> None:
        """End the server."""
        self._server.terminate()
        self._server.wait()


def _counts(times: list[float], final: dict[str, Any]) -> list[int]:
    """Tokens of each event; what cannot be told apart is the last one's."""
    counts = [1] * len(times)
    counts[-1] += final["tokens_predicted"] - len(times)
    return counts
