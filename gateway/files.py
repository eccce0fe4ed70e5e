"""Output files, each written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["check_writable", "write_whole"]


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise `OSError` if `write_whole` cannot write `path`; leaves no file behind."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(21, "Is a directory", str(path))
    if target.exists() and not target.is_file():
        target.open("ab").close()
    else:
        part = _part(target)
        part.open("xb").close()
        part.unlink()


def write_whole(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write `data` (text as UTF-8) to `path`, replacing what is there in one step.

    After an error the file is what it was before: the old one, or none. Symbolic links are followed; what is no
    regular file, such as /dev/stdout or a named pipe, is written to directly. Raises `OSError`.
    """
    raw = data.encode("utf-8") if isinstance(data, str) else data
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with target.open("ab") as stream:  # appending: /dev/stdout may be a file that holds something already
            stream.write(raw)
        return
    part = _part(target)
    try:
        with part.open("xb") as file:
            file.write(raw)
        if target.exists():
            part.chmod(target.stat().st_mode & 0o777)
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _part(target: Path) -> Path:
    """A new name beside `target`: only within one file system is a rename a single step."""
    return target.with_name(f".{target.name[:100]}.{secrets.token_hex(4)}.part")
