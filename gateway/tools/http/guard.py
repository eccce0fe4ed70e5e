"""Which addresses a tool may reach: the public internet, and what the operator opens to it.

A model can be talked into anything, so what it says must not steer a request to this machine, its network or the
cloud's metadata. The guard stands where the connection is made: it judges the very addresses that are connected
to, so a name that resolves to something else the second time gains nothing.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

__all__ = ["AddressRefused", "GuardedResolver", "address_refusal", "url_refusal"]

# IANA's special-purpose registries, and the metadata services that stand elsewhere. The second column: what
# `allow_private` opens. The first network that holds the address decides.
_V4 = [
    (IPv4Network(network), opened, what)
    for network, opened, what in (
        ("100.100.100.200/32", False, "a cloud's metadata service"),
        ("168.63.129.16/32", False, "a cloud's metadata service"),
        ("169.254.0.0/16", False, "link-local, where clouds keep their metadata service"),
        ("127.0.0.0/8", True, "this machine (loopback)"),
        ("10.0.0.0/8", True, "a private network"),
        ("172.16.0.0/12", True, "a private network"),
        ("192.168.0.0/16", True, "a private network"),
        ("100.64.0.0/10", True, "a carrier's private network"),
        ("0.0.0.0/8", False, "this machine (unspecified)"),
        ("192.0.0.0/24", False, "reserved"),
        ("192.0.2.0/24", False, "reserved for documents"),
        ("192.88.99.0/24", False, "a 6to4 relay"),
        ("198.18.0.0/15", False, "reserved for benchmarks"),
        ("198.51.100.0/24", False, "reserved for documents"),
        ("203.0.113.0/24", False, "reserved for documents"),
        ("224.0.0.0/4", False, "multicast"),
        ("240.0.0.0/4", False, "reserved or broadcast"),
    )
]
_V6 = [
    (IPv6Network(network), opened, what)
    for network, opened, what in (
        ("::1/128", True, "this machine (loopback)"),
        ("::/128", False, "this machine (unspecified)"),
        ("fd00:ec2::/32", False, "a cloud's metadata service"),
        ("fd20:ce::/32", False, "a cloud's metadata service"),
        ("fc00::/7", True, "a private network"),
        ("fe80::/10", False, "link-local"),
        ("fec0::/10", False, "site-local"),
        ("ff00::/8", False, "multicast"),
        ("2001::/23", False, "reserved, or a tunnel"),
        ("2001:db8::/32", False, "reserved for documents"),
        ("3fff::/20", False, "reserved for documents"),
    )
]
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")
_PUBLIC_V6 = IPv6Network("2000::/3")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)\Z", re.I)


class AddressRefused(OSError):
    """The name leads to an address that a tool may not reach."""


def address_refusal(address: str, *, private: bool = False) -> str | None:
    """Why this address (as text, without brackets) may not be connected to; None if it may."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "it is not an address"
    carried = _carried(ip) if isinstance(ip, IPv6Address) else None
    if carried is not None:
        refusal = address_refusal(str(carried), private=private)
        return refusal and f"it stands for {carried}: {refusal}"
    table: list[tuple[IPv4Network, bool, str]] | list[tuple[IPv6Network, bool, str]]
    table = _V4 if isinstance(ip, IPv4Address) else _V6
    for network, opened, what in table:
        if ip in network:
            if opened and private:
                return None
            return f"it is {what}" + ("; allow_private: true opens this" if opened else "")
    if isinstance(ip, IPv6Address) and ip not in _PUBLIC_V6:
        return "it is not a public address"
    return None


def _carried(ip: IPv6Address) -> IPv4Address | None:
    """The IPv4 address inside a mapped, compatible, NAT64 or 6to4 one: that is where the packet would go."""
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 0xFFFF):
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return None


def url_refusal(url: URL, *, private: bool = False) -> str | None:
    """Why this URL may not be requested, as far as is known without resolving its host; None if it may."""
    if url.scheme != "https" and not (private and url.scheme == "http"):
        return f"{url.scheme or 'no scheme'}: only https is allowed" + (
            "; allow_private: true opens http" if url.scheme == "http" else ""
        )
    if url.user is not None or url.password is not None:
        return "it holds a user name or a password"
    host = url.raw_host or ""
    if not host:
        return "it has no host"
    port = url.port or 0
    if not (port in (80, 443) or 1024 <= port <= 65535):
        return f"port {port} is not for HTTP"
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # 2130706433, 0x7f.1, 127.1 and 0177.0.0.1 are addresses to the system's resolver, and names to others.
        if _NUMBER.match(host.rstrip(".").rpartition(".")[2]):
            return f"{host} is an address in a disguised form"
        if not host.isascii() or "%" in host:
            return f"{host!r} is not a host name"
        return None
    refusal = address_refusal(host, private=private)
    return refusal and f"{host} may not be reached: {refusal}"


class GuardedResolver(AbstractResolver):
    """Looks names up with `resolver` and gives them back only if every address may be reached."""

    def __init__(self, *, private: bool, resolver: AbstractResolver | None = None) -> None:
        self._private = private
        self._resolver = resolver or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            if refusal := address_refusal(result["host"], private=self._private):
                raise AddressRefused(f"{host} leads to {result['host']}: {refusal}")
        return found

    async def close(self) -> None:
        await self._resolver.close()
