"""The last application to close a database folds in its WAL, as without walsupd: the file alone is the whole database."""
import os
import shutil
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import image, make_db

ONE_SHOT = """import sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
for i in range(int(sys.argv[2])):
    con.execute("insert into t(b) values(randomblob(300))")
con.close()
"""


def one_shot(path, n=3):
    subprocess.run([sys.executable, "-c", ONE_SHOT, path, str(n)], check=True)


def rows(path):
    con = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)  # the file alone
    n = con.execute("select count(*) from t").fetchone()[0]
    con.close()
    return n


def counters(world):
    return world.status("a")["counters"]


def attached(world):
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()


def test_a_copy_made_right_after_the_close_of_an_application_that_was_replicated_is_whole(world):
    path, copy = world.path / "a.db", world.path / "copy.db"
    make_db(path, rows=0).close()
    attached(world)
    n = 0
    for _ in range(10):
        con = sqlite3.connect(path, isolation_level=None, timeout=10)
        con.execute("insert into t(b) values(randomblob(3000))")
        world.sync()  # nothing is left for walsupd to do
        con.execute("insert into t(b) values(randomblob(3000))") if n % 4 else None
        n = con.execute("select count(*) from t").fetchone()[0]
        world.sync()
        con.close()
        shutil.copyfile(path, copy)
        assert rows(copy) == n
    assert counters(world)["last_closes"] >= 5
    assert counters(world)["continuity_lost"] == 0
    world.sync()
    assert image(world.restore("a", "local")) == image(path)


def test_a_program_that_opens_commits_and_closes_in_a_moment_leaves_a_whole_file(world):
    """only if it closes in the very moment in which walsupd opens the database it leaves that to walsupd"""
    path, copy = world.path / "a.db", world.path / "copy.db"
    make_db(path, rows=0).close()
    attached(world)
    whole = 0
    for i in range(30):
        one_shot(path)
        shutil.copyfile(path, copy)
        whole += rows(copy) == 3 * (i + 1)
    assert whole >= 20, f"{whole} of 30 copies were whole"
    world.sync()
    assert counters(world)["continuity_lost"] == 0, world.log.read_text()
    assert image(world.restore("a", "local")) == image(path)


def test_the_file_is_moved_away_right_after_the_close(world):
    path, moved = world.path / "a.db", world.path / "moved.db"
    make_db(path, rows=0).close()
    attached(world)
    con = sqlite3.connect(path, isolation_level=None, timeout=10)
    con.execute("insert into t(b) values(randomblob(3000))")
    world.sync()
    con.close()
    os.rename(path, moved)
    assert rows(moved) == 1
    world.poll("missing", lambda: world.status("a")["state"] == "missing")
    assert not (world.path / "a.db-wal").exists() and not (world.path / "a.db-shm").exists()
    assert image(world.restore("a", "local")) == image(moved)


def leave_wal(con):
    """at once, or after another try: walsupd may be opening its second connection"""
    end = time.monotonic() + 5
    tries = 0
    while con.execute("pragma journal_mode=delete").fetchone() != ("delete",):
        tries += 1
        assert time.monotonic() < end, f"it cannot leave WAL mode, {tries} tries"
    return not tries


def test_the_journal_mode_is_changed_and_changed_back_while_it_is_replicated(world):
    path = world.path / "a.db"
    make_db(path).close()
    con = sqlite3.connect(path, isolation_level=None)
    attached(world)
    refused = 0
    for _ in range(10):
        con.execute("insert into t(b) values(1)")
        world.sync()
        refused += not leave_wal(con)
        con.execute("insert into t(b) values(2)")
        assert con.execute("pragma journal_mode=wal").fetchone() == ("wal",)
        con.execute("insert into t(b) values(3)")
        world.poll("replicating", lambda: world.status("a")["state"] == "replicating")
        world.sync()
        assert image(world.restore("a", "local")) == image(path)
    con.close()
    assert refused <= 3


def test_an_application_that_wants_the_database_for_itself_starts_while_it_is_replicated(world):
    path = world.path / "a.db"
    con = make_db(path)
    attached(world)
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.sync()
    con.close()
    own = sqlite3.connect(path, isolation_level=None, timeout=0.2)
    own.execute("pragma locking_mode=exclusive")
    own.execute("insert into t(b) values(2)")
    world.poll("locked", lambda: world.status("a")["state"] == "locked")
    own.close()
    world.poll("locked", lambda: world.status("a")["state"] != "locked")
    world.sync()
    assert image(world.restore("a", "local")) == image(path)
