import copy
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from pydantic import Field, ValidationError

from eventuali.aggregate import Aggregate
from eventuali.errors import DefinitionError, EnvelopeError, EventOwnedError
from eventuali.event import DomainEvent, Event, EventMetadata, UserEmailChanged, UserRegistered
from eventuali.sync import EventStore


class Paid(DomainEvent):
    amount: Decimal


class Refunded(DomainEvent, event_type="payment.refunded", event_version=2, formerly=("PaidBack",)):
    amount: Decimal


class PartlyRefunded(Refunded): ...


class Payment(Aggregate):
    balance: Decimal = Decimal(0)

    def apply_paid(self, event: Paid) -> None:
        self.balance += event.amount

    def apply_refunded(self, event: Refunded) -> None:
        self.balance -= event.amount


def an_applied_event() -> Paid:
    event = Paid(amount=Decimal("1.50"))
    Payment(id="payment-1").apply(event)
    return event


def a_stored_event() -> Paid:
    event = Paid(amount=Decimal("1.50"))
    payment = Payment(id="payment-1")
    payment.apply(event)
    with EventStore.create("memory://") as store:
        store.save(payment, metadata=EventMetadata(user_id="ann", headers={"ip": "::1"}))
    return event


PARTS = ("event_id", "aggregate_id", "aggregate_type", "aggregate_version", "timestamp", "position", "metadata")


def test_event_is_the_other_name_of_domain_event() -> None:
    assert Event is DomainEvent


def test_the_type_is_the_class_name_and_the_version_one_unless_keywords_say_otherwise() -> None:
    assert (Paid.event_type, Paid.event_version) == ("Paid", 1)
    assert (Refunded.event_type, Refunded.event_version) == ("payment.refunded", 2)
    assert (Paid(amount=Decimal(1)).event_type, Refunded(amount=Decimal(1)).event_version) == ("Paid", 2)


def test_type_and_version_are_not_inherited() -> None:
    assert (PartlyRefunded.event_type, PartlyRefunded.event_version) == ("PartlyRefunded", 1)
    assert PartlyRefunded.__eventuali_formerly__ == ()


def test_an_event_is_frozen_and_refuses_unknown_fields() -> None:
    event = Paid(amount=Decimal(1))
    with pytest.raises(ValidationError):
        event.amount = Decimal(2)
    with pytest.raises(ValidationError):
        Paid(amount=Decimal(1), note="x")


def test_events_are_equal_by_type_and_payload() -> None:
    assert an_applied_event() == an_applied_event() == Paid(amount=Decimal("1.50"))
    events: list[DomainEvent] = [Paid(amount=Decimal(1)), Refunded(amount=Decimal(1))]
    assert events[0] != events[1]
    assert hash(an_applied_event()) == hash(Paid(amount=Decimal("1.50")))


@pytest.mark.parametrize("part", PARTS)
def test_before_it_is_applied_an_event_has_no_envelope_and_says_so(part: str) -> None:
    with pytest.raises(EnvelopeError, match=f"Paid has no {part} yet") as caught:
        getattr(Paid(amount=Decimal(1)), part)
    assert (caught.value.attribute, caught.value.event_type) == (part, "Paid")
    assert not hasattr(Paid(amount=Decimal(1)), part)


def test_applying_gives_everything_but_position_and_metadata() -> None:
    event = an_applied_event()
    assert event.event_id.version == 7
    assert (event.aggregate_id, event.aggregate_type, event.aggregate_version) == ("payment-1", "Payment", 1)
    assert event.timestamp.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - event.timestamp) < timedelta(minutes=1)
    for part in ("position", "metadata"):
        with pytest.raises(EnvelopeError, match="stored"):
            getattr(event, part)


def test_storing_completes_the_live_event() -> None:
    event = a_stored_event()
    assert (event.position, event.aggregate_version) == (1, 1)
    assert (event.metadata.user_id, dict(event.metadata.headers)) == ("ann", {"ip": "::1"})


def test_the_stored_envelope_equals_the_one_that_apply_gave() -> None:
    payment = Payment()
    event = Paid(amount=Decimal(3))
    payment.apply(event)
    with EventStore.create("memory://") as store:
        store.save(payment)
        (read,) = store.read(payment.id)
    assert isinstance(read, Paid)
    assert read == event
    assert [getattr(read, part) for part in PARTS] == [getattr(event, part) for part in PARTS]
    assert (read.event_type, read.event_version) == ("Paid", 1)


