"""A WebSocket server for short messages, of the standard library alone. It runs inside a sandbox and echoes."""

import base64
import hashlib
import socket

server = socket.create_server(("127.0.0.1", 8765))
while True:
    connection, _ = server.accept()
    file = connection.makefile("rb")
    key = b""
    while line := file.readline().strip():
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-key":
            key = value.strip()
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    while len(head := file.read(2)) == 2:
        mask, data = file.read(4), file.read(head[1] & 127)
        if head[0] & 15 != 1:
            break
        connection.sendall(bytes([129, len(data)]) + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))
    connection.close()
