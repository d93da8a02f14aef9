r"""The regular subset of ECMA-262 patterns, as a tree.

In: a pattern's text. Out: an `Expr` without references, in which `Anchor` marks `^` and `$`.
Covered: characters, `.`, classes, `\d \w \s` and their opposites (ASCII, as ECMA-262 has them),
groups, alternation, quantifiers (a lazy one takes the same texts), and look-ahead right behind the
`^` that a pattern begins with. Not covered: backreferences, other look-around, word boundaries,
`\p{…}`, flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from libertai_llm.gbnf import charsets
from libertai_llm.gbnf.charsets import Ranges

MAX_LENGTH = 4_000
MAX_COUNT = 5_000
MAX_DEPTH = 40


class PatternError(ValueError):
    """A pattern that is broken, or beyond the regular subset."""


@dataclass(frozen=True, slots=True)
class Set:
    """One code point out of `ranges`; without any, nothing."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Anchor:
    """The beginning of the text, or its end. Takes up nothing."""

    is_start: bool


@dataclass(frozen=True, slots=True)
class Concat:
    """One after the other; without any, the empty text."""

    items: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any one of the options; without any, nothing."""

    options: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Times:
    """`item` from `low` to `high` times; None: any number. Invariant: low ≤ high."""

    item: Pattern
    low: int
    high: int | None


Pattern: TypeAlias = Set | Anchor | Concat | Choice | Times

NOTHING = Choice(())
EPSILON = Concat(())
DIGITS = charsets.points("0123456789")
_WORD = charsets.union(DIGITS, [(65, 90), (97, 122), (95, 95)])
_SPACE = charsets.union(
    [(9, 13), (32, 32), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)],
    [(0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)],
)
_NOT_NEWLINE = charsets.complement(charsets.points("\n\r\u2028\u2029"))
_CLASSES = {"d": DIGITS, "w": _WORD, "s": _SPACE}
_CLASSES |= {name.upper(): charsets.complement(ranges) for name, ranges in _CLASSES.items()}
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_HEX_LENGTHS = {"x": 2, "u": 4}


@dataclass(frozen=True, slots=True)
class Search:
    """What a text has to hold: `main`, and what `wanted` and `unwanted` say of its beginning."""

    main: Pattern
    wanted: tuple[Pattern, ...] = ()
    unwanted: tuple[Pattern, ...] = ()


def parse_pattern(text: str) -> Pattern:
    """The tree of a pattern without look-ahead. Raises `PatternError`."""
    return _parser(text).parse()


def parse_search(text: str) -> Search:
    """A pattern taken apart. Raises `PatternError`."""
    return _parser(text).parse_search()


def _parser(text: str) -> _Parser:
    if len(text) > MAX_LENGTH:
        raise PatternError(f"it has more than {MAX_LENGTH} characters")
    return _Parser(text)


def literal(text: str) -> Pattern:
    """Exactly this text."""
    return Concat(tuple(Set(charsets.points(each)) for each in text))


class _Parser:
    """One pass over a pattern. Invariant: `at` is where the next unread character stands."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def parse(self) -> Pattern:
        tree = self.choice()
        if self.at < len(self.text):
            raise self.error("unbalanced `)`")
        return tree

    def parse_search(self) -> Search:
        if not self.text.startswith(("^(?=", "^(?!")):
            return Search(self.parse())
        self.take("^")
        found: dict[str, list[Pattern]] = {"=": [], "!": []}
        while self.text.startswith(("(?=", "(?!"), self.at):
            kind = self.text[self.at + 2]
            self.at += 3
            found[kind].append(Concat((Anchor(True), self.choice())))
            self.take(")")
        rest = self.concat()
        if self.peek():
            raise self.error("an alternative beside a look-ahead")
        return Search(Concat((Anchor(True), rest)), tuple(found["="]), tuple(found["!"]))

    def error(self, what: str) -> PatternError:
        return PatternError(f"{what} at character {self.at + 1}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, expected: str = "") -> str:
        char = self.peek()
        if not char or (expected and char != expected):
            raise self.error(f"expected `{expected}`" if expected else "it ends too early")
        self.at += 1
        return char

    def choice(self) -> Pattern:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"groups deeper than {MAX_DEPTH}")
        options = [self.concat()]
        while self.peek() == "|":
            self.at += 1
            options.append(self.concat())
        self.depth -= 1
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def concat(self) -> Pattern:
        items = []
        while self.peek() not in ("", "|", ")"):
            items.append(self.quantified(self.atom()))
        return items[0] if len(items) == 1 else Concat(tuple(items))

    def atom(self) -> Pattern:
        char = self.take()
        if char in "^$":
            return Anchor(char == "^")
        if char == "(":
            return self.group()
        if char == "[":
            return Set(self.char_class())
        if char == ".":
            return Set(_NOT_NEWLINE)
        if char == "\\":
            return Set(self.escape())
        if char in "*+?{}]":
            self.at -= 1
            raise self.error(f"`{char}` has nothing to act on")
        return Set(charsets.points(char))

    def group(self) -> Pattern:
        if self.peek() == "?":
            self.at += 1
            kind = self.take()
            if kind == "P":
                kind = self.take("<")
            if kind == "<" and self.peek() not in ("=", "!", ""):
                name_end = self.text.find(">", self.at)
                self.at = name_end + 1 if name_end >= 0 else len(self.text)
            elif kind != ":":
                raise self.error("this kind of group is beyond the regular subset")
        tree = self.choice()
        self.take(")")
        return tree

    def quantified(self, item: Pattern) -> Pattern:
        mark = self.peek()
        if mark not in ("*", "+", "?", "{"):
            return item
        if isinstance(item, Anchor):
            raise self.error("an anchor cannot be repeated")
        self.at += 1
        bounds: tuple[int, int | None] = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(
            mark, (0, 0)
        )
        low, high = self.counts() if mark == "{" else bounds
        if self.peek() == "?":
            self.at += 1
        if self.peek() in ("*", "+", "?", "{"):
            raise self.error("a quantifier after a quantifier")
        return Times(item, low, high)

    def counts(self) -> tuple[int, int | None]:
        end = self.text.find("}", self.at)
        low_text, comma, high_text = self.text[self.at : max(end, self.at)].partition(",")
        if not _is_count(low_text) or not (high_text == "" or _is_count(high_text)):
            raise self.error("expected a count such as `{2,5}`")
        self.at = end + 1
        low = int(low_text)
        high = int(high_text) if high_text else None if comma else low
        if high is not None and high < low:
            raise self.error("the counts are the wrong way round")
        if max(low, high or 0) > MAX_COUNT:
            raise self.error(f"a count beyond {MAX_COUNT}")
        return low, high

    def char_class(self) -> Ranges:
        negated = self.peek() == "^"
        self.at += negated
        if self.peek() == "]":
            raise self.error("an empty class")
        found: list[Ranges] = []
        while self.peek() != "]":
            found.append(self.class_item())
        self.at += 1
        ranges = charsets.union(*found)
        return charsets.complement(ranges) if negated else ranges

    def class_item(self) -> Ranges:
        first = self.class_char()
        if self.peek() != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return first
        self.at += 1
        last = self.class_char()
        if not (_is_single(first) and _is_single(last) and first[0][0] <= last[0][0]):
            raise self.error("a broken range")
        return charsets.union([(first[0][0], last[0][0])])

    def class_char(self) -> Ranges:
        char = self.take()
        if char == "\\" and self.peek() == "b":
            self.at += 1
            return ((8, 8),)
        return self.escape() if char == "\\" else charsets.points(char)

    def escape(self) -> Ranges:
        char = self.take()
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS and not (char == "0" and self.peek().isdigit()):
            return ((_CONTROLS[char], _CONTROLS[char]),)
        if char in _HEX_LENGTHS:
            return self.code_point(_HEX_LENGTHS[char])
        if char.isalnum() or char == "_":
            raise self.error(f"`\\{char}` is beyond the regular subset")
        return charsets.points(char)

    def code_point(self, length: int) -> Ranges:
        end = self.at + length
        if length == 4 and self.peek() == "{":
            end = self.text.find("}", self.at)
        digits = self.text[self.at : max(end, self.at)].removeprefix("{")
        is_cut = end > len(self.text)
        if is_cut or not digits or len(digits) > 6 or digits.strip("0123456789abcdefABCDEF"):
            raise self.error("a broken hexadecimal escape")
        self.at = end + (self.text[end : end + 1] == "}" and self.text[self.at] == "{")
        code = int(digits, 16)
        if code > charsets.LAST or 0xD800 <= code <= 0xDFFF:
            raise self.error("no character has this code")
        return ((code, code),)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 8


def _is_single(ranges: Ranges) -> bool:
    return len(ranges) == 1 and ranges[0][0] == ranges[0][1]
