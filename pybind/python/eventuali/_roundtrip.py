"""Whether what is stored of an event comes back equal.

Two questions: which classes can be trusted once one of their events was read back (asked once for a class), and whether
this very event reads back equal (asked for the first event of a class, and for each event of a class that cannot be
trusted).
"""

import dataclasses
import enum
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import SchemaError, SchemaValidator

from eventuali.errors import SerializationError
from eventuali.event import SETTINGS, DomainEvent, Value

_FIELDS: Final = frozenset({"dataclass-field", "model-field", "typed-dict-field"})

_MOMENTS: Final = frozenset({"datetime", "time"})

_TRUSTED: Final = _MOMENTS | {
    *("bool", "date", "decimal", "int", "none", "str", "timedelta", "uuid"),
    *(
        "default",
        "definition-ref",
        "definitions",
        "frozenset",
        "list",
        "model-field",
        "model-fields",
        "nullable",
        "set",
    ),
    "tuple",
}
"""Kinds of which every value comes back equal, if what they contain does.

(Of integers, those beyond 4,300 digits do not; the payload shows them.)
"""

_KEYS: Final = frozenset({"str", "int", "uuid", "date"})
"""Kinds that come back equal as the keys of an object."""

_SAME_PLACE: Final = frozenset({"default", "model", "model-field", "model-fields", "nullable"})
"""Kinds whose content is the value itself."""

_ITEM: Final = "[]"
"""In a path: something within a container."""

_MUTABLE: Final = frozenset({"any", "dataclass", "dict", "list", "set", "typed-dict"})

_REFUSED: Final = {"callable": "a callable", "generator": "an iterator, which can be read only once"}

_CHILDREN: Final = ("schema", "items_schema", "schemas", "fields", "keys_schema", "values_schema", "choices", "definitions",
                    "lax_schema", "strict_schema", "json_schema", "python_schema", "steps", "arguments_schema")  # fmt: skip


class Plan(NamedTuple):
    """What the extension needs to know about a class of events."""

    event_type: str
    event_version: int
    to_json: Callable[..., bytes]
    plain: bool
    """Whether `to_json` needs no settings: there is nothing in the event that would be written in another way."""
    validate_json: Callable[..., DomainEvent]
    lenient: bool
    """Whether `validate_json` ignores unknown fields by itself; else it has to be told, which takes longer."""
    check_each: bool
    """Whether each event has to be read back, not only the first one."""
    mutable: bool
    """Whether something in an event may be changed after it was validated, such as a list."""
    moments: tuple[str, ...]
    """Fields that hold a date with time: one whose offset from UTC has seconds does not come back."""
    nested: tuple[type, ...]
    """Models inside: an object of a subclass would come back as one of the class."""


def plan_of(cls: type[DomainEvent]) -> Plan:
    """Looks at the fields of an event class.

    Raises:
        SerializationError: If one of them can never come back; it names the field.
    """
    if not cls.__pydantic_complete__:
        cls.model_rebuild()
    look = _Look(cls)
    look.at_model(cls.__pydantic_core_schema__)
    return Plan(
        cls.event_type,
        cls.event_version,
        cls.__pydantic_serializer__.to_json,
        look.trusted and not look.nested and not cls.__pydantic_decorators__.computed_fields,
        *_reader(cls),
        not look.trusted,
        look.mutable,
        tuple(look.moments),
        tuple(look.nested),
    )


def _reader(cls: type[DomainEvent]) -> tuple[Callable[..., DomainEvent], bool]:
    """How stored events of a class are read: as its own validator does, but unknown fields are ignored."""
    try:
        validator = SchemaValidator(_ignoring_extras(cls.__pydantic_core_schema__), None, False)
    except (TypeError, SchemaError):  # another release of pydantic, which builds validators in another way
        return cls.__pydantic_validator__.validate_json, False
    return validator.validate_json, True


def _ignoring_extras(schema: Any) -> Any:  # noqa: ANN401
    if isinstance(schema, dict):
        return {
            key: "ignore"
            if value == "forbid" and key in {"extra_fields_behavior", "extra_behavior"}
            else _ignoring_extras(value)
            for key, value in schema.items()
            if key != "metadata"
        }
    if type(schema) in {list, tuple}:
        return type(schema)(map(_ignoring_extras, schema))
    return schema


