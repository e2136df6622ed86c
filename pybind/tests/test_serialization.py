"""What is applied comes back equal, or is refused when it is applied."""

import dataclasses
import enum
import math
import zoneinfo
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, SecretStr, computed_field, field_serializer, field_validator
from typing_extensions import TypedDict

from eventuali._roundtrip import plan_of, same
from eventuali.aggregate import Aggregate, handles
from eventuali.errors import DeserializationError, SerializationError
from eventuali.event import DomainEvent, Value
from eventuali.sync import EventStore

NAN = float("nan")
AMSTERDAM = zoneinfo.ZoneInfo("Europe/Amsterdam")


class Anything(Aggregate):
    seen: list[Any] = []

    @handles(DomainEvent)
    def see(self, event: DomainEvent) -> None:
        self.seen = [*self.seen, event]


def a_name(value: object) -> str:
    """A name for a test that is not the value itself: some cannot be printed."""
    return getattr(value, "__name__", type(value).__name__)


def an_event_class(kind: Any, default: Any = ..., **config: Any) -> type[DomainEvent]:
    body: dict[str, Any] = {"__module__": __name__, "__annotations__": {"x": kind}}
    if default is not ...:
        body["x"] = default
    return type("Held", (DomainEvent,), body, **config)


def stored_and_loaded(*events: DomainEvent) -> list[DomainEvent]:
    anything = Anything()
    for event in events:
        anything.apply(event)
    with EventStore.create("memory://") as store:
        store.save(anything)
        return store.load(Anything, anything.id).seen


class Point(BaseModel):
    x: int
    label: str = ""


class Reading(BaseModel):
    celsius: float = 0.0
    raw: bytes = b""


class Exact(Value):
    celsius: float = 0.0
    raw: bytes = b""


@dataclasses.dataclass
class Pair:
    left: float
    right: str


class Row(TypedDict):
    amount: float


class Place(NamedTuple):
    lat: float
    lon: float


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Shape(enum.Enum):
    SQUARE = (1, 1)


class Flags(enum.Flag):
    A = 1
    B = 2


COMES_BACK: list[tuple[Any, Any]] = [
    (str, "ä😀\0"),
    (int, -(2**80)),
    (int, 10**4299),
    (float, 1e-300),
    (float, NAN),
    (float, -math.inf),
    (bool, True),
    (Decimal, Decimal("1.10")),
    (Decimal, Decimal("-0E+30")),
    (bytes, b"\x00\xff"),
    (date, date(1, 1, 1)),
    (datetime, datetime.max),  # noqa: DTZ901
    (datetime, datetime(2024, 3, 31, 2, 30, tzinfo=AMSTERDAM)),
    (datetime, datetime(2024, 10, 27, 2, 30, tzinfo=AMSTERDAM, fold=1)),
    (time, time(1, 2, 3, 4)),
    (timedelta, timedelta(days=-400, microseconds=1)),
    (UUID, UUID(int=7)),
    (Colour, Colour.BLUE),
    (Flags, Flags.A | Flags.B),
    (Literal["a", 1] | None, 1),
    (str | None, None),
    (int | str, "1"),
    (list[float], [NAN, 1.0]),
    (set[float], {NAN, 1.0}),
    (frozenset[int], frozenset({1})),
    (tuple[int, ...], (1, 2)),
    (tuple[int, str], (1, "a")),
    (dict[str, list[Decimal]], {"a": [Decimal(1)]}),
    (dict[int, str], {1: "a"}),
    (dict[date, int], {date(2020, 1, 1): 1}),
    (dict[str, Any], {"a": [1, 2.5, "x", None, {"b": True}]}),
    (Point, Point(x=1)),
    (list[Reading], [Reading(celsius=1.5, raw=b"abc")]),
    (Exact, Exact(celsius=NAN, raw=b"\xff")),
    (list[Exact], [Exact(celsius=-math.inf)]),
    (Pair, Pair(NAN, "a")),
    (Row, {"amount": NAN}),
    (Place, Place(1.0, 2.0)),
    (Path, Path("/var/lib")),
]


@pytest.mark.parametrize(("kind", "value"), COMES_BACK, ids=a_name)
def test_what_can_be_declared_comes_back_equal(kind: object, value: object) -> None:
    (event,) = stored_and_loaded(an_event_class(kind)(x=value))
    assert same(event.x, value)  # type: ignore[attr-defined]


