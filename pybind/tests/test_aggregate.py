import copy
import enum
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any, List  # noqa: UP035  # the shape of the original design
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, Field, PrivateAttr, ValidationError

from eventuali import _registry
from eventuali._eventuali import classes_changed
from eventuali.aggregate import Aggregate
from eventuali.errors import (
    AggregateNotFoundError,
    AggregateTypeError,
    AggregateUsageError,
    ConflictError,
    DefinitionError,
    DeserializationError,
    EventualiError,
    FieldNotSetError,
    MissingHandlerError,
    ReentrantApplyError,
    ReplayError,
    UndeclaredFieldError,
)
from eventuali.event import DomainEvent
from eventuali.sync import EventStore


class OrderStatus(str, enum.Enum):  # noqa: UP042  # the shape of the original design
    PENDING = "pending"
    PLACED = "placed"


class OrderItem(BaseModel):
    sku: str
    quantity: int = 1


class OrderPlaced(DomainEvent):
    customer_id: str
    items: list[OrderItem]


class ItemAdded(DomainEvent):
    sku: str


class Broken(DomainEvent):
    reason: str


class Unhandled(DomainEvent): ...


class Nested(DomainEvent):
    sku: str


class Order(Aggregate):
    status: OrderStatus = OrderStatus.PENDING
    items: List[OrderItem] = []  # noqa: UP006
    history: list[str] = Field(default_factory=list)
    customer: str
    _secret: int = PrivateAttr(default=1)

    def apply_order_placed(self, event: OrderPlaced) -> None:
        self.status, self.items, self.customer = OrderStatus.PLACED, event.items, event.customer_id

    def apply_item_added(self, event: ItemAdded) -> None:
        self.items = [*self.items, OrderItem(sku=event.sku)]

    def apply_broken(self, event: Broken) -> None:
        self.status = OrderStatus.PLACED
        self.customer = "rebound"
        self._secret = 2
        self.history.append(event.reason)
        raise ZeroDivisionError(event.reason)

    def apply_nested(self, event: Nested) -> None:
        self.apply(ItemAdded(sku=event.sku))


def an_order() -> Order:
    order = Order(id="order-42")
    order.apply(OrderPlaced(customer_id="c-1", items=[OrderItem(sku="tea")]))
    return order


def test_the_original_shape_works() -> None:
    order = Order()
    event = OrderPlaced(customer_id="c-1", items=[OrderItem(sku="tea")])
    order.apply(event)
    with EventStore.create("memory://") as store:
        store.save(order)
        loaded = store.load(Order, order.id)
    assert loaded == order
    assert (loaded.status, loaded.items, loaded.customer) == (OrderStatus.PLACED, [OrderItem(sku="tea")], "c-1")
    assert (loaded.id, loaded.version, loaded.pending_events) == (order.id, 1, ())


def test_an_id_is_made_or_taken_as_string_or_uuid() -> None:
    given = uuid4()
    assert UUID(Order().id).version == 7
    assert Order().id != Order().id
    assert (Order(id="order-42").id, Order(id=given).id) == ("order-42", str(given))
    with pytest.raises(TypeError, match="neither a string nor a UUID"):
        Order(id=42)  # type: ignore[arg-type]


def test_the_constructor_refuses_state() -> None:
    with pytest.raises(AggregateUsageError, match="its state comes from its events"):
        Order(status=OrderStatus.PLACED)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Order("order-42")  # type: ignore[call-arg]


def test_defaults_are_copied() -> None:
    one, two = Order(), Order()
    one.items.append(OrderItem(sku="tea"))
    one.history.append("x")
    assert (two.items, two.history, Order().items) == ([], [], [])


def test_reading_a_field_that_no_event_has_set_is_an_error_that_names_it() -> None:
    with pytest.raises(FieldNotSetError, match=r"Order\.customer has no value yet") as caught:
        _ = Order(id="order-1").customer
    assert (caught.value.field, caught.value.aggregate_id) == ("customer", "order-1")
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = Order().nothing_like_it  # type: ignore[attr-defined]


def test_a_slip_in_the_name_of_a_field_is_found_when_the_event_is_applied() -> None:
    class Slipped(Aggregate):
        status: str = "new"

        def apply_item_added(self, event: ItemAdded) -> None:
            self.status = "changed"
            self.statuss = event.sku

    slipped = Slipped()
    with pytest.raises(UndeclaredFieldError, match="statuss") as caught:
        slipped.apply(ItemAdded(sku="x"))
    assert caught.value.field == "statuss"
    assert (slipped.status, slipped.version) == ("new", 0)


def test_private_attributes_frozen_fields_and_checked_assignments_work_as_in_pydantic() -> None:
    class Careful(Aggregate, validate_assignment=True):
        count: int = 0
        fixed: int = Field(default=1, frozen=True)

    class Loose(Careful, validate_assignment=False):
        fixed: int = 2

    careful, loose, order = Careful(), Loose(), Order()
    with pytest.raises(ValidationError):
        careful.count = "many"  # type: ignore[assignment]
    with pytest.raises(ValidationError):
        careful.fixed = 2
    loose.fixed = 3
    order._secret = 7
    assert (loose.fixed, order._secret, "_secret" in order.__dict__) == (3, 7, False)


