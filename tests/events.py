"""Reads TensorBoard's event files by their definition, of which tensorboardX has a copy."""

from __future__ import annotations

import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c


def read_events(folder: Path) -> list[Event]:
    """The events of all files in the order of their time, each checked by its checksums."""
    events = []
    for path in folder.glob("events.out.tfevents.*"):
        content, offset = path.read_bytes(), 0
        while offset < len(content):
            head, crc = content[offset : offset + 8], content[offset + 8 : offset + 12]
            end = offset + 12 + struct.unpack("<Q", head)[0]
            body = content[offset + 12 : end]
            assert crc == struct.pack("<I", masked_crc32c(head))
            assert content[end : end + 4] == struct.pack("<I", masked_crc32c(body))
            events.append(Event.FromString(body))
            offset = end + 4
    return sorted(events, key=lambda event: event.wall_time)