class Derived(Point):
    extra: int = 0


REFUSED: list[tuple[Any, Any]] = [
    (int, 10**4300),
    (str, "\ud800"),
    (SecretStr, SecretStr("hush")),
    (Reading, Reading(celsius=NAN)),
    (list[Reading], [Reading(celsius=math.inf)]),
    (Reading, Reading(raw=b"\xff")),
    (datetime, datetime(1930, 1, 1, tzinfo=AMSTERDAM)),
    (list[datetime], [datetime(1930, 1, 1, tzinfo=AMSTERDAM)]),
    (time, time(1, tzinfo=timezone(timedelta(seconds=30)))),
    (Any, (1, 2)),
    (Any, {1}),
    (Any, Decimal(1)),
    (Any, Colour.RED),
    (Any, NAN),
    (str | datetime, datetime(2020, 1, 1, tzinfo=UTC)),
    (dict[tuple[int, int], str], {(1, 2): "a"}),
    (dict[None, int], {None: 1}),
    (dict[float, int], {NAN: 1}),
    (Shape, Shape.SQUARE),
    (Point, Derived(x=1, extra=2)),
    (list[Point], [Point(x=1), Derived(x=1, extra=2)]),
]


@pytest.mark.parametrize(("kind", "value"), REFUSED, ids=a_name)
def test_what_would_not_come_back_is_refused_when_it_is_applied(kind: object, value: object) -> None:
    anything = Anything()
    with pytest.raises(SerializationError, match="field 'x'") as caught:
        anything.apply(an_event_class(kind)(x=value))
    assert (caught.value.field, caught.value.event_type) == ("x", "Held")
    assert (anything.version, anything.pending_events) == (0, ())


@pytest.mark.parametrize(("kind", "value"), REFUSED, ids=a_name)
def test_it_is_refused_also_after_other_events_of_its_class(kind: object, value: object) -> None:
    cls = an_event_class(kind | None)  # type: ignore[operator]
    anything = Anything()
    anything.apply(cls(x=None))
    with pytest.raises(SerializationError):
        anything.apply(cls(x=value))


NEVER: list[tuple[Callable[[], type[DomainEvent]], str]] = [
    (lambda: an_event_class(int, Field(default=1, exclude=True)), "exclude=True"),
    (lambda: an_event_class(int, Field(default=1, validation_alias="a", serialization_alias="b")), "one alias"),
    (lambda: an_event_class(Callable[[], int] | None, None), "callable"),
    (lambda: an_event_class(Iterable[int] | None, None), "iterator"),
]


@pytest.mark.parametrize(("make", "reason"), NEVER)
def test_a_field_that_can_never_come_back_is_refused_whatever_its_value(
    make: Callable[[], type[DomainEvent]], reason: str
) -> None:
    with pytest.raises(SerializationError, match=reason) as caught:
        Anything().apply(make().model_construct())
    assert caught.value.field == "x"


def test_an_excluded_field_of_a_nested_model_is_named_with_its_path() -> None:
    class Inner(BaseModel):
        secret: int = Field(default=1, exclude=True)

    with pytest.raises(SerializationError) as caught:
        Anything().apply(an_event_class(list[Inner])(x=[]))
    assert caught.value.field == "x.secret"


def test_what_was_changed_behind_the_validator_is_refused() -> None:
    numbers, point = an_event_class(list[int])(x=[1]), an_event_class(Point)(x=Point(x=1))
    numbers.x.append("two")  # type: ignore[attr-defined]
    point.x.x = "one"  # type: ignore[attr-defined]
    cls = an_event_class(int)
    Anything().apply(cls(x=1))
    for event in (
        numbers,
        point,
        cls.model_construct(x="one"),
        cls(x=1).model_copy(update={"x": "one"}),
        cls.model_construct(),
    ):
        with pytest.raises(SerializationError):
            Anything().apply(event)


def test_what_was_built_without_validation_and_is_right_is_accepted() -> None:
    cls = an_event_class(int)
    (event,) = stored_and_loaded(cls.model_construct(x=5))
    assert event == cls(x=5)


