"""The same store in plain synchronous code: scripts, Django, notebooks."""

from eventuali import Aggregate, ConflictError, DomainEvent
from eventuali.sync import EventStore


class SeatTaken(DomainEvent):
    """Somebody sits here."""

    seat: str
    by: str


class Room(Aggregate):
    """A room with seats."""

    taken: dict[str, str] = {}

    def take(self, seat: str, by: str) -> None:
        """A seat can be taken once."""
        if seat in self.taken:
            raise ValueError(f"{seat} is taken by {self.taken[seat]}")
        self.apply(SeatTaken(seat=seat, by=by))

    def apply_seat_taken(self, event: SeatTaken) -> None:
        """A handler only records what happened."""
        self.taken = {**self.taken, event.seat: event.by}


def main() -> None:
    """Two people want the same seat."""
    with EventStore.create("memory://") as store:
        room = Room(id="room-1")
        room.take("A1", "Ada")
        store.save(room)

        # Two people look at the same room and take the same seat.
        first, second = store.load(Room, "room-1"), store.load(Room, "room-1")
        first.take("A2", "Grace")
        second.take("A2", "Edsger")
        store.save(first)
        try:
            store.save(second)
        except ConflictError as conflict:
            print(f"expected version {conflict.expected_version}, but it is {conflict.actual_version}")

        # `update` loads again, and so the rule of the domain decides.
        try:
            store.update(Room, "room-1", lambda room: room.take("A2", "Edsger"))
        except ValueError as refusal:
            print(refusal)

        print([f"{event.event_type} {event.position}" for event in store.read_all()])


if __name__ == "__main__":
    main()

# > expected version 1, but it is 2
# > A2 is taken by Grace
# > ['SeatTaken 1', 'SeatTaken 2']
