"""Print documents of the demo model's corpus. In: seed, split, count. Out: one JSON object a line.

python engine/demo/generate.py --seed 1 --count 10
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from itertools import islice

from corpus.mixture import World, documents


def main() -> None:
    """Print the first documents of a seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--split", choices=["train", "heldout"], default="train")
    parser.add_argument("--text", action="store_true", help="print the text alone, for reading")
    args = parser.parse_args()
    for document in islice(documents(args.seed, World.load(args.split)), args.count):
        line = json.dumps(asdict(document), ensure_ascii=False)
        print(document.text + "\n---" if args.text else line)


if __name__ == "__main__":
    main()
