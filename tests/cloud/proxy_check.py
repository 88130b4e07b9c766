#!/usr/bin/env python3
"""Checks the proxy by itself: nothing is lost or changed, a delay is what it says and costs no rate, a cut cuts.

Needs no root and no moto: `python3 tests/cloud/proxy_check.py`.
"""

import hashlib
import os
import socket
import threading
import time

from proxy import Proxy

PORT = 5522
ADDRESS = "127.0.0.251"  # none of the machines' addresses


def machine() -> socket.socket:
    """Something that listens: greets, then gives back what it gets until the client's end, then its digest."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        digest = hashlib.sha256()
        try:
            connection.sendall(b"hello\n")
            while data := connection.recv(1 << 18):
                digest.update(data)
                connection.sendall(data)
            connection.sendall(digest.digest())
        except OSError:
            pass  # cut
        connection.close()

    def accept() -> None:
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, f"the connection ended {size - len(data)} bytes early"
        data += more
    return data


def echo(size: int) -> float:
    """Sends random data, reads it back while it is sent, compares; returns MB/s of both directions together."""
    block = os.urandom(1 << 20)
    sent, got = hashlib.sha256(), hashlib.sha256()
    with socket.create_connection((ADDRESS, PORT)) as connection:
        exactly(connection, 6)
        began = time.monotonic()

        def send() -> None:
            for at in range(0, size, len(block)):
                part = block[: min(len(block), size - at)]
                sent.update(part)
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        left = size
        while left:
            data = connection.recv(min(left, 1 << 18))
            assert data, f"{left} bytes never came back"
            got.update(data)
            left -= len(data)
        digest = exactly(connection, 32)
        seconds = time.monotonic() - began
        assert connection.recv(1) == b"", "the end comes last"
        sender.join()
    assert sent.digest() == got.digest() == digest, "data was changed on the way"
    return 2 * size / seconds / 1e6


def round_trip() -> tuple[float, float]:
    """Seconds until the greeting, and for one byte there and back: the best of five, as this computer may have other work."""
    greetings, bytes_back = zip(*(one_round_trip() for _ in range(5)))
    return min(greetings), min(bytes_back)


def one_round_trip() -> tuple[float, float]:
    began = time.monotonic()
    with socket.create_connection((ADDRESS, PORT)) as connection:
        exactly(connection, 6)
        greeted = time.monotonic()
        connection.sendall(b"x")
        exactly(connection, 1)
        return greeted - began, time.monotonic() - greeted


def refused() -> bool:
    try:
        socket.create_connection((ADDRESS, PORT), timeout=2).close()
    except ConnectionRefusedError:
        return True
    return False


def main() -> None:
    listener = machine()
    proxy = Proxy()
    proxy.start()
    target = listener.getsockname()
    routes = {(ADDRESS, PORT): ("m", lambda port: socket.create_connection(target))}
    proxy.route(routes)
    proxy.settled()

    for size in (0, 1, 1000, 1 << 20, (64 << 20) + 7):
        rate = echo(size)
    print(f"no delay: {rate:.0f} MB/s, there and back together")
    assert round_trip()[1] < 0.01

    for milliseconds in (30, 150):
        proxy.delay = milliseconds / 1000
        greeting, there_and_back = round_trip()
        assert 2 * proxy.delay <= greeting < 2 * proxy.delay + 0.02, f"greeting after {greeting:.3f} s"
        assert proxy.delay <= there_and_back < proxy.delay + 0.01, f"one byte took {there_and_back:.4f} s"
        rate = echo((64 << 20) + 7)
        print(f"{milliseconds} ms: {there_and_back * 1000:.1f} ms measured, {rate:.0f} MB/s")
    proxy.delay = 0.0
    proxy.delays = {"m": 0.03, "other": 1.0}
    assert 0.03 <= round_trip()[1] < 0.04, "the delay of one machine is its own"
    proxy.delays = {"other": 1.0}
    assert round_trip()[1] < 0.01, "the delay of another machine is not"

    before = proxy.count("m", PORT).turns
    with socket.create_connection((ADDRESS, PORT)) as connection:
        exactly(connection, 6)
        for _ in range(10):
            connection.sendall(b"x")
            exactly(connection, 1)
        assert proxy.count("m", PORT).turns - before == 10, proxy.count("m", PORT).turns - before
        proxy.cut("m")
        proxy.settled()
        try:
            connection.recv(1)
            raise AssertionError("a cut connection is reset")
        except ConnectionResetError:
            pass
    assert refused(), "a cut machine refuses"
    proxy.heal("m")
    proxy.settled()
    assert echo(1000)

    # Many at once.
    threads = [threading.Thread(target=echo, args=(1 << 20,)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    listener.close()
    proxy.route({})
    proxy.settled()
    assert refused(), "no route, no answer"
    print("proxy_check: the proxy behaves")


if __name__ == "__main__":
    main()
