"""restore --follow: a copy that readers have open while it is brought up to date."""
import json
import os
import queue
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from conftest import OUT, image, integrity, make_db

READER = """
import sqlite3, sys
con = sqlite3.connect(sys.argv[1], timeout=60)
n = last = 0
print("ready", flush=True)
while True:
    con.execute("begin")
    a, b = con.execute("select v, (select count(*) from t) from state").fetchone()
    assert a == b, f"{a} in state, {b} rows"
    assert a >= last, f"{a} after {last}"
    if n % 5 == 0:
        assert con.execute("pragma quick_check").fetchall() == [("ok",)]
    con.execute("commit")
    last, n = a, n + 1
    print(n, a, flush=True)
"""


def followed(world):
    """a database whose rows are counted in the same transaction, replicated"""
    world.configure(world.file_target(), world.db("a"), sync_interval="20ms")
    con = sqlite3.connect(world.path / "a.db", isolation_level=None)
    con.execute("pragma journal_mode=wal")
    con.execute("create table t(a integer primary key, b)")
    con.execute("create table state(v)")
    con.execute("insert into state values(0)")
    world.start()
    world.sync()
    return con


def commit(con, rows=3, size=3000):
    con.execute("begin immediate")
    for _ in range(rows):
        con.execute("insert into t(b) values(randomblob(?))", (size,))
    con.execute("update state set v = (select count(*) from t)")
    con.execute("commit")


class Follower:
    def __init__(self, world, out, *args):
        self.args = [str(OUT / "walsupctl"), "-c", str(world.ini), "restore", "a", "--json", "-o",
                     str(out), "--follow", "--follow-interval", "20ms", *args]
        self.world, self.out, self.steps = world, out, []
        self.start()

    def start(self):
        self.proc = subprocess.Popen(self.args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                     env=self.world.env)
        self.lines = queue.Queue()
        self.reader = threading.Thread(target=self.read, args=(self.proc, self.lines), daemon=True)
        self.reader.start()

    @staticmethod
    def read(proc, lines):
        for line in proc.stdout:
            lines.put(line)
        lines.put("")

    def step(self, timeout=60):
        try:
            line = self.lines.get(timeout=timeout)
        except queue.Empty:
            self.proc.kill()
            raise AssertionError(f"no step in {timeout} s: {self.proc.stderr.read()}; so far {self.steps[-3:]}") from None
        assert line, f"it ended: {self.proc.wait()} {self.proc.stderr.read()}"
        self.steps.append(json.loads(line))
        return self.steps[-1]

    def until(self, txid):
        while not self.steps or int(self.steps[-1]["txid"], 16) < txid:
            self.step()
        return self.steps[-1]

    def end(self, sig=signal.SIGTERM):
        self.proc.send_signal(sig)
        self.reader.join(30)
        self.proc.wait(30)
        while not self.lines.empty():
            line = self.lines.get()
            if line:
                self.steps.append(json.loads(line))
        return self.proc.returncode, self.proc.stderr.read()


def newest(world):
    return max(int(p.name[17:33], 16) for p in world.replica.glob("a/ltx/*/*.ltx"))


def content(path):
    con = sqlite3.connect(path, timeout=60)
    try:
        return (con.execute("select v from state").fetchone()[0],
                con.execute("select a, hex(b) from t order by a").fetchall())
    finally:
        con.close()


@pytest.fixture
def ended():
    """processes that a failing test would leave"""
    procs = []
    yield procs
    for p in procs:
        if p.poll() is None:
            p.kill()
            p.wait()


