"""An application that checkpoints with TRUNCATE or RESTART waits, with the write lock held, for every reader of the WAL,
and so for walsupd: that has to be short, and what is committed next is still followed frame by frame."""
import sqlite3
import threading
import time

import pytest

from conftest import image, make_db

SECONDS = 6
TIMEOUT = 15


def in_thread(fn):
    t = threading.Thread(target=fn)
    t.start()
    return t


@pytest.mark.parametrize("kind", ["truncate", "restart"])
@pytest.mark.parametrize("writers", ["one", "several", "one-shot"])
def test_an_application_that_checkpoints_all_the_time(world, kind, writers):
    path = world.path / "a.db"
    make_db(path, rows=1).close()
    world.configure(world.file_target(), world.db("a", **{"sync-interval": "100ms"}))
    keeper = sqlite3.connect(path, check_same_thread=False)
    keeper.execute("select * from t").fetchall()
    world.start()
    world.sync()
    end = time.monotonic() + SECONDS
    commits, blocked = [], []

    def connect():
        con = sqlite3.connect(path, isolation_level=None, timeout=TIMEOUT)
        con.execute("pragma synchronous=normal")  # a writer that waits for a slow disk keeps checkpoints away as well
        return con

    def write():
        con = None
        while time.monotonic() < end:
            con = con or connect()
            con.execute("insert into t(b) values(randomblob(500))")
            commits.append(1)
            if writers == "one-shot":
                con.close()
                con = None
            time.sleep(0.003)

    def checkpoint():
        con = connect()
        while time.monotonic() < end:
            begun = time.monotonic()
            busy, n, done = con.execute(f"pragma wal_checkpoint({kind})").fetchone()
            if busy and time.monotonic() - begun > TIMEOUT / 2:  # at once: another checkpoint is under way
                blocked.append((n, done))
            time.sleep(0.02)
        con.close()

    threads = [in_thread(write) for _ in range(2 if writers == "several" else 1)] + [in_thread(checkpoint)]
    for t in threads:
        t.join()
    assert not blocked, "walsupd was in its way"
    assert len(commits) > 10
    world.sync()
    assert world.status("a")["counters"]["continuity_lost"] == 0, world.log.read_text()
    assert image(world.restore("a", "local")) == image(path)
    keeper.close()
