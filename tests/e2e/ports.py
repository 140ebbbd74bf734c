"""Ports of this machine for programs that take a number and cannot be given a listening socket."""
import contextlib
import os
import pathlib
import socket


def free_ports(n):
    """The first of n ports in a row that nobody has. Below those the kernel hands to clients: one of these may become the
    source of another test's connection before the program listens, and who tries it meanwhile may even reach himself."""
    clients = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
    # the sandbox of the unit hides it (ProcSubset=pid); 32768 is the kernel's default
    end = int(clients.read_text().split()[0]) if clients.exists() else 32768
    places = range(10000, end - n, 20)
    first = os.getpid() * 7 % len(places)
    for base in [*places[first:], *places[:first]]:
        with contextlib.ExitStack() as held:
            try:
                for i in range(n):
                    held.enter_context(socket.create_server(("127.0.0.1", base + i)))
                return base
            except OSError:
                continue
    raise AssertionError("no free port")
