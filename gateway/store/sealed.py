"""Recordings encrypted at rest: AES-256-GCM, a second of audio at a time.

A file is a header and one slot per second: nonce, encrypted audio, tag. The header names the operator's key; the file's
own key is derived from it and from a random salt. Each slot is bound to its file and its place. What a crash leaves is
whole but for its last second.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import re
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from offhook.gateway.errors import OperatorError
from offhook.media.recording import BYTES_PER_S

__all__ = ["MAGIC", "ByteSource", "RecordingKeys", "SealedAudio", "SealedFile", "read_keys"]

log = logging.getLogger(__name__)

MAGIC = b"OFFHOOK1"
NAME_BYTES, SALT_BYTES, NONCE_BYTES, TAG_BYTES = 16, 16, 12, 16
HEADER_BYTES = len(MAGIC) + NAME_BYTES + SALT_BYTES + TAG_BYTES
CHUNK = BYTES_PER_S
SLOT_BYTES = NONCE_BYTES + CHUNK + TAG_BYTES
_NAME = re.compile(r"[A-Za-z0-9_-]{1,16}")


class ByteSource(Protocol):
    """A file, or an object in a bucket. Raises OSError or `BucketAway`."""

    size: int

    def read(self, at: int, size: int) -> bytes: ...

    def close(self) -> None: ...


class RecordingKeys:
    """The operator's keys by name; the first encrypts, each decrypts what names it."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        self._keys = dict(keys)
        self._first = next(iter(self._keys))

    def new_header(self) -> tuple[bytes, AESGCM]:
        """Of a new file, and its cipher."""
        begins = MAGIC + self._first.encode().ljust(NAME_BYTES, b"\0") + os.urandom(SALT_BYTES)
        cipher = _cipher(self._keys[self._first], begins)
        return begins + cipher.encrypt(bytes(NONCE_BYTES), b"", begins), cipher

    def cipher_of(self, header: bytes) -> AESGCM:
        """Of a file with this header. Raises `OperatorError` where its key is missing or another one."""
        begins, tag = header[:-TAG_BYTES], header[-TAG_BYTES:]
        name = header[len(MAGIC) : len(MAGIC) + NAME_BYTES].rstrip(b"\0").decode("ascii", "replace")
        if name not in self._keys:
            raise OperatorError(
                f"the recording is encrypted with the key {name!r}: add it to OFFHOOK_RECORDING_KEYS, behind the first"
            )
        cipher = _cipher(self._keys[name], begins)
        try:
            cipher.decrypt(bytes(NONCE_BYTES), tag, begins)
        except InvalidTag:
            raise OperatorError(
                f"the recording was encrypted with another key of the name {name!r}: "
                "OFFHOOK_RECORDING_KEYS must have the one of that time, under this name"
            ) from None
        return cipher


def _cipher(key: bytes, begins: bytes) -> AESGCM:
    return AESGCM(HKDF(hashes.SHA256(), 32, salt=begins, info=b"offhook recording").derive(key))


def read_keys(text: str) -> RecordingKeys | None:
    """Of `name:base64,...`; None of nothing. Raises `OperatorError`, which holds no key."""
    keys: dict[str, bytes] = {}
    for number, part in enumerate(filter(None, re.split(r"[\s,]+", text)), 1):
        name, _, encoded = part.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not _NAME.fullmatch(name) or len(key) != 32 or name in keys:
            raise OperatorError(
                f"OFFHOOK_RECORDING_KEYS: entry {number} must be a name of its own and 32 bytes in base64, such as "
                '`echo "2026:$(openssl rand -base64 32)"` prints'
            )
        keys[name] = key
    return RecordingKeys(keys) if keys else None


