"""An answer stays what it is, token for token and bit for bit, whoever joins it.

Where this machine has no compiler, that is promised of fp32 alone, and not to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from libertai_engine.config import PRECISIONS, Dtype, EngineConfig
from libertai_engine.engine import Engine, load_engine
from libertai_engine.kernels.library import Library, native
from libertai_engine.sampling.sampler import SampledToken
from libertai_engine.sampling_params import SamplingParams
from libertai_engine.sequence import Request
from libertai_engine.stream import Stream
from tests.fakes import VOCAB_SIZE, save_tiny_model

pytestmark = pytest.mark.skipif(
    not isinstance(native(), Library), reason="no native kernels on this machine"
)

SAMPLING = SamplingParams(seed=7, num_logprobs=5, ignore_eos=True)
SHORT = tuple(range(3, 24))
LONG = tuple(3 + 7 * each % (VOCAB_SIZE - 5) for each in range(400))


@pytest.fixture(scope="module", params=["fp32", "bf16", "int8", "int4"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    folder: Path = save_tiny_model(tmp_path_factory.mktemp("model"), **sizes)
    dtype: Dtype = request.param
    config = EngineConfig(
        model=str(folder),
        dtype=dtype,
        device="cpu",
        num_slots=4,
        measures_quality=False,
        prefill_ms=1,
    )
    with load_engine(config, progress=False) as loaded:
        yield loaded


def submit(engine: Engine, prompt: tuple[int, ...], max_tokens: int) -> Stream:
    request = Request(
        prompt_ids=prompt, max_tokens=max_tokens, sampling=SAMPLING, cache_prompt=False
    )
    return engine.submit(request)


def tokens_of(stream: Stream) -> list[SampledToken]:
    """With what the model thought of each, to the bit."""
    return [token for delta in stream for token in delta.tokens]


def test_who_joins_changes_nothing(engine: Engine) -> None:
    """Prompts that are evaluated between an answer's tokens."""
    alone = tokens_of(submit(engine, SHORT, 60))
    assert len(alone) >= 60
    for joining in (1, 3):
        stream = submit(engine, SHORT, 60)
        joined = list(next(stream).tokens)
        others = [submit(engine, LONG[each:], 3) for each in range(joining)]
        joined += tokens_of(stream)
        assert joined == alone
        assert all(len(tokens_of(other)) >= 3 for other in others)


def test_who_is_there_changes_nothing(engine: Engine) -> None:
    """A prompt that is read while others answer, in pieces; torch may round long ones by these."""
    prompts = [SHORT, LONG[:128]]
    if engine.config.dtype in PRECISIONS:
        prompts.append(LONG[:300])
    for prompt in prompts:
        alone = tokens_of(submit(engine, prompt, 8))
        others = [submit(engine, LONG[each:], 50) for each in range(3)]
        for other in others:
            next(other)
        assert tokens_of(submit(engine, prompt, 8)) == alone
        for other in others:
            other.abort()