def test_state_can_be_dumped() -> None:
    assert an_order().model_dump(mode="json")["status"] == "placed"


@pytest.mark.parametrize("name", ["id", "version", "pending_events", "apply", "aggregate_type"])
def test_a_field_that_would_hide_what_every_aggregate_has_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        type("Hiding", (Aggregate,), {"__annotations__": {name: int}, "__module__": __name__})
    assert caught.value.field == name


def test_the_aggregate_type_is_the_class_name_or_a_keyword_and_not_inherited() -> None:
    class Invoice(Aggregate, aggregate_type="billing.invoice"): ...

    class Reminder(Invoice): ...

    assert (Order.aggregate_type, Invoice.aggregate_type, Reminder.aggregate_type) == (
        "Order",
        "billing.invoice",
        "Reminder",
    )


def test_applying_makes_an_event_pending() -> None:
    order = an_order()
    order.apply(ItemAdded(sku="cup"))
    assert order.version == 2
    assert order.pending_events == (OrderPlaced(customer_id="c-1", items=[OrderItem(sku="tea")]), ItemAdded(sku="cup"))
    assert [event.aggregate_version for event in order.pending_events] == [1, 2]


def test_what_is_saved_is_what_was_applied_whatever_the_handler_does_afterwards() -> None:
    order = an_order()
    order.items.append(OrderItem(sku="smuggled"))  # the list of the event
    with EventStore.create("memory://") as store:
        store.save(order)
        assert store.load(Order, order.id).items == [OrderItem(sku="tea")]


def test_when_a_handler_raises_everything_rebound_is_as_before() -> None:
    order = an_order()
    event = Broken(reason="no")
    with pytest.raises(ZeroDivisionError) as caught:
        order.apply(event)
    assert caught.value.args == ("no",)
    assert (order.version, len(order.pending_events), order.customer, order._secret) == (1, 1, "c-1", 1)
    assert not hasattr(event, "event_id")
    order.apply(ItemAdded(sku="cup"))
    assert (order.version, len(order.items)) == (2, 2)


def test_a_field_that_was_not_set_before_is_unset_after_a_failed_handler() -> None:
    order = Order()
    with pytest.raises(ZeroDivisionError):
        order.apply(Broken(reason="no"))
    with pytest.raises(FieldNotSetError):
        _ = order.customer


def test_a_container_changed_in_place_by_a_failed_handler_is_not_restored() -> None:
    order = Order()
    with pytest.raises(ZeroDivisionError):
        order.apply(Broken(reason="no"))
    assert order.history == ["no"]


def test_apply_inside_a_handler_is_an_error() -> None:
    order = an_order()
    with pytest.raises(ReentrantApplyError, match="command method") as caught:
        order.apply(Nested(sku="x"))
    assert (caught.value.aggregate_id, caught.value.aggregate_type) == ("order-42", "Order")
    assert (order.version, len(order.pending_events)) == (1, 1)
    order.apply(ItemAdded(sku="cup"))


def test_a_missing_handler_names_the_method_to_write() -> None:
    with pytest.raises(MissingHandlerError, match=r"def apply_unhandled\(self, event: Unhandled\)") as caught:
        an_order().apply(Unhandled())
    assert (caught.value.method, caught.value.event_type, caught.value.position) == (
        "apply_unhandled",
        "Unhandled",
        None,
    )


def test_only_events_can_be_applied() -> None:
    with pytest.raises(TypeError, match="not an event"):
        an_order().apply("placed")  # type: ignore[arg-type]


def twins(order: Order) -> "list[Order]":
    return [copy.copy(order), copy.deepcopy(order), pickle.loads(pickle.dumps(order))]  # noqa: S301


def test_an_aggregate_copies_and_pickles_with_its_pending_events() -> None:
    order = an_order()
    for twin in twins(order):
        assert twin == order
        assert (twin.version, twin.pending_events) == (1, order.pending_events)
        twin.apply(ItemAdded(sku="cup"))
        assert (twin.version, order.version) == (2, 1)


def test_saving_a_copy_as_well_stores_nothing_twice() -> None:
    order = an_order()
    with EventStore.create("memory://") as store:
        for each in [order, *twins(order)]:
            store.save(each)
        assert store.head() == 1


def test_repr_is_short_and_useful() -> None:
    assert repr(an_order()).startswith("Order(id='order-42', version=1, status=<OrderStatus.PLACED")


def test_notebooks_get_a_small_table() -> None:
    store, order = a_store_with_three_events()
    with store:
        (batch,) = store.read(order.id).batches()
        first = next(iter(store.read(order.id)))
        assert order._repr_html_().startswith("<table><caption>Order</caption>")
        assert batch[0]._repr_html_().startswith("<table><caption>OrderPlaced</caption>")
        assert "position" in first._repr_html_()


