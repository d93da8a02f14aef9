"""Flags of `serve` for embeddings: what is loaded, and what is refused before anything is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from libertai_engine.__main__ import parse
from libertai_engine.api import CompletionAPI
from libertai_engine.cli.arguments import engine_config, model_of
from libertai_engine.cli.serve import Loading, embedding_config
from libertai_engine.config import EmbeddingConfig
from libertai_engine.errors import InvalidRequest, NotSupported
from tests.fake_encoders import save_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_encoder(tmp_path_factory.mktemp("encoder")))


@contextmanager
def loaded(capsys: pytest.CaptureFixture[str], *argv: str) -> Iterator[tuple[CompletionAPI, str]]:
    """What `serve` with these arguments would serve, and the line it says."""
    args = parse(["serve", *argv])
    chat = None if args.embedding else engine_config(args, model_of(args))
    with Loading(chat, embedding_config(args), may_set_system_prompt=False) as loading:
        api = loading.load()
        loading.on_ready("127.0.0.1", 8080)
        yield api, capsys.readouterr().err


def test_two_models(tiny_model: Path, encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both answer, each under its own name, and the line on stderr tells both."""
    flags = ("--embedding-model", encoder, "--embedding-alias", "small", "--pooling", "cls")
    with loaded(capsys, str(tiny_model), *flags) as (api, said):
        assert len(api.embed({"content": "a dog"})["embedding"]) == 32
        assert api.complete({"prompt": "Once", "n_predict": 1})
        assert api.props()["embedding"]["model_alias"] == "small"
    assert "small for embeddings, 32 dimensions, 40 tokens, cls pooling" in said
    assert tiny_model.name in said
    assert api.embedder is not None and not api.is_alive  # closed with the server


def test_an_embedding_model_alone(encoder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--embedding`, as llama-server has it; context and name are then its own."""
    with loaded(capsys, encoder, "--embedding", "-c", "9", "-a", "mine") as (api, said):
        assert api.props()["embedding"]["n_ctx"] == 9
        with pytest.raises(NotSupported):
            api.complete({"prompt": "a"})
    assert "mine for embeddings" in said and "slots" not in said


def test_an_embedding_model_alone_runs_on_its_processors(
    encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that those which nobody has are an error there, too."""
    with (
        pytest.raises(InvalidRequest, match="`cpus` must be some of"),
        loaded(capsys, encoder, "--embedding", "--cpus", "60000"),
    ):
        pass


def test_the_chat_model_itself(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`self` shares its weights."""
    with loaded(capsys, str(tiny_model), "--embedding-model", "self") as (api, _):
        assert api.embedder is not None and api.embedder.model.is_shared
        assert len(api.embed({"content": "a dog"})["embedding"]) == 48


def test_flags_become_a_configuration() -> None:
    """Device, type, threads and processors are those of the whole command; a context size is the
    slots'."""
    flags = ["--dtype", "fp32", "--device", "cpu", "-t", "1", "--cpus", "0-1", "-c", "64"]
    flags += ["--offline"]
    args = parse(["serve", "demo", "--embedding-model", "x/y", "--pooling", "last", *flags])
    assert embedding_config(args) == EmbeddingConfig(
        model="x/y",
        dtype="fp32",
        device="cpu",
        pooling="last",
        threads=1,
        cpus=(0, 1),
        local_files_only=True,
    )
    assert embedding_config(parse(["serve", "demo"])) is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--embedding", "--embedding-model", "x"], "no --embedding-model"),
        (["--pooling", "cls"], "--pooling needs an embedding model"),
        (["--embedding-alias", "x"], "--embedding-alias needs an embedding model"),
        (["--embedding-model", "x", "--pooling", "median"], "invalid choice"),
        (["--embedding", "-c", "-1"], "context_size"),
        (["--embedding", "-b", "-1"], "batch_tokens"),
        (["--embedding", "--dtype", "int8"], "dtype"),
        (["--embedding", "--kernels", "torch"], "--kernels is for models that write"),
        (["--embedding", "--draft-max", "0"], "--draft-max is for models that write"),
        (["--embedding", "--prefill-ms", "9"], "--prefill-ms is for models that write"),
        (["--embedding", "-np", "2"], "-np/--parallel is for models that write"),
        (["--embedding", "--cache-ram", "0"], "--cache-ram is for models that write"),
        (["--embedding", "--no-quality"], "--no-quality is for models that write"),
        (["--embedding", "--slots"], "--slots is for models that write"),
    ],
)
def test_wrong_flags(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Like any other wrong flag: exit code 2 and one line."""
    with pytest.raises(SystemExit) as ended:
        embedding_config(parse(["serve", "demo", *argv]))
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