class _Look:
    """One walk through the schema of an event class."""

    def __init__(self, cls: type[DomainEvent]) -> None:
        self.trusted = True
        self.mutable = False
        self.moments: list[str] = []
        self.nested: list[type] = []
        self._cls = cls

    def at_model(self, schema: Mapping[str, Any]) -> None:
        """Walks from the event's own schema, which may stand behind definitions."""
        while schema["type"] == "definitions":
            for definition in schema["definitions"]:
                if definition.get("cls") is not self._cls:
                    self._at(definition, (), inherits=False)
            inner = schema["schema"]
            if inner["type"] == "definition-ref":
                inner = next(each for each in schema["definitions"] if each["ref"] == inner["schema_ref"])
            schema = inner
        self._at(schema, (), inherits=True)

    def _at(self, schema: Mapping[str, Any], path: tuple[str, ...], *, inherits: bool) -> None:
        kind = schema["type"]
        if kind in _REFUSED:
            self._refuse(path, f"it is {_REFUSED[kind]}")
        if schema.get("extras_schema") is not None or schema.get("extra_behavior") == "allow":
            self._refuse(path, "it allows extra fields, and unknown stored fields are ignored")
        if kind in {"model", "dataclass"}:
            inherits = self._at_class(schema)
        elif kind in _FIELDS:
            self._at_field(schema, path)
        elif kind in _MOMENTS:
            self._at_moment(path)
        self.mutable |= kind in _MUTABLE
        self.trusted &= _is_trusted(schema, inherits=inherits)
        for child, name in _children(schema):
            inside = name or ("" if kind in _SAME_PLACE else _ITEM)
            self._at(child, (*path, inside) if inside else path, inherits=inherits)

    def _at_class(self, schema: Mapping[str, Any]) -> bool:
        cls = schema["cls"]
        if cls is not self._cls:
            self.nested.append(cls)
        self.mutable |= not getattr(cls, "model_config", {}).get("frozen")
        own = issubclass(cls, (DomainEvent, Value))
        return own and SETTINGS.items() <= {**cls.model_config, "frozen": True}.items()

    def _at_field(self, schema: Mapping[str, Any], path: tuple[str, ...]) -> None:
        if schema.get("serialization_exclude"):
            self._refuse(path, "it is excluded from serialization (exclude=True)")
        if schema.get("serialization_exclude_if") is not None:
            self.trusted = False
        written = schema.get("serialization_alias")
        read = schema.get("validation_alias")
        readable = {read} if isinstance(read, str) else {step[0] for step in read or () if len(step) == 1}
        if written is not None and written != path[-1] and written not in readable:
            self._refuse(path, f"it is written as {written!r} and read as {read!r}; give it one alias for both")

    def _at_moment(self, path: tuple[str, ...]) -> None:
        if len(path) == 1:
            self.moments.append(path[0])
        else:
            self.trusted = False

    def _refuse(self, path: tuple[str, ...], reason: str) -> None:
        raise _refusal(self._cls, ".".join(part for part in path if part != _ITEM), reason)


def _is_trusted(schema: Mapping[str, Any], *, inherits: bool) -> bool:
    """Whether every value of a kind comes back equal, as far as its content does."""
    if "serialization" in schema or schema.get("strict"):
        return False
    judge = _JUDGES.get(schema["type"])
    return schema["type"] in _TRUSTED or (judge is not None and judge(schema, inherits))


_JUDGES: Final[dict[str, Callable[[Mapping[str, Any], bool], bool]]] = {
    "bytes": lambda _, inherits: inherits,
    "float": lambda _, inherits: inherits,
    "dict": lambda schema, _: "values_schema" in schema and schema.get("keys_schema", {}).get("type") in _KEYS,
    "enum": lambda schema, _: all(type(member.value) in {int, str} for member in schema["members"]),
    "literal": lambda schema, _: all(type(each) in {int, str, bool, type(None)} for each in schema["expected"]),
    "model": lambda schema, _: not (schema.get("custom_init") or schema.get("post_init")),
}
"""Kinds of which some can be trusted; with whether the settings of events hold for them."""


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str]]:
    for key in _CHILDREN:
        found = schema.get(key)
        if isinstance(found, Mapping) and "type" in found and isinstance(found["type"], str):
            yield found, ""
        elif isinstance(found, Mapping):
            for name, child in found.items():
                if isinstance(child, Mapping):
                    yield child, str(name) if key == "fields" else ""
        elif isinstance(found, (list, tuple)):
            for child in found:
                if isinstance(child, tuple):  # a choice of a union, with its label
                    child = child[0]  # noqa: PLW2901
                if isinstance(child, Mapping):
                    yield child, str(child.get("name", "")) if key == "fields" else ""


