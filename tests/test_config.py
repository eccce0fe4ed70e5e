"""Settings: read once, refused with a fix, shown without secrets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from offhook.gateway.config import Settings, check_proxies, settings_from, unquoted
from offhook.gateway.errors import OperatorError


def test_an_empty_environment_gives_the_defaults() -> None:
    assert settings_from({}) == Settings()


def test_every_variable_is_read() -> None:
    settings = settings_from(
        {
            "TWILIO_AUTH_TOKEN": "new, old",
            "OFFHOOK_PUBLIC_URL": "https://voice.example.com/",
            "OFFHOOK_PORT": "0",
            "OFFHOOK_AGENT": "a.yaml, b.yaml",
            "OFFHOOK_MAX_CALLS": "7",
            "OFFHOOK_DRAIN_S": "1.5",
        }
    )
    assert settings.twilio_auth_tokens == ("new", "old")
    assert settings.public_url == "https://voice.example.com"
    assert settings.agents == ("a.yaml", "b.yaml")
    assert (settings.port, settings.max_calls, settings.drain_s) == (0, 7, 1.5)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OFFHOOK_PORT": "http"}, "OFFHOOK_PORT must be a number"),
        ({"OFFHOOK_PORT": "70000"}, "from 0 to 65535"),
        ({"OFFHOOK_MAX_CALLS": "0"}, "OFFHOOK_MAX_CALLS must be from 1"),
        ({"OFFHOOK_DRAIN_S": "nan"}, "OFFHOOK_DRAIN_S must be from 0"),
        ({"OFFHOOK_INSECURE": "maybe"}, "must be 1 or 0"),
        ({"OFFHOOK_INSECURE": "1", "OFFHOOK_HOST": "0.0.0.0"}, "needs OFFHOOK_HOST=127.0.0.1"),
        ({"OFFHOOK_PUBLIC_URL": "voice.example.com"}, "must look like https://"),
        ({"OFFHOOK_ADMIN_PORT": "70000"}, "from 0 to 65535"),
        ({"OFFHOOK_CONSOLE_TOKEN": "fifteen-letters"}, "OFFHOOK_CONSOLE_TOKEN is shorter than 16 .* `openssl rand"),
        ({"OFFHOOK_API_TOKEN": "short"}, "OFFHOOK_API_TOKEN is shorter than 16"),
        ({"OFFHOOK_LIVE": "redis://host/0"}, "set OFFHOOK_FLEET_KEY"),
        ({"OFFHOOK_LIVE": "redis://host/0", "OFFHOOK_FLEET_KEY": "short"}, "OFFHOOK_FLEET_KEY is shorter than 16"),
        ({"OFFHOOK_LOG_LEVEL": "loud"}, "OFFHOOK_LOG_LEVEL must be"),
    ],
)
def test_an_invalid_value_is_refused_with_a_fix(environ: dict[str, str], says: str) -> None:
    with pytest.raises(OperatorError, match=says):
        settings_from(environ)


@pytest.mark.parametrize(
    ("environ", "port"),
    [({}, 8081), ({"OFFHOOK_PORT": "9000"}, 8081), ({"OFFHOOK_PORT": "0"}, 0), ({"OFFHOOK_ADMIN_PORT": "9"}, 9)],
)
def test_admin_port_by_default(environ: dict[str, str], port: int) -> None:
    assert settings_from(environ).admin_port == port


def test_secrets_are_not_shown() -> None:
    secrets = {
        "TWILIO_AUTH_TOKEN": "canary-2,canary-3",
        "TWILIO_API_KEY": "SK1",
        "TWILIO_API_SECRET": "canary-4",
        "OFFHOOK_API_TOKEN": "canary-5-of-the-api",
        "OFFHOOK_CONSOLE_TOKEN": "canary-6-of-the-console",
        "OFFHOOK_LIVE": "redis://user:canary-7@host:6379/0",
        "OFFHOOK_FLEET_KEY": "canary-8-of-the-fleet",
    }
    shown = settings_from(secrets).shown()
    assert "canary" not in str(shown)
    assert list(shown.values()).count("(set)") == len(secrets) - 1  # the key's name is public


def test_every_variable_is_in_the_operators_manual() -> None:
    root = Path(__file__).parents[1]
    manual = (root / "docs" / "operating.md").read_text(encoding="utf-8")
    read = set(re.findall(r'"((?:OFFHOOK|TWILIO)_[A-Z_]+)"', (root / "gateway" / "config.py").read_text()))
    assert len(read) > 10
    assert not [name for name in read if f"`{name}`" not in manual]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ('"a b"', "a b"),
        ("'x'", "x"),
        (' "x" ', "x"),
        ("\u201cx\u201d", "x"),  # pasted from a document
        ("x", "x"),
        ('"', '"'),
        ("\"x'", "\"x'"),
        ('""', ""),
        ("", ""),
    ],
)
def test_quotes_around_a_value_are_taken_off(given: str, read: str) -> None:
    assert unquoted(given) == read


def test_brackets_around_a_host_are_taken_off() -> None:
    assert settings_from({"OFFHOOK_HOST": "[::1]"}).host == "::1"


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTPS_PROXY": "http://127.0.0.1:3128"},
        {"ALL_PROXY": ""},
        {"ALL_PROXY": "socks5://127.0.0.1:1080", "NO_PROXY": "*"},
        {"MY_PROXY": "socks5://127.0.0.1:1080"},
    ],
)
def test_other_proxies_are_accepted(environ: dict[str, str]) -> None:
    check_proxies(environ)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "SOCKS4", "socks"])
def test_any_socks_proxy_is_refused(scheme: str) -> None:
    with pytest.raises(OperatorError, match="all_proxy names a SOCKS proxy"):
        check_proxies({"all_proxy": f"{scheme}://127.0.0.1:1080"})
