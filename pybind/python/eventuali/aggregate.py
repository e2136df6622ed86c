"""Aggregates: things with an identity, whose state is what their events made of it."""

import enum
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from typing_extensions import Unpack, override

from eventuali import _registry
from eventuali._eventuali import AggregateCore
from eventuali._handlers import Handlers, handles, method_name
from eventuali._notebook import shortened, table
from eventuali.errors import AggregateUsageError, FieldNotSetError
from eventuali.event import DomainEvent, own_annotations, refuse_hidden

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    class _State:
        """What of a pydantic model an aggregate offers; its constructor is its own."""

        model_fields: ClassVar[dict[str, FieldInfo]]
        model_config: ClassVar[ConfigDict]

        def model_dump(self, *, mode: str = "python", by_alias: bool | None = None) -> dict[str, Any]: ...
        def model_dump_json(self, *, indent: int | None = None, by_alias: bool | None = None) -> str: ...
else:
    _State = BaseModel

__all__ = ["Aggregate", "handles"]

_RESERVED: Final = ("id", "version", "pending_events", "apply", "aggregate_type")

_SHARED: Final = (bool, bytes, date, datetime, Decimal, enum.Enum, float, int, str, time, timedelta, type(None), UUID)
"""Types of defaults that need no copy, because nobody can change their values."""


