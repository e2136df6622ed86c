"""Events: what happened, as frozen pydantic models."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from typing_extensions import Unpack, override

from eventuali import _registry
from eventuali._eventuali import EventMetadata, StoredEvent, replayed_envelope
from eventuali._notebook import table
from eventuali.errors import DefinitionError, EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DomainEvent", "Event", "EventMetadata", "StoredEvent", "UserEmailChanged", "UserRegistered", "Value"]

_EventT = TypeVar("_EventT", bound="DomainEvent")

_SCHEMA_VERSION_MAX = 2**32 - 1

SETTINGS: Final = ConfigDict(
    frozen=True,
    extra="forbid",
    ser_json_inf_nan="strings",
    ser_json_bytes="base64",
    val_json_bytes="base64",
    serialize_by_alias=True,
    validate_by_name=True,
    validate_by_alias=True,
)


class Value(BaseModel):
    """A part of an event's payload: a frozen pydantic model that comes back equal, also where it holds NaN or bytes.

    A plain `BaseModel` works inside of an event as well, but it does not inherit the event's settings: what would not
    come back is refused when the event is applied.

    Example:
        >>> from eventuali import DomainEvent, Value
        >>> class Measurement(Value):
        ...     celsius: float
        >>> class Measured(DomainEvent):
        ...     measurements: list[Measurement]
        >>> Measured(measurements=[Measurement(celsius=21.5)]).measurements[0].celsius
        21.5
    """

    model_config = SETTINGS


class _ClassFact:
    """An attribute that the class declares, and that a stored event answers with what was stored."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, event: "DomainEvent | None", owner: "type[DomainEvent]") -> object:
        envelope = None if event is None else _envelope_of(event)
        if envelope is not None:
            return getattr(envelope, self._name)
        return getattr(owner, f"__eventuali_{self._name}__")


class DomainEvent(BaseModel):
    """Something that happened to an aggregate: a frozen pydantic model whose fields are the payload.

    The class name is the event type and its schema version is 1, unless class keywords say otherwise; neither is
    inherited. Everything else about an event (its id, its aggregate, its time, …) is its envelope, which it gets when it
    is applied, and completes when it is stored. Events are equal by type and payload.

    Example:
        >>> from decimal import Decimal
        >>> from eventuali import DomainEvent
        >>> class OrderPlaced(DomainEvent):
        ...     customer_id: str
        ...     total: Decimal
        >>> class OrderShipped(DomainEvent, event_type="order.shipped", event_version=2, formerly=("OrderSent",)):
        ...     carrier: str
        >>> OrderPlaced.event_type, OrderShipped.event_type, OrderShipped.event_version
        ('OrderPlaced', 'order.shipped', 2)
        >>> OrderPlaced(customer_id="c-1", total=Decimal("9.90")) == OrderPlaced(customer_id="c-1", total=Decimal("9.90"))
        True

    Raises:
        DefinitionError: When a class is defined whose field would hide a part of the envelope, or whose explicit event
            type is taken.
    """

    # One slot for the whole envelope: a private pydantic attribute would cost a microsecond an event.
    __slots__ = ("__eventuali_envelope__",)

    model_config = ConfigDict(**SETTINGS, ignored_types=(_ClassFact,))

    __eventuali_event_type__: ClassVar[str] = "DomainEvent"
    __eventuali_event_version__: ClassVar[int] = 1
    __eventuali_explicit__: ClassVar[bool] = False
    __eventuali_formerly__: ClassVar[tuple[str, ...]] = ()
    __eventuali_example__: ClassVar[bool] = False

    if TYPE_CHECKING:
        event_type: ClassVar[str]
        """The type under which the event is stored; of a stored event, the one under which it was stored."""

        event_version: ClassVar[int]
        """The version of the payload's schema; of a stored event, the one with which it was stored."""

        @override
        def __init_subclass__(
            cls,
            *,
            event_type: str | None = None,
            event_version: int = 1,
            formerly: tuple[str, ...] = (),
            **config: Unpack[ConfigDict],
        ) -> None: ...
    else:
        event_type = _ClassFact("event_type")
        event_version = _ClassFact("event_version")

        def __init__(self, /, **data: object) -> None:
            __tracebackhide__ = True
            # pydantic's own constructor, and the slot: finding it unset later would cost ten times as much as setting it.
            _write_slot(self, None)
            if self.__pydantic_validator__.validate_python(data, self_instance=self) is not self:
                raise DefinitionError(f"a validator of {type(self).__name__} returned another object; return self")

        __init__.__pydantic_base_init__ = True  # so that validating does not call it

        @classmethod
        def model_construct(cls, _fields_set: set[str] | None = None, **values: object) -> Self:
            """An event without validation: whether it comes back equal is checked when it is applied."""
            return _with_envelope(super().model_construct(_fields_set, **values), UNVALIDATED)

        def __init_subclass__(cls, **keywords: object) -> None:
            # Before pydantic collects the fields, which would warn about a hidden attribute instead of explaining it.
            refuse_hidden(cls, _ENVELOPE, {**vars(cls), **own_annotations(cls)})
            super().__init_subclass__()

    @classmethod
    @override
    def __pydantic_init_subclass__(
        cls,
        *,
        event_type: str | None = None,
        event_version: int = 1,
        formerly: tuple[str, ...] = (),
        **keywords: Any,
    ) -> None:
        super().__pydantic_init_subclass__(**keywords)
        refuse_hidden(cls, _ENVELOPE, cls.__pydantic_fields__)
        if cls.model_config.get("extra") == "allow":
            raise DefinitionError(
                f"{cls.__name__} allows extra fields, and unknown stored fields are ignored, so that they would be lost; "
                f"declare a field for them, such as `extra: dict[str, str]`"
            )
        if isinstance(formerly, str):
            raise DefinitionError(
                f"formerly={formerly!r} of {cls.__name__} is a string; write formerly=({formerly!r},)"
            )
        if type(event_version) is not int or not 1 <= event_version <= _SCHEMA_VERSION_MAX:
            raise DefinitionError(
                f"event_version={event_version!r} of {cls.__name__} is not a number from 1 to {_SCHEMA_VERSION_MAX}"
            )
        cls.__eventuali_explicit__ = event_type is not None
        cls.__eventuali_event_type__ = _registry.check_name(
            "event_type", cls.__name__ if event_type is None else event_type
        )
        cls.__eventuali_event_version__ = event_version
        cls.__eventuali_formerly__ = tuple(_registry.check_name("a name in formerly=", name) for name in formerly)
        cls.__eventuali_example__ = cls.__module__ == __name__
        _registry.register_event(cls, explicit=cls.__eventuali_explicit__)

    @property
    def event_id(self) -> UUID:
        """Its id, unique in the store: a UUID of version 7, given when it is applied."""
        return _envelope(self, "event_id").event_id

    @property
    def aggregate_id(self) -> str:
        """The aggregate that it belongs to."""
        return _envelope(self, "aggregate_id").aggregate_id

    @property
    def aggregate_type(self) -> str:
        """The type of that aggregate."""
        return _envelope(self, "aggregate_type").aggregate_type

    @property
    def aggregate_version(self) -> int:
        """Its place within its aggregate: 1, 2, 3 and so on."""
        return _envelope(self, "aggregate_version").aggregate_version

    @property
    def timestamp(self) -> datetime:
        """When it happened: aware, in UTC."""
        return _envelope(self, "timestamp").timestamp

    @property
    def position(self) -> int:
        """Its place in the whole store: 1, 2, 3, …; there once it is stored."""
        return _envelope(self, "position").position

    @property
    def metadata(self) -> EventMetadata:
        """Causation, correlation, user and headers; there once it is stored."""
        return _envelope(self, "metadata").metadata

    def _repr_html_(self) -> str:
        parts = {name: getattr(self, name) for name in _ENVELOPE if hasattr(self, name)}
        return table(type(self).__name__, {**self.__dict__, **parts})

    @override
    def __copy__(self) -> Self:
        return _with_envelope(super().__copy__(), _slot_of(self))

    @override
    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return _with_envelope(super().__deepcopy__(memo), _slot_of(self))

    @override
    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__eventuali_envelope__": _slot_of(self)}

    @override
    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        _with_envelope(self, state.get("__eventuali_envelope__"))

    @override
    def model_copy(self, *, update: "Mapping[str, Any] | None" = None, deep: bool = False) -> Self:
        """A new event with the same payload (but for `update`), without an envelope: it can be applied again."""
        copied = super().model_copy(update=update, deep=deep)
        return _with_envelope(copied, UNVALIDATED if update else None)


