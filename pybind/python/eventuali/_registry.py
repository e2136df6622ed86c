"""Which class a stored event belongs to.

Classes are found late: defining one never fails for a type name that was defaulted, because two modules, two tests or two
aggregates may well have a `Created` each. Only where a stored event has to become an object, and several classes claim
it, is that an error.
"""

import gc
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from eventuali._eventuali import classes_changed
from eventuali.errors import AmbiguousEventError, DefinitionError

if TYPE_CHECKING:
    from eventuali.aggregate import Aggregate
    from eventuali.event import DomainEvent

_NAME_BYTES_MAX = 512

_Class = TypeVar("_Class", bound=type)


class _Shelf(Generic[_Class]):
    """Classes by a name that several may share. A class that nobody else holds is forgotten."""

    def __init__(self) -> None:
        self._by_name: dict[str, dict[tuple[str, str], weakref.ref[_Class]]] = {}

    def put(self, name: str, cls: _Class) -> None:
        """Adds a class; one of the same module and qualified name gives way."""
        self._by_name.setdefault(name, {})[place_of(cls)] = weakref.ref(cls)

    def drop(self, name: str, place: tuple[str, str]) -> None:
        """Forgets the class of that place."""
        self._by_name.get(name, {}).pop(place, None)

    def get(self, name: str) -> Iterator[_Class]:
        """The classes of that name, in the order of their definition."""
        for reference in list(self._by_name.get(name, {}).values()):
            cls = reference()
            if cls is not None:
                yield cls


_events: "_Shelf[type[DomainEvent]]" = _Shelf()
_aggregates: "_Shelf[type[Aggregate]]" = _Shelf()
_current: dict[tuple[str, str], "weakref.ref[type[DomainEvent]]"] = {}


def place_of(cls: type) -> tuple[str, str]:
    """Where a class is defined: what stays the same when a module is reloaded or a notebook's cell runs again."""
    return cls.__module__, cls.__qualname__


def full_name(cls: type) -> str:
    """The name of a class for people."""
    return ".".join(place_of(cls))


def check_name(what: str, name: object) -> str:
    """Checks the name of an event or aggregate type.

    Raises:
        DefinitionError: If no store can hold it.
    """
    if not isinstance(name, str) or not name:
        raise DefinitionError(f"{what} is {name!r}; give it a name, a string that is not empty")
    if name.startswith("$") or "\0" in name:
        raise DefinitionError(f"{what} {name!r} begins with '$', which is reserved, or contains NUL; choose another")
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise DefinitionError(f"{what} {name!r} holds a surrogate, which is no character; leave it out")
    if len(name.encode()) > _NAME_BYTES_MAX:
        raise DefinitionError(f"{what} has {len(name.encode())} bytes, and the limit is {_NAME_BYTES_MAX}; shorten it")
    return name


def register_event(cls: "type[DomainEvent]", *, explicit: bool) -> None:
    """Makes an event class known under its type and its former types.

    Raises:
        DefinitionError: If another class was explicitly given one of these types.
    """
    claimed = {*([cls.event_type] if explicit else []), *cls.__eventuali_formerly__}
    if _explicit_rival(cls, claimed) is not None:  # unless nobody holds it any more
        classes_changed()
        gc.collect()
    rival = _explicit_rival(cls, claimed)
    if rival is not None:
        other, name = rival
        raise DefinitionError(
            f"{full_name(cls)} and {full_name(other)} are both given the event type {name!r}; "
            f'give one of them another with event_type="..."'
        )
    place = place_of(cls)
    replaced = _current.get(place)
    previous = replaced() if replaced is not None else None
    if previous is not None:
        for name in names_of(previous):
            _events.drop(name, place)
    _current[place] = weakref.ref(cls, lambda gone: _forget(place, gone))
    for name in names_of(cls):
        _events.put(name, cls)
    classes_changed()


def _forget(place: tuple[str, str], gone: "weakref.ref[type[DomainEvent]]") -> None:
    if _current.get(place) is gone:
        del _current[place]


def _explicit_rival(cls: "type[DomainEvent]", claimed: Iterable[str]) -> "tuple[type[DomainEvent], str] | None":
    for name in claimed:
        for other in _events.get(name):
            given = name in other.__eventuali_formerly__ or other.__eventuali_explicit__
            if given and place_of(other) != place_of(cls):
                return other, name
    return None


def register_aggregate(cls: "type[Aggregate]") -> None:
    """Makes an aggregate class known under its type."""
    _aggregates.put(cls.aggregate_type, cls)
    classes_changed()


def names_of(cls: "type[DomainEvent]") -> tuple[str, ...]:
    """The event types whose stored events belong to a class."""
    return (cls.event_type, *cls.__eventuali_formerly__)


def current(cls: "type[DomainEvent]") -> "type[DomainEvent]":
    """The class itself, or the one that was later defined in its place."""
    latest = _current.get(place_of(cls))
    return (latest() if latest is not None else None) or cls


def resolve(aggregate: "type[Aggregate] | None", aggregate_type: str, event_type: str) -> "type[DomainEvent] | None":
    """The class of a stored event; `None` if no class is known for it.

    First by the handlers of the aggregate that is being loaded, then by those of the classes of its aggregate type, then
    by the event type alone.

    Raises:
        AmbiguousEventError: If several classes claim it.
    """
    candidates = list(_events.get(event_type))
    own = [cls for cls in candidates if not cls.__eventuali_example__]
    candidates = own or candidates
    if aggregate is not None:
        found = _by_handlers(aggregate, candidates, event_type)
        if found is not None:
            return found
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    others = (other for other in _aggregates.get(aggregate_type) if other is not aggregate)
    claimed = [cls for other in others if (cls := _by_handlers(other, candidates, event_type)) is not None]
    return _only(claimed or candidates, event_type)


def _by_handlers(
    aggregate: "type[Aggregate]", candidates: "list[type[DomainEvent]]", event_type: str
) -> "type[DomainEvent] | None":
    handlers = aggregate.__eventuali_handlers__
    named = [cls for cls in map(current, handlers.mentioned()) if event_type in names_of(cls)]
    if named:
        return _only(named, event_type)
    taken = [cls for cls in candidates if handlers.find(cls) is not None]
    if len(taken) > 1:
        taken = _nearest(aggregate, taken)
    return taken[0] if len(taken) == 1 else None


def _nearest(aggregate: type, candidates: "list[type[DomainEvent]]") -> "list[type[DomainEvent]]":
    """Those defined beside the aggregate, else those of its module."""
    module, name = place_of(aggregate)
    scope = name.rpartition(".")[0]
    neighbours = [cls for cls in candidates if cls.__module__ == module]
    return [cls for cls in neighbours if cls.__qualname__.rpartition(".")[0] == scope] or neighbours


def _only(candidates: "list[type[DomainEvent]]", event_type: str) -> "type[DomainEvent]":
    distinct = list(dict.fromkeys(candidates))
    if len(distinct) == 1:
        return distinct[0]
    names = tuple(sorted(map(full_name, distinct)))
    raise AmbiguousEventError(
        f"the stored event type {event_type!r} is claimed by {' and '.join(names)}; give one of them its own type "
        f'with event_type="...", or load the event through an aggregate whose handler is annotated with the class',
        event_type=event_type,
        classes=names,
    )
