"""Kills a writer again and again, at random moments, and looks whether it kept its word each time.

Usage: writer.py DIRECTORY ROUNDS [SEED]

One process imports everything and forks a writer for each round, which saves single events, batches and with several
tasks, and writes down in a pipe what was acknowledged. It is killed (SIGKILL) after a random time. Then the store is
opened here: every acknowledged event is there, in order, exactly once; what was not acknowledged is there whole or not
at all.
"""

import asyncio
import os
import random
import select
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import eventuali.sync
from eventuali import DomainEvent, EventStore, EventStoreConfig, StoredEvent, StreamAppend

ACKNOWLEDGED = struct.Struct("<HIB")
"""Which stream, its version now, and how many events went in together."""

STREAMS = 8


class Noted(DomainEvent):
    """One event of an append of `together`, which begins at the version `first` of the stream."""

    first: int
    together: int
    filling: str


def noted(first: int, together: int, chance: random.Random) -> list[DomainEvent]:
    """The events of one append."""
    return [Noted(first=first, together=together, filling="x" * chance.randrange(400)) for _ in range(together)]


async def write(
    store: EventStore, task: int, kind: str, chance: random.Random, acknowledge: Callable[[bytes], object]
) -> None:
    """Appends to a stream of its own until it is killed."""
    stream = f"stream-{task}"
    version = len([event async for event in store.read(stream)])
    while True:
        together = 1 if kind == "single" else chance.randrange(1, 8)
        events = noted(version + 1, together, chance)
        if kind == "atomic":
            parts = [StreamAppend(stream, events[:1], aggregate_type="Stream", expected_version=version)]
            if together > 1:
                parts.append(StreamAppend(stream, events[1:], aggregate_type="Stream", expected_version=version + 1))
            receipt = (await store.append_all(parts))[-1]
        else:
            receipt = await store.append(stream, events, aggregate_type="Stream", expected_version=version)
        version += together
        if receipt.version != version:
            raise SystemExit(f"{stream}: version {receipt.version} acknowledged instead of {version}")
        acknowledge(ACKNOWLEDGED.pack(task, version, together))


async def write_until_killed(place: EventStoreConfig, seed: int, pipe: int) -> None:
    """One writer process: one or several tasks, each with a kind of its own."""
    chance = random.Random(seed)
    async with EventStore.create(place) as store:
        tasks = chance.choice([1, 1, 4, STREAMS])
        kinds = [chance.choice(["single", "batch", "atomic"]) for _ in range(tasks)]
        os.write(pipe, ACKNOWLEDGED.pack(0xFFFF, 0, 0))
        await asyncio.gather(
            *(write(store, task, kinds[task], chance, lambda note: os.write(pipe, note)) for task in range(tasks))
        )


def kill_one(place: EventStoreConfig, chance: random.Random) -> Iterator[tuple[int, int]]:
    """Starts a writer, kills it after a random time; what it acknowledged: streams and their versions."""
    incoming, outgoing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(incoming)
        try:
            asyncio.run(write_until_killed(place, chance.randrange(1 << 30), outgoing))
        finally:
            os._exit(7)
    os.close(outgoing)
    notes = bytearray()
    # Some are killed while they open the store, most while they write.
    opening = chance.random() < 0.1
    until = time.monotonic() + chance.random() * (0.01 if opening else 0.08)
    started = opening
    while time.monotonic() < until or not started:
        if select.select([incoming], [], [], 0.002)[0]:
            notes += os.read(incoming, 1 << 16)
            if not started and notes:
                started, until = True, time.monotonic() + chance.random() * 0.08
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        raise SystemExit(f"the writer ended by itself, with status {os.WEXITSTATUS(status)}")
    while more := os.read(incoming, 1 << 16):
        notes += more
    os.close(incoming)
    whole = len(notes) // ACKNOWLEDGED.size * ACKNOWLEDGED.size
    for stream, version, _ in ACKNOWLEDGED.iter_unpack(bytes(notes[:whole])):
        if stream != 0xFFFF:
            yield stream, version


class Checker:
    """Follows a store's events and finds what is wrong with them."""

    def __init__(self) -> None:
        self.versions = dict.fromkeys(range(STREAMS), 0)
        self.open_appends = dict.fromkeys(range(STREAMS), 0)
        self.ids: set[object] = set()

    def take(self, event: DomainEvent | StoredEvent) -> None:
        """The next event, in the order of positions."""
        if not isinstance(event, Noted):
            raise SystemExit(f"{event!r} was never written")
        stream = int(event.aggregate_id.removeprefix("stream-"))
        self.versions[stream] += 1
        if (event.position, event.aggregate_version) != (len(self.ids) + 1, self.versions[stream]):
            raise SystemExit(f"{event!r} is out of order: {event.position}, {event.aggregate_version}")
        if event.event_id in self.ids:
            raise SystemExit(f"{event!r} is there twice")
        self.ids.add(event.event_id)
        if self.open_appends[stream] == 0:
            self.open_appends[stream] = event.together
            if event.first != self.versions[stream]:
                raise SystemExit(f"an append that begins at {event.first} has lost its beginning")
        self.open_appends[stream] -= 1

    def finish(self, head: int, acknowledged: dict[int, int]) -> None:
        """The end of the store."""
        if any(self.open_appends.values()):
            raise SystemExit(f"an append is there in part: {self.open_appends}")
        if head != len(self.ids):
            raise SystemExit(f"the head is {head}, but there are {len(self.ids)} events")
        for stream, version in acknowledged.items():
            if self.versions[stream] < version:
                raise SystemExit(f"stream {stream} has {self.versions[stream]} events, but {version} were acknowledged")


def check(place: EventStoreConfig, acknowledged: dict[int, int]) -> int:
    """Looks whether the store kept its word; how many events it has."""
    checker = Checker()
    with eventuali.sync.EventStore.create(place) as store:
        for event in store.read_all():
            checker.take(event)
        checker.finish(store.head(), acknowledged)
    return len(checker.ids)


def main() -> None:
    """Runs the rounds and says what became of them."""
    directory, rounds = Path(sys.argv[1]), int(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
    chance = random.Random(seed)
    events = 0
    acknowledged: dict[int, int] = {}
    place = EventStoreConfig.embedded(directory / "store-0")
    try:
        for round_ in range(rounds):
            if round_ % 10 == 0:
                place = EventStoreConfig.embedded(directory / f"store-{round_}")
                place = chance.choice(
                    [
                        place,
                        place.with_durability("sync"),
                        place.with_durability("interval"),
                        place.with_durability("os"),
                    ]
                )
                acknowledged = {}
            for stream, version in kill_one(place, chance):
                acknowledged[stream] = max(version, acknowledged.get(stream, 0))
            # Looking must not mend what the next writer is to find, so every other round it is left as it is.
            if round_ % 2:
                events += check(place, acknowledged)
    except SystemExit as failure:
        raise SystemExit(f"seed {seed}, {place}: {failure}") from None
    print(f"{rounds} kills, {events} events checked, nothing lost or doubled (seed {seed})")


if __name__ == "__main__":
    main()
