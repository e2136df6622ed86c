"""`LoanApplication`: an application's state, rebuilt from its events."""

from datetime import datetime, timedelta
from enum import StrEnum

from demo.events import (
    ApplicationApproved,
    ApplicationCancelled,
    ApplicationDeclined,
    ApplicationSubmitted,
    LoanEvent,
    OfferSent,
    WorkCompleted,
    WorkItem,
)
from eventuali import Aggregate


class Outcome(StrEnum):
    """How an application ended, if it did."""

    APPROVED = "approved"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    OPEN = "still open"


class LoanApplication(Aggregate):
    """One customer's request for a loan, from submission to decision."""

    amount_requested: int = 0
    submitted_at: datetime | None = None
    outcome: Outcome = Outcome.OPEN
    decided_at: datetime | None = None
    offers_sent: int = 0
    work_done: dict[WorkItem, int] = {}
    last_event_at: datetime | None = None

    @property
    def time_to_decision(self) -> timedelta | None:
        """From submission to decision; `None` while it is open."""
        return self.decided_at - self.submitted_at if self.decided_at and self.submitted_at else None

    def approve(self, by: str) -> None:
        """Grant the loan.

        Raises:
            ValueError: it was decided already.

        """
        if self.outcome is not Outcome.OPEN:
            raise ValueError(f"application {self.id} is {self.outcome.value} already")
        self.apply(ApplicationApproved(resource=by))

    def apply_application_submitted(self, event: ApplicationSubmitted) -> None:
        self.amount_requested = event.amount_requested
        self.submitted_at = event.timestamp
        self.apply_loan_event(event)

    def apply_application_approved(self, event: ApplicationApproved) -> None:
        self._decide(Outcome.APPROVED, event)

    def apply_application_declined(self, event: ApplicationDeclined) -> None:
        self._decide(Outcome.DECLINED, event)

    def apply_application_cancelled(self, event: ApplicationCancelled) -> None:
        self._decide(Outcome.CANCELLED, event)

    def apply_offer_sent(self, event: OfferSent) -> None:
        self.offers_sent += 1
        self.apply_loan_event(event)

    def apply_work_completed(self, event: WorkCompleted) -> None:
        self.work_done[event.item] = self.work_done.get(event.item, 0) + 1
        self.apply_loan_event(event)

    def apply_loan_event(self, event: LoanEvent) -> None:
        """Every event without a handler of its own comes here, through its base class."""
        self.last_event_at = event.timestamp

    def _decide(self, outcome: Outcome, event: LoanEvent) -> None:
        self.outcome, self.decided_at = outcome, event.timestamp
        self.apply_loan_event(event)
