"""How often the model is right on held-out questions. In: a model folder. Out: a Markdown table.

    python engine/demo/score.py engine/libertai_engine/demo_model

Greedy answers of plain transformers, many at once; `evaluate.py` asks through the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from questions import KINDS_OF_QUESTIONS, Question, questions

BATCH = 25


@torch.inference_mode()
def greedy(model: Any, tokenizer: Any, asked: list[Question]) -> list[str]:
    """Return the greedy answer to each question."""
    texts = [
        tokenizer.bos_token
        + tokenizer.apply_chat_template(
            each.chat, tools=each.tools or None, tokenize=False, add_generation_prompt=True
        )
        for each in asked
    ]
    ids = tokenizer(
        texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    out = model.generate(**ids, do_sample=False, max_new_tokens=120)
    new = out[:, ids["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def score(model: Any, tokenizer: Any, asked: list[Question]) -> tuple[float, list[str]]:
    """Return the share of right answers to some questions, and the wrong ones."""
    count = len(asked)
    asked.sort(key=lambda each: len(str(each.chat)) + len(str(each.tools)))
    groups = [asked[at : at + BATCH] for at in range(0, count, BATCH)]
    given = [text for group in groups for text in greedy(model, tokenizer, group)]
    wrong = [
        f"{each.chat[-1]['content'][-300:]!r}\n  {text!r}\n  {_wanted(each)}"
        for each, text in zip(asked, given, strict=True)
        if not each.accepts(text)
    ]
    return 1 - len(wrong) / count, wrong


def _wanted(asked: Question) -> object:
    return asked.calls or asked.found or sorted(asked.right)


def score_table(
    folder: Path, count: int = 100, seed: int = 7, show: int = 0, only: str = ""
) -> str:
    """Return the share of right answers, by kind of question, as Markdown."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = ["| held-out questions | right |", "|---|---|"]
    for kind in KINDS_OF_QUESTIONS:
        if only in kind:
            share, wrong = score(model, tokenizer, list(questions(kind, count, seed)))
            rows.append(f"| {kind} | {share:.0%} |")
            print(rows[-1], *wrong[:show], sep="\n", flush=True)
    return "\n".join(rows)


def main() -> None:
    """Print the table for one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100, help="questions of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print of each kind")
    parser.add_argument("--only", default="", help="kinds whose name has this")
    args = parser.parse_args()
    score_table(args.folder, args.count, args.seed, args.show, args.only)


if __name__ == "__main__":
    main()
