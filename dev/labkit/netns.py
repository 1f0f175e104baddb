# SPDX-License-Identifier: Apache-2.0
"""Sockets of this process inside the network of a lab's machine."""

import ctypes
import os
import socket
import threading

_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def _inside(pid, make):
    """What make() gives in the network namespace of process `pid`. A socket stays in the namespace it was made in, and the
    namespace is a property of the thread: so a thread that lives for this only makes it."""
    result = []

    def run():
        try:
            descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)
            result.append(make())
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def connect(pid, address, timeout_s=5.0):
    """A TCP connection made in the network namespace of process `pid`."""
    return _inside(pid, lambda: socket.create_connection(address, timeout=timeout_s))


def packet_socket(pid, interface):
    """A socket for whole frames at an interface there."""
    def make():
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        made.bind((interface, 3))
        return made
    return _inside(pid, make)
