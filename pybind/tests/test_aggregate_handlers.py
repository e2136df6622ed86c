import re
from pathlib import Path

import pytest
from typing_extensions import override

from eventuali._handlers import handles, method_name, snake_case
from eventuali.aggregate import Aggregate
from eventuali.errors import AmbiguousEventError, DefinitionError
from eventuali.event import DomainEvent, UserRegistered
from eventuali.sync import EventStore

TABLE = Path(__file__).parents[2] / "docs" / "python-types.md"


def documented_names() -> list[tuple[str, str]]:
    rows = re.findall(r"^\| `(\w+)` \| `(apply_\w+)` \|$", TABLE.read_text("utf-8"), re.MULTILINE)
    assert len(rows) > 8
    return rows


@pytest.mark.parametrize(("name", "method"), documented_names())
def test_handler_names_are_those_of_the_published_table(name: str, method: str) -> None:
    assert method_name(type(name, (), {})) == method


def test_a_generic_event_is_named_by_its_class() -> None:
    assert snake_case("Changed[int]") == "changed"


class Moved(DomainEvent):
    by: int


class MovedFast(Moved): ...


class Jumped(DomainEvent): ...


class Rested(DomainEvent): ...


class Slept(Rested): ...


class Walker(Aggregate):
    log: list[str] = []

    def apply_moved(self, event: Moved) -> None:
        self.log = [*self.log, f"moved {event.by}"]

    @handles(Jumped, Rested)
    def note(self, event: Jumped | Rested) -> None:
        self.log = [*self.log, type(event).__name__]


def test_handlers_are_found_along_the_base_classes_of_the_event() -> None:
    walker = Walker()
    for event in (Moved(by=1), MovedFast(by=9), Jumped(), Slept()):
        walker.apply(event)
    assert walker.log == ["moved 1", "moved 9", "Jumped", "Slept"]


def test_a_subclass_of_an_aggregate_may_override_a_marked_handler() -> None:
    class Quiet(Walker):
        @override
        def note(self, event: Jumped | Rested) -> None:
            self.log = [*self.log, "shh"]

    quiet = Quiet()
    quiet.apply(Jumped())
    assert quiet.log == ["shh"]


def test_two_handlers_for_one_event_are_refused() -> None:
    def one(self: Aggregate, event: Jumped) -> None: ...
    def two(self: Aggregate, event: Jumped) -> None: ...

    with pytest.raises(DefinitionError, match="both handle"):
        type("Torn", (Aggregate,), {"__module__": __name__, "one": handles(Jumped)(one), "two": handles(Jumped)(two)})


def test_handles_takes_event_classes_only() -> None:
    with pytest.raises(DefinitionError, match="@handles"):
        handles()
    with pytest.raises(DefinitionError, match="@handles"):
        handles(str)  # type: ignore[arg-type]


class Order(Aggregate):
    made: str = ""

    class Created(DomainEvent):
        note: str

    def apply_created(self, event: Created) -> None:
        self.made = f"order {event.note}"


class Invoice(Aggregate):
    made: str = ""

    class Created(DomainEvent):
        number: int

    def apply_created(self, event: Created) -> None:
        self.made = f"invoice {event.number}"


def test_nested_classes_may_share_a_name() -> None:
    order, invoice = Order(), Invoice()
    order.apply(Order.Created(note="a"))
    invoice.apply(Invoice.Created(number=7))
    with EventStore.create("memory://") as store:
        store.save_all([order, invoice])
        assert (store.load(Order, order.id).made, store.load(Invoice, invoice.id).made) == ("order a", "invoice 7")
        assert list(store.read_all()) == [Order.Created(note="a"), Invoice.Created(number=7)]


