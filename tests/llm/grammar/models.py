"""Pydantic models as people write them for structured output.

In: nothing. Out: `MODELS`, every class below.
"""

from __future__ import annotations

import datetime
import enum
import uuid
from decimal import Decimal
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal, NamedTuple, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, RootModel, conlist, constr
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict


class Empty(BaseModel):
    pass


class OneText(BaseModel):
    answer: str


class Scalars(BaseModel):
    text: str
    whole: int
    real: float
    flag: bool
    nothing: None


class Defaults(BaseModel):
    name: str = "x"
    size: int = 3
    ratio: float = 0.5
    on: bool = True


class Optionals(BaseModel):
    a: Optional[str] = None  # noqa: UP045
    b: Optional[int]  # noqa: UP045
    c: float | None = None


class ManyOptionals(BaseModel):
    p1: str | None = None
    p2: int | None = None
    p3: bool | None = None
    p4: str = ""
    p5: int
    p6: str | None = None
    p7: float = 0
    p8: list[str] = []


class Documented(BaseModel):
    """A reply with its reasons."""

    reply: str = Field(description="What to say", examples=["Yes"])
    reasons: list[str] = Field(default_factory=list, title="Reasons for it")


class Choice(BaseModel):
    letter: Literal["a", "b", "c"]


class MixedLiteral(BaseModel):
    value: Literal["auto", 1, 2, True, None]


class Colour(str, enum.Enum):
    RED = "red"
    GREEN = "green"
    DARK_BLUE = "dark blue"


class Level(enum.IntEnum):
    LOW = 1
    MIDDLE = 5
    HIGH = 10


class Painted(BaseModel):
    colour: Colour
    level: Level
    others: list[Colour] = []


class Address(BaseModel):
    street: str
    number: int
    zip_code: str = Field(pattern=r"^\d{5}$")


class Person(BaseModel):
    first_name: str
    last_name: str
    address: Address


class TwoAddresses(BaseModel):
    home: Address
    work: Address | None = None


class People(BaseModel):
    people: list[Person]


class Deep(BaseModel):
    class Inner(BaseModel):
        class Innermost(BaseModel):
            value: int

        most: Innermost

    inner: Inner


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class LinkedList(BaseModel):
    head: str
    tail: LinkedList | None = None


class Ping(BaseModel):
    pong: Pong | None = None


class Pong(BaseModel):
    ping: Ping | None = None
    word: str


class Expression(BaseModel):
    left: Expression | float
    operator: Literal["+", "-", "*", "/"]
    right: Expression | float


class IntegerBounds(BaseModel):
    age: int = Field(ge=0, le=150)
    score: int = Field(gt=0, lt=10)
    offset: int = Field(ge=-40, le=85)
    positive: int = Field(gt=0)
    negative: int = Field(lt=0)


class FloatBounds(BaseModel):
    probability: float = Field(ge=0, le=1)
    temperature: float = Field(ge=-273.15)
    share: float = Field(gt=0, lt=1)
    latitude: float = Field(ge=-90, le=90)


class Steps(BaseModel):
    even: int = Field(multiple_of=2, ge=0, le=100)
    minutes: int = Field(multiple_of=15, ge=0, lt=60)


class TextBounds(BaseModel):
    short: str = Field(max_length=10)
    some: str = Field(min_length=1)
    both: str = Field(min_length=3, max_length=40)
    exact: str = Field(min_length=2, max_length=2)


class Patterns(BaseModel):
    plate: str = Field(pattern=r"^[A-Z]{1,3}-[A-Z]{1,2} [1-9][0-9]{0,3}$")
    version: str = Field(pattern=r"^v?\d+\.\d+(\.\d+)?$")
    hexadecimal: str = Field(pattern="^(0x)?[0-9a-fA-F]+$")
    slug: str = Field(pattern=r"^[a-z0-9]+(?:-[a-z0-9]+)*$", max_length=12)


class Constrained(BaseModel):
    code: constr(pattern="^[A-Z]{3}$")  # type: ignore[valid-type]
    rows: conlist(int, min_length=1, max_length=3)  # type: ignore[valid-type]


class Times(BaseModel):
    day: datetime.date
    moment: datetime.datetime
    clock: datetime.time
    span: datetime.timedelta


class Identified(BaseModel):
    id: uuid.UUID
    host4: IPv4Address
    host6: IPv6Address