def test_a_subclass_defined_later_is_noticed() -> None:
    class Late(BaseModel):
        x: int

    cls = an_event_class(Late)
    anything = Anything()
    anything.apply(cls(x=Late(x=1)))

    class Later(Late):
        y: int = 2

    with pytest.raises(SerializationError):
        anything.apply(cls(x=Later(x=1)))


def test_unknown_stored_fields_are_ignored_also_in_nested_values() -> None:
    class Old(DomainEvent, event_type="ignoring.old"):
        exact: dict[str, float]
        note: str

    class New(DomainEvent, event_type="ignoring.new", formerly=()):
        exact: Exact

    payload = b'{"exact":{"celsius":1.5,"gone":1},"note":"x"}'
    assert plan_of(New).validate_json(payload) == New(exact=Exact(celsius=1.5))
    assert plan_of(Old).lenient


def test_computed_fields_are_not_stored_and_serializers_and_validators_of_the_class_are_used() -> None:
    class Sum(DomainEvent):
        a: int
        b: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def total(self) -> int:
            return self.a + self.b

        @field_serializer("a")
        def as_text(self, a: int) -> str:
            return f"n{a}"

        @field_validator("a", mode="before")
        @classmethod
        def from_text(cls, a: object) -> object:
            return int(a[1:]) if isinstance(a, str) else a

    (event,) = stored_and_loaded(Sum(a=1, b=2))
    assert event == Sum(a=1, b=2)
    with EventStore.create("memory://") as store:
        store.append("sum", [Sum(a=1, b=2)], aggregate_type="Sum")
        (batch,) = store.read("sum").batches()
        assert batch[0].payload == b'{"a":"n1","b":2}'


def test_a_validator_that_changes_what_it_reads_is_found_out() -> None:
    class Doubled(DomainEvent):
        x: int

        @field_validator("x")
        @classmethod
        def double(cls, x: int) -> int:
            return x * 2

    with pytest.raises(SerializationError, match="2 would come back as 4"):
        Anything().apply(Doubled(x=1))


def test_aliases_work_both_ways_nested_ones_too() -> None:
    class Part(BaseModel):
        sku: str = Field(default="", alias="SKU")

    class Aliased(DomainEvent):
        ts: int = Field(alias="timestamp")
        parts: list[Part] = Field(alias="Parts")

    (event,) = stored_and_loaded(Aliased(ts=1, parts=[Part(SKU="tea")]))  # type: ignore[call-arg]
    assert (event.ts, event.parts[0].sku) == (1, "tea")  # type: ignore[attr-defined]


_T = TypeVar("_T")


def test_generic_and_recursive_events_come_back() -> None:
    class Changed(DomainEvent, Generic[_T]):
        to: _T

    class Tree(Value):
        children: "list[Tree]" = []

    class Grown(DomainEvent):
        tree: Tree

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    Grown.model_rebuild(_types_namespace={"Tree": Tree})
    events = [Changed[int](to=1), Grown(tree=Tree(children=[Tree()]))]
    assert stored_and_loaded(*events) == events


def test_a_payload_that_no_longer_validates_is_an_error_with_its_position_and_reading_goes_on() -> None:
    loose = type("Tightened", (DomainEvent,), {"__module__": __name__, "__annotations__": {"x": int}})
    with EventStore.create("memory://") as store:
        store.append("a", [loose(x=-1), loose(x=1)], aggregate_type="A")
        strict = type(
            "Tightened", (DomainEvent,), {"__module__": __name__, "__annotations__": {"x": int}, "x": Field(gt=0)}
        )
        reading = iter(store.read("a"))
        with pytest.raises(DeserializationError, match="position 1") as caught:
            next(reading)
        assert (caught.value.position, caught.value.event_type) == (1, "Tightened")
        assert next(reading) == strict(x=1)


def test_only_classes_of_doubtful_parts_are_checked_each_time() -> None:
    trusted = (
        int,
        str,
        float,
        bytes,
        Decimal,
        datetime,
        list[int],
        dict[str, float],
        Exact,
        Colour,
        Point,
        UUID | None,
    )
    doubtful = (Any, Reading, Pair, Shape, int | str, dict[float, int], Path, list[datetime])
    assert [plan_of(an_event_class(kind)).check_each for kind in trusted] == [False] * len(trusted)
    assert [plan_of(an_event_class(kind)).check_each for kind in doubtful] == [True] * len(doubtful)
