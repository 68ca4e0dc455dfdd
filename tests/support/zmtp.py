"""Just enough of ZMTP 3.0 to send whatever frames one likes to a ZeroMQ port."""

import socket
import struct


def connect(port, timeout=10, kind=b"DEALER"):
    """A connected socket of that kind as far as the other side can tell."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    connection.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31))
    greeting = b""
    while len(greeting) < 64:
        piece = connection.recv(64 - len(greeting))
        if not piece:
            raise ConnectionError("closed during the greeting")
        greeting += piece
    body = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    connection.sendall(b"\x04" + bytes([len(body)]) + body)
    return connection


def frame(data, more=False, size=None):
    """One frame; `size` lies about its length."""
    size = len(data) if size is None else size
    flags = 1 if more else 0
    if size > 255:
        return bytes([flags | 2]) + struct.pack(">Q", size) + data
    return bytes([flags, size]) + data
