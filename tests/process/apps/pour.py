"""Accepts on ports; once a line comes on standard input it writes on all that it accepted, and holds them until the input ends.

pour.py FIRST PORTS BYTES
"""

import resource
import select
import socket
import sys

first, ports, size = (int(word) for word in sys.argv[1:])
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
listeners = [socket.create_server(("0.0.0.0", first + port), backlog=1024) for port in range(ports)]
accepted = []
while sys.stdin not in (ready := select.select([sys.stdin, *listeners], [], [])[0]):
    for listener in ready:
        accepted.append(listener.accept()[0])
        accepted[-1].setblocking(False)
sys.stdin.readline()
page = b"\7" * size
for connection in accepted:
    try:
        connection.send(page)
    except OSError:
        pass
print(len(accepted), flush=True)
sys.stdin.read()