def a_store_with_three_events() -> tuple[EventStore, Order]:
    store = EventStore.create("memory://")
    order = an_order()
    order.apply(ItemAdded(sku="cup"))
    store.save(order)
    order.apply(ItemAdded(sku="pot"))
    store.save(order)
    return store, order


@pytest.mark.parametrize(("version", "items"), [(1, 1), (2, 2), (3, 3), (9, 3)])
def test_an_aggregate_as_of_a_version(version: int, items: int) -> None:
    store, order = a_store_with_three_events()
    with store:
        assert len(store.load(Order, order.id, version=version).items) == items
        assert len(store.load(Order, order.id, position=version).items) == items


def test_an_aggregate_as_of_a_time() -> None:
    store, order = a_store_with_three_events()
    with store:
        (_, second, _) = list(store.read(order.id))
        assert isinstance(second, ItemAdded)
        assert len(store.load(Order, order.id, at=second.timestamp).items) == 2
        with pytest.raises(AggregateNotFoundError):
            store.load(Order, order.id, at=datetime.now(UTC) - timedelta(days=1))


def test_an_id_belongs_to_one_aggregate_type() -> None:
    class Invoice(Aggregate):
        def apply_item_added(self, event: ItemAdded) -> None: ...

    store, order = a_store_with_three_events()
    with store:
        with pytest.raises(AggregateTypeError) as caught:
            store.load(Invoice, order.id)
        assert (caught.value.stored_type, caught.value.requested_type) == ("Order", "Invoice")
        invoice = Invoice(id=order.id)
        invoice.apply(ItemAdded(sku="x"))
        with pytest.raises(EventualiError):
            store.save(invoice)


def test_after_a_conflict_the_events_are_pending_as_before() -> None:
    store, order = a_store_with_three_events()
    with store:
        one, two = store.load(Order, order.id), store.load(Order, order.id)
        one.apply(ItemAdded(sku="one"))
        two.apply(ItemAdded(sku="two"))
        store.save(one)
        with pytest.raises(ConflictError) as caught:
            store.save(two)
        assert (caught.value.expected_version, caught.value.actual_version) == (3, 4)
        assert [event.sku for event in two.pending_events if isinstance(event, ItemAdded)] == ["two"]
        assert two.version == 4


def test_a_handler_that_raises_while_loading_is_an_error_with_type_and_position() -> None:
    class Fickle(Aggregate):
        def apply_item_added(self, event: ItemAdded) -> None:
            if _strict:
                raise ZeroDivisionError(f"not now, {event.sku}")

    _strict = False
    fickle = Fickle()
    fickle.apply(ItemAdded(sku="x"))
    with EventStore.create("memory://") as store:
        store.save(fickle)
        _strict = True
        with pytest.raises(ReplayError, match=r"ItemAdded.*position 1.*not now") as caught:
            store.load(Fickle, fickle.id)
    assert (caught.value.position, caught.value.event_type, caught.value.aggregate_id) == (1, "ItemAdded", fickle.id)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_an_event_without_a_class_is_an_error_when_it_is_loaded_and_a_stored_event_when_it_is_read() -> None:
    class Forgotten(DomainEvent, event_type="forgotten.one"):
        note: str

    class Keeper(Aggregate):
        def apply_forgotten(self, event: Any) -> None: ...

    keeper = Keeper()
    keeper.apply(Forgotten(note="hello"))
    with EventStore.create("memory://") as store:
        store.save(keeper)
        forget(Forgotten)
        with pytest.raises(DeserializationError, match=r"forgotten\.one.*position 1") as caught:
            store.load(Keeper, keeper.id)
        assert (caught.value.position, caught.value.event_type) == (1, "forgotten.one")
        (read,) = store.read(keeper.id)
        assert type(read).__name__ == "StoredEvent"
        assert (read.event_type, read.data, read.aggregate_version) == ("forgotten.one", {"note": "hello"}, 1)  # type: ignore[union-attr]
        assert pickle.loads(pickle.dumps(read)) == read  # noqa: S301


def forget(cls: type[DomainEvent]) -> None:
    """As if the module that defines the class had not been imported."""
    _registry._events.drop(cls.event_type, _registry.place_of(cls))
    classes_changed()


def test_a_coroutine_function_cannot_be_a_handler() -> None:
    async def apply_item_added(self: Aggregate, event: ItemAdded) -> None: ...

    with pytest.raises(DefinitionError, match="plain method"):
        type("Waiting", (Aggregate,), {"__module__": __name__, "apply_item_added": apply_item_added})


def test_keyboard_interrupt_in_a_handler_comes_through_and_restores() -> None:
    class Interrupted(Aggregate):
        count: int = 0

        def apply_item_added(self, event: ItemAdded) -> None:
            self.count += len(event.sku)
            raise KeyboardInterrupt

    interrupted = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        interrupted.apply(ItemAdded(sku="x"))
    assert (interrupted.count, interrupted.version) == (0, 0)
