"""Make the demo model from nothing. In: the recipe. Out: the folder libertai_engine/demo_model.

    python engine/demo/train.py

Stopped and started again, it continues from the last round on disk.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields, replace
from itertools import islice
from pathlib import Path

import torch

from corpus.mixture import ENDING, World, documents
from export import draw_losses, write_card, write_model
from recipe import Recipe
from sample import sample_table
from score import score_table
from scores import load, table
from training import Trainer
from vocabulary import learn_pieces

HERE = Path(__file__).parent


def parse() -> argparse.Namespace:
    """Return the options; each number of the recipe is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=HERE / "runs" / "demo", help="state folder")
    parser.add_argument("--out", type=Path, default=HERE.parent / "libertai_engine" / "demo_model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fp32", action="store_true", help="no bf16 arithmetic")
    parser.add_argument(
        "--changed", action="store_true", help="continue although recipe or text are others now"
    )
    parser.add_argument("--scores", type=Path, help="what evaluate.py saved, for the model card")
    parser.add_argument("--export-only", action="store_true", help="write what is trained so far")
    for number in fields(Recipe):
        option = "--" + number.name.replace("_", "-")
        parser.add_argument(option, type=type(number.default), default=number.default)
    return parser.parse_args()


def pieces_of(recipe: Recipe, folder: Path) -> bytes:
    """Return the SentencePiece model of the run, learned at its start."""
    path = folder / "tokenizer.model"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        chosen = islice(
            documents(recipe.seed, World.load("train"), ENDING), recipe.tokenizer_documents
        )
        path.write_bytes(learn_pieces(chosen, recipe.vocabulary, recipe.blank_words))
    return path.read_bytes()


def command_of(recipe: Recipe) -> str:
    """Return the command that makes this model again, with every unusual number."""
    usual, words = asdict(Recipe()), ["python engine/demo/train.py"]
    for name, value in asdict(recipe).items():
        if value != usual[name]:
            words.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(words)


def main() -> None:
    """Learn the tokenizer, train, write the folder."""
    args = parse()
    torch.set_num_threads(args.threads)
    numbers = {number.name: getattr(args, number.name) for number in fields(Recipe)}
    recipe = replace(Recipe(), **numbers)
    pieces = pieces_of(recipe, args.run)
    trainer = Trainer(recipe, pieces, args.run, bf16=not args.fp32)
    trainer.resume(changed=args.changed)
    if not args.export_only:
        trainer.run()
    write_model(args.out, trainer.model, pieces, recipe)
    draw_losses(args.out / "loss.png", trainer.history)
    command = command_of(recipe)
    scores = table(load(args.scores)) if args.scores else score_table(args.out)
    texts = {"command": command, "sample": sample_table(args.out), "scores": scores}
    remarks = args.run / "remarks.md"
    texts["notes"] = remarks.read_text(encoding="utf-8") if remarks.exists() else ""
    write_card(args.out, recipe, trainer.history, texts)


if __name__ == "__main__":
    main()
