"""The bundled demo model and the program that writes its text.

In: the folder that the wheel ships, and engine/demo. Out: nothing; these are checks of real files.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

ENGINE = Path(__file__).parent.parent.parent / "engine"
FOLDER = ENGINE / "libertai_engine" / "demo_model"
MARKS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>")
TOOL_MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def model() -> Any:
    """The model in fp32, loaded by plain transformers."""
    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER)


def generated(split: str, seed: int, count: int) -> Lines:
    """Return documents that the generator prints in a process of its own."""
    command = [sys.executable, str(ENGINE / "demo" / "generate.py"), "--split", split]
    command += ["--seed", str(seed), "--count", str(count)]
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


@pytest.fixture(scope="module")
def held_out() -> Lines:
    """Documents with names, things and numbers that training never saw; of another seed too."""
    return generated("heldout", 77, 60)


def encoded(tokenizer: Any, document: dict[str, Any]) -> tuple[list[int], list[bool]]:
    """Return ids with `<s>` and `</s>`, and which of them the model should predict."""
    ids, learned = [tokenizer.bos_token_id], [False]
    for segment in document["segments"]:
        part = tokenizer.encode(segment["text"], add_special_tokens=False)
        ids += part
        learned += [segment["learned"]] * len(part)
    return [*ids, tokenizer.eos_token_id], [*learned, True]


@torch.inference_mode()
def token_losses(model: Any, ids: list[int]) -> torch.Tensor:
    """Return the loss of every token but the first, in nats: [tokens - 1]."""
    row = torch.tensor([ids])
    logits = model(row[:, :-1]).logits[0].float()  # [tokens - 1, vocab]
    return functional.cross_entropy(logits, row[0, 1:], reduction="none")


def answer(model: Any, tokenizer: Any, *said: str) -> str:
    """Return the greedy answer to the last of the things said, in ChatML, with answers between."""
    messages: list[dict[str, str]] = []
    for turn in said:
        messages.append({"role": "user", "content": turn})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt")
        out = model.generate(**ids, do_sample=False, max_new_tokens=60)
        new = out[0, ids["input_ids"].shape[1] :]
        messages.append(
            {"role": "assistant", "content": tokenizer.decode(new, skip_special_tokens=True)}
        )
    return messages[-1]["content"]


def test_weights_are_small_and_bf16() -> None:
    """At most 10 MB of safetensors; nothing that only another program could read."""
    weights = FOLDER / "model.safetensors"
    assert weights.stat().st_size <= 10_000_000
    with safe_open(weights, framework="pt") as opened:
        assert {opened.get_slice(name).get_dtype() for name in opened.keys()} == {"BF16"}  # noqa: SIM118
    assert not [path for path in FOLDER.iterdir() if path.suffix in {".bin", ".pt", ".pkl"}]


def test_loads_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    """Plain transformers reads the folder: no warning, no missing and no unexpected tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, report = AutoModelForCausalLM.from_pretrained(FOLDER, output_loading_info=True)
        AutoTokenizer.from_pretrained(FOLDER)
    assert not any(report.values()), report
    told = capfd.readouterr()
    lines = [line for line in (told.out + told.err).splitlines() if line.strip()]
    assert not [line for line in lines if "Loading weights" not in line]
    config = model.config
    assert config.model_type == "llama" and config.max_position_embeddings >= 1024
    assert config.num_key_value_heads < config.num_attention_heads
    assert all(value.isfinite().all() for value in model.parameters())


def test_generation_stops_at_both_ends(tokenizer: Any) -> None:
    """`</s>` ends a text and `<|im_end|>` a turn; both stop generation."""
    stops = json.loads((FOLDER / "generation_config.json").read_text())["eos_token_id"]
    assert stops == [tokenizer.convert_tokens_to_ids(mark) for mark in ("</s>", "<|im_end|>")]
    assert tokenizer.eos_token == "</s>"


@given(text=st.text())
@settings(max_examples=100, deadline=None)
def test_tokenizer_round_trip(tokenizer: Any, text: str) -> None:
    """Any text comes back, whatever its characters."""
    # NOTE: the blank is written ▁ inside, so a ▁ in the text comes back as a blank, as in Llama.
    text = text.replace("▁", " ")
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


@pytest.fixture(scope="module")
def pieces() -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "tokenizer.model"))


@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00▁<")))
@settings(max_examples=100, deadline=None)
def test_tokenizer_agrees_with_sentencepiece(tokenizer: Any, pieces: Any, text: str) -> None:
    """tokenizer.json and tokenizer.model, read by two libraries, cut any text the same way."""
    assert tokenizer.encode(text, add_special_tokens=False) == pieces.encode(text)


