"""Owners of databases who do not wish the others well."""
import os
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import make_db, section

KEEPS_LEASES = """
import fcntl, os, signal, sys, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
files = [os.open(p, os.O_RDONLY) for p in sys.argv[1:]]
while True:
    for f in files:
        try:
            fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError:
            pass  # it is being taken away, or walsupd has the file open
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
    named = set()

    def each_is_named():  # at some time: the kernel takes a lease away in the end, and then the database is attached
        named.update(d["name"] for d in world.status()["databases"] if "has a lease" in str(d))
        return named >= {p.stem for p in leased}
    world.poll("each is named", each_is_named)
    con.close()
    restored = sqlite3.connect(world.restore("bob", "local"))
    assert restored.execute("select count(*) from t where b = 'of bob'").fetchone() == (1,)
    restored.close()


EVE, BOB = 61001, 61002


def give(path, uid):
    for p in [path, *path.rglob("*")]:
        os.chown(p, uid, uid, follow_symlinks=False)


@pytest.mark.outside
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to somebody else")
def test_a_link_to_somebody_elses_database_is_never_followed_below_a_pattern(world):
    private, home = world.path / "private", world.path / "tenants" / "eve"
    private.mkdir()
    home.mkdir(parents=True)
    con = make_db(private / "secret.db")
    con.execute("insert into t(b) values('secret')")
    con.commit()
    make_db(home / "own.db").close()
    (home / "link.db").symlink_to(private / "secret.db")
    give(private, BOB)
    give(world.path / "tenants", EVE)
    pattern = section("db t", {"path": world.path / "tenants" / "*" / "*.db", "target": "local"})
    world.configure(world.file_target(), pattern, scan_interval="1s", idle_timeout="1s")
    world.start()
    said = "link.db is reached by a symbolic link of uid 61001, but belongs to uid 61002"
    world.poll("it is said", lambda: said in world.log.read_text())
    assert [d["name"] for d in world.status()["databases"]] == ["t/eve/own.db"]
    world.sync("t/eve/own.db")
    # what was a database of hers becomes a link
    os.rename(home / "link.db", home / "own.db")
    world.poll("it is said", lambda: "own.db is reached by a symbolic link of uid 61001" in world.log.read_text())
    assert (private / "secret.db-shm").stat().st_uid == BOB
    out = world.restore("t/eve/own.db", "local")
    restored = sqlite3.connect(out)
    assert restored.execute("select count(*), sum(b = 'secret') from t").fetchone() == (10, 0)
    restored.close()
    con.close()
    assert world.log.read_text().count(said) == 1
