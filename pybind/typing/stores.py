"""What a type checker has to know about stores. Nothing here is run: mypy and pyright read it."""

from typing import assert_type
from uuid import UUID

import eventuali.sync
from eventuali import (
    ANY,
    NO_STREAM,
    Aggregate,
    Capabilities,
    DomainEvent,
    EventBatches,
    EventStore,
    EventStoreConfig,
    EventStream,
    OpenReport,
    Receipt,
    StoredEvent,
    StreamAppend,
)
from eventuali.config import PostgresConfig


class Placed(DomainEvent):
    """An event with a field."""

    total: int


class Order(Aggregate):
    """An aggregate with a field and a command."""

    total: int = 0

    def place(self, total: int) -> None:
        """A command."""
        self.apply(Placed(total=total))

    def apply_placed(self, event: Placed) -> None:
        """Its handler."""
        self.total = event.total


class Invoice(Aggregate):
    """Another aggregate."""


async def stores_can_be_awaited_and_entered() -> None:
    """`create` gives a store in both ways."""
    assert_type(await EventStore.create("memory://"), EventStore)
    async with EventStore.create(EventStoreConfig.embedded("orders").with_durability("interval", ms=5)) as store:
        assert_type(store, EventStore)
    sqlite = EventStoreConfig.sqlite("events.db").with_table_name("audit").with_synchronous("normal")
    async with EventStore.create(sqlite.with_lock_timeout(ms=500)) as store:
        assert_type(store, EventStore)
    postgres = EventStoreConfig.postgres("postgresql://host/events").with_max_connections(20)
    assert_type(postgres.with_statement_timeout(ms=500).with_acquire_timeout(ms=500), PostgresConfig)
    with eventuali.sync.EventStore.create(postgres) as sync_store:
        assert_type(sync_store, eventuali.sync.EventStore)
    with eventuali.sync.EventStore.create("memory://") as sync_store:
        assert_type(sync_store, eventuali.sync.EventStore)


async def what_is_loaded_has_its_own_type(store: EventStore, order_id: str | UUID) -> None:
    """`load(Order, …)` is an `Order`."""
    assert_type(await store.load(Order, order_id), Order)
    assert_type(await store.get(Order, order_id), Order | None)
    assert_type(await store.load(Order, order_id, version=7), Order)
    assert_type(await store.update(Order, order_id, lambda order: order.place(3), attempts=2), Order)
    assert_type((await store.load(Order, order_id)).total, int)


def what_is_loaded_has_its_own_type_without_asyncio(store: eventuali.sync.EventStore, order_id: str | UUID) -> None:
    """The same without `await`."""
    assert_type(store.load(Order, order_id), Order)
    assert_type(store.get(Order, order_id), Order | None)
    assert_type(store.update(Order, order_id, lambda order: order.place(3)), Order)


async def answers_have_types(store: EventStore, order: Order, invoice: Invoice) -> None:
    """Receipts and positions."""
    receipt = await store.save(order)
    assert_type(receipt, Receipt)
    assert_type(receipt.position, int)
    assert_type(receipt.durability == "sync", bool)
    assert_type(await store.save_all([order, invoice]), list[Receipt])
    assert_type(await store.append("order-1", [Placed(total=1)], aggregate_type=Order, expected_version=ANY), Receipt)
    assert_type(
        await store.append_all(
            [StreamAppend("order-1", [Placed(total=1)], aggregate_type="Order", expected_version=NO_STREAM)]
        ),
        list[Receipt],
    )
    assert_type(await store.head(), int)
    assert_type(await store.sync(), int)
    assert_type(await store.durable_position(), int)
    assert_type(store.capabilities(), Capabilities)
    assert_type(store.open_report, OpenReport | None)


async def streams_yield_events(store: EventStore) -> None:
    """Typed events where the class is known, stored events where it is not; batches of stored events."""
    stream = store.read_all(event_types=[Placed, "Shipped"], aggregate_types=[Order])
    assert_type(stream, EventStream)
    async for event in stream:
        assert_type(event, DomainEvent | StoredEvent)
        assert_type(event.position, int)
        if isinstance(event, Placed):
            assert_type(event.total, int)
    assert_type(stream.batches(), EventBatches)
    async for batch in stream.batches():
        assert_type(batch, list[StoredEvent])
    assert_type(await anext(store.read("order-1")), DomainEvent | StoredEvent)
    await stream.aclose()
    async with store.read_all() as entered:
        assert_type(entered, EventStream)


def streams_yield_events_without_asyncio(store: eventuali.sync.EventStore) -> None:
    """The same with `for`."""
    for event in store.read("order-1"):
        assert_type(event, DomainEvent | StoredEvent)
    for batch in store.read_all().batches():
        assert_type(batch, list[StoredEvent])


async def mistakes_are_seen(store: EventStore) -> None:
    """Each of these lines must be an error."""
    await store.load("Order", "order-1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await store.load(Order, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await store.load(Order, "order-1", 7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await store.save(Placed(total=1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EventStoreConfig.sqlite("x").with_durability("os")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    EventStoreConfig.postgres("x").with_synchronous("full")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    EventStoreConfig.embedded("x").with_durability("always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
