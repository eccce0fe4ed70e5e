"""Settings of one gateway process: read once from an environment, frozen, shown with secrets masked."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from offhook.gateway.errors import OperatorError, nearest

__all__ = ["Settings", "check_proxies", "misspelt", "settings_from", "unquoted"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")
SECRET_LENGTH_MIN = 16  # characters: shorter ones are guessed


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says of the process; the model reads its own variables (`offhook.gateway.models`).

    Times, sizes and behaviour of an agent are set in its agent file instead.
    """

    twilio_account_sid: str = ""  # TWILIO_ACCOUNT_SID
    twilio_auth_tokens: tuple[str, ...] = ()  # TWILIO_AUTH_TOKEN, secret; several with commas while rotating
    twilio_api_key: str = ""  # TWILIO_API_KEY and TWILIO_API_SECRET: for REST, instead of the auth token
    twilio_api_secret: str = ""  # secret
    twilio_base_url: str = "https://api.twilio.com"  # OFFHOOK_TWILIO_BASE_URL
    public_url: str = ""  # OFFHOOK_PUBLIC_URL: where Twilio reaches this process, e.g. https://voice.example.com
    host: str = "127.0.0.1"  # OFFHOOK_HOST
    port: int = 8080  # OFFHOOK_PORT
    admin_host: str = "127.0.0.1"  # OFFHOOK_ADMIN_HOST: console and metrics, when there is a public URL
    admin_port: int = 8081  # OFFHOOK_ADMIN_PORT; without it 0 when OFFHOOK_PORT is 0: any free one
    agents: tuple[str, ...] = ()  # OFFHOOK_AGENT: paths of agent files, with commas
    provider: str = ""  # OFFHOOK_PROVIDER: every agent on this provider's default model and voice, for comparisons
    max_calls: int = 100  # OFFHOOK_MAX_CALLS
    caller_calls: int = 10  # OFFHOOK_CALLER_CALLS: at once, of one number; 0: as many as there are places
    caller_calls_per_h: int = 120  # OFFHOOK_CALLER_CALLS_PER_H: of one number; 0: any
    refused_callers: tuple[str, ...] = ()  # OFFHOOK_REFUSED_CALLERS: numbers, prefixes (+1900*), `withheld`
    cost_per_day: float = 0.0  # OFFHOOK_COST_PER_DAY: USD of all calls in 24 hours; 0: any
    console_token: str = ""  # OFFHOOK_CONSOLE_TOKEN, secret: password or bearer token for console and metrics
    console_read_token: str = ""  # OFFHOOK_CONSOLE_READ_TOKEN, secret: opens the console to look at, not to act
    api_token: str = ""  # OFFHOOK_API_TOKEN, secret: lets others place and steer calls
    calls_per_s: float = 1.0  # OFFHOOK_CALLS_PER_S: calls placed; Twilio's default for an account
    insecure: bool = False  # OFFHOOK_INSECURE=1: no signature and token checks
    simulated: bool = False  # OFFHOOK_SIMULATED=1: calls are rehearsals, marked as such everywhere
    prices: str = ""  # OFFHOOK_PRICES: a YAML file, model name -> USD per million tokens, over the built-in table
    browser_tokens: bool = False  # OFFHOOK_BROWSER_TOKENS=1: POST /console/token gives out short-lived model tokens
    softphone_calls: int = 10  # OFFHOOK_SOFTPHONE_CALLS: calls from the console's page at once; 0: none
    listeners: int = 0  # OFFHOOK_LISTENERS: operators who listen in on calls of this process at once; 0: nobody may
    simulated_effects: tuple[str, ...] = ()  # OFFHOOK_SIMULATED_EFFECTS: tools that act though simulated; *: all
    data_dir: str = ""  # OFFHOOK_DATA_DIR: a folder for records of calls; without it they are kept in memory
    database_url: str = ""  # OFFHOOK_DATABASE_URL, secret: postgresql://..., instead of SQLite in the data folder
    number_key: str = ""  # OFFHOOK_NUMBER_KEY, secret: hashes callers' numbers in the store
    recording_keys: str = ""  # OFFHOOK_RECORDING_KEYS or ..._FILE, secret: name:base64,...; the first encrypts
    recordings_bucket: str = ""  # OFFHOOK_RECORDINGS_BUCKET: s3://bucket/prefix, instead of the disk
    webhook_url: str = ""  # OFFHOOK_WEBHOOK_URL: where events of calls are delivered
    webhook_secrets: tuple[str, ...] = ()  # OFFHOOK_WEBHOOK_SECRET, secret: signs them; two while rotating
    webhook_events: tuple[str, ...] = ()  # OFFHOOK_WEBHOOK_EVENTS: kinds to deliver; empty: all
    webhook_private: bool = False  # OFFHOOK_WEBHOOK_PRIVATE=1: the receiver may be in a private network, by http
    replica: str = ""  # OFFHOOK_REPLICA: this process's name among its peers, random without one
    live: str = ""  # OFFHOOK_LIVE, secret: where calls outlive their process: redis://... or sqlite:/dev/shm/...
    fleet_key: tuple[str, ...] = ()  # OFFHOOK_FLEET_KEY, secret: the same for all processes; two while rotating
    node_url: str = ""  # OFFHOOK_NODE_URL: where its peers reach this process; the listener's address without it
    fleet_max_calls: int = 0  # OFFHOOK_FLEET_MAX_CALLS: of all processes together; 0: the sum of their own limits
    watchdog_s: float = 2.0  # OFFHOOK_WATCHDOG_S: a process that hangs for longer is ended, its calls go on; 0: never
    drain_s: float = 30.0  # OFFHOOK_DRAIN_S: after SIGTERM live calls get this long to finish
    log_level: str = "info"  # OFFHOOK_LOG_LEVEL

    def shown(self) -> dict[str, str]:
        """Every setting as text under its variable's name, secrets masked."""
        shown = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in SECRETS:
                text = "(set)" if value else "(not set)"
            elif isinstance(value, tuple):
                text = ", ".join(value)
            else:
                text = str(value)
            shown[_variable(field.name)] = text
        return shown


