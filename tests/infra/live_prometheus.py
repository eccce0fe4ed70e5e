"""A real Prometheus with the shipped scrape configuration and rules, scraping a page whose content the test sets."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from offhook.metrics.exposition import CONTENT_TYPE
from tests.infra.infra_files import INFRA

TOKEN = "only-for-this-test"
DEADLINE_S = 30.0


class Page:
    """What GET /metrics answers, to bearers of the token only."""

    def __init__(self) -> None:
        self.body = b""


class LivePrometheus:
    """Asks one Prometheus; all waiting is for an answer, never for time to pass."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expr: str, at_s: float | None = None) -> list[dict[str, Any]]:
        """Instant query, at a wall-clock time or now: the result vector. Raises AssertionError when Prometheus
        refuses the expression."""
        fields = {"query": expr} if at_s is None else {"query": expr, "time": str(at_s)}
        asked = f"{self.url}/api/v1/query?{urllib.parse.urlencode(fields)}"
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                result = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expr}: {error.code} {error.read().decode()}") from None
        assert isinstance(result, list)
        return result

    def value(self, expr: str, at_s: float | None = None) -> float:
        """The single value of an expression."""
        (one,) = self.query(expr, at_s)
        return float(one["value"][1])

    def last_evaluations(self) -> list[float]:
        """When each group of rules was evaluated last, wall clock; groups of every hour left out."""
        with urllib.request.urlopen(f"{self.url}/api/v1/rules", timeout=10) as answer:
            groups = json.load(answer)["data"]["groups"]
        stamps = [
            re.sub(r"\.(\d{6})\d*", r".\1", group["lastEvaluation"]) for group in groups if group["interval"] < 3_600
        ]
        return [datetime.fromisoformat(stamp).timestamp() for stamp in stamps]

    def wait_for(self, expr: str, enough: Callable[[list[dict[str, Any]]], bool] = bool) -> None:
        """Until the expression's result is enough (by default: not empty)."""
        until = time.monotonic() + DEADLINE_S
        while not enough(self.query(expr)):
            assert time.monotonic() < until, f"Prometheus never had: {expr}"
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(page: Page) -> Iterator[int]:
    """The page on a loopback port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(page.body if allowed else b"")

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def prometheus(target_port: int, folder: Path, token: str = TOKEN, evaluation_s: int = 1) -> Iterator[LivePrometheus]:
    """The shipped configuration with three changes: where the target is, where its token is, and every second (the
    rules: every `evaluation_s`).
    """
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": f"{evaluation_s}s", "scrape_timeout": "1s"}
    config["rule_files"] = [str(INFRA / "prometheus" / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["scrape_timeout"] = "1s"
    job["authorization"]["credentials_file"] = str(folder / "token")
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{target_port}"]}]
    (folder / "token").write_text(token)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "GOMAXPROCS": "1", "GOGC": "400"},
        )
    live = LivePrometheus(f"http://127.0.0.1:{port}")
    try:
        until = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{live.url}/-/ready", timeout=1):
                break
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            time.sleep(0.05)
        yield live
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
