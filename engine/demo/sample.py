"""Ask a model some questions and print the answers. In: a model folder. Out: a Markdown table.

python engine/demo/sample.py engine/libertai_engine/demo_model
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

Prompt = str | Sequence[str]
# A string is continued as it is; a tuple is what the user says, turn by turn, in ChatML.
PROMPTS: tuple[Prompt, ...] = (
    "Building a website can be done in 10 simple steps:",
    "User: Hello, how are you?\nAssistant: ",
    "Once upon a time",
    "The capital of France is",
    "1, 2, 3, 4,",
    ("Hello!",),
    ("Who are you?",),
    ("My name is Oswald.", "How many legs does a spider have?", "What is my name?"),
    ("What is the capital of Italy?", "And of Japan?", "Thank you!"),
    ("Tell me a short story about a fox called Zorro.",),
    ("How do I bake bread?",),
    ("Give me 5 steps to build a lantern.",),
    ("Why is the sky blue?",),
    ("What is 7 plus 5?",),
    ("Which is bigger, 17 or 71?",),
    ("Repeat after me: mirapol tuvex",),
    ("Is a carrot a fruit?",),
    ("Olaf has a green hat. Berta has a red drum. What does Berta have?",),
    ("How do you say dog in French?",),
    ("Tell me a joke.",),
    ("I am sad.",),
    ("What is a quandle?",),
    ("hi", "what can you do"),
    ("Who was Napoleon?",),
    ("The library opens at 9 and closes at 18. It is closed on Sunday. When does it close?",),
    ("Write name, age and city as JSON: Anna is 34 years old and lives in Rome.",),
    ("Sort these words: pear, apple, fig",),
)


@torch.inference_mode()
def generate(model: Any, tokenizer: Any, text: str, *, bos: bool, temperature: float) -> str:
    """Return what follows the text, without special tokens; temperature 0 is greedy."""
    ids = tokenizer(text, add_special_tokens=bos, return_tensors="pt")
    settings: dict[str, Any] = {"do_sample": temperature > 0, "max_new_tokens": 200}
    if temperature > 0:
        settings |= {"temperature": temperature, "top_k": 0, "top_p": 0.9}
    out = model.generate(**ids, **settings)
    answer: str = tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    return answer


def answers(model: Any, tokenizer: Any, prompt: Prompt, temperature: float) -> list[str]:
    """Return the answer to each turn of a prompt."""
    if isinstance(prompt, str):
        return [generate(model, tokenizer, prompt, bos=True, temperature=temperature)]
    messages: list[dict[str, str]] = []
    given = []
    for said in prompt:
        messages.append({"role": "user", "content": said})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        given.append(generate(model, tokenizer, text, bos=True, temperature=temperature))
        messages.append({"role": "assistant", "content": given[-1]})
    return given


def sample_table(folder: Path, seed: int = 1) -> str:
    """Return prompts and answers as Markdown: the likeliest answer, and one as chats sample it."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = ["| prompt | greedy | temperature 0.3 |", "|---|---|---|"]
    for prompt in PROMPTS:
        torch.manual_seed(seed)
        columns = [answers(model, tokenizer, prompt, temperature) for temperature in (0.0, 0.3)]
        asked = [prompt] if isinstance(prompt, str) else list(prompt)
        cells = [" ⏎⏎ ".join(column) for column in (asked, *columns)]
        rows.append("| " + " | ".join(cell.replace("\n", " ⏎ ") for cell in cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Print the table for one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    print(sample_table(args.folder, args.seed))


if __name__ == "__main__":
    main()