Event = DomainEvent
"""The other name of `DomainEvent`."""

_ENVELOPE: Final = (
    "event_type",
    "event_version",
    "event_id",
    "aggregate_id",
    "aggregate_type",
    "aggregate_version",
    "timestamp",
    "position",
    "metadata",
)


def own_annotations(cls: type) -> dict[str, object]:
    """What a class annotates itself, unresolved."""
    annotations: dict[str, object] = vars(cls).get("__annotations__", {})
    return annotations


def refuse_hidden(cls: type, reserved: tuple[str, ...], names: "Mapping[str, object]") -> None:
    """Refuses a class whose own names hide what every object of its kind has.

    Raises:
        DefinitionError: If one of `names` is reserved; it shows the way out.
    """
    for name in reserved:
        if name not in names:
            continue
        cure = f'name it otherwise and keep its name in the payload: `my_{name}: ... = Field(alias="{name}")`'
        if name in ("event_type", "event_version"):
            cure = f"set it as a class keyword: `class {cls.__name__}(DomainEvent, {name}=...)`, or {cure}"
        raise DefinitionError(
            f"{cls.__name__}.{name} would hide what every such object has under that name; {cure}", field=name
        )


def _slot_of(event: DomainEvent) -> StoredEvent | str | None:
    try:
        envelope: StoredEvent | str | None = _read_slot(event)
    except AttributeError:  # never set: either it is being loaded, or it was validated from something
        return replayed_envelope(event)
    return envelope


def _envelope_of(event: DomainEvent) -> StoredEvent | None:
    envelope = _slot_of(event)
    return None if isinstance(envelope, str) else envelope


def _envelope(event: DomainEvent, part: str) -> StoredEvent:
    envelope = _envelope_of(event)
    if envelope is None:
        raise EnvelopeError(
            f"{type(event).__name__} has no {part} yet: apply it to an aggregate, or append it to a store",
            event_type=type(event).event_type,
            attribute=part,
        )
    return envelope


UNVALIDATED: Final = "unvalidated"
"""In the place of an envelope: nobody has validated the fields of this event."""

_slot: Any = DomainEvent.__dict__["__eventuali_envelope__"]
_read_slot: Final = _slot.__get__
_write_slot: Final = _slot.__set__


def _with_envelope(event: _EventT, envelope: StoredEvent | str | None) -> _EventT:
    _write_slot(event, envelope)
    return event


class UserRegistered(DomainEvent):
    """An example: someone registered."""

    user_id: str
    email: str


class UserEmailChanged(DomainEvent):
    """An example: someone's address changed."""

    user_id: str
    old_email: str
    new_email: str
