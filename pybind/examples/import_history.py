"""Bringing history in: many events to several streams in one atomic append, each with its own time."""

import asyncio
from datetime import UTC, datetime

from eventuali import NO_STREAM, DomainEvent, EventStore, StreamAppend


class Measured(DomainEvent):
    """A sensor said something."""

    celsius: float


async def main() -> None:
    """Imports a little history, and reads it in batches."""
    async with EventStore.create("memory://") as store:
        hours = [datetime(2024, 5, 17, hour, tzinfo=UTC) for hour in range(24)]
        receipts = await store.append_all(
            [
                StreamAppend(
                    f"sensor-{number}",
                    [Measured(celsius=15 + hour.hour / 4 + number) for hour in hours],
                    aggregate_type="Sensor",
                    expected_version=NO_STREAM,
                    timestamps=hours,
                )
                for number in range(3)
            ]
        )
        print([(receipt.aggregate_id, receipt.version, receipt.position) for receipt in receipts])

        warmest = 0.0
        async for events in store.read_all(event_types=[Measured]).batches():
            warmest = max(warmest, *(event.data["celsius"] for event in events))
        print(f"{warmest} degrees at most in {await store.head()} events")

        async for event in store.read("sensor-1", backwards=True, limit=1):
            print(f"{event.aggregate_id} was last heard at {event.timestamp:%H:%M}")


if __name__ == "__main__":
    asyncio.run(main())

# > [('sensor-0', 24, 24), ('sensor-1', 24, 48), ('sensor-2', 24, 72)]
# > 22.75 degrees at most in 72 events
# > sensor-1 was last heard at 23:00
