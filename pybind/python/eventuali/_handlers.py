"""Which method of an aggregate takes which event."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from eventuali._registry import full_name, place_of
from eventuali.errors import DefinitionError
from eventuali.event import DomainEvent

if TYPE_CHECKING:
    from eventuali.aggregate import Aggregate

_Method = TypeVar("_Method", bound=Callable[..., None])

_MARK = "__eventuali_handles__"
_GENERIC_ARGUMENTS = re.compile(r"\[.*")


def snake_case(name: str) -> str:
    """The name of a class in snake case, as it stands in the name of its handler.

    A word begins at a capital after a small letter or digit, and at the last capital of several where a small letter
    follows it. Digits belong to the word before them; underscores at the beginning are left out.

    Example:
        >>> [snake_case(name) for name in ("OrderPlaced", "HTTPRequestReceived", "OrderV2Placed", "IBANChanged")]
        ['order_placed', 'http_request_received', 'order_v2_placed', 'iban_changed']
    """
    name = _GENERIC_ARGUMENTS.sub("", name).lstrip("_")
    words: list[str] = []
    for at, letter in enumerate(name):
        before, after = name[at - 1 : at], name[at + 1 : at + 2]
        begins = letter.isupper() and (before.islower() or before.isdigit() or (before.isupper() and after.islower()))
        words.append("_" + letter if begins else letter)
    return "".join(words).lower()


def handles(*events: type[DomainEvent]) -> Callable[[_Method], _Method]:
    """Makes a method the handler of these event classes (and of their subclasses), whatever its name is.

    Example:
        >>> from eventuali import Aggregate, DomainEvent, handles
        >>> class Opened(DomainEvent): ...
        >>> class Reopened(DomainEvent): ...
        >>> class Door(Aggregate):
        ...     open: bool = False
        ...
        ...     @handles(Opened, Reopened)
        ...     def note_that_it_is_open(self, event: Opened | Reopened) -> None:
        ...         self.open = True
        >>> door = Door()
        >>> door.apply(Reopened())
        >>> door.open
        True

    Raises:
        DefinitionError: If anything but classes of events is given.
    """
    given: tuple[object, ...] = events
    if not given or not all(isinstance(event, type) and issubclass(event, DomainEvent) for event in given):
        raise DefinitionError("@handles takes the event classes that the method handles, such as @handles(OrderPlaced)")

    def mark(method: _Method) -> _Method:
        setattr(method, _MARK, (*getattr(method, _MARK, ()), *events))
        return method

    return mark


class Handlers:
    """The handlers of one class of aggregates."""

    def __init__(self, aggregate: "type[Aggregate]") -> None:
        self._aggregate = aggregate
        self._methods = dict.fromkeys(_handler_names(aggregate))
        self._marked: dict[tuple[str, str], str] = {}
        for base in reversed(aggregate.__mro__):
            self._take_marks(base)
        for name in self._methods:
            method = getattr(aggregate, name, None)
            if inspect.iscoroutinefunction(method) or inspect.isgeneratorfunction(method):
                raise DefinitionError(
                    f"{aggregate.__name__}.{name} is a coroutine or generator function; a handler only records what an "
                    f"event says: make it a plain method, and put what has to wait into a command method",
                    field=name,
                )

    def _take_marks(self, base: type) -> None:
        taken: dict[tuple[str, str], str] = {}
        for name, method in vars(base).items():
            for event in getattr(method, _MARK, ()):
                other = taken.setdefault(place_of(event), name)
                if other != name:
                    raise DefinitionError(
                        f"{base.__name__}.{other} and {base.__name__}.{name} both handle {full_name(event)}; "
                        f"leave it to one of them",
                        field=name,
                    )
        self._marked |= taken

    def find(self, event: type[DomainEvent]) -> Callable[[Any, Any], None] | None:
        """The handler of an event class, found along its base classes; `None` if there is none."""
        for base in event.__mro__:
            if issubclass(base, DomainEvent):
                name = self._marked.get(place_of(base)) or method_name(base)
                method = getattr(self._aggregate, name, None)
                if callable(method):
                    handler: Callable[[Any, Any], None] = method
                    return handler
        return None

    def mentioned(self) -> Iterator[type[DomainEvent]]:
        """The event classes that the aggregate names: in `@handles`, in its handlers' annotations, as nested classes."""
        for name in self._methods:
            method = getattr(self._aggregate, name, None)
            yield from getattr(method, _MARK, ())
            yield from _annotated(method)
        for base in self._aggregate.__mro__:
            for value in vars(base).values():
                if isinstance(value, type) and issubclass(value, DomainEvent):
                    yield value


def method_name(event: type) -> str:
    """The name of the method that handles an event class.

    Example:
        >>> class HTTPRequestReceived(DomainEvent): ...
        >>> method_name(HTTPRequestReceived)
        'apply_http_request_received'
    """
    return f"apply_{snake_case(event.__name__)}"


def _handler_names(aggregate: type) -> Iterator[str]:
    for base in aggregate.__mro__:
        for name, value in vars(base).items():
            if name.startswith("apply_") or hasattr(value, _MARK):
                yield name


def _annotated(method: object) -> Iterator[type[DomainEvent]]:
    if not inspect.isfunction(method):
        return
    try:
        hints = get_type_hints(method)
    except (NameError, TypeError, AttributeError):  # a name that cannot be resolved from here mentions nothing
        hints = inspect.get_annotations(method)
    parameters = list(inspect.signature(method).parameters)[1:2]
    for parameter in parameters:
        hint = hints.get(parameter)
        for cls in get_args(hint) or (hint,):
            if isinstance(cls, type) and issubclass(cls, DomainEvent) and cls is not DomainEvent:
                yield cls
