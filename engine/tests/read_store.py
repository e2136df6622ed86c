"""Reads a store with Python's standard library, from nothing but docs/file-format.md, and prints each event as a line of JSON."""

import base64
import json
import struct
import sys
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_SEED, TABLE_SEED, BODY_SEED = 0x4556464C, 0x45565442, 0x4556424F
EVENTS, SEAL, EPOCH, CLOSE = 1, 2, 3, 4
REMOVED = 1


def check(condition: bool, complaint: str) -> None:
    if not condition:
        raise SystemExit(complaint)


def manifest(path: Path) -> tuple[bytes, list[tuple[Any, ...]], list[tuple[bytes, int]]]:
    data = path.read_bytes()
    check(data[:8] == b"EVTLIMAN", "this is no manifest")
    check(zlib.crc32(data[:-4], FILE_SEED) == struct.unpack("<I", data[-4:])[0], "the manifest is damaged")
    _, readable_from, store_id, _, count, lineage, scavenged = struct.unpack_from("<II16sIIII", data, 8)
    check(readable_from <= 1, "the manifest is of a newer version")
    check(len(data) == 48 + 72 * count + lineage + scavenged + 4, "the manifest's length is wrong")
    segments = [struct.unpack_from("<QIIQQQ", data, 48 + 72 * number) for number in range(count)]
    ancestors = [struct.unpack_from("<16sQ", data, 48 + 72 * count + at) for at in range(0, lineage, 32)]
    return store_id, segments, ancestors


class Extras:
    """Metadata and tags."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self) -> int:
        (number,) = struct.unpack_from("<Q", self.data, self.at)
        self.at += 8
        return int(number)

    def string(self) -> str:
        length = self.number()
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def option(self) -> str | None:
        self.at += 1
        return self.string() if self.data[self.at - 1] else None

    def read(self) -> dict[str, Any]:
        if not self.data:
            return {"causation_id": None, "correlation_id": None, "user_id": None, "headers": {}, "tags": []}
        ids = {name: self.option() for name in ("causation_id", "correlation_id", "user_id")}
        headers = {self.string(): self.string() for _ in range(self.number())}
        return {**ids, "headers": headers, "tags": [self.string() for _ in range(self.number())]}


def record(body: bytes) -> dict[str, Any]:
    form, flags, *lengths, _, schema_version, event_id, extras = struct.unpack_from("<BBHHHHHI16sI", body)
    check(flags == 0 and form in (0, 1), "the body is of a newer version")
    at, names = 36, []
    for length in lengths:
        names.append(body[at : at + length].decode())
        at += length
    payload = body[at + extras :]
    return {
        "id": str(uuid.UUID(bytes=event_id)),
        **dict(zip(("tenant", "aggregate_id", "aggregate_type", "event_type"), names, strict=True)),
        "schema_version": schema_version,
        "format": ("json", "protobuf")[form],
        "payload": base64.b64encode(payload).decode(),
        **Extras(body[at : at + extras]).read(),
    }


def events(store: Path) -> Iterator[dict[str, Any]]:
    store_id, segments, ancestors = manifest(store / "MANIFEST")
    lsn, position, anchor, epoch, commit_time = segments[0][3], segments[0][4], 0, None, -(2**63)
    for number, (sequence, generation, sealed, base_lsn, base_position, end_lsn) in enumerate(segments):
        data = (store / f"{sequence:09}.g{generation}.seg").read_bytes()
        check(data[:8] == b"EVTLISEG", "this is no segment")
        check(
            zlib.crc32(data[:4092], FILE_SEED) == struct.unpack_from("<I", data, 4092)[0],
            "the segment's header is damaged",
        )
        _, readable_from, owner, salt, *told, header_epoch, lsn_, position_, anchor_ = struct.unpack_from(
            "<II16s8sQIIQQI", data, 8
        )
        check(readable_from <= 1, "the segment is of a newer version")
        check(data[76:80] == bytes(4), "the segment is compressed, which this reader cannot undo")
        maker = next((ancestor for ancestor, end in ancestors if base_lsn < end), store_id)
        check(owner == maker and told == [sequence, generation], "the segment is another one")
        check(
            (lsn_, position_, anchor_) == (base_lsn, base_position, anchor) == (lsn, position, anchor),
            "a segment is missing",
        )
        seed, at, previous, ended = zlib.crc32(salt, FILE_SEED), 4096, anchor, False
        epoch = header_epoch if epoch is None else epoch
        while data[at : at + 64].strip(b"\0"):
            head = struct.unpack_from("<IBBHQIIQqQIIII", data, at)
            (
                magic,
                kind,
                _,
                _,
                frame_lsn,
                frame_epoch,
                count,
                base,
                time,
                durable,
                before,
                length,
                table_sum,
                head_sum,
            ) = head
            check(magic == 0x46525645 and zlib.crc32(data[at : at + 60], seed) == head_sum, "a frame is damaged")
            check((frame_lsn, base, before) == (lsn, position, previous), "a frame is missing")
            check(frame_epoch > epoch if kind == EPOCH else frame_epoch == epoch, "the epoch is wrong")
            check(
                time >= commit_time and durable <= lsn and (kind == EVENTS) == (count > 0), "a frame contradicts itself"
            )
            check(kind in (EVENTS, SEAL, EPOCH, CLOSE), "a frame is of a newer version")
            table, end = at + 64 + 40 * count, at + 64 + 40 * count + length
            check(
                zlib.crc32(data[at + 64 : table] if count else data[table:end], TABLE_SEED) == table_sum,
                "a table is damaged",
            )
            for entry in range(at + 64, table, 40):
                offset, size, body_sum, delta, version, timestamp, flags, _ = struct.unpack_from(
                    "<IIIIQqII", data, entry
                )
                body = data[entry + offset : entry + offset + size]
                check(flags in (0, REMOVED), "a record is of a newer version")
                check(zlib.crc32(body, BODY_SEED) == body_sum, "a record is damaged")
                if flags == REMOVED:
                    check(not body.strip(b"\0"), "a record that was taken out has a body")
                    continue
                yield {"position": base + delta, "version": version, "timestamp": timestamp, **record(body)}
            if kind == SEAL:
                anchor, _, end_position = struct.unpack_from("<IIQ", data, table)
                check(end_position == position, "the seal is wrong")
                ended = True
            frame = (64 + 40 * count + length + 7) // 8 * 8
            at, lsn, position, previous, epoch, commit_time = (
                at + frame,
                lsn + frame,
                base + count,
                head_sum,
                frame_epoch,
                time,
            )
            if ended:
                break
        check(not data[at:].strip(b"\0"), "there is something behind the end")
        check(ended == bool(sealed) and (not sealed or lsn == end_lsn), "the manifest contradicts the segment")
        check(ended or number == len(segments) - 1, "a segment has no seal")


if __name__ == "__main__":
    for event in events(Path(sys.argv[1])):
        print(json.dumps(event))