class SealedAudio:
    """The audio in a source, without the WAV header. Raises `OperatorError` where its key is not at hand."""

    def __init__(self, source: ByteSource, keys: RecordingKeys | None) -> None:
        self._source = source
        self._header = source.read(0, HEADER_BYTES)
        if keys is None:
            raise OperatorError("the recording is encrypted: set OFFHOOK_RECORDING_KEYS to the keys it was made with")
        if len(self._header) < HEADER_BYTES:
            raise OSError("the recording was interrupted before it began")
        self._cipher = keys.cipher_of(self._header)
        self.size = _audio_bytes(source.size)

    def read(self, at: int, size: int) -> bytes:
        """Up to `size` bytes of audio. A second that was damaged is silence."""
        first, last = at // CHUNK, (at + size - 1) // CHUNK
        data = self._source.read(HEADER_BYTES + first * SLOT_BYTES, (last - first + 1) * SLOT_BYTES)
        audio = b"".join(
            _opened(self._cipher, self._header, first + number, data[start : start + SLOT_BYTES])
            for number, start in enumerate(range(0, len(data), SLOT_BYTES))
        )
        return audio[at - first * CHUNK :][:size]

    def close(self) -> None:
        self._source.close()


class SealedFile:
    """An `AudioFile`. An existing one is written on."""

    def __init__(self, path: Path, keys: RecordingKeys) -> None:
        self._file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
        try:
            self._begin(path, keys)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, path: Path, keys: RecordingKeys) -> None:
        self._header = self._at(0, HEADER_BYTES)
        if MAGIC.startswith(self._header[: len(MAGIC)]) and len(self._header) < HEADER_BYTES:
            self._header, self._cipher = keys.new_header()
            self._put(0, self._header)
        elif self._header.startswith(MAGIC):
            self._cipher = keys.cipher_of(self._header)
        else:
            raise ValueError(f"{path} exists and is not an encrypted recording: remove it or record to another path")
        self._length = _audio_bytes(self._file.seek(0, os.SEEK_END))

    def read(self, at: int, size: int) -> bytes:
        audio = bytearray()
        while size > 0 and at < self._length:
            index, within = divmod(at, CHUNK)
            part = self._chunk(index)[within : within + size]
            if not part:
                break
            audio += part
            at, size = at + len(part), size - len(part)
        return bytes(audio)

    def write(self, at: int, data: bytes) -> None:
        while self._length < at:
            self._write(self._length, bytes(min(at - self._length, CHUNK)))
        rest = memoryview(data)
        while rest:
            taken = self._write(at, rest)
            at, rest = at + taken, rest[taken:]

    def length(self) -> int:
        return self._length

    def settle(self) -> None:
        """Nothing: each slot stands for itself."""

    def close(self) -> None:
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()

    def _write(self, at: int, data: bytes | memoryview) -> int:
        """As much as the chunk at `at`, within the audio or at its end, takes."""
        index, within = divmod(at, CHUNK)
        data = data[: CHUNK - within]
        chunk = bytearray(self._chunk(index))
        chunk[within : within + len(data)] = data
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, bytes(chunk), _bound(self._header, index))
        self._put(HEADER_BYTES + index * SLOT_BYTES, nonce + sealed)
        self._length = max(self._length, at + len(data))
        return len(data)

    def _chunk(self, index: int) -> bytes:
        return _opened(self._cipher, self._header, index, self._at(HEADER_BYTES + index * SLOT_BYTES, SLOT_BYTES))

    def _at(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        return self._file.read(size)

    def _put(self, at: int, data: bytes) -> None:
        self._file.seek(at)
        rest = memoryview(data)
        while rest:  # an unbuffered file may take less than it is given
            rest = rest[self._file.write(rest) :]


def _audio_bytes(file_bytes: int) -> int:
    whole, rest = divmod(max(0, file_bytes - HEADER_BYTES), SLOT_BYTES)
    return whole * CHUNK + max(0, rest - NONCE_BYTES - TAG_BYTES) // 4 * 4


def _bound(header: bytes, index: int) -> bytes:
    return header + index.to_bytes(8, "big")


def _opened(cipher: AESGCM, header: bytes, index: int, slot: bytes) -> bytes:
    """The audio of a slot; silence of its length where it is damaged, nothing where it is the torn end."""
    if len(slot) <= NONCE_BYTES + TAG_BYTES:
        return b""
    try:
        return cipher.decrypt(slot[:NONCE_BYTES], slot[NONCE_BYTES:], _bound(header, index))
    except InvalidTag:
        log.warning("second %d of a recording is damaged: silence in its place", index)
        return bytes((len(slot) - NONCE_BYTES - TAG_BYTES) // 4 * 4)
