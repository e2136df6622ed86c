"""Arguments that cannot be used are refused by name, with what is taken instead."""

from collections.abc import Callable
from typing import Any

import pytest

from eventuali import (
    ConfigurationError,
    DefinitionError,
    DomainEvent,
    EventMetadata,
    EventStoreConfig,
    InvalidNameError,
    StreamAppend,
    rebuild_manifest,
)
from eventuali.config import EmbeddedConfig
from eventuali.sync import EventStore
from tests.counting import Counted, Counter, counted

SURROGATE: Any = "a\ud800"
WRONG: list[Any] = [7, 1.5, b"bytes", object(), type]

SQLITE = EventStoreConfig.sqlite("./nowhere.db")
POSTGRES = EventStoreConfig.postgres("postgresql://nowhere/events")

Use = Callable[[EventStore, Any], object]


def part(aggregate_id: Any = "c", events: Any = (), **options: Any) -> list[StreamAppend]:
    return [StreamAppend(aggregate_id, events, **{"aggregate_type": "Counter", **options})]


def appended(store: EventStore, aggregate_id: Any = "c", events: Any = (), **options: Any) -> object:
    return store.append(aggregate_id, events, **{"aggregate_type": "Counter", **options})


def uncallable(it: Any) -> Any:
    return [it] if callable(it) else it


@pytest.fixture
def store() -> EventStore:
    return EventStore.create("memory://")


NAMES: dict[str, tuple[str, Use]] = {
    "an aggregate": ("id", lambda _, it: Counter(id=it)),
    "append": ("aggregate_id", appended),
    "append_all": ("aggregate_id", lambda store, it: store.append_all(part(it))),
    "load": ("aggregate_id", lambda store, it: store.load(Counter, it)),
    "get": ("aggregate_id", lambda store, it: store.get(Counter, it)),
    "read": ("aggregate_id", lambda store, it: store.read(it)),
    "causation": ("causation_id", lambda _, it: EventMetadata(causation_id=it)),
    "correlation": ("correlation_id", lambda _, it: EventMetadata(correlation_id=it)),
    "user": ("user_id", lambda _, it: EventMetadata(user_id=it)),
    "header name": ("headers", lambda _, it: EventMetadata(headers={it: "1"})),
    "header": ("headers", lambda _, it: EventMetadata(headers={"ip": it})),
}
TYPE_NAMES: dict[str, tuple[str, Use]] = {
    "append to": ("aggregate_type", lambda store, it: appended(store, aggregate_type=it)),
    "filter by aggregate": ("aggregate_type", lambda store, it: store.read_all(aggregate_types=[it])),
    "filter by event": ("event_type", lambda store, it: store.read_all(event_types=[it])),
}


@pytest.mark.parametrize(("named", "use"), [*NAMES.values(), *TYPE_NAMES.values()], ids=[*NAMES, *TYPE_NAMES])
def test_text_that_is_no_unicode_is_refused_by_name(store: EventStore, named: str, use: Use) -> None:
    with pytest.raises(InvalidNameError, match=rf"^{named} 'a\\ud800' holds a surrogate") as caught:
        use(store, SURROGATE)
    assert (caught.value.what, caught.value.value) == (named.replace("_", " "), SURROGATE)


def test_a_class_cannot_be_named_by_what_is_no_unicode() -> None:
    def event_type() -> None:
        class Named(DomainEvent, event_type=SURROGATE): ...

    def formerly() -> None:
        class Renamed(DomainEvent, formerly=(SURROGATE,)): ...

    def aggregate_type() -> None:
        class Typed(Counter, aggregate_type=SURROGATE): ...

    for define in (event_type, formerly, aggregate_type):
        with pytest.raises(DefinitionError, match=r"'a\\ud800' holds a surrogate"):
            define()


