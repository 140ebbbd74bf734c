"""Another file is put in the place of a database a moment after its application has left: what the WAL of the old one
still held must neither come back nor mix with the new one."""
import os
import sqlite3
import time

import pytest

from conftest import image, make_db


def gone(path):
    """an empty one, when walsupd has opened what it found, is as good"""
    end = time.monotonic() + 10
    while True:
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        if not size:
            return
        assert time.monotonic() < end, f"{path} is still there, {size} bytes"
        time.sleep(0.001)


def burst(path, n):
    """a program that opens the database for each of its requests"""
    for _ in range(n):
        con = sqlite3.connect(path, isolation_level=None, timeout=10)
        con.execute("insert into t(b) values(randomblob(100))")
        con.close()


def write_over(src, path):
    with open(path, "r+b") as f: # as cp does it: the same inode, empty for a moment
        f.truncate(0)
        f.write(src.read_bytes())


HOW = {"copied over it": write_over, "moved over it": lambda src, path: os.rename(src, path)}


@pytest.mark.parametrize("size", [10, 3000])
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("daemon", [True, False], ids=["walsupd", "control"])
def test_a_backup_put_in_place_right_after_the_last_request_is_what_is_found_there(world, daemon, how, size):
    path, wal = world.path / "a.db", world.path / "a.db-wal"
    make_db(path).close()
    world.configure(world.file_target(), world.db("a"))
    if daemon:
        world.start()
        world.sync()
    for turn in range(3):
        src = world.path / f"backup{turn}"
        con = make_db(src, rows=0)
        con.executemany("insert into t(b) values(randomblob(?))", [(size,)] * 33)
        con.commit()
        con.close()
        want = image(src)
        burst(path, 5 + 10 * turn)
        if daemon:
            world.sync()
        HOW[how](src, path)
        gone(wal)
        assert image(path) == want
        burst(path, 2)
        con = sqlite3.connect(path)
        assert con.execute("pragma integrity_check").fetchone()[0] == "ok"
        assert con.execute("select count(*) from t").fetchone()[0] == 35
        con.close()
        if daemon:
            world.sync()
            assert image(world.restore("a", "local")) == image(path)
