"""The schema's versions: numbered `.sql` files per dialect, applied in order, each in the transaction that notes it."""

from __future__ import annotations

from importlib.resources import files

import msgspec

from offhook.gateway.errors import OperatorError
from offhook.gateway.store.database import CallDatabase, Transaction

__all__ = ["NEWEST", "SchemaStatus", "migrate", "schema_status"]

_FILES = files("offhook.gateway.store") / "migrations"
_LOCK = 0x0FF400C  # of Postgres' advisory lock: one process migrates at a time
_TABLE = (
    "create table if not exists schema_version (version integer primary key, "
    "applied_at timestamp default current_timestamp)"
)


def _numbered(dialect: str) -> dict[int, str]:
    names = sorted(file.name for file in (_FILES / dialect).iterdir() if file.name.endswith(".sql"))
    return {int(name.partition("_")[0]): name for name in names}


NEWEST = max(_numbered("sqlite"))


class SchemaStatus(msgspec.Struct, frozen=True):
    """`version`: of the database, 0 for an empty one. `pending`: the files that `migrate` would apply."""

    version: int
    pending: tuple[str, ...]


async def schema_status(database: CallDatabase) -> SchemaStatus:
    """Raises `OperatorError` for a newer schema than this version's."""

    async def look(session: Transaction) -> int:
        if session.dialect == "sqlite":
            known = await session.rows("select 1 from sqlite_master where name = 'schema_version'")
        else:
            known = await session.rows("select 1 where to_regclass('schema_version') is not null")
        return await _version(session) if known else 0

    return _status(database, await database.read(look))


def _status(database: CallDatabase, version: int) -> SchemaStatus:
    if version > NEWEST:
        raise OperatorError(
            f"{database.where} has schema {version}, and this version of Offhook knows schemas up to {NEWEST}: "
            "install the version that migrated it, or a newer one"
        )
    names = _numbered(database.dialect)
    return SchemaStatus(version, tuple(name for number, name in names.items() if number > version))


async def _version(session: Transaction) -> int:
    ((version,),) = await session.rows("select coalesce(max(version), 0) from schema_version")
    return int(version)


async def migrate(database: CallDatabase) -> list[str]:
    """Bring the database to the newest schema; the files applied. Several processes may do so at once.

    Raises `OperatorError` for a newer schema, `DatabaseAway`.
    """
    names = _numbered(database.dialect)
    done: list[str] = []

    async def apply(session: Transaction) -> str:
        if session.dialect == "postgres":
            await session.rows("select pg_advisory_xact_lock(?)", _LOCK)
        await session.script(_TABLE + ";")
        pending = _status(database, await _version(session)).pending
        if not pending:
            return ""
        await session.script((_FILES / session.dialect / pending[0]).read_text("utf-8"))
        number = next(number for number, name in names.items() if name == pending[0])
        await session.run("insert into schema_version (version) values (?)", number)
        return pending[0]

    if not (await schema_status(database)).pending:
        return done
    while name := await database.write(apply):
        done.append(name)
    return done
