# SPDX-License-Identifier: Apache-2.0
"""Carries connections from a socket of the outside into the lab: relay.py LISTENING-FD ADDRESS PORT.

Runs in the network namespace of the lab's manager with a socket that was made outside, so that a CLI outside reaches
the manager and nothing of the machine's own network had to be touched."""

import selectors
import socket
import sys

CHUNK = 65536


def _pair_up(selector, client, target):
    try:
        server = socket.create_connection(target, timeout=5)
    except OSError:
        client.close()
        return
    server.settimeout(None)
    selector.register(client, selectors.EVENT_READ, server)
    selector.register(server, selectors.EVENT_READ, client)


def _carry(selector, source, destination):
    try:
        data = source.recv(CHUNK)
        if data:
            destination.sendall(data)
            return
    except OSError:
        pass
    for end in (source, destination):
        selector.unregister(end)
        end.close()


def main():
    listener = socket.socket(fileno=int(sys.argv[1]))
    target = (sys.argv[2], int(sys.argv[3]))
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                _pair_up(selector, listener.accept()[0], target)
            elif key.fileobj.fileno() >= 0:
                _carry(selector, key.fileobj, key.data)


if __name__ == "__main__":
    main()
