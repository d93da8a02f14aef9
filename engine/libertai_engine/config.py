"""What an engine and a server are configured with: frozen, complete, checked once.

In: values from the command line or a caller. Out: dataclasses that everybody else only reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from libertai_engine.errors import InvalidRequest

Dtype = Literal["auto", "fp32", "bf16", "int8", "int4"]
MAX_DRAFT = 15  # with the token before them, what small steps of a CPU are good at
MAX_THREADS = 1024  # where a system has no more to give, OpenMP ends the process
MIN_CONTEXT = 4  # tokens that have to be free to go when a full context is shifted
DTYPES: tuple[Dtype, ...] = ("auto", "fp32", "bf16", "int8", "int4")
DENSE_DTYPES: tuple[Dtype, ...] = ("auto", "fp32", "bf16")
Precision = Literal["int8", "int4"]  # of weights that became codes
PRECISIONS: tuple[Precision, ...] = ("int8", "int4")
Kernels = Literal["auto", "native", "torch"]
KERNELS: tuple[Kernels, ...] = ("auto", "native", "torch")
Pooling = Literal["auto", "mean", "cls", "last", "max"]
POOLINGS: tuple[Pooling, ...] = ("auto", "mean", "cls", "last", "max")


def _require(condition: bool, field: str, message: str) -> None:
    if not condition:
        raise InvalidRequest(f"`{field}` {message}", field=field)


def _require_threads(threads: int | None) -> None:
    message = f"must be between 1 and {MAX_THREADS}"
    _require(threads is None or 1 <= threads <= MAX_THREADS, "threads", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine: which model, on which device, with how many slots.

    `context_size` is the number of tokens *one* slot holds (0: what the model was trained for);
    `batch_size` is the most tokens one step evaluates; while answers are being written, prompts may
    add `prefill_ms` milliseconds to it (0: whatever fits). `prefix_store_bytes` bounds the host
    memory that keeps prefixes which lost their slot, `feature_bytes` the device memory that keeps
    what the model made of the latest images. `threads` is torch's number of CPU threads (None: one
    for each core that the process may use) and `cpus` the processors that it runs on (None: as it
    finds itself), both for the whole process.

    With `forces_tokens`, text that a grammar leaves no choice about is appended at once instead of
    being sampled token by token. Up to `max_draft` tokens of an answer are guessed ahead in a step,
    where that saves time (0: never; None: `MAX_DRAFT`, if no token depends on how many are
    evaluated with it). `kernels` says who multiplies on CPUs: code that is compiled on this machine
    ("native"; an error if that fails), torch's, or the first if it can be had ("auto"). Where
    `dtype` is int8 or int4, the weights are quantized when they are loaded, and with
    `measures_quality` a text is read before and after. Raises `InvalidRequest` naming the field.
    """

    model: str = "demo"
    alias: str | None = None
    dtype: Dtype = "auto"
    device: str = "auto"
    context_size: int = 0
    num_slots: int = 4
    batch_size: int = 512
    prefill_ms: int = 100
    threads: int | None = None
    cpus: tuple[int, ...] | None = None
    max_queue: int = 64
    prefix_store_bytes: int = 1 << 30
    feature_bytes: int = 1 << 28
    local_files_only: bool = False
    slot_folder: Path | None = None
    forces_tokens: bool = True
    max_draft: int | None = None
    kernels: Kernels = "auto"
    measures_quality: bool = True

    def __post_init__(self) -> None:
        _require(bool(self.model), "model", "must name a folder, a hub id, a GGUF file or 'demo'")
        _require(self.dtype in DTYPES, "dtype", f"must be one of {', '.join(DTYPES)}")
        is_size = self.context_size == 0 or self.context_size >= MIN_CONTEXT
        _require(is_size, "context_size", f"must be 0 or at least {MIN_CONTEXT}")
        _require(self.num_slots >= 1, "num_slots", "must be at least 1")
        _require(self.batch_size >= 1, "batch_size", "must be at least 1")
        _require(self.prefill_ms >= 0, "prefill_ms", "must be at least 0")
        _require_threads(self.threads)
        _require(self.max_queue >= 1, "max_queue", "must be at least 1")
        _require(self.prefix_store_bytes >= 0, "prefix_store_bytes", "must be at least 0")
        _require((self.max_draft or 0) >= 0, "max_draft", "must be at least 0")
        _require(self.feature_bytes >= 0, "feature_bytes", "must be at least 0")
        _require(self.kernels in KERNELS, "kernels", f"must be one of {', '.join(KERNELS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingConfig:
    """One embedding model: which, on which device, and how a text's tokens become one vector.

    `pooling` "auto" is what the model's folder says, else the mean; `context_size` is the number of
    tokens one text may have (0: what the model allows); `batch_tokens` is the most tokens, padding
    included, that one step evaluates, unless a single text is longer (0: what the device likes);
    `threads` and `cpus` are for the whole process, as in `EngineConfig`; `max_queue` is the number
    of requests that may be open. Raises `InvalidRequest`.
    """

    model: str
    alias: str | None = None
    dtype: Dtype = "auto"
    device: str = "auto"
    pooling: Pooling = "auto"
    context_size: int = 0
    batch_tokens: int = 0
    threads: int | None = None
    cpus: tuple[int, ...] | None = None
    max_queue: int = 256
    local_files_only: bool = False

    def __post_init__(self) -> None:
        _require(bool(self.model), "model", "must name a folder, a hub id or a GGUF file")
        _require(self.dtype in DENSE_DTYPES, "dtype", f"must be one of {', '.join(DENSE_DTYPES)}")
        _require(self.pooling in POOLINGS, "pooling", f"must be one of {', '.join(POOLINGS)}")
        _require(self.context_size >= 0, "context_size", "must be at least 0")
        _require(self.batch_tokens >= 0, "batch_tokens", "must be at least 0")
        _require_threads(self.threads)
        _require(self.max_queue >= 1, "max_queue", "must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One HTTP server in front of one engine. Sizes in bytes, times in seconds.

    `max_image_body_bytes` counts instead of `max_body_bytes` where the model is shown images.
    `cors_origins` are the web pages that may read answers ("*": all; none: pages of this machine).
    `allowed_hosts` are further names that a server bound to loopback answers to. `receive_timeout`
    is for a request's head, and again for its body, to arrive; `request_timeout` for its answer to
    end; `drain_timeout` for those still running when the server shall end. A stream sends a ping
    when it has been silent for `ping_interval`. `has_metrics` and `has_slots` open `/metrics` and
    `GET /slots`.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 8 << 20
    max_image_body_bytes: int = 64 << 20
    receive_timeout: float = 60.0
    request_timeout: float = 600.0
    drain_timeout: float = 30.0
    ping_interval: float = 15.0
    has_metrics: bool = False
    has_slots: bool = False

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, "port", "must be between 0 and 65535")
        _require(all(self.api_keys), "api_keys", "must not be empty")
        for name in ("max_body_bytes", "max_image_body_bytes"):
            _require(getattr(self, name) >= 1, name, "must be at least 1")
        for name in ("receive_timeout", "request_timeout", "ping_interval"):
            _require(getattr(self, name) > 0, name, "must be positive")
        _require(self.drain_timeout >= 0, "drain_timeout", "must be at least 0")

    def __repr__(self) -> str:
        """The address only: keys belong in no log."""
        return f"ServerConfig(host={self.host!r}, port={self.port}, api_keys={len(self.api_keys)})"
