"""The store that the settings describe: where it is, and the key that hashes numbers."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from offhook.gateway.config import Settings
from offhook.gateway.errors import OperatorError
from offhook.gateway.files import write_whole
from offhook.gateway.store.bucket import Bucket
from offhook.gateway.store.database import CallDatabase
from offhook.gateway.store.postgres import PostgresDatabase
from offhook.gateway.store.recordings import Recordings
from offhook.gateway.store.sealed import read_keys
from offhook.gateway.store.spool import Spool
from offhook.gateway.store.sqlite import SqliteDatabase

if TYPE_CHECKING:  # not needed by the commands that work on the store
    from offhook.gateway.store.kept import KeptRecords
    from offhook.metrics.catalogue import Metrics

__all__ = ["configured_database", "configured_recordings", "kept_records", "number_key"]

FILE, KEY_FILE = "offhook.sqlite3", "number.key"


def _database_of(settings: Settings) -> CallDatabase:
    if settings.database_url:
        return PostgresDatabase(settings.database_url)
    return SqliteDatabase(Path(settings.data_dir) / FILE)


def configured_database(settings: Settings) -> CallDatabase:
    """For a command that works on the store. Raises `OperatorError` where none is configured."""
    if not settings.data_dir and not settings.database_url:
        raise OperatorError("records are kept in memory: set OFFHOOK_DATA_DIR (or OFFHOOK_DATABASE_URL, too)")
    if not settings.database_url and not Path(settings.data_dir).is_dir():
        raise OperatorError(f"OFFHOOK_DATA_DIR {settings.data_dir}: no such folder: `offhook serve` makes it")
    return _database_of(settings)


def configured_recordings(settings: Settings) -> Recordings:
    """Where recordings go, and with which keys. Raises `OperatorError`."""
    bucket = None
    if settings.recordings_bucket:
        if not settings.data_dir:
            raise OperatorError(
                "OFFHOOK_RECORDINGS_BUCKET needs OFFHOOK_DATA_DIR: a folder for what waits while the bucket is away"
            )
        bucket = Bucket(settings.recordings_bucket)
    return Recordings(read_keys(settings.recording_keys), bucket)


def kept_records(settings: Settings, metrics: Metrics, recordings: Recordings | None = None) -> KeptRecords | None:
    """The store of a gateway, None when records are kept in memory alone. Raises `OperatorError`."""
    if not settings.data_dir:
        if settings.database_url:
            raise OperatorError(
                "OFFHOOK_DATABASE_URL needs OFFHOOK_DATA_DIR, too: a folder for what waits while the database is away"
            )
        return None
    from offhook.gateway.store.kept import KeptRecords

    spool = Spool(Path(settings.data_dir))
    key, node = number_key(settings), f"{socket.gethostname()}:{os.getpid()}"
    return KeptRecords(_database_of(settings), spool, key, metrics, node=node, recordings=recordings)


def number_key(settings: Settings) -> bytes:
    """What callers' numbers are hashed with. Made once, beside a SQLite file; given for a database that others share.

    Raises `OperatorError`.
    """
    if settings.number_key:
        return settings.number_key.encode()
    if settings.database_url:
        raise OperatorError(
            "OFFHOOK_DATABASE_URL needs OFFHOOK_NUMBER_KEY, which hashes callers' numbers and is the same for every "
            "process: make one with `openssl rand -hex 24`"
        )
    path = Path(settings.data_dir) / KEY_FILE
    try:
        if not path.exists():
            write_whole(path, secrets.token_hex(24))
            path.chmod(0o600)
        return path.read_bytes().strip()
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}: make it readable, or set OFFHOOK_NUMBER_KEY") from None
