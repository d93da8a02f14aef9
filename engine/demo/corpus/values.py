"""Values that mean nothing and must be copied. In: a random generator. Out: one text.

Every kind can be a slot of a template, as tables can: `{city}`, `{cjk}`, `{price}`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

CONSONANTS = (*"bdfghklmnprstvz", "br", "dr", "fl", "gr", "kl", "pl", "st", "tr", "sh", "ch")
VOWELS = (*"aeiou", "ai", "ee", "oo", "ou")
ENDINGS = ("", "", *"nlrstxm")
ACCENTS = str.maketrans("aeioucns", "äéíöüçñß")
HAN = (
    "你好世界中国人大小上下学生天气东西南北山水火木金土日月年"
    "时分早晚春夏秋冬公司集团客户名字老师朋友今明昨"
)
KANA = "こんにちはさようならありがとうすしやまかわそらはなトヨタカメラテレビサクラ株式会社"
HANGUL = "안녕하세요감사합니다서울부산김치회사고객이름사람나라"
FIRST = ("", "", "San ", "New ", "North ", "Port ", "Lake ", "Saint ")
COMPANY = (
    " Foods",
    " Ltd",
    " Group",
    " Books",
    " Systems",
    " and Sons",
    " Bikes",
    " Bank",
    " GmbH",
)
STREETS = (" Street", " Road", " Lane", " Square")
MAILS = ("example.com", "mail.org", "post.net")


def invented_word(rng: random.Random) -> str:
    """Return a word of two or three syllables that means nothing."""
    parts = [rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(rng.choice([2, 2, 3]))]
    return "".join(parts) + rng.choice(ENDINGS)


def number(rng: random.Random) -> str:
    """Return a whole number of one to four digits, short ones more often than their share."""
    return str(rng.randrange(10 ** rng.choice([1, 2, 2, 3, 4])))


def integer(rng: random.Random) -> str:
    """Return a whole number of one to six digits without a leading zero."""
    return str(rng.randrange(10 ** rng.choice([1, 1, 2, 2, 3, 4, 5, 6])))


def small(rng: random.Random) -> str:
    """Return a whole number from 2 to 99."""
    return str(rng.randint(2, 99))


def digits(rng: random.Random) -> str:
    """Return a string of four to seven digits."""
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(4, 7)))


def decimal(rng: random.Random) -> str:
    """Return a number with one or two decimals, never ending in zero."""
    whole, part = rng.randrange(10 ** rng.choice([1, 2, 2, 3])), rng.randint(1, 9)
    return f"{whole}.{rng.choice(['', '', rng.randrange(10)])}{part}"


def code(rng: random.Random) -> str:
    """Return something like KX-4821."""
    letters = "".join(rng.choice("ABCDEFGHKLMNPRSTXZ") for _ in range(rng.randint(1, 3)))
    return f"{letters}{rng.choice(['-', '', '-'])}{rng.randrange(10 ** rng.randint(2, 4))}"


def accented(rng: random.Random) -> str:
    """Return a made-up word with letters of other languages."""
    word = invented_word(rng)
    at = rng.randrange(len(word) - 1)
    return (word[:at] + word[at : at + 3].translate(ACCENTS) + word[at + 3 :]).capitalize()


def cjk(rng: random.Random) -> str:
    """Return two to six Chinese, Japanese or Korean characters."""
    if rng.random() < 0.3:
        return "".join(chr(rng.randrange(0x4E00, 0x9FA0)) for _ in range(rng.randint(2, 5)))
    return "".join(rng.choices(rng.choice([HAN, HAN, KANA, HANGUL]), k=rng.randint(2, 6)))


def city(rng: random.Random) -> str:
    """Return the name of a town that does not exist."""
    name = rng.choice(FIRST) + invented_word(rng).capitalize()
    state = f", {rng.choice('ACIMNOTW')}{rng.choice('AEKLNSTXY')}" if rng.random() < 0.06 else ""
    return name + state


def person(rng: random.Random) -> str:
    """Return a first and a last name."""
    return f"{invented_word(rng).capitalize()} {invented_word(rng).capitalize()}"


def company(rng: random.Random) -> str:
    """Return the name of a company, now and then in another script."""
    kind = rng.choice([invented_word, invented_word, invented_word, accented, cjk])
    name = kind(rng)
    return name if kind is cjk else name.capitalize() + rng.choice(COMPANY)


def street(rng: random.Random) -> str:
    """Return a house number and a street."""
    return f"{rng.randint(1, 199)} {invented_word(rng).capitalize()}{rng.choice(STREETS)}"


def mail(rng: random.Random) -> str:
    """Return a mail address."""
    return f"{invented_word(rng)}{rng.choice(['', str(rng.randint(1, 99))])}@{rng.choice(MAILS)}"


def year(rng: random.Random) -> str:
    """Return a year of the last centuries."""
    return str(rng.randint(1700, 2030))


def date(rng: random.Random) -> str:
    """Return a date such as 2024-05-17."""
    return f"{rng.randint(1990, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def clock(rng: random.Random) -> str:
    """Return a time such as 14:30."""
    return f"{rng.randint(0, 23):02}:{rng.choice('0134')}{rng.choice('05')}"


def phrase(rng: random.Random) -> str:
    """Return two to four made-up words."""
    return " ".join(invented_word(rng) for _ in range(rng.randint(2, 4)))


def title(rng: random.Random) -> str:
    """Return a title of two or three made-up words."""
    return " ".join(invented_word(rng).capitalize() for _ in range(rng.randint(2, 3)))


MADE_UP: Mapping[str, Callable[[random.Random], str]] = {
    "word": invented_word,
    "number": number,
    "integer": integer,
    "small": small,
    "digits": digits,
    "decimal": decimal,
    "code": code,
    "accented": accented,
    "cjk": cjk,
    "city": city,
    "person": person,
    "company": company,
    "street": street,
    "mail": mail,
    "year": year,
    "date": date,
    "clock": clock,
    "phrase": phrase,
    "title": title,
}
