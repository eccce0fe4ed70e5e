"""Recordings in S3-compatible storage, by boto3: `pip install 'offhook[s3]'`. Everything in here blocks.

Credentials, region and endpoint are those that boto3 finds: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL_S3`, or the machine's role.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from offhook.gateway.errors import OffhookError, OperatorError

__all__ = ["Bucket", "BucketAway"]

CONNECT_S, READ_S = 5, 30
ATTEMPTS = 2  # of one request; what still fails waits in the spool


class BucketAway(OffhookError):
    """The storage cannot be reached, or refuses."""


class Bucket:
    """`s3://bucket/prefix`: objects by name. From any thread. Every method raises `BucketAway`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise OperatorError("OFFHOOK_RECORDINGS_BUCKET must look like s3://bucket/prefix")
        try:
            import boto3
            from boto3.exceptions import Boto3Error
            from boto3.s3.transfer import TransferConfig
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError
        except ModuleNotFoundError:
            raise OperatorError("OFFHOOK_RECORDINGS_BUCKET needs boto3: pip install 'offhook[s3]'") from None
        self._name, prefix = parts.netloc, parts.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._errors = (BotoCoreError, ClientError, Boto3Error)
        self._transfer = TransferConfig(use_threads=False)  # one upload at a time, beside the calls
        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"total_max_attempts": ATTEMPTS},
            request_checksum_calculation="when_required",  # not every compatible storage knows the newer ones
            response_checksum_validation="when_required",
        )
        try:
            self._client: Any = boto3.client("s3", config=config)
        except (*self._errors, ValueError) as error:
            raise OperatorError(f"OFFHOOK_RECORDINGS_BUCKET: {error}") from None

    def url(self, name: str) -> str:
        """Of an object."""
        return f"s3://{self._name}/{self._prefix}{name}"

    def upload(self, path: Path, name: str) -> None:
        """The whole file, or nothing. Raises OSError, too."""
        with self._translated():
            self._client.upload_file(str(path), self._name, self._prefix + name, Config=self._transfer)

    def download(self, name: str, path: Path) -> bool:
        """Into a file, which is there whole or not at all. False without such an object."""
        with self._translated():
            try:
                self._client.download_file(self._name, self._prefix + name, str(path), Config=self._transfer)
            except self._errors as error:
                if _missing(error):
                    return False
                raise
        return True

    def opened(self, name: str) -> _Object | None:
        """To be read in pieces; None without such an object."""
        with self._translated():
            try:
                head = self._client.head_object(Bucket=self._name, Key=self._prefix + name)
            except self._errors as error:
                if _missing(error):
                    return None
                raise
        return _Object(self, name, int(head["ContentLength"]))

    def read(self, name: str, at: int, size: int) -> bytes:
        """A piece of an object."""
        with self._translated():
            where = f"bytes={at}-{at + size - 1}"
            answer = self._client.get_object(Bucket=self._name, Key=self._prefix + name, Range=where)
            body: bytes = answer["Body"].read()
            return body

    def remove(self, begins: str) -> list[str]:
        """Every object whose name begins so; their URLs."""
        gone: list[str] = []
        with self._translated():
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._name, Prefix=self._prefix + begins):
                for found in page.get("Contents", ()):
                    self._client.delete_object(Bucket=self._name, Key=found["Key"])
                    gone.append(f"s3://{self._name}/{found['Key']}")
        return gone

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise BucketAway(f"s3://{self._name}: {error}") from error


class _Object:
    """A `ByteSource`."""

    def __init__(self, bucket: Bucket, name: str, size: int) -> None:
        self._bucket, self._name, self.size = bucket, name, size

    def read(self, at: int, size: int) -> bytes:
        size = min(size, self.size - at)
        return self._bucket.read(self._name, at, size) if size > 0 else b""

    def close(self) -> None:
        """Nothing is open."""


def _missing(error: Exception) -> bool:
    response = getattr(error, "response", {})
    return response.get("Error", {}).get("Code") in ("404", "NoSuchKey", "NotFound")
