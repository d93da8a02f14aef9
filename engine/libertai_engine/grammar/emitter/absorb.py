"""A regular run of a series, joined with what a part that follows it may begin with.

In: a series and where in it the run ends. Out: a node for the same texts.

Text with a call behind it, perhaps, is `text call?`, and where the call recurs, the text alone is a
lexeme. It goes on with "<" wherever a call may come, and would have to be cut to single characters.
Written as `text | text call`, the second option can be one lexeme up to where the call recurs, the
first one has nothing behind it, and the lexer reads both at once.

Why the texts stay the same: R(x|y)S = RxS | RyS, x{a,b} = x·x{a-1,b-1} with a "" if a is 0, and a
call is the body of its rule.
"""

from __future__ import annotations

from libertai_engine.grammar.emitter.forest import EMPTY, Call, Choice, Loop, Series
from libertai_engine.grammar.emitter.regular import Regular
from libertai_engine.grammar.emitter.rules import Rules

# How far to look into a part, and how many beginnings of it to tell apart.
DEEPEST_LOOK = 6
MOST_BEGINNINGS = 32


def absorbed(rules: Rules, regular: Regular, series: int, start: int, end: int) -> int | None:
    """The series with its run of units from `start` to before `end` joined with unit `end`.

    None if that unit may begin in too many ways.
    """
    units = rules.forest.units(series)
    run, rest = units[start:end], units[end + 1 :]
    beginnings = _beginnings(rules, regular, units[end], DEEPEST_LOOK)
    if len(beginnings) > MOST_BEGINNINGS:
        return None
    options = [rules.forest.series([*run, each, *rest]) for each in beginnings]
    return rules.forest.series([*units[:start], rules.forest.choice(options)])


def _beginnings(rules: Rules, regular: Regular, node: int, depth: int) -> list[int]:
    """Nodes for all texts of a node, which begin with something regular where that is near."""
    if regular.is_regular(node) or not depth:
        return [node]
    forest = rules.forest
    match forest[node]:
        case Call(rule):
            return _beginnings(rules, regular, rules.bodies[rule], depth - 1)
        case Choice(options):
            return [
                each
                for option in options
                for each in _beginnings(rules, regular, option, depth - 1)
            ]
        case Loop(item, low, high):
            more = forest.loop(item, max(low - 1, 0), None if high is None else high - 1)
            turns = _beginnings(rules, regular, item, depth - 1)
            return [EMPTY] * (low == 0) + [forest.series([each, more]) for each in turns]
        case Series(items) if not regular.is_regular(items[0]):
            firsts = _beginnings(rules, regular, items[0], depth - 1)
            return [forest.series([each, *items[1:]]) for each in firsts]
    return [node]
