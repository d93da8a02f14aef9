"""`libertai-engine serve`: the llama-like API over HTTP.

In: flags as llama-server has them. Out: a server on its port until SIGTERM or Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from libertai_engine.cli import arguments
from libertai_engine.config import POOLINGS, PRECISIONS, EmbeddingConfig, EngineConfig, ServerConfig

if TYPE_CHECKING:
    from libertai_engine.api import CompletionAPI
    from libertai_engine.embeddings import Embedder
    from libertai_engine.engine import Engine

SELF = "self"  # the embedding model that is the chat model

# What `--embedding` alone has no use for: by its name in the arguments, the flag.
_OF_ANSWERS = {
    "parallel": "-np/--parallel",
    "slot_save_path": "--slot-save-path",
    "cache_ram": "--cache-ram",
    "slots": "--slots",
    "allow_system_prompt": "--allow-system-prompt",
    "prefill_ms": "--prefill-ms",
    "kernels": "--kernels",
    "draft_max": "--draft-max",
    "measures_quality": "--no-quality",
}


def add_arguments(parser: ArgumentParser) -> None:
    """The flags of `serve`."""
    arguments.add_model(parser)
    _add_server(parser)
    _add_monitoring(parser)
    _add_embeddings(parser)
    arguments.add_engine(parser)
    group = parser.add_argument_group("slots")
    group.add_argument(
        "-np",
        "--parallel",
        type=int,
        metavar="N",
        help=f"slots: requests that run at once (default: {EngineConfig().num_slots})",
    )
    group.add_argument(
        "--max-queue",
        type=int,
        metavar="N",
        help=f"requests that may wait (default: {EngineConfig().max_queue})",
    )
    group.add_argument(
        "--slot-save-path",
        type=arguments.folder,
        metavar="FOLDER",
        help="where slots may be saved to files",
    )
    group.add_argument(
        "--cache-ram",
        type=arguments.megabytes,
        metavar="MiB",
        help="memory for prefixes that lost their slot; 0: none, -1: no limit (default: 1024)",
    )


def _add_server(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--host", metavar="ADDRESS", help="(default: 127.0.0.1)")
    group.add_argument("--port", type=int, metavar="N", help="(default: 8080; 0: a free one)")
    group.add_argument("-a", "--alias", metavar="NAME", help="what the model is called in answers")
    group.add_argument(
        "--api-key",
        type=arguments.keys_of,
        action="extend",
        default=[],
        metavar="KEY",
        help="ask for this key; several with commas, or repeated",
    )
    group.add_argument(
        "--api-key-file",
        type=arguments.keys_in,
        action="extend",
        dest="api_key",
        metavar="PATH",
        help="ask for one of the keys in this file, one a line",
    )
    group.add_argument(
        "--cors-origin",
        action="append",
        metavar="ORIGIN",
        help="web pages that may use the server, `*` for all (default: those of this machine)",
    )
    group.add_argument(
        "--allowed-host",
        action="append",
        metavar="NAME",
        help="a further name that a server on 127.0.0.1 answers to (behind a proxy)",
    )
    group.add_argument(
        "--allow-system-prompt",
        action="store_true",
        help="let requests change the system prompt of all (default: only with an API key)",
    )
    group.add_argument(
        "-to", "--timeout", type=float, metavar="SECONDS", help="for one request (default: 600)"
    )
    group.add_argument(
        "--drain-timeout",
        type=float,
        metavar="SECONDS",
        help="for running requests when the server is told to end (default: 30)",
    )


def _add_monitoring(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("monitoring")
    group.add_argument(
        "--metrics", action="store_true", help="open /metrics, in Prometheus' text format"
    )
    group.add_argument(
        "--slots", action="store_true", help="open /slots, which tells how far each slot is"
    )


def _add_embeddings(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("embeddings")
    group.add_argument(
        "--embedding-model",
        metavar="MODEL",
        help="a further model, for /embedding; `self`: the chat model's own states",
    )
    group.add_argument(
        "--embedding-alias", metavar="NAME", help="what that model is called in answers"
    )
    group.add_argument(
        "--embedding",
        "--embeddings",
        action="store_true",
        help="the model is one for embeddings: no other routes than theirs",
    )
    group.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="how a text's tokens become one vector (default: as the model's folder says)",
    )


def embedding_config(args: Namespace) -> EmbeddingConfig | None:
    """The embedding model's configuration, if there is to be one."""
    if args.embedding and args.embedding_model:
        args.parser.error("--embedding says that the model itself embeds: no --embedding-model")
    for name, flag in _OF_ANSWERS.items():
        if args.embedding and getattr(args, name) != args.parser.get_default(name):
            args.parser.error(f"{flag} is for models that write: not with --embedding")
    model = arguments.model_of(args) if args.embedding else args.embedding_model
    if model is None:
        for flag in ("pooling", "embedding_alias"):
            if getattr(args, flag) is not None:
                args.parser.error(f"--{flag.replace('_', '-')} needs an embedding model")
        return None
    given = {
        "alias": args.embedding_alias or (args.alias if args.embedding else None),
        "pooling": args.pooling,
        # NOTE: embedding models are not quantized; one beside a chat model that is may differ.
        "dtype": None if args.dtype in PRECISIONS and not args.embedding else args.dtype,
        "device": args.device,
        "threads": args.threads,
        "cpus": args.cpus,
        "context_size": args.ctx_size if args.embedding else None,
        "batch_tokens": args.batch_size if args.embedding else None,
        "max_queue": args.max_queue if args.embedding else None,
    }
    values = {name: value for name, value in given.items() if value is not None}
    offline = args.offline
    return arguments.checked(args, EmbeddingConfig, model=model, local_files_only=offline, **values)


