"""A URL that somebody else wrote leads to listed hosts at public addresses, whatever its spelling."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl

import httpx
import pytest

from connectors.sdk.destinations import Destinations, is_public, look_up
from connectors.sdk.http import new_client, send
from connectors.sdk.testing_tls import self_signed
from schemas.errors import SystemRejected, SystemUnavailable

HOST = "tickets.example.org"


def at(*addresses: str):
    """A resolver that has these addresses for every name."""

    async def resolve(host: str, port: int):
        return [ipaddress.ip_address(address) for address in addresses]

    return resolve


async def post(transport: Destinations, url: str, expect=frozenset({200})):
    async with new_client("https://unused.example.org", timeout_seconds=5, transport=transport) as client:
        return await send(client, "POST", url, operation="hand_over", expect=expect, content=b"{}")


@contextlib.asynccontextmanager
async def listening(answer: bytes, tls: ssl.SSLContext | None = None):
    """A server that gives every request one answer and notes what it was sent; yields port and requests."""
    heard: list[bytes] = []

    async def serve(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1", "198.18.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "2001:db8::1", "3fff::1", "5f00::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:1::1",
    ],
)  # fmt: skip
async def test_addresses_that_are_not_public(address: str):
    """Loopback, private, link-local, shared, documentation, multicast, reserved, and IPv6 that wraps one of them."""
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(SystemRejected, match="not public"):
        await post(Destinations({HOST}, resolve=at(address)), f"https://{HOST}/")


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str):
    """What the internet routes is public, wrapped or not."""
    assert is_public(ipaddress.ip_address(address))


async def test_one_bad_address_among_good_ones_is_enough():
    """A name that has a public and a private address is refused whole."""
    with pytest.raises(SystemRejected, match="not public"):
        await post(Destinations({HOST}, resolve=at("8.8.8.8", "10.0.0.1")), f"https://{HOST}/")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]"])
async def test_spellings_of_this_machine(host: str):
    """Every spelling of the loopback is refused: it is not listed, and where it is listed, it is not public."""
    name = host.strip("[]")
    for hosts in ({HOST}, {name}):
        with pytest.raises(SystemRejected):
            await post(Destinations(hosts), f"https://{host}/")


@pytest.mark.parametrize("url", [f"https://{HOST}@evil.example.org/", f"https://evil.example.org/{HOST}", f"https://x.{HOST}/"])
async def test_only_the_listed_host_itself(url: str):
    """A listed name as a user, as a path, or as a parent is another host."""
    with pytest.raises(SystemRejected, match="list"):
        await post(Destinations({HOST}, resolve=at("8.8.8.8")), url)


async def test_http_is_refused_unless_private():
    """Without TLS nothing leaves for a public host."""
    with pytest.raises(SystemRejected, match="https"):
        await post(Destinations({HOST}, resolve=at("8.8.8.8")), f"http://{HOST}/")


async def test_a_private_host_that_is_allowed_is_reached_by_name():
    """The connection goes to the address that was looked up; the server hears the name."""
    async with listening(OK) as (port, heard):
        await post(Destinations({HOST}, private={HOST}, resolve=at("127.0.0.1")), f"http://{HOST}:{port}/tasks?a=1")
    assert heard[0].startswith(b"POST /tasks?a=1 ") and f"host: {HOST}:{port}".encode() in heard[0].lower()


async def test_a_redirect_is_not_followed():
    """The answer that points elsewhere is an error; the other place hears nothing."""
    async with listening(OK) as (other, unheard):
        moved = f"HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:{other}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        async with listening(moved.encode()) as (port, heard):
            with pytest.raises(SystemRejected):
                await post(
                    Destinations({HOST, "127.0.0.1"}, private={HOST, "127.0.0.1"}, resolve=at("127.0.0.1")),
                    f"http://{HOST}:{port}/",
                )
    assert len(heard) == 1 and not unheard


async def test_rebinding_leads_nowhere_new():
    """Looked up once for a request, and connected to what was checked: the second answer of the name is never used."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    asked = []

    async def resolve(host: str, port: int):
        asked.append(host)
        return [ipaddress.ip_address(address) for address in answers[len(asked) - 1]]

    async with listening(OK) as (port, heard):
        await post(Destinations({HOST}, private={HOST}, resolve=resolve), f"http://{HOST}:{port}/")
    assert asked == [HOST] and len(heard) == 1


async def test_each_request_is_checked_anew():
    """A name that was public and is private now is refused, on the same client."""
    answers = iter([["8.8.8.8"], ["127.0.0.1"]])

    async def resolve(host: str, port: int):
        return [ipaddress.ip_address(address) for address in next(answers)]

    transport = Destinations({HOST}, resolve=resolve)
    request = httpx.Request("GET", f"https://{HOST}/")
    assert await transport._checked(HOST, request)
    with pytest.raises(SystemRejected, match="not public"):
        await transport._checked(HOST, request)


async def test_a_name_without_an_address_is_tried_again_later():
    """That is the network's failure, and no refusal."""
    with pytest.raises(SystemUnavailable):
        await post(Destinations({"nowhere.invalid"}), "https://nowhere.invalid/")


def certificate(name: str):
    """A server's context with a certificate for a name, and that of a client who trusts it."""
    own = self_signed(name)
    return own.server_context(), ssl.create_default_context(cadata=own.certificate.decode())


async def test_tls_proves_the_name_and_not_the_address():
    """The certificate must be the name's although the connection goes to an address; another name's is refused."""
    server, trusting = certificate(HOST)
    async with listening(OK, server) as (port, heard):
        hosts = {HOST, "other.example.org"}
        transport = Destinations(hosts, private=hosts, resolve=at("127.0.0.1"), tls=trusting)
        assert (await post(transport, f"https://{HOST}:{port}/")).status == 200
        transport = Destinations(hosts, private=hosts, resolve=at("127.0.0.1"), tls=trusting)
        with pytest.raises(SystemUnavailable):
            await post(transport, f"https://other.example.org:{port}/")
    assert len(heard) == 1


async def test_the_systems_resolver_is_asked():
    """Real look-ups: this machine's own name is its loopback."""
    assert any(address.is_loopback for address in await look_up("localhost", 80))