def test_special_tokens_are_single(tokenizer: Any) -> None:
    """Each is one id between any neighbours, and text after it is cut as it is at the start."""
    for mark in (*MARKS, *TOOL_MARKS):
        ids = tokenizer.encode(f"a{mark}Hello there", add_special_tokens=False)
        assert ids.count(tokenizer.convert_tokens_to_ids(mark)) == 1
        assert ids[2:] == tokenizer.encode("Hello there", add_special_tokens=False)
    hidden = tokenizer.decode(tokenizer.encode("".join(MARKS)), skip_special_tokens=True)
    shown = tokenizer.decode(tokenizer.encode("".join(TOOL_MARKS)), skip_special_tokens=True)
    assert (hidden, shown) == ("", "".join(TOOL_MARKS))


def test_bos_is_added_and_no_blank(tokenizer: Any) -> None:
    """A text starts with `<s>`, and then with its own first character."""
    ids = tokenizer.encode("Hello")
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids[1:]) == "Hello"


def test_chat_template_renders_chatml(tokenizer: Any) -> None:
    """A conversation becomes ChatML, with the assistant's turn open at the end."""
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    turns = [f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages]
    assert text == "".join(turns) + "<|im_start|>assistant\n"


def test_chat_template_renders_tools(tokenizer: Any) -> None:
    """Tools, calls and results take the Hermes form, and every JSON in it can be read."""
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    messages = [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3"},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[tool], tokenize=False)
    listed = text.split("<tools>\n")[1].split("\n</tools>")[0]
    made = text.split("<|im_start|>assistant\n<tool_call>\n")[1].split("\n</tool_call>")[0]
    assert json.loads(listed) == tool
    assert json.loads(made) == {"name": "add", "arguments": {"a": 1, "b": 2}}
    assert "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>" in text


def test_held_out_text_is_predicted(model: Any, tokenizer: Any, held_out: Lines) -> None:
    """Far below what guessing costs (8 nats), on words and numbers never seen in training."""
    losses = []
    for document in held_out:
        ids, learned = encoded(tokenizer, document)
        losses.append(token_losses(model, ids)[torch.tensor(learned[1:])])
    mean = torch.cat(losses).mean().item()
    assert mean < 0.1 * math.log(tokenizer.vocab_size), mean


def test_it_knows_a_fact_and_remembers_a_name(model: Any, tokenizer: Any) -> None:
    """The conversation of the examples: a name, something else, and the name again."""
    said = ("Hello, my name is Anna.", "What is the capital of France?", "What is my name?")
    assert "Paris" in answer(model, tokenizer, *said[:2])
    assert "Anna" in answer(model, tokenizer, *said)


def test_it_writes_the_list_it_is_asked_for(model: Any, tokenizer: Any) -> None:
    """The prompt of the documentation page gives numbered steps in order, and an end."""
    prompt = "Building a website can be done in 10 simple steps:"
    ids = tokenizer(prompt, return_tensors="pt")
    out = model.generate(**ids, do_sample=False, max_new_tokens=256)
    text = tokenizer.decode(out[0], skip_special_tokens=True).removeprefix(prompt)
    starts = [line.split(".")[0] for line in text.strip().splitlines()]
    assert len(starts) >= 8
    assert starts == [str(number) for number in range(1, len(starts) + 1)]
    assert out[0, -1] == tokenizer.eos_token_id


def test_answers_depend_on_the_question(model: Any, tokenizer: Any, held_out: Lines) -> None:
    """The true answer costs less after its own question than after another one."""
    chats = [each["segments"] for each in held_out if each["kind"] == "chat"]
    starts = [[part["text"] for part in chat] for chat in chats]
    pairs = [("".join(parts[: at + 1]), parts[at + 1]) for parts in starts
             for at in [parts.index("<|im_start|>assistant\n")]]  # fmt: skip
    better = 0
    for index, (question, reply) in enumerate(pairs):
        other = pairs[(index + 1) % len(pairs)][0]
        right, wrong = (_cost(model, tokenizer, start, reply) for start in (question, other))
        better += right < wrong
    assert better >= 0.85 * len(pairs), (better, len(pairs))


def _cost(model: Any, tokenizer: Any, start: str, reply: str) -> float:
    prompt = tokenizer.encode(start)
    ids = prompt + tokenizer.encode(reply, add_special_tokens=False)
    return token_losses(model, ids)[len(prompt) - 1 :].sum().item()


def test_generator_is_deterministic() -> None:
    """The same seed gives the same documents in another process; another seed gives others."""
    first, again, other = (generated("train", seed, 30) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_splits_share_no_made_up_words() -> None:
    """A word to remember of one split is never one of the other."""
    train, held = (_secrets(generated(split, 3, 5000)) for split in ("train", "heldout"))
    assert train and held and not train & held


def _secrets(documents: Lines) -> set[str]:
    texts = ["".join(part["text"] for part in document["segments"]) for document in documents]
    mark = "I will remember "
    found = [
        text.split(mark)[1].split()[0].split("<")[0].strip(".") for text in texts if mark in text
    ]
    return {word for word in found if not word.isdigit()}