def server_config(args: Namespace) -> ServerConfig:
    """The server's configuration; what was not given keeps its default."""
    given = {
        "host": args.host,
        "port": args.port,
        "request_timeout": args.timeout,
        "has_metrics": args.metrics,
        "has_slots": args.slots,
        "drain_timeout": args.drain_timeout,
        "cors_origins": args.cors_origin and tuple(args.cors_origin),
        "allowed_hosts": args.allowed_host and tuple(name.lower() for name in args.allowed_host),
    }
    values = {name: value for name, value in given.items() if value is not None}
    return arguments.checked(args, ServerConfig, api_keys=tuple(args.api_key), **values)


def run(args: Namespace) -> int:
    """Serve until told to end; 0 then. Raises `EngineError`."""
    from libertai_engine.http.checks import is_loopback
    from libertai_engine.server import serve_while_loading

    server = server_config(args)
    engine = arguments.engine_config(
        args,
        arguments.model_of(args),
        alias=args.alias,
        num_slots=args.parallel,
        max_queue=args.max_queue,
        prefix_store_bytes=args.cache_ram,
        slot_folder=args.slot_save_path,
    )
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("libertai_engine").setLevel(logging.INFO)
    if not is_loopback(server.host) and not server.api_keys:
        _tell(f"note: {server.host} may be reachable for others, and no --api-key is set")
    # A request that proved a key comes from somebody the owner trusts.
    may_set_system_prompt = bool(server.api_keys) or args.allow_system_prompt
    loading = Loading(
        None if args.embedding else engine,
        embedding_config(args),
        may_set_system_prompt=may_set_system_prompt,
    )
    with loading:
        serve_while_loading(loading.load, server, loading.on_ready)
    return 0


class Loading:
    """The models of a server that listens already. Closed with it, as far as they were loaded."""

    def __init__(
        self,
        config: EngineConfig | None,
        embedding: EmbeddingConfig | None,
        *,
        may_set_system_prompt: bool,
    ) -> None:
        self._config = config
        self._embedding = embedding
        self._may_set_system_prompt = may_set_system_prompt
        self._engine: Engine | None = None
        self._embedder: Embedder | None = None

    def __enter__(self) -> Loading:
        return self

    def __exit__(self, *error: object) -> None:
        for each in (self._engine, self._embedder):
            if each is not None:
                each.close()

    def load(self) -> CompletionAPI:
        """Load the models; called in a thread of its own."""
        from libertai_engine import CompletionAPI, load_embedder, load_engine

        if self._config is not None:
            self._engine = load_engine(self._config)
        if self._embedding is not None:
            is_shared = self._engine is not None and self._embedding.model == SELF
            chat_model = self._engine.model if self._engine and is_shared else None
            self._embedder = load_embedder(self._embedding, chat_model=chat_model)
        return CompletionAPI(
            self._engine,
            embedder=self._embedder,
            may_set_system_prompt=self._may_set_system_prompt,
        )

    def on_ready(self, host: str, port: int) -> None:
        """Say what listens where."""
        address = f"[{host}]" if ":" in host else host
        said = [describe(self._engine)] if self._engine else []
        said += [describe_embedder(self._embedder)] if self._embedder else []
        _tell(f"listening on http://{address}:{port}: {'; '.join(said)}")


def describe_embedder(embedder: Embedder) -> str:
    """An embedding model in one line."""
    pooling = " and ".join(embedder.model.recipe.pooling)
    return (
        f"{embedder.name} for embeddings, {embedder.num_dimensions} dimensions, "
        f"{embedder.max_tokens} tokens, {pooling} pooling"
    )


def describe(engine: Engine) -> str:
    """An engine in one line."""
    line = f"{engine.name}, {engine.num_slots} slots of {engine.context_size} tokens"
    if engine.model is None:
        return line
    model = engine.model
    dtype = model.quantization.precision if model.quantization else model.dtype_name
    return f"{line}, {model.num_parameters / 1e6:,.1f} M parameters, {dtype} on {model.device}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