def test_only_the_ambiguous_use_of_a_shared_name_is_an_error() -> None:
    def a_class(place: str) -> type[DomainEvent]:
        return type("Shared", (DomainEvent,), {"__module__": f"{__name__}.{place}", "__qualname__": "Shared"})

    one, two = a_class("one"), a_class("two")
    with EventStore.create("memory://") as store:
        store.append("thing-1", [one()], aggregate_type="Thing")
        with pytest.raises(AmbiguousEventError, match=r"one\.Shared and .*two\.Shared.*event_type=") as caught:
            list(store.read("thing-1"))
    assert len(caught.value.classes) == 2
    assert caught.value.position == 1
    assert str(caught.value).startswith("at position 1")
    assert two is not one


def test_a_handler_without_annotation_takes_the_class_defined_beside_it() -> None:
    def a_pair(note: str) -> tuple[type[DomainEvent], type[Aggregate]]:
        scope = f"test_{note}.<locals>"
        event = type("Beside", (DomainEvent,), {"__module__": __name__, "__qualname__": f"{scope}.Beside"})

        def apply_beside(self: Aggregate, event: object) -> None:
            self.log = [note]  # type: ignore[attr-defined]

        body = {
            "__module__": __name__,
            "__qualname__": f"{scope}.Holder",
            "__annotations__": {"log": list[str]},
            "log": [],
            "apply_beside": apply_beside,
        }
        return event, type("Holder", (Aggregate,), body)

    (event, holder), (other_event, other_holder) = a_pair("one"), a_pair("two")
    with EventStore.create("memory://") as store:
        for aggregate, applied in ((holder(id="one"), event()), (other_holder(id="two"), other_event())):
            aggregate.apply(applied)
            store.save(aggregate)
        assert type(store.load(holder, "one")) is holder
        assert type(store.load(other_holder, "two")) is other_holder


def test_the_same_place_replaces_as_when_a_cell_of_a_notebook_runs_again() -> None:
    def a_cell() -> type[DomainEvent]:
        class Rerun(DomainEvent):
            x: int = 1

        return Rerun

    first = a_cell()
    second = a_cell()
    with EventStore.create("memory://") as store:
        store.append("thing-1", [first()], aggregate_type="Thing")
        (read,) = store.read("thing-1")
    assert type(read) is second


def test_explicit_duplicates_fail_at_definition() -> None:
    class One(DomainEvent, event_type="duplicate.one"): ...

    with pytest.raises(DefinitionError, match=r"Two and .*One are both given the event type 'duplicate\.one'"):

        class Two(DomainEvent, event_type="duplicate.one"): ...

    with pytest.raises(DefinitionError, match=r"duplicate\.one"):

        class Three(DomainEvent, formerly=("duplicate.one",)): ...

    assert One.event_type == "duplicate.one"


def test_an_explicit_name_is_free_again_when_its_class_is_gone() -> None:
    def define(name: str) -> None:
        type(name, (DomainEvent,), {"__module__": __name__, "__qualname__": name}, event_type="duplicate.gone")

    define("First")
    define("Second")


def test_a_stored_event_of_a_former_type_becomes_the_renamed_class() -> None:
    def an_event_of_the_old_class() -> DomainEvent:
        class OrderSent(DomainEvent, event_type="order.sent"):
            carrier: str

        return OrderSent(carrier="pigeon")

    with EventStore.create("memory://") as store:
        store.append("order-1", [an_event_of_the_old_class()], aggregate_type="Parcel")

        class OrderShipped(DomainEvent, formerly=("order.sent",), event_version=2):
            carrier: str

        (read,) = store.read("order-1")
    assert read == OrderShipped(carrier="pigeon")
    assert (read.event_type, read.event_version, OrderShipped.event_version) == ("order.sent", 1, 2)


def test_a_user_class_is_not_shadowed_by_an_example() -> None:
    mine = type("UserRegistered", (DomainEvent,), {"__module__": __name__, "__annotations__": {"name": str}})
    with EventStore.create("memory://") as store:
        store.append("user-1", [mine(name="ann")], aggregate_type="User")
        (read,) = store.read("user-1")
    assert type(read) is mine
    assert type(read) is not UserRegistered