class Aggregate(_State):
    """Something with an identity and a state, which changes by events only.

    A subclass declares its state as fields and a method `apply_…` for each class of events. Command methods check what
    is asked for and call `apply`; handlers only record. `Order()` has a new id, `Order(id="order-42")` the given one.

    Example:
        >>> from eventuali import Aggregate, DomainEvent
        >>> class Deposited(DomainEvent):
        ...     amount: int
        >>> class Account(Aggregate):
        ...     balance: int = 0
        ...
        ...     def deposit(self, amount: int) -> None:
        ...         if amount <= 0:
        ...             raise ValueError("deposit a positive amount")
        ...         self.apply(Deposited(amount=amount))
        ...
        ...     def apply_deposited(self, event: Deposited) -> None:
        ...         self.balance += event.amount
        >>> account = Account(id="account-7")
        >>> account.deposit(5)
        >>> account.balance, account.version, account.pending_events
        (5, 1, (Deposited(amount=5),))

    Raises:
        DefinitionError: When a class is defined with a field or handler that cannot work.
    """

    __slots__ = ("__eventuali_core__",)

    __eventuali_handlers__: ClassVar[Handlers]
    __eventuali_names__: ClassVar[frozenset[str]] = frozenset()
    __eventuali_defaults__: ClassVar["_Defaults | None"] = None

    aggregate_type: ClassVar[str] = "Aggregate"
    """The type under which its events are stored: the class name, or the class keyword of this name."""

    if TYPE_CHECKING:
        __eventuali_core__: AggregateCore

        @override
        def __init_subclass__(cls, *, aggregate_type: str | None = None, **config: Unpack[ConfigDict]) -> None: ...

        def __init__(self, *, id: str | UUID | None = None) -> None: ...  # noqa: A002  # the name that reads best

    else:

        def __init__(self, /, *, id: str | UUID | None = None, **state: object) -> None:  # noqa: A002
            if state:
                raise AggregateUsageError(
                    f"{type(self).__name__}() was given {', '.join(state)}, but its state comes from its events: construct "
                    f"it with its id or nothing, and apply an event",
                    aggregate_type=type(self).aggregate_type,
                )
            _begin(self, AggregateCore(type(self), id))

        __init__.__pydantic_base_init__ = True  # so that validating a state does not call it

        def __init_subclass__(cls, **keywords: object) -> None:
            # Before pydantic collects the fields, which would warn about a hidden attribute instead of explaining it.
            refuse_hidden(cls, _RESERVED, own_annotations(cls))
            refuse_hidden(cls, ("aggregate_type",), vars(cls))
            super().__init_subclass__()

        @classmethod
        def __pydantic_init_subclass__(cls, *, aggregate_type: str | None = None, **keywords: object) -> None:
            super().__pydantic_init_subclass__(**keywords)
            refuse_hidden(cls, _RESERVED, cls.__pydantic_fields__)
            name = cls.__name__ if aggregate_type is None else aggregate_type
            cls.aggregate_type = _registry.check_name("aggregate_type", name)
            cls.__eventuali_handlers__ = Handlers(cls)
            cls.__eventuali_names__ = frozenset(_value_names(cls))
            _choose_assignment(cls)
            cls.__eventuali_defaults__ = None
            _registry.register_aggregate(cls)

    @property
    def id(self) -> str:
        """Its id, unique in the store whatever its type."""
        return self.__eventuali_core__.id

    @property
    def version(self) -> int:
        """How many events have made it what it is, pending ones included; 0 without any."""
        return self.__eventuali_core__.version

    @property
    def pending_events(self) -> tuple[DomainEvent, ...]:
        """The events that were applied and not yet saved, oldest first."""
        return self.__eventuali_core__.pending_events

    def apply(self, event: DomainEvent, /) -> None:
        """Records that something happened: the event becomes pending, and its handler changes the state.

        The payload is turned into bytes first; those bytes are saved, whatever the handler does to the event afterwards.
        If the handler raises, its exception comes through as it is, and version, pending events and fields are as
        before. A list or dict that the handler changed in place is not restored: put checks into command methods.

        Args:
            event: An event that does not belong to an aggregate yet.

        Raises:
            MissingHandlerError: If no method takes this event; it names the method to write.
            SerializationError: If the event would not come back equal; it names the field.
            EventOwnedError: If the event already belongs to an aggregate.
            ReentrantApplyError: If a handler calls it.
        """
        self.__eventuali_core__.apply(self, event)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            if name in type(self).__pydantic_fields__:
                raise FieldNotSetError(
                    f"{type(self).__name__}.{name} has no value yet: no event has set it, and it has no default; "
                    f"give it one, or set it in the handler of the first event",
                    aggregate_id=self.id,
                    aggregate_type=type(self).aggregate_type,
                    field=name,
                )
            return super().__getattr__(name)

        def __copy__(self) -> Self:
            return _with_core(super().__copy__(), self.__eventuali_core__.copy())

        def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
            return _with_core(super().__deepcopy__(memo), self.__eventuali_core__.copy())

        def __getstate__(self) -> dict[Any, Any]:
            return {**super().__getstate__(), "__eventuali_core__": self.__eventuali_core__.state()}

        def __setstate__(self, state: dict[Any, Any]) -> None:
            super().__setstate__(state)
            _with_core(self, AggregateCore.restore(type(self), state["__eventuali_core__"]))

        def __eq__(self, other: object) -> bool:
            if type(self) is not type(other):
                return NotImplemented
            return (self.id, self.version) == (other.id, other.version) and super().__eq__(other)

        __hash__ = None

    @override
    def __repr__(self) -> str:
        fields = "".join(f", {name}={shortened(value)}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}(id={self.id!r}, version={self.version}{fields})"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        envelope = {"id": self.id, "version": self.version, "pending events": len(self.pending_events)}
        return table(type(self).__name__, {**envelope, **self.__dict__})


_Defaults = tuple[dict[str, Any], list[tuple[str, Callable[[dict[str, Any]], Any]]]]

_set: Final = object.__setattr__
_core_slot: Any = Aggregate.__dict__["__eventuali_core__"]


def _with_core(aggregate: Any, core: AggregateCore) -> Any:  # noqa: ANN401
    _core_slot.__set__(aggregate, core)
    return aggregate


def _value_names(cls: Any) -> Iterable[str]:  # noqa: ANN401
    """What may stand in the `__dict__` of an aggregate: its fields, and properties that keep their value there."""
    yield from cls.__pydantic_fields__
    for base in cls.__mro__:
        yield from (name for name, value in vars(base).items() if isinstance(value, cached_property))


def _choose_assignment(cls: Any) -> None:  # noqa: ANN401
    """Lets handlers assign fields as plainly as Python does, where pydantic has nothing to do for it.

    It would take ten times as long. What it would refuse, a name that is no field, `apply` and `load` find as well. And
    what it would keep is known: `__pydantic_fields_set__` has all fields from the start.
    """
    defined = {vars(base).get("__setattr__") for base in cls.__mro__ if base not in (BaseModel, object)}
    if defined - {None, BaseModel.__setattr__, object.__setattr__}:
        return  # the class has its own
    config, fields = cls.model_config, cls.__pydantic_fields__.values()
    careful = config.get("validate_assignment") or config.get("frozen") or any(field.frozen for field in fields)
    source: type = BaseModel if careful or cls.__private_attributes__ else object
    cls.__setattr__, cls.__delattr__ = source.__setattr__, source.__delattr__


def _defaults_of(cls: Any) -> _Defaults:  # noqa: ANN401
    """The state before the first event: values to share, and how to make those that need a copy each."""
    shared: dict[str, Any] = {}
    made: list[tuple[str, Callable[[dict[str, Any]], Any]]] = []
    for name, field in cls.__pydantic_fields__.items():
        if field.is_required():
            continue
        shared[name] = field.default
        if field.default_factory is not None or not isinstance(field.default, _SHARED):
            made.append((name, _maker(field)))
    cls.__eventuali_defaults__ = shared, made
    return shared, made


def _maker(field: "FieldInfo") -> Callable[[dict[str, Any]], Any]:
    return lambda state: field.get_default(call_default_factory=True, validated_data=state)


def _begin(aggregate: Any, core: AggregateCore) -> None:  # noqa: ANN401
    cls = type(aggregate)
    shared, made = cls.__eventuali_defaults__ or _defaults_of(cls)
    state = shared.copy()
    for name, make in made:
        state[name] = make(state)
    _set(aggregate, "__dict__", state)
    _set(aggregate, "__pydantic_fields_set__", set(cls.__pydantic_fields__))
    _set(aggregate, "__pydantic_extra__", None)
    _set(aggregate, "__pydantic_private__", None)
    _core_slot.__set__(aggregate, core)
    if cls.__pydantic_post_init__:
        aggregate.model_post_init(None)


def begin_load(cls: Any, core: AggregateCore) -> Any:  # noqa: ANN401
    """An aggregate without events, to apply stored ones to; its fields are not validated."""
    aggregate = cls.__new__(cls)
    _begin(aggregate, core)
    return aggregate


def missing_handler(cls: type[Aggregate], event: type[DomainEvent]) -> tuple[str, str]:
    """The method that would handle an event, and a message that says so."""
    method = method_name(event)
    return method, (
        f"{cls.__name__} has no handler for {event.__name__}: write "
        f"`def {method}(self, event: {event.__name__}) -> None`, or mark another method with @handles({event.__name__})"
    )
