"""Everything that `apply` accepts loads back equal, whatever types the event was declared with."""

import enum
import re
import types
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError, create_model

from eventuali._roundtrip import same
from eventuali.aggregate import Aggregate, handles
from eventuali.errors import SerializationError
from eventuali.event import DomainEvent, Value
from eventuali.sync import EventStore


class Suit(enum.Enum):
    HEARTS = "h"
    SPADES = 2


class Keeper(Aggregate):
    kept: tuple[DomainEvent, ...] = ()

    @handles(DomainEvent)
    def keep(self, event: DomainEvent) -> None:
        self.kept = (*self.kept, event)


Typed = tuple[Any, st.SearchStrategy[Any]]
"""A type to declare, and values of it."""

LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(),
    str: st.text(alphabet=st.characters()),
    float: st.floats(),
    bytes: st.binary(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    date: st.dates(),
    datetime: st.datetimes(timezones=st.none() | st.timezones()),
    time: st.times(timezones=st.none() | st.just(None)),
    timedelta: st.timedeltas(),
    UUID: st.uuids(),
    Suit: st.sampled_from(Suit),
    Any: st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.sampled_from(Suit),
        lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
}

HASHABLE = (bool, int, str, float, bytes, Decimal, date, datetime, UUID, Suit)


def leaves(kinds: Any = tuple(LEAVES)) -> st.SearchStrategy[Typed]:
    return st.sampled_from([(kind, LEAVES[kind]) for kind in kinds])


def contained(inner: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    def listed(typed: Typed) -> Typed:
        kind, values = typed
        return types.GenericAlias(list, kind), st.lists(values, max_size=4)

    def optional(typed: Typed) -> Typed:
        kind, values = typed
        return kind | None, st.none() | values

    def paired(typed: tuple[Typed, Typed]) -> Typed:
        (one, ones), (two, twos) = typed
        return types.GenericAlias(tuple, (one, two)), st.tuples(ones, twos)

    def either(typed: tuple[Typed, Typed]) -> Typed:
        (one, ones), (two, twos) = typed
        return one | two, ones | twos

    def mapped(typed: tuple[Typed, Typed]) -> Typed:
        (key, keys), (value, values) = typed
        return types.GenericAlias(dict, (key, value)), st.dictionaries(keys, values, max_size=3)

    def as_set(typed: Typed) -> Typed:
        kind, values = typed
        return types.GenericAlias(set, kind), st.sets(values, max_size=4)

    def modelled(typed: tuple[Typed, Any]) -> Typed:
        (kind, values), base = typed
        model = create_model("Part", __base__=base, part=(kind, ...))
        return model, values.map(lambda value: built(model, value))

    return st.one_of(
        inner.map(listed),
        inner.map(optional),
        st.tuples(inner, inner).map(paired),
        st.tuples(inner, inner).map(either),
        st.tuples(leaves(HASHABLE), inner).map(mapped),
        leaves(HASHABLE).map(as_set),
        st.tuples(inner, st.sampled_from([BaseModel, Value])).map(modelled),
    )


def built(model: type[BaseModel], value: object) -> BaseModel:
    try:
        return model(part=value)
    except ValidationError:  # a value that pydantic refuses, such as a date within a union
        return model.model_construct(part=value)


declared = st.recursive(leaves(), contained, max_leaves=4)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_everything_that_apply_accepts_loads_back_equal(data: st.DataObject) -> None:
    kind, values = data.draw(declared)
    cls = type("Drawn", (DomainEvent,), {"__module__": __name__, "__annotations__": {"x": kind}})
    keeper = Keeper()
    accepted = []
    for value in data.draw(st.lists(values, min_size=1, max_size=4)):
        try:
            event = cls(x=value)
            keeper.apply(event)
        except (ValidationError, SerializationError):
            continue
        accepted.append(event)
    with EventStore.create("memory://") as store:
        store.save(keeper)
        loaded = store.get(Keeper, keeper.id)
    kept = loaded.kept if loaded is not None else ()
    assert len(kept) == len(accepted)
    for event, back in zip(accepted, kept, strict=True):
        assert type(back) is cls
        assert same(event.x, back.x)  # type: ignore[attr-defined]


SURROGATE = re.compile("[\\ud800-\\udfff]")

UNAMBIGUOUS = [kind for kind in LEAVES if kind not in (Any, datetime)]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(UNAMBIGUOUS).flatmap(lambda kind: st.tuples(st.just(kind), st.lists(LEAVES[kind], max_size=4))))
def test_unambiguous_types_are_never_refused(drawn: tuple[Any, list[Any]]) -> None:
    kind, values = drawn
    cls = type(
        "Plain", (DomainEvent,), {"__module__": __name__, "__annotations__": {"x": types.GenericAlias(list, kind)}}
    )
    assume(not any(isinstance(value, str) and SURROGATE.search(value) for value in values))
    Keeper().apply(cls(x=values))
