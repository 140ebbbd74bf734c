"""Every row of the table of states in walsupctl(1): brought about, and said in status, in its exit status, in the metrics,
to systemd and to on-state-change. The rows stalled and unproven are in test_second_opinion.py (a disk that hangs)."""
import os
import re
import sqlite3
import time

import pytest

from conftest import make_db
from test_hook import TELL, hook, told

SEVERITY = {"healthy": 0, "degraded": 1, "failed": 2}


def use(path, **pragma):
    con = sqlite3.connect(path, isolation_level=None, timeout=10)
    for k, v in pragma.items():
        con.execute(f"pragma {k}={v}").fetchone()
    con.execute("insert into t(b) values(randomblob(200))")
    return con


def replicating(world, path, keep):
    make_db(path).close()
    world.start()
    keep.append(use(path))


def idle(world, path, keep):
    make_db(path).close()
    world.start()


def waiting(world, path, keep):
    world.start()


def missing(world, path, keep):
    idle(world, path, keep)
    world.sync()
    path.rename(world.path / "aside.db")


def not_wal(world, path, keep):
    con = sqlite3.connect(path)
    con.execute("create table t(a)")
    con.close()
    world.start()


def locked(world, path, keep):
    make_db(path).close()
    keep.append(use(path, locking_mode="exclusive"))
    world.start()


def copying(world, path, keep):
    make_db(path).close()
    keep.append(open(path, "r+b"))  # as a copy that takes long
    os.utime(path)
    world.start()


def behind(world, path, keep):
    replicating(world, path, keep)
    world.sync()
    world.replica.rename(world.path / "elsewhere")
    world.replica.write_text("a file")
    use(path).close()


def paused(world, path, keep):
    idle(world, path, keep)
    world.ctl("pause", "a")


def failed(world, path, keep):
    path.write_bytes(b"this is no database " * 100)
    world.start()


def unseen(world, path, keep):
    replicating(world, path, keep)
    world.sync()
    keep.pop().close()
    os.link(path, world.path / "other.db")
    keep.append(use(world.path / "other.db"))
    use(world.path / "other.db").close()


# word: how it comes about, how severe it is in the end, whether it is healthy for the first seconds
TABLE = {
    "replicating": (replicating, "healthy"),
    "idle": (idle, "healthy"),
    "waiting": (waiting, "degraded"),
    "missing": (missing, "degraded"),
    "not-wal": (not_wal, "degraded"),
    "locked": (locked, "degraded"),
    "copying": (copying, "degraded"),
    "behind": (behind, "degraded"),
    "paused": (paused, "degraded"),
    "failed": (failed, "failed"),
    "unseen": (unseen, "degraded"),
}
ELSEWHERE = {"starting", "stalled", "unproven"}  # the first two seconds; a disk that hangs


def test_no_row_of_the_table_is_without_a_test(world):
    text = world.ctl("status", "--states").stdout.split("A replica:")[0]
    words = set(re.findall(r"^  ([a-z-]+): ", text, re.M))
    assert words == set(TABLE) | ELSEWHERE


@pytest.mark.outside
@pytest.mark.parametrize("word", TABLE)
def test_the_state_is_said_everywhere(world, word):
    comes_about, severity = TABLE[word]
    path, keep = world.path / "a.db", []
    world.configure(world.file_target(), world.db("a", path), copy_wait="1s", scan_interval="1s", idle_timeout="2s",
                    on_state_change=hook(world, TELL.format(world.path)), landlock="off")
    comes_about(world, path, keep)
    if word == "replicating":
        world.sync()

    def is_said():
        if word == "replicating":
            keep[0].execute("insert into t(b) values(randomblob(200))")
        d = world.status("a")
        return d["state"] == word and world.ctl("status", check=False).returncode == SEVERITY[severity] and d
    d = world.poll(word, is_said)
    if word == "replicating":
        keep[0].execute("insert into t(b) values(randomblob(200))")
    r = world.ctl("status", check=False)
    assert r.returncode == SEVERITY[severity], r.stdout
    assert ("error" if word == "behind" else word) in r.stdout and severity in r.stdout  # the column is the replica's
    assert all(len(line) <= 80 or max(map(len, line.split())) > 40 for line in r.stdout.splitlines())  # a path is not cut
    metrics = world.ctl("metrics").stdout
    assert f'walsup_databases{{state="{word}"}} 1' in metrics
    assert f'walsup_database_health{{database="a"}} {SEVERITY[severity]}' in metrics
    if severity == "healthy":
        assert not [x for x in told(world) if x[0] == "a" and x[2] != "replicating" and x[2] != "idle"]
    else:
        assert d["detail"] or d.get("error") or d["replicas"][0].get("error"), "nothing says why"
        world.poll("it is told", lambda: [x for x in told(world) if x[0] == "a" and x[2] == word])
        end = time.monotonic() + 10
        while not any(x.startswith("STATUS=") and severity in x for x in world.notify.heard):
            world.notify.drain()
            assert time.monotonic() < end, world.notify.heard
    for k in keep:
        k.close()