class Money(BaseModel):
    amount: Decimal
    bounded: Decimal = Field(ge=0, le=1000)
    currency: Literal["EUR", "USD"]


class StringLists(BaseModel):
    tags: list[str] = Field(max_length=3)
    two: list[int] = Field(min_length=2, max_length=2)
    rows: list[list[bool]]


class Tuples(BaseModel):
    point: tuple[float, float]
    entry: tuple[str, int, bool]
    many: tuple[int, ...]


class Maps(BaseModel):
    counts: dict[str, int]
    nested: dict[str, dict[str, bool]] = {}
    records: dict[str, Address] = {}


class KeyedMaps(BaseModel):
    by_colour: dict[Colour, int]
    by_code: dict[Annotated[str, Field(pattern="^[a-z]{2}$")], str] = {}
    few: dict[str, int] = Field(default={}, max_length=2)


class Anything(BaseModel):
    value: Any
    values: list[Any] = []
    free: dict[str, Any] = {}
    bare: dict = {}  # type: ignore[type-arg]
    items: list = []  # type: ignore[type-arg]


class Unions(BaseModel):
    number_or_text: int | str
    real_or_whole: int | float
    several: list[int | str | None]


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    breed: str


class Fish(BaseModel):
    kind: Literal["fish", "shark"]
    depth: float = 0


class Discriminated(BaseModel):
    pet: Annotated[Cat | Dog | Fish, Field(discriminator="kind")]


class DiscriminatedList(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]


class PlainUnion(BaseModel):
    pet: Cat | Dog


class Forbids(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int
    b: str = ""


class Allows(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int
    b: str = ""


class Aliased(BaseModel):
    user_name: str = Field(alias="userName")
    a_class: str = Field(alias="class")


class OddNames(BaseModel):
    spaced: int = Field(alias="with space")
    quoted: int = Field(alias='quo"ted\\')
    accented: str = Field(alias="größe")
    japanese: str = Field(default="", alias="名前")
    emoji: bool = Field(default=False, alias="✅")


class UnicodeValues(BaseModel):
    answer: Literal["ja", "nein", "größer", "はい", "👍🏽", "tab\there", 'a "quote"', "back\\slash"]


class TextRoot(RootModel[str]):
    pass


class ListRoot(RootModel[list[Address]]):
    pass


class MapRoot(RootModel[dict[str, int]]):
    pass


class UnionRoot(RootModel[Union[Cat, Dog]]):  # noqa: UP007
    pass


class Base(BaseModel):
    id: int


class Derived(Base):
    name: str
    parent: Base | None = None


class Movie(TypedDict):
    title: str
    year: int


class Holder(BaseModel):
    movie: Movie


class Position(NamedTuple):
    x: int
    y: int


class Placed(BaseModel):
    position: Position


@dataclass
class Part:
    name: str
    weight: float = 1.0


class Machine(BaseModel):
    parts: list[Part]


class Step(BaseModel):
    thought: str = Field(description="Why this step")
    action: Literal["search", "calculate", "finish"]
    arguments: dict[str, str | int | float | bool] = {}


class Plan(BaseModel):
    goal: str = Field(min_length=1, max_length=200)
    steps: list[Step] = Field(min_length=1, max_length=10)
    confidence: float = Field(ge=0, le=1)


class LineItem(BaseModel):
    sku: str = Field(pattern=r"^[A-Z]{2}\d{4}$")
    quantity: int = Field(ge=1, le=999)
    price: float = Field(ge=0)


class Invoice(BaseModel):
    number: str
    date: datetime.date
    customer: Person
    items: list[LineItem] = Field(min_length=1)
    note: str | None = None
    paid: bool = False


class Entity(BaseModel):
    text: str
    label: Literal["PER", "ORG", "LOC", "MISC"]
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Extraction(BaseModel):
    entities: list[Entity]
    language: str = Field(pattern="^[a-z]{2}$")


class Verdict(BaseModel):
    is_correct: bool
    grade: int = Field(ge=1, le=5)
    comment: str | None = Field(default=None, max_length=100)


MODELS: dict[str, type[BaseModel]] = {
    name: each
    for name, each in list(globals().items())
    if isinstance(each, type) and issubclass(each, BaseModel) and each.__module__ == __name__
}
