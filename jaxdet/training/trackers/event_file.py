"""TensorBoard's event files, without a library: those that write them import torch where it is.

A file is a sequence of TFRecords (length, its CRC-32C, content, its CRC-32C), each with a message
Event of TensorFlow's event.proto and summary.proto in protocol buffers' wire format.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

CRC32C = 0x82F63B78
"""The polynomial, lowest power first."""

START = 1
"""SessionLog.START: events from its step on, of an earlier file, no longer count."""

STRING = 7
"""DataType.DT_STRING."""

NOT_IN_NAMES = re.compile(r"[^-/\w.]")

_count = itertools.count()


class EventFile:
    """An event file that is being written, to which nobody else writes.

    Args:
        folder: where it lies, which is there.

    Raises:
        OSError: it cannot be written; all methods raise it.
    """

    def __init__(self, folder: Path):
        seconds, host = int(time.time()), socket.gethostname()
        name = f"events.out.tfevents.{seconds:010}.{host}.{os.getpid()}.{next(_count)}"
        self._file = (folder / name).open("xb")
        self._write(_bytes(3, b"brain.Event:2"))

    def restart(self, step: int) -> None:
        """Says that what earlier files have from a step on is to be left out."""
        self._write(_integer(2, step) + _bytes(7, _integer(1, START)))

    def write(self, step: int, summary: bytes) -> None:
        """Writes a summary, as the functions below make it."""
        self._write(_integer(2, step) + _bytes(5, summary))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, event: bytes) -> None:
        content = _key(1, 1) + struct.pack("<d", time.time()) + event
        length = struct.pack("<Q", len(content))
        self._file.write(length + _masked_crc(length) + content + _masked_crc(content))


def scalars(values: Mapping[str, float]) -> bytes:
    """A summary of numbers, kept in single precision."""
    with np.errstate(over="ignore"):
        return b"".join(
            _value(name, _key(2, 5) + np.float32(value).astype("<f4").tobytes())
            for name, value in values.items()
        )


def picture(name: str, png: bytes, height: int, width: int) -> bytes:
    """A summary of one PNG image."""
    image = _integer(1, height) + _integer(2, width) + _integer(3, 3) + _bytes(4, png)
    return _value(name, _bytes(4, image))


def text(name: str, markdown: str) -> bytes:
    """A summary of a text, for TensorBoard's plugin of that name."""
    metadata = _bytes(9, _bytes(1, _bytes(1, b"text")))
    shape = _bytes(2, _bytes(2, _integer(1, 1)))
    tensor = _integer(1, STRING) + shape + _bytes(8, markdown.encode())
    return _value(name, metadata + _bytes(8, tensor))


def _value(name: str, content: bytes) -> bytes:
    """Summary.value."""
    tag = NOT_IN_NAMES.sub("_", name).lstrip("/")
    return _bytes(1, _bytes(1, tag.encode()) + content)


def _integer(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    """Bytes, text or a message."""
    return _key(field, 2) + _varint(len(value)) + value


def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    """An integer of at least 0."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ CRC32C * (byte & 1)
    return byte


_CRC_OF_BYTE = [_crc_of_byte(byte) for byte in range(256)]


def _masked_crc(content: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ _CRC_OF_BYTE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF)
