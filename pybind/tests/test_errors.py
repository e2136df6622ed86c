import copy
import pickle

import pytest

from eventuali import errors
from eventuali.errors import ConflictError, EventualiError, OptimisticConcurrencyError

CLASSES = sorted({getattr(errors, name) for name in errors.__all__}, key=lambda cls: cls.__name__)


def an_error_with_all_its_facts(cls: type[EventualiError]) -> EventualiError:
    return cls("what happened", **{name: f"the {name}" for name in cls._facts})


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_pickles_and_copies_with_its_facts(cls: type[EventualiError]) -> None:
    error = an_error_with_all_its_facts(cls)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):  # noqa: S301
        assert type(twin) is cls
        assert str(twin) == "what happened"
        assert {name: getattr(twin, name) for name in cls._facts} == {name: f"the {name}" for name in cls._facts}


@pytest.mark.parametrize("cls", CLASSES)
def test_every_error_is_an_eventuali_error_and_stands_in_the_tree(cls: type[EventualiError]) -> None:
    assert issubclass(cls, EventualiError)
    assert cls.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("cls", CLASSES)
def test_a_fact_that_is_not_known_is_none(cls: type[EventualiError]) -> None:
    assert all(getattr(cls("what happened"), name) is None for name in cls._facts)


def test_a_fact_that_an_error_does_not_have_is_refused() -> None:
    with pytest.raises(TypeError, match="no fact named colour"):
        EventualiError("what happened", colour="red")


def test_errors_are_also_what_python_programmers_catch() -> None:
    assert OptimisticConcurrencyError is ConflictError
    assert issubclass(errors.AggregateNotFoundError, LookupError)
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.EnvelopeError, AttributeError)
    assert issubclass(errors.FieldNotSetError, AttributeError)
    assert issubclass(errors.DefinitionError, TypeError)