def test_readers_never_see_half_a_step(world, ended):
    con = followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    ended.append(f.proc)
    f.until(1)
    readers = [subprocess.Popen([sys.executable, "-c", READER, str(copy)], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended += readers
    for r in readers:
        assert r.stdout.readline() == "ready\n"
    for i in range(40):
        commit(con)
        if i == 20: # it shrinks, and grows again
            con.execute("begin immediate")
            con.execute("delete from t where a % 4")
            con.execute("update state set v = 0")
            con.execute("update state set v = (select count(*) from t)")
            con.execute("commit")
            break
        world.sync()
    f.until(newest(world))
    for r in readers:
        r.send_signal(signal.SIGTERM)
        out, err = r.communicate()
        # a row less is no lie: the reader's own rule is about growth only
        assert "integrity" not in err and "rows" not in err and "malformed" not in err, err
        assert len(out.splitlines()) > 1
    con.execute("vacuum")
    commit(con)
    world.sync()
    last = f.until(newest(world))
    assert last["verified"] and last["output"] == str(copy)
    assert content(copy) == content(world.path / "a.db")
    assert copy.stat().st_size == os.path.getsize(world.path / "a.db") or image(copy)
    assert f.end() == (0, "")
    assert sorted(p.name for p in world.path.glob("copy.db*")) == ["copy.db", "copy.db.follow"]
    integrity(copy)


def test_killed_at_any_moment_and_started_again(world, ended):
    con = followed(world)
    copy = world.path / "copy.db"
    rng = random.Random(7)
    f = Follower(world, copy)
    f.until(1)
    anew = 0
    for _ in range(12):
        for _ in range(4):
            commit(con, 20)
        time.sleep(rng.random() / 10) # where in a step it dies is left to chance
        f.proc.kill()
        f.proc.wait()
        if rng.random() < 0.5: # what a reader finds then is a whole state
            v, rows = content(copy)
            assert v == len(rows)
            integrity(copy)
        f.start()
    ended.append(f.proc)
    world.sync()
    f.steps.clear()
    while content(copy) != content(world.path / "a.db"):
        anew += bool(f.step()["anew"])
    assert anew == 0 # nothing was lost, so nothing had to be restored anew
    assert f.end()[0] == 0


def test_a_replica_that_was_begun_anew_is_followed_by_differences_under_its_readers(world, ended):
    con = followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    f.until(1)
    assert f.end()[0] == 0
    for _ in range(5):
        commit(con)
        world.sync()
    reader = sqlite3.connect(copy)
    assert reader.execute("select count(*) from t").fetchone() == (0,)
    world.stop()
    shutil.rmtree(world.replica)
    shutil.rmtree(world.state)
    world.start()
    world.sync()
    commit(con)
    world.sync()
    g = Follower(world, copy)
    ended.append(g.proc)
    step = g.step()
    assert step["anew"], step
    assert content(copy) == content(world.path / "a.db")
    assert reader.execute("select count(*) from t").fetchone() == (18,)
    reader.close()
    assert g.end(signal.SIGINT)[0] == 0


def test_a_gap_is_said_and_what_comes_later_is_followed(world, ended):
    con = followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    f.until(1)
    assert f.end()[0] == 0
    for _ in range(4):
        commit(con)
        world.sync()
    have = int(f.steps[-1]["txid"], 16)
    gone = [p for p in world.replica.glob("a/ltx/0/*.ltx") if int(p.name[:16], 16) == have + 1]
    assert len(gone) == 1
    gone[0].rename(world.path / "gone")
    before = content(copy)
    r = subprocess.run(f.args, capture_output=True, text=True, env=world.env, timeout=30)
    assert r.returncode == 65 and "missing from the replica" in r.stderr, r.stderr
    assert content(copy) == before
    (world.path / "gone").rename(gone[0])
    f.start()
    ended.append(f.proc)
    f.until(newest(world))
    assert f.steps[-1]["anew"] is None
    assert content(copy) == content(world.path / "a.db")
    assert f.end()[0] == 0


def test_a_copy_that_somebody_wrote_to_becomes_right_again(world, ended):
    followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    f.until(1)
    assert f.end()[0] == 0
    con = sqlite3.connect(copy)
    con.execute("insert into t(b) values('mine')")
    con.commit()
    con.close()
    f.start()
    ended.append(f.proc)
    assert f.step()["anew"] == "something else has written to it"
    assert content(copy) == content(world.path / "a.db")
    assert f.end()[0] == 0


def test_a_database_that_is_no_copy_is_not_touched(world):
    followed(world)
    make_db(world.path / "other.db").close()
    before = (world.path / "other.db").read_bytes()
    r = world.ctl("restore", "a", "-o", world.path / "other.db", "--follow", check=False)
    assert r.returncode == 17 and "is there already" in r.stderr
    assert (world.path / "other.db").read_bytes() == before
    r = world.ctl("restore", "a", "--follow", check=False)
    assert r.returncode == 64 and "--follow needs -o FILE" in r.stderr
    r = world.ctl("restore", "a", "-o", "x", "--follow", "--txid", "1", check=False)
    assert r.returncode == 64 and "excludes" in r.stderr


def test_a_copy_whose_base_was_pruned_is_restored_anew_under_its_readers(world, ended):
    con = followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    f.until(1)
    assert f.end()[0] == 0
    have = int(f.steps[-1]["txid"], 16)
    reader = sqlite3.connect(copy)
    assert reader.execute("select count(*) from t").fetchone() == (0,)
    for _ in range(3):
        commit(con)
        world.sync()
    world.ctl("snapshot", "a")
    commit(con)
    world.sync()
    (snapshot,) = [p for p in world.replica.glob("a/ltx/9/*.ltx") if int(p.name[17:33], 16) > have]
    upto = int(snapshot.name[17:33], 16)
    for p in world.replica.glob("a/ltx/*/*.ltx"): # as retention does
        if p != snapshot and int(p.name[17:33], 16) <= upto:
            p.unlink()
    f.start()
    ended.append(f.proc)
    assert f.step()["anew"] == "the files that lead on from its TXID are gone"
    assert content(copy) == content(world.path / "a.db")
    assert reader.execute("select count(*) from t").fetchone() == (12,) # the same file, still open
    reader.close()
    assert f.end()[0] == 0
    assert sorted(p.name for p in world.path.glob("copy.db*")) == ["copy.db", "copy.db.follow"]


def test_killed_at_each_call_of_a_step(world):
    con = followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    f.until(1)
    assert f.end()[0] == 0
    killed = 0
    for syscall in ("pwrite64", "write", "fdatasync", "fsync", "ftruncate", "unlink", "renameat,renameat2"):
        for when in (1, 2, 3, 5, 8):
            commit(con, 8)
            world.sync()
            r = subprocess.Popen(["strace", "-D", "-f", "-o", "/dev/null", "-e", f"trace={syscall}", "-e",
                                  f"inject={syscall}:signal=KILL:when={when}", *f.args],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=world.env)
            if r.stdout.readline(): # the step was done before the call was reached
                r.send_signal(signal.SIGTERM)
            r.communicate(timeout=30)
            killed += r.returncode != 0
            v, rows = content(copy) # what the next reader finds is a whole state
            assert v == len(rows), (syscall, when)
            integrity(copy)
    assert killed > 10
    commit(con)
    world.sync()
    f.start()
    f.until(newest(world))
    assert f.steps[-1]["verified"]
    assert f.end()[0] == 0
    assert content(copy) == content(world.path / "a.db")
    assert sorted(p.name for p in world.path.glob("copy.db*")) == ["copy.db", "copy.db.follow"]
