"""Turns rebuilt applications and replayed events into the report."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from statistics import median

from demo.application import LoanApplication, Outcome
from demo.screen import bar
from eventuali import DomainEvent

SECONDS_PER_MINUTE = 60
MINUTES_PER_HOUR = 60
HOURS_PER_DAY = 24
DAYS_PER_WEEK = 7
LEAST_OF_A_UNIT = 2


@dataclass(slots=True)
class Report:
    """What is counted while events and applications pass by."""

    events: int = 0
    event_types: Counter[str] = field(default_factory=Counter)
    events_per_day: Counter[date] = field(default_factory=Counter)
    applications: dict[Outcome, list[LoanApplication]] = field(default_factory=lambda: defaultdict(list))

    def add_event(self, event: DomainEvent) -> None:
        """Count one replayed event."""
        self.events += 1
        self.event_types[event.event_type] += 1
        self.events_per_day[event.timestamp.date()] += 1

    def add_application(self, application: LoanApplication) -> None:
        """Count one rebuilt application."""
        self.applications[application.outcome].append(application)

    def lines(self) -> Iterator[str]:
        """The report, line by line."""
        count = sum(len(group) for group in self.applications.values())
        first, last = min(self.events_per_day), max(self.events_per_day)
        yield f"  {self.events:,} events of {count:,} applications, {_day(first)} to {_day(last)}"
        yield ""
        yield f"  {'outcome':<11} {'applications':>13}  {'':<24} {'median amount':>13}  {'median time to decision':>23}"
        for outcome in Outcome:
            yield self._outcome_line(outcome, count)
        yield f"  {'all':<11} {count:>13,}  {'':<24} {self._middle([a for g in self.applications.values() for a in g])}"
        yield ""
        yield from self._busiest_week()

    def _outcome_line(self, outcome: Outcome, count: int) -> str:
        group = self.applications[outcome]
        return f"  {outcome:<11} {len(group):>13,}  {bar(len(group) / count)} {self._middle(group)}"

    @staticmethod
    def _middle(group: list[LoanApplication]) -> str:
        amount = f"{median(a.amount_requested for a in group):,.0f}" if group else "-"
        seconds = [a.time_to_decision.total_seconds() for a in group if a.time_to_decision is not None]
        return f"{amount:>13}  {_span(median(seconds)) if seconds else '-':>23}"

    def _busiest_week(self) -> Iterator[str]:
        per_week: Counter[date] = Counter()
        for day, events in self.events_per_day.items():
            per_week[day - timedelta(days=day.weekday())] += events
        monday, total = max(per_week.items(), key=lambda week: week[1])
        week = [monday + timedelta(days=n) for n in range(DAYS_PER_WEEK)]
        busiest_day = max(self.events_per_day[day] for day in week)
        yield f"  the busiest week, from {_day(monday)}: {total:,} events"
        for day in week:
            events = self.events_per_day[day]
            yield f"  {day:%a %d %b}  {bar(events / busiest_day, 40)} {events:>6,}"


def _day(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def _span(seconds: float) -> str:
    """A length of time in the largest unit that it has two of."""
    minutes = seconds / SECONDS_PER_MINUTE
    hours = minutes / MINUTES_PER_HOUR
    days = hours / HOURS_PER_DAY
    if days >= LEAST_OF_A_UNIT:
        return f"{days:.1f} days"
    return f"{hours:.1f} hours" if hours >= LEAST_OF_A_UNIT else f"{minutes:.0f} minutes"
