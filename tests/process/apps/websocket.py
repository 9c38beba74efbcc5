"""A WebSocket (RFC 6455) of its own: handshake, masked frames of each length, pings, the closing handshake.

websocket.py serve PORT             echoes messages, answers pings
websocket.py talk ADDRESS PORT REST messages of every length, REST pings a fifth of a second apart, another message, the end
"""

import base64
import hashlib
import os
import socket
import struct
import sys
import threading
import time

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_of(key):
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def head_of(stream):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            raise ConnectionError("the end within the handshake")
        head += byte
    lines = head.decode().split("\r\n")
    return lines[0], {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}


def exactly(stream, length):
    data = bytearray()
    while len(data) < length:
        piece = stream.recv(length - len(data))
        if not piece:
            raise ConnectionError("the end within a frame")
        data += piece
    return bytes(data)


def masked(data, mask):
    whole = int.from_bytes((mask * (len(data) // 4 + 1))[: len(data)], "big")
    return (int.from_bytes(data, "big") ^ whole).to_bytes(len(data), "big")


def send(stream, kind, data, mask=None):
    bit = 0x80 if mask else 0
    if len(data) < 126:
        head = struct.pack("!BB", 0x80 | kind, bit | len(data))
    elif len(data) < 65536:
        head = struct.pack("!BBH", 0x80 | kind, bit | 126, len(data))
    else:
        head = struct.pack("!BBQ", 0x80 | kind, bit | 127, len(data))
    stream.sendall(head + (mask + masked(data, mask) if mask else data))


def receive(stream, wants_mask):
    first, second = exactly(stream, 2)
    length = second & 0x7F
    if length == 126:
        (length,) = struct.unpack("!H", exactly(stream, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", exactly(stream, 8))
    assert bool(second & 0x80) == wants_mask, "who masks is said by RFC 6455 5.1"
    mask = exactly(stream, 4) if wants_mask else None
    data = exactly(stream, length)
    return first & 0x0F, masked(data, mask) if mask else data


def serve_one(stream):
    _, headers = head_of(stream)
    answer = accept_of(headers["sec-websocket-key"].encode())
    stream.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n"
    )
    while True:
        kind, data = receive(stream, True)
        if kind == PING:
            send(stream, PONG, data)
        elif kind in (TEXT, BINARY, CLOSE):
            send(stream, kind, data)
        if kind == CLOSE:
            stream.close()
            return


def serve(port):
    listener = socket.create_server(("0.0.0.0", int(port)))
    while True:
        threading.Thread(target=serve_one, args=(listener.accept()[0],), daemon=True).start()


def talk(address, port, rest):
    stream = socket.create_connection((address, int(port)), timeout=10)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    key = base64.b64encode(os.urandom(16))
    stream.sendall(
        b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
    )
    status, headers = head_of(stream)
    assert " 101 " in status and headers["sec-websocket-accept"].encode() == accept_of(key), status
    for length in (0, 1, 125, 126, 65535, 65536, 1_000_000):
        message = os.urandom(length)
        send(stream, BINARY, message, os.urandom(4))
        assert receive(stream, False) == (BINARY, message), length
    for number in range(int(rest)):
        time.sleep(0.2)
        send(stream, PING, b"%d" % number, os.urandom(4))
        assert receive(stream, False) == (PONG, b"%d" % number)
    # Longer than the keepalive of TCP waits for, with nothing said.
    time.sleep(2.5)
    send(stream, TEXT, b"still there", os.urandom(4))
    assert receive(stream, False) == (TEXT, b"still there")
    send(stream, CLOSE, struct.pack("!H", 1000), os.urandom(4))
    assert receive(stream, False) == (CLOSE, struct.pack("!H", 1000))
    assert stream.recv(1) == b"", "the server closes first"
    print("all said")


{"serve": serve, "talk": talk}[sys.argv[1]](*sys.argv[2:])
