"""What happens to a loan application, as events; and how a line of the data becomes one."""

from datetime import datetime
from enum import StrEnum

from demo.source import Row
from eventuali import DomainEvent


class LoanEvent(DomainEvent):
    """Something that happened to an application, done by a person or by the bank's system."""

    resource: str | None = None


class ApplicationSubmitted(LoanEvent):
    """A customer asked for a loan."""

    amount_requested: int
    registered_at: datetime


class ApplicationPartlySubmitted(LoanEvent):
    """The first part of the form arrived."""


class ApplicationPreaccepted(LoanEvent):
    """The automatic checks passed."""


class ApplicationAccepted(LoanEvent):
    """The application was complete and acceptable."""


class ApplicationFinalized(LoanEvent):
    """Nothing is missing for an offer."""


class ApplicationApproved(LoanEvent):
    """The loan was granted."""


class ApplicationDeclined(LoanEvent):
    """The bank said no."""


class ApplicationCancelled(LoanEvent):
    """The customer withdrew, or fell silent."""


class ApplicationRegistered(LoanEvent):
    """The granted loan was registered."""


class ApplicationActivated(LoanEvent):
    """The granted loan became active."""


class OfferSelected(LoanEvent):
    """An offer was chosen to be made."""


class OfferCreated(LoanEvent):
    """An offer was drawn up."""


class OfferSent(LoanEvent):
    """An offer went to the customer."""


class OfferSentBack(LoanEvent):
    """The customer sent an offer back."""


class OfferAccepted(LoanEvent):
    """The customer took an offer."""


class OfferCancelled(LoanEvent):
    """An offer was withdrawn."""


class OfferDeclined(LoanEvent):
    """The customer turned an offer down."""


class WorkItem(StrEnum):
    """What the bank's people work on; each value is the data's own name."""

    FOLLOW_UP_LEAD = "Afhandelen leads"
    INVESTIGATE_FRAUD = "Beoordelen fraude"
    COMPLETE_APPLICATION = "Completeren aanvraag"
    CALL_ABOUT_INCOMPLETE_FILE = "Nabellen incomplete dossiers"
    CALL_ABOUT_OFFER = "Nabellen offertes"
    ASSESS_APPLICATION = "Valideren aanvraag"
    CHANGE_CONTRACT = "Wijzigen contractgegevens"


class WorkEvent(LoanEvent):
    """A step in a person's work on an application."""

    item: WorkItem


class WorkScheduled(WorkEvent):
    """The work was put into a queue."""


class WorkStarted(WorkEvent):
    """Someone took the work up."""


class WorkCompleted(WorkEvent):
    """Someone put the work down, finished or not."""


PLAIN_EVENTS: dict[str, type[LoanEvent]] = {
    "A_PARTLYSUBMITTED": ApplicationPartlySubmitted,
    "A_PREACCEPTED": ApplicationPreaccepted,
    "A_ACCEPTED": ApplicationAccepted,
    "A_FINALIZED": ApplicationFinalized,
    "A_APPROVED": ApplicationApproved,
    "A_DECLINED": ApplicationDeclined,
    "A_CANCELLED": ApplicationCancelled,
    "A_REGISTERED": ApplicationRegistered,
    "A_ACTIVATED": ApplicationActivated,
    "O_SELECTED": OfferSelected,
    "O_CREATED": OfferCreated,
    "O_SENT": OfferSent,
    "O_SENT_BACK": OfferSentBack,
    "O_ACCEPTED": OfferAccepted,
    "O_CANCELLED": OfferCancelled,
    "O_DECLINED": OfferDeclined,
}

WORK_EVENTS: dict[str, type[WorkEvent]] = {"SCHEDULE": WorkScheduled, "START": WorkStarted, "COMPLETE": WorkCompleted}


def event_of(row: Row) -> LoanEvent:
    """The event that a line of the data stands for.

    Raises:
        ValueError: the line's activity is none that this demo knows.

    """
    if plain := PLAIN_EVENTS.get(row.activity):
        return plain(resource=row.resource)
    if row.activity.startswith("W_"):
        return WORK_EVENTS[row.lifecycle](resource=row.resource, item=WorkItem(row.activity.removeprefix("W_")))
    if row.activity == "A_SUBMITTED" and row.amount_requested is not None and row.registered_at is not None:
        return ApplicationSubmitted(
            resource=row.resource, amount_requested=row.amount_requested, registered_at=row.registered_at
        )
    raise ValueError(f"the data holds an activity that the demo does not know: {row}")
