"""An S3 server of the tests' own: moto's, over HTTP on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.needs import require

__all__ = ["S3Server", "s3_server"]


class S3Server:
    """`url`: where it answers while it runs; its objects stay when it stops and starts."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self._make = ThreadedMotoServer
        self._server = self._make(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """It refuses connections from now on."""
        self._server.stop()

    def start(self) -> None:
        """At the same port."""
        self._server = self._make(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def objects(self, bucket: str) -> dict[str, bytes]:
        """All of a bucket, by name."""
        client = self.client()
        found = client.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {one["Key"]: client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in found}

    def client(self):
        import boto3

        return boto3.client("s3", endpoint_url=self.url)


@contextlib.contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch, bucket: str) -> Iterator[S3Server]:
    """With an empty bucket; boto3 finds it by the environment."""
    require("boto3", "moto")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = S3Server()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    try:
        server.client().create_bucket(Bucket=bucket)
        yield server
    finally:
        server.stop()
