"""Owners of databases who do not wish the others well."""
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import make_db

KEEPS_LEASES = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
files = [os.open(p, os.O_RDONLY) for p in sys.argv[1:]]
while True:
    for f in files:
        if fcntl.fcntl(f, fcntl.F_GETLEASE) == fcntl.F_UNLCK:
            fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    print("all", flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def leased(world):
    """twelve databases, which nobody but this program can open for writing"""
    paths = [world.path / f"eve{i}.db" for i in range(12)]
    for p in paths:
        make_db(p).close()
    eve = subprocess.Popen([sys.executable, "-c", KEEPS_LEASES, *paths], stdout=subprocess.PIPE, text=True)
    assert eve.stdout.readline() == "all\n"
    yield paths
    eve.kill()
    eve.wait()


def test_leases_on_many_databases_delay_nobody_elses(world, leased):
    con = make_db(world.path / "bob.db")
    world.configure(world.file_target(), world.db("bob"), *[world.db(p.stem) for p in leased])
    world.start(ready=False)
    world.poll("bob is replicated", lambda: world.socket.exists() and world.status("bob")["state"] == "replicating", 15)
    con.execute("insert into t(b) values('of bob')")
    con.commit()
    begin = time.monotonic()
    world.sync("bob")
    assert time.monotonic() - begin < 15  # for each lease that it waits for, the kernel takes 45 seconds
    world.poll("each is named", lambda: all("has a lease" in str(world.status(p.stem)) for p in leased))
    con.close()
    restored = sqlite3.connect(world.restore("bob", "local"))
    assert restored.execute("select count(*) from t where b = 'of bob'").fetchone() == (1,)
    restored.close()