UNLIKE = {
    "twilio_auth_tokens": "TWILIO_AUTH_TOKEN",
    "twilio_base_url": "OFFHOOK_TWILIO_BASE_URL",
    "agents": "OFFHOOK_AGENT",
    "webhook_secrets": "OFFHOOK_WEBHOOK_SECRET",
}


def _variable(field: str) -> str:
    """The environment variable of a setting."""
    return UNLIKE.get(field) or ("" if field.startswith("twilio_") else "OFFHOOK_") + field.upper()


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Variables that are almost one of ours, each in a line; a tool's own may begin with `OFFHOOK_`, too."""
    known = {_variable(field.name).removeprefix("OFFHOOK_") for field in fields(Settings)} | {"RECORDING_KEYS_FILE"}
    given = sorted(name.removeprefix("OFFHOOK_") for name in environ if name.startswith("OFFHOOK_"))
    hints = {name: nearest(name, known) for name in given if name not in known}
    return [
        f"OFFHOOK_{name} is not a setting; {hint.strip().replace('mean ', 'mean OFFHOOK_')}"
        for name, hint in hints.items()
        if hint
    ]


def unquoted(value: str) -> str:
    """A variable's value without the quotes around it, which `docker --env-file` and systemd units keep."""
    value = value.strip()
    for opening, closing in ('""', "''", "“”", "‘’"):
        if len(value) >= 2 and value[0] == opening and value[-1] == closing:
            return value[1:-1].strip()
    return value


def check_proxies(environ: Mapping[str, str]) -> None:
    """Raise `OperatorError` for a SOCKS proxy that the model's libraries would take from `environ` and cannot use."""
    if any(environ.get(name, "").strip() == "*" for name in ("no_proxy", "NO_PROXY")):
        return  # no proxy is used
    missing = [package for module, package in SOCKS_PACKAGES.items() if importlib.util.find_spec(module) is None]
    for name, value in environ.items():
        scheme, found, _ = value.strip().partition("://")
        if missing and found and name.lower() in PROXY_VARIABLES and scheme.lower().startswith("socks"):
            raise OperatorError(
                f"{name} names a SOCKS proxy ({scheme}://...), which cannot be used without {' and '.join(missing)}: "
                f"unset it for this process, or pip install {' '.join(missing)}"
            )