def payload_of(event: DomainEvent, failure: Exception) -> bytes:
    """The payload of an event that could not be serialized without a warning, if it reads back equal all the same.

    Raises:
        SerializationError: If it cannot be serialized at all, or does not; it names the field.
    """
    serializer = type(event).__pydantic_serializer__
    try:
        payload = serializer.to_json(event, round_trip=True, by_alias=True, warnings=False)
    except Exception:  # noqa: BLE001  # whatever a field's own serializer raises
        for name in type(event).__pydantic_fields__:
            try:
                serializer.to_json(event, round_trip=True, by_alias=True, warnings=False, include={name})
            except Exception as error:  # noqa: BLE001
                raise _refusal(type(event), name, _first_line(error)) from failure
        raise _refusal(type(event), None, _first_line(failure)) from failure
    check(event, payload)
    return payload


def check(event: DomainEvent, payload: bytes) -> None:
    """Reads a payload back and compares it with the event.

    Raises:
        SerializationError: If it cannot be read back, or what is read back differs; it names the field.
    """
    cls = type(event)
    try:
        back = cls.__pydantic_validator__.validate_json(payload, extra="ignore")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = str(first["loc"][0]) if first["loc"] else _overlong_field(event)
        raise _refusal(cls, field, f"it does not read back: {first['msg']}") from error
    except Exception as error:
        raise _refusal(cls, None, f"it does not read back: {_first_line(error)}") from error
    for name in cls.__pydantic_fields__:
        mine, read = event.__dict__.get(name), back.__dict__.get(name)
        if not same(mine, read):
            raise _refusal(cls, name, f"{_shown(mine)} would come back as {_shown(read)}")


def _overlong_field(event: DomainEvent) -> str | None:
    """The field that made the whole payload unreadable."""
    serializer, validator = type(event).__pydantic_serializer__, type(event).__pydantic_validator__
    for name in type(event).__pydantic_fields__:
        try:
            validator.validate_json(
                serializer.to_json(event, round_trip=True, by_alias=True, include={name}), extra="ignore"
            )
        except ValidationError as error:
            if any(each["type"] == "json_invalid" for each in error.errors(include_url=False, include_context=False)):
                return name
    return None


def same(one: Any, two: Any) -> bool:  # noqa: ANN401
    """Whether two payload values are equal, NaN with NaN, and what differs only in kind (`True` and 1) is not."""
    if isinstance(one, (list, tuple)):
        return type(one) is type(two) and len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (set, frozenset)):
        return type(one) is type(two) and _same_members(one, two)
    if isinstance(one, BaseModel):
        return type(one) is type(two) and same(one.__dict__, two.__dict__)
    if dataclasses.is_dataclass(one):
        return type(one) is type(two) and same(_fields(one), _fields(two))
    return _same_leaf(one, two)


def _fields(one: Any) -> dict[str, Any]:  # noqa: ANN401
    return {field.name: getattr(one, field.name) for field in dataclasses.fields(one)}


def _same_members(one: Any, two: Any) -> bool:  # noqa: ANN401
    def nans(members: Any) -> int:  # noqa: ANN401
        return sum(isinstance(each, float) and math.isnan(each) for each in members)

    def rest(members: Any) -> set[Any]:  # noqa: ANN401
        return {each for each in members if not (isinstance(each, float) and math.isnan(each))}

    return nans(one) == nans(two) and rest(one) == rest(two)


def _same_leaf(one: Any, two: Any) -> bool:  # noqa: ANN401
    if isinstance(one, (enum.Enum, bool)) or isinstance(two, (enum.Enum, bool)):
        return type(one) is type(two) and one == two
    if isinstance(one, float) and isinstance(two, float) and math.isnan(one):
        return math.isnan(two)
    if (
        isinstance(one, datetime)
        and isinstance(two, datetime)
        and one.utcoffset() is not None
        and two.utcoffset() is not None
    ):
        # Within a repeated hour, moments of different time zones never compare equal, so they are compared in UTC.
        return one.astimezone(UTC) == two.astimezone(UTC)
    return bool(one == two)


def _shown(value: object) -> str:
    try:
        return f"{value!r:.100}"
    except ValueError:  # an integer of too many digits
        return f"a value of type {type(value).__name__}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _refusal(cls: type[DomainEvent], field: str | None, reason: str) -> SerializationError:
    place = f"field {field!r}" if field else "the payload"
    return SerializationError(
        f"{cls.__name__}: {place} would not come back as it is: {reason}. Declare it with a type that JSON can hold "
        f"unambiguously (nested parts as eventuali.Value); docs/python-types.md has the table",
        event_type=cls.event_type,
        field=field,
    )
