"""A stand-in for hosts of the internet, to be run inside a network namespace: TCP and UDP on port 80 of every address
given, and DNS on port 53. Says "up", and then one line for whatever reaches it. Standard library only.

TCP: sends "<own address>\n" and then back what it gets. UDP: answers "<own address> <what it got>"; "from A" is
answered from the address A instead, to whoever asked.
"""

from __future__ import annotations

import selectors
import socket
import struct
import sys

#: Name -> addresses (anything else has OTHER), and time to live of all of them.
NAMES = {
    "allowed.example": ["93.184.216.34"],
    "deep.sub.wild.example": ["1.0.0.1"],
    "wild.example": ["8.8.4.4"],
    "rebinding.example": ["10.0.0.1", "169.254.169.254"],
}
OTHER = ["8.8.4.4"]
TTL_S = 86_400


def say(*words: object) -> None:
    print(*words, flush=True)


def bound(kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    return sock


def resolve(query: bytes) -> bytes:
    labels, offset = [], 12
    while query[offset]:
        labels.append(query[offset + 1 : offset + 1 + query[offset]].decode())
        offset += 1 + query[offset]
    name = ".".join(labels).lower()
    (kind,) = struct.unpack_from("!H", query, offset + 1)
    say("dns", name, kind)
    addresses = NAMES.get(name, OTHER) if kind == 1 else []
    records = [b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, TTL_S, 4) + socket.inet_aton(address) for address in addresses]
    return query[:2] + struct.pack("!HHHHH", 0x8180, 1, len(records), 0, 0) + query[12 : offset + 5] + b"".join(records)


def main(addresses: list[str]) -> None:
    selector = selectors.DefaultSelector()
    for address in addresses:
        listener = bound(socket.SOCK_STREAM, address, 80)
        listener.listen()
        selector.register(listener, selectors.EVENT_READ, ("accept", address))
        selector.register(bound(socket.SOCK_DGRAM, address, 80), selectors.EVENT_READ, ("udp", address))
        selector.register(bound(socket.SOCK_DGRAM, address, 53), selectors.EVENT_READ, ("dns", address))
    say("up")
    while True:
        for key, _ in selector.select():
            kind, address = key.data
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            try:
                if kind == "accept":
                    stream, _ = sock.accept()
                    say("tcp", address)
                    stream.sendall(f"{address}\n".encode())
                    selector.register(stream, selectors.EVENT_READ, ("stream", address))
                elif kind == "stream":
                    data = sock.recv(65_536)
                    if not data:
                        raise ConnectionResetError
                    sock.sendall(data)
                else:
                    data, peer = sock.recvfrom(4096)
                    if kind == "dns":
                        sock.sendto(resolve(data), peer)
                    else:
                        say("udp", address, data.decode())
                        if data.startswith(b"from "):
                            with bound(socket.SOCK_DGRAM, data[5:].decode(), 0) as other:
                                other.sendto(b"unasked", peer)
                        else:
                            sock.sendto(address.encode() + b" " + data, peer)
            except OSError:
                if kind == "stream":
                    selector.unregister(sock)
                    sock.close()


if __name__ == "__main__":
    main(sys.argv[1:])