# Of httpx and websockets: https://www.python-httpx.org/environment_variables/, and `websockets.proxy.get_proxy`.
PROXY_VARIABLES = frozenset({"all_proxy", "https_proxy", "http_proxy", "wss_proxy", "ws_proxy", "socks_proxy"})
SOCKS_PACKAGES = {"socksio": "socksio", "python_socks": "python-socks"}  # module: package

SECRETS = frozenset(
    {
        "twilio_auth_tokens",
        "twilio_api_secret",
        "console_token",
        "console_read_token",
        "api_token",
        "database_url",
        "number_key",
        "recording_keys",
        "webhook_secrets",
        "live",
        "fleet_key",
    }
)


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Settings from environment variables. Raises `OperatorError` that says what to change."""

    def text(name: str, default: str = "") -> str:
        return unquoted(environ.get(name, "")) or default

    def text_or_file(name: str) -> str:
        """The variable, or the file that `NAME_FILE` names."""
        path = text(f"{name}_FILE")
        if not path:
            return text(name)
        if text(name):
            raise OperatorError(f"{name} and {name}_FILE are both set: unset one")
        try:
            return Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise OperatorError(f"{name}_FILE {path}: {getattr(error, 'strerror', 'it is no text')}") from None

    def listed(name: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text(name).split(",") if part.strip())

    def number(name: str, default: float, least: float, most: float) -> float:
        given = text(name)
        try:
            value = float(given) if given else default
        except ValueError:
            raise OperatorError(f"{name} must be a number, not {given!r}") from None
        if not least <= value <= most:
            raise OperatorError(f"{name} must be from {least:g} to {most:g}, not {given}")
        return value

    def switch(name: str) -> bool:
        given = text(name, "0").lower()
        if given not in ("0", "1", "true", "false", "yes", "no"):
            raise OperatorError(f"{name} must be 1 or 0, not {given!r}")
        return given in ("1", "true", "yes")

    # Rehearsed callers have one number, and those of insecure mode are programs on this machine.
    own = switch("OFFHOOK_SIMULATED") or switch("OFFHOOK_INSECURE")
    settings = Settings(
        twilio_account_sid=text("TWILIO_ACCOUNT_SID"),
        twilio_auth_tokens=listed("TWILIO_AUTH_TOKEN"),
        twilio_api_key=text("TWILIO_API_KEY"),
        twilio_api_secret=text("TWILIO_API_SECRET"),
        twilio_base_url=text("OFFHOOK_TWILIO_BASE_URL", "https://api.twilio.com").rstrip("/"),
        public_url=text("OFFHOOK_PUBLIC_URL").rstrip("/"),
        host=text("OFFHOOK_HOST", "127.0.0.1").removeprefix("[").removesuffix("]"),
        port=int(number("OFFHOOK_PORT", 8080, 0, 65535)),
        admin_host=text("OFFHOOK_ADMIN_HOST", "127.0.0.1"),
        admin_port=int(number("OFFHOOK_ADMIN_PORT", 0 if text("OFFHOOK_PORT") == "0" else 8081, 0, 65535)),
        agents=listed("OFFHOOK_AGENT"),
        provider=text("OFFHOOK_PROVIDER").lower(),
        max_calls=int(number("OFFHOOK_MAX_CALLS", 100, 1, 100_000)),
        caller_calls=int(number("OFFHOOK_CALLER_CALLS", 0 if own else 10, 0, 100_000)),
        caller_calls_per_h=int(number("OFFHOOK_CALLER_CALLS_PER_H", 0 if own else 120, 0, 100_000)),
        refused_callers=listed("OFFHOOK_REFUSED_CALLERS"),
        cost_per_day=number("OFFHOOK_COST_PER_DAY", 0, 0, 1e9),
        console_token=text("OFFHOOK_CONSOLE_TOKEN"),
        console_read_token=text("OFFHOOK_CONSOLE_READ_TOKEN"),
        api_token=text("OFFHOOK_API_TOKEN"),
        calls_per_s=number("OFFHOOK_CALLS_PER_S", 1.0, 0.01, 100),
        insecure=switch("OFFHOOK_INSECURE"),
        simulated=switch("OFFHOOK_SIMULATED"),
        prices=text("OFFHOOK_PRICES"),
        browser_tokens=switch("OFFHOOK_BROWSER_TOKENS"),
        softphone_calls=int(number("OFFHOOK_SOFTPHONE_CALLS", 10, 0, 10_000)),
        listeners=int(number("OFFHOOK_LISTENERS", 0, 0, 100)),
        simulated_effects=listed("OFFHOOK_SIMULATED_EFFECTS"),
        data_dir=text("OFFHOOK_DATA_DIR"),
        database_url=text("OFFHOOK_DATABASE_URL"),
        number_key=text("OFFHOOK_NUMBER_KEY"),
        recording_keys=text_or_file("OFFHOOK_RECORDING_KEYS"),
        recordings_bucket=text("OFFHOOK_RECORDINGS_BUCKET").rstrip("/"),
        webhook_url=text("OFFHOOK_WEBHOOK_URL"),
        webhook_secrets=listed("OFFHOOK_WEBHOOK_SECRET"),
        webhook_events=listed("OFFHOOK_WEBHOOK_EVENTS"),
        webhook_private=switch("OFFHOOK_WEBHOOK_PRIVATE"),
        replica=text("OFFHOOK_REPLICA"),
        live=text("OFFHOOK_LIVE"),
        fleet_key=listed("OFFHOOK_FLEET_KEY"),
        node_url=text("OFFHOOK_NODE_URL").rstrip("/"),
        fleet_max_calls=int(number("OFFHOOK_FLEET_MAX_CALLS", 0, 0, 10_000_000)),
        watchdog_s=number("OFFHOOK_WATCHDOG_S", 2.0, 0, 3600),
        drain_s=number("OFFHOOK_DRAIN_S", 30.0, 0, 86_400),
        log_level=text("OFFHOOK_LOG_LEVEL", "info").lower(),
    )
    if settings.public_url:
        parts = urlsplit(settings.public_url)
        if parts.scheme not in ("https", "http") or not parts.netloc:
            raise OperatorError("OFFHOOK_PUBLIC_URL must look like https://voice.example.com")
    if bool(settings.twilio_api_key) != bool(settings.twilio_api_secret):
        raise OperatorError("TWILIO_API_KEY and TWILIO_API_SECRET go together: set both, or neither")
    if settings.insecure and settings.host not in LOOPBACK:
        raise OperatorError(
            "OFFHOOK_INSECURE=1 lets anyone who reaches this port start calls on your account: it needs "
            f"OFFHOOK_HOST=127.0.0.1, not {settings.host}"
        )
    if settings.live and not settings.fleet_key:
        raise OperatorError(
            "OFFHOOK_LIVE keeps what was said for whoever takes a call over: set OFFHOOK_FLEET_KEY, the same for all "
            "processes, to encrypt it (make one with `openssl rand -hex 24`)"
        )
    shared = [("OFFHOOK_FLEET_KEY", key) for key in settings.fleet_key]
    for name, secret in (
        ("OFFHOOK_CONSOLE_TOKEN", settings.console_token),
        ("OFFHOOK_CONSOLE_READ_TOKEN", settings.console_read_token),
        ("OFFHOOK_API_TOKEN", settings.api_token),
        ("OFFHOOK_NUMBER_KEY", settings.number_key),
        *shared,
    ):
        if secret and len(secret) < SECRET_LENGTH_MIN:
            raise OperatorError(
                f"{name} is shorter than {SECRET_LENGTH_MIN} characters: make one with `openssl rand -hex 24`"
            )
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise OperatorError("OFFHOOK_LOG_LEVEL must be debug, info, warning or error")
    return settings