@pytest.mark.parametrize("make", [an_applied_event, a_stored_event])
def test_the_envelope_survives_copy_deepcopy_and_pickle(make: Callable[[], Paid]) -> None:
    event = make()
    for twin in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):  # noqa: S301
        assert twin == event
        for part in PARTS:
            assert getattr(twin, part, "nothing yet") == getattr(event, part, "nothing yet")


def test_an_event_without_envelope_copies_and_pickles_too() -> None:
    event = Paid(amount=Decimal(1))
    for twin in (copy.copy(event), copy.deepcopy(event), pickle.loads(pickle.dumps(event))):  # noqa: S301
        assert twin == event
        assert not hasattr(twin, "event_id")


def test_model_copy_gives_a_new_event() -> None:
    event = an_applied_event()
    assert not hasattr(event.model_copy(), "event_id")
    Payment().apply(event.model_copy(update={"amount": Decimal(2)}))


def test_an_event_that_belongs_to_an_aggregate_cannot_be_applied_again() -> None:
    with pytest.raises(EventOwnedError, match=r"already belongs to Payment .payment-1.*model_copy") as caught:
        Payment().apply(an_applied_event())
    assert caught.value.aggregate_id == "payment-1"


@pytest.mark.parametrize("name", [*PARTS, "event_type", "event_version"])
def test_a_field_that_would_hide_the_envelope_is_refused_with_the_way_out(name: str) -> None:
    with pytest.raises(DefinitionError, match="alias=") as caught:
        type("Hiding", (DomainEvent,), {"__annotations__": {name: int}, "__module__": __name__})
    assert caught.value.field == name


def test_the_way_out_of_a_hidden_name_works() -> None:
    class Measured(DomainEvent):
        ts: datetime = Field(alias="timestamp")

    when = datetime(2024, 5, 1, tzinfo=UTC)
    measured = Measured(timestamp=when)
    assert measured == Measured.model_validate({"ts": when})
    assert b'"timestamp"' in Measured.__pydantic_serializer__.to_json(measured)


def test_an_event_type_assigned_in_the_body_is_refused_with_the_keyword() -> None:
    with pytest.raises(DefinitionError, match="class keyword"):
        type("Wrong", (DomainEvent,), {"event_type": "wrong", "__module__": __name__})


@pytest.mark.parametrize("name", ["", "$own", "a\0b", "x" * 513])
def test_an_event_type_that_no_store_can_hold_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError):
        type("Wrong", (DomainEvent,), {"__module__": __name__}, event_type=name)


def test_formerly_as_a_plain_string_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"\('OrderSent',\)"):
        type("Wrong", (DomainEvent,), {"__module__": __name__}, formerly="OrderSent")


def test_an_event_class_that_allows_extra_fields_is_refused() -> None:
    with pytest.raises(DefinitionError, match="extra"):
        type("Loose", (DomainEvent,), {"__module__": __name__, "model_config": {"extra": "allow"}})


def test_the_examples_are_there() -> None:
    assert UserRegistered(user_id="u", email="a@b.c").event_type == "UserRegistered"
    assert UserEmailChanged(user_id="u", old_email="a@b.c", new_email="d@e.f").event_type == "UserEmailChanged"


def test_metadata_takes_uuids_and_shows_what_is_set() -> None:
    cause = UUID(int=5)
    metadata = EventMetadata(causation_id=cause, headers={"a": "b"})
    assert (metadata.causation_id, metadata.correlation_id) == (str(cause), None)
    assert repr(metadata) == f"EventMetadata(causation_id='{cause}', headers={{'a': 'b'}})"
    assert metadata == EventMetadata(causation_id=str(cause), headers={"a": "b"})
    assert hash(metadata) == hash(pickle.loads(pickle.dumps(metadata)))  # noqa: S301
    with pytest.raises(TypeError):
        metadata.headers["a"] = "c"  # type: ignore[index]
    with pytest.raises(TypeError, match="user_id"):
        EventMetadata(user_id=7)  # type: ignore[arg-type]