@pytest.mark.parametrize(("named", "use"), NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_what_is_no_id_is_a_type_error_by_name(store: EventStore, named: str, use: Use, wrong: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{named} .*(neither a string nor a UUID|map strings to strings)"):
        use(store, wrong)


NUMBERS: dict[str, tuple[int, Use]] = {
    "accept_loss_after": (0, lambda _, it: EventStore.create("./nowhere", accept_loss_after=it)),
    "ms": (1, lambda _, it: EventStoreConfig.embedded("./nowhere").with_durability("interval", ms=it)),
    "interval_ms": (1, lambda _, it: EmbeddedConfig("./nowhere", durability="interval", interval_ms=it)),
    "older_than": (0, lambda _, it: EventStoreConfig.embedded("./nowhere").with_compression(older_than=it)),
    "max_connections": (1, lambda _, it: SQLITE.with_max_connections(it)),
    "acquire_timeout": (1, lambda _, it: SQLITE.with_acquire_timeout(ms=it)),
    "lock_timeout": (1, lambda _, it: SQLITE.with_lock_timeout(ms=it)),
    "statement_timeout": (1, lambda _, it: POSTGRES.with_statement_timeout(ms=it)),
    "version": (1, lambda store, it: store.load(Counter, "c", version=it)),
    "position": (1, lambda store, it: store.load(Counter, "c", position=it)),
    "after_version": (0, lambda store, it: store.read("c", after_version=it)),
    "before_version": (1, lambda store, it: store.read("c", before_version=it)),
    "limit": (0, lambda store, it: store.read("c", limit=it)),
    "limit of all": (0, lambda store, it: store.read_all(limit=it)),
    "after": (0, lambda store, it: store.read_all(after=it)),
    "before": (1, lambda store, it: store.read_all(before=it)),
    "expected_version": (0, lambda store, it: appended(store, expected_version=it)),
    "expected_version of a part": (0, lambda store, it: store.append_all(part(expected_version=it))),
}
ATTEMPTS: dict[str, tuple[int, Use]] = {
    "attempts": (1, lambda store, it: store.update(Counter, "c", lambda counter: counter.count(1), attempts=it))
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("excess", [-1, 2**64, 10**5000], ids=["negative", "large", "huge"])
def test_a_number_out_of_its_range_is_refused_with_name_and_range(store: EventStore, name: str, excess: int) -> None:
    least, use = NUMBERS[name]
    argument = name.split(maxsplit=1)[0].removeprefix("interval_")
    with pytest.raises(ConfigurationError, match=f"^{argument}.* from {least} on, up to {2**64 - 1}, not"):
        use(store, excess)


def test_attempts_have_no_upper_limit(store: EventStore) -> None:
    store.save(counted(1, "c"))
    with pytest.raises(ConfigurationError, match="attempts is a number from 1 on"):
        store.update(Counter, "c", lambda counter: counter, attempts=-(10**5000))
    assert store.update(Counter, "c", lambda counter: counter, attempts=2**64).version == 1


@pytest.mark.parametrize("name", [*NUMBERS, *ATTEMPTS])
@pytest.mark.parametrize("wrong", ["3", 1.5, True, object()], ids=repr)
def test_what_is_no_number_is_refused_by_name(store: EventStore, name: str, wrong: Any) -> None:
    _, use = (NUMBERS | ATTEMPTS)[name]
    argument = name.split(maxsplit=1)[0].removeprefix("interval_")
    with pytest.raises((TypeError, ConfigurationError), match=rf"^{argument}\b.* number"):
        use(store, wrong)


OTHERS: dict[str, tuple[str, Use]] = {
    "metadata": ("metadata is an EventMetadata", lambda store, it: store.save(counted(1), metadata=it)),
    "metadata of append": ("metadata is an EventMetadata", lambda store, it: appended(store, metadata=it)),
    "metadata of append_all": ("metadata is an EventMetadata", lambda store, it: store.append_all([], metadata=it)),
    "aggregates": ("aggregates is a list of aggregates", lambda store, it: store.save_all(it)),
    "aggregate_class": (
        "(aggregate_class is a|type is not a) class of aggregates",
        lambda store, it: store.load(it, "c"),
    ),
    "act": ("act is a function", lambda store, it: store.update(Counter, "c", uncallable(it))),
    "at": ("at is an aware datetime", lambda store, it: store.load(Counter, "c", at=it)),
    "timestamp": ("timestamp is an aware datetime", lambda store, it: appended(store, timestamp=it)),
    "timestamps": ("timestamps is a list of datetimes", lambda store, it: store.append_all(part(timestamps=it))),
    "a timestamp": ("timestamps is an aware datetime", lambda store, it: store.append_all(part(timestamps=[it]))),
    "events": ("events is a list of events", lambda store, it: appended(store, events=it)),
    "events of a part": ("events is a list of events", lambda store, it: store.append_all(part(events=it))),
    "streams": ("streams is a list of StreamAppends", lambda store, it: store.append_all(it)),
    "backwards": ("backwards is True or False", lambda store, it: store.read("c", backwards=it)),
    "backwards of all": ("backwards is True or False", lambda store, it: store.read_all(backwards=it)),
    "event_types": ("event_types is a list", lambda store, it: store.read_all(event_types=it)),
    "aggregate_types": ("aggregate_types is a list", lambda store, it: store.read_all(aggregate_types=it)),
    "aggregate_type": ("aggregate_type is a str or a class", lambda store, it: appended(store, aggregate_type=it)),
    "read_up_to_damage": (
        "read_up_to_damage is True or False",
        lambda _, it: EventStore.create("memory://", read_up_to_damage=it),
    ),
    "read_only": ("read_only is True or False", lambda _, it: EventStore.create("memory://", read_only=it)),
    "path of a config": ("the path of a store is a str", lambda _, it: EventStoreConfig.embedded(it)),
    "path": ("the path of a store is a str", lambda _, it: EmbeddedConfig(it)),
    "path of a file": ("the path of a store is a str", lambda _, it: EventStoreConfig.sqlite(it)),
    "URL": ("the URL of a database is a str", lambda _, it: EventStoreConfig.postgres(it)),
    "table_name": ("table_name is a str", lambda _, it: SQLITE.with_table_name(it)),
    "synchronous": ("synchronous is a str", lambda _, it: SQLITE.with_synchronous(it)),
    "path of a manifest": ("the path of a store is a str", lambda _, it: rebuild_manifest(it)),
}


@pytest.mark.parametrize(("refusal", "use"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_an_argument_of_a_wrong_type_is_refused_by_name(store: EventStore, refusal: str, use: Use, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"^{refusal}"):
        use(store, wrong)


@pytest.mark.parametrize("use", ["events", "streams", "timestamps", "aggregates"])
def test_a_model_is_no_list_although_it_can_be_iterated(store: EventStore, use: str) -> None:
    models: list[Any] = [counted(1), Counted(by=1)]
    for model in models:
        with pytest.raises(TypeError, match="list of"):
            OTHERS[use][1](store, model)
