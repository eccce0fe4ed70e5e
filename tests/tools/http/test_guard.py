"""Every form in which an address that a tool may not reach can be written, resolved to, or redirected to."""

from __future__ import annotations

import pytest
from yarl import URL

from offhook.gateway.tools.http.guard import AddressRefused, GuardedResolver, address_refusal, url_refusal
from tests.tools.http.resolver import ScriptedResolver

LOOPBACK = ["127.0.0.1", "127.255.255.254", "::1"]
PRIVATE = [
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "fd12::1",
    "fc00::1",
]
NEVER = [
    "169.254.169.254",  # the metadata service of most clouds
    "169.254.170.2",
    "fd00:ec2::254",
    "fd20:ce::254",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "0.0.0.0",
    "0.1.2.3",
    "::",
    "224.0.0.1",
    "239.255.255.250",
    "ff02::1",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "192.88.99.1",
    "2001:db8::1",
    "2001::1",  # Teredo
    "100::1",
    "64:ff9b:1::1",
    "not an address",
    "",
]
CARRIED = {
    "::ffff:127.0.0.1": "127.0.0.1",
    "::ffff:7f00:1": "127.0.0.1",
    "::ffff:169.254.169.254": "169.254.169.254",
    "::127.0.0.1": "127.0.0.1",
    "2002:7f00:1::": "127.0.0.1",  # 6to4
    "2002:a9fe:a9fe::1": "169.254.169.254",
    "2002:a00:1::1": "10.0.0.1",
    "64:ff9b::7f00:1": "127.0.0.1",  # NAT64
    "64:ff9b::10.0.0.1": "10.0.0.1",
    "64:ff9b::a9fe:a9fe": "169.254.169.254",
}
PUBLIC = [
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "100.63.255.255",
    "2606:4700::1111",
    "64:ff9b::101:101",
    "::ffff:1.1.1.1",
]
URLS = [
    "http://api.example.com/",
    "ftp://api.example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_INFO",
    "data:text/plain,hello",
    "//api.example.com/",
    "https://user:password@api.example.com/",
    "https://user@api.example.com/",
    "https://public.example@127.0.0.1/",
    "https://",
    "https:///path",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://017700000001/",
    "https://0177.0.0.1/",
    "https://127.1/",
    "https://127.0.0.1./",
    "https://0/",
    "https://1.1.1.1.256/",
    "https://127.0.0.1/",
    "https://１２７.０.０.１/",  # full-width digits
    "https://127。0。0。1/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[fe80::1%25eth0]/",
    "https://[64:ff9b::7f00:1]/",
    "https://169.254.169.254/latest/meta-data/",
    "https://10.0.0.1/",
    "https://api.example.com:22/",
    "https://api.example.com:25/",
    "https://api.example.com:0/",
]


@pytest.mark.parametrize("address", [*LOOPBACK, *PRIVATE, *NEVER])
def test_a_non_public_address_is_refused_with_a_reason(address: str) -> None:
    refusal = address_refusal(address)
    assert refusal
    assert refusal.startswith("it ")


@pytest.mark.parametrize(("address", "inside"), CARRIED.items())
def test_an_embedded_ipv4_address_is_checked_itself(address: str, inside: str) -> None:
    refusal = address_refusal(address)
    assert refusal is not None
    assert inside in refusal


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_reached(address: str) -> None:
    assert address_refusal(address) is None


@pytest.mark.parametrize("address", [*LOOPBACK, *PRIVATE])
def test_allow_private_permits_private_addresses(address: str) -> None:
    assert address_refusal(address, private=True) is None
    assert "allow_private" in str(address_refusal(address))


@pytest.mark.parametrize("address", [*NEVER, "::ffff:169.254.169.254", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe"])
def test_allow_private_permits_no_metadata_or_reserved(address: str) -> None:
    assert address_refusal(address, private=True)


@pytest.mark.parametrize("url", URLS)
def test_a_disguised_url_is_refused(url: str) -> None:
    assert url_refusal(URL(url))


@pytest.mark.parametrize("url", ["https://api.example.com/", "https://api.example.com:8443/v1", "https://1.1.1.1/"])
def test_an_ordinary_url_is_allowed(url: str) -> None:
    assert url_refusal(URL(url)) is None


def test_http_is_for_the_own_network_only() -> None:
    assert url_refusal(URL("http://orders.internal:8080/"), private=True) is None
    assert "allow_private" in str(url_refusal(URL("http://orders.internal:8080/")))
    assert url_refusal(URL("ftp://orders.internal/"), private=True)


async def test_one_private_address_refuses_the_whole_name() -> None:
    guard = GuardedResolver(private=False, resolver=ScriptedResolver(["1.1.1.1", "10.0.0.7"]))
    with pytest.raises(AddressRefused, match=r"evil\.example leads to 10\.0\.0\.7: it is a private network"):
        await guard.resolve("evil.example", 443)


async def test_a_name_that_becomes_private_is_then_refused() -> None:
    guard = GuardedResolver(private=False, resolver=ScriptedResolver(["1.1.1.1"], ["127.0.0.1"]))
    assert [found["host"] for found in await guard.resolve("rebinds.example", 443)] == ["1.1.1.1"]
    with pytest.raises(AddressRefused):
        await guard.resolve("rebinds.example", 443)


async def test_the_systems_own_resolver_is_guarded_too() -> None:
    guard = GuardedResolver(private=False)
    with pytest.raises(AddressRefused, match="loopback"):
        await guard.resolve("localhost", 443)
    await guard.close()
