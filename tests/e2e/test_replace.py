"""restore over a database, or beside what one has left: who uses it is asked, and no crash loses a commit."""
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest

from conftest import OUT, image, integrity, make_db, txids

APP = """
import sqlite3, sys
con = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
con.execute("pragma wal_autocheckpoint=0")
print(con.execute("select count(*) from t").fetchone()[0], flush=True)
for line in sys.stdin:
    try:
        print(con.execute(line).fetchall(), flush=True)
    except sqlite3.Error as e:
        print("error", e, flush=True)
con.close()
"""


class App:
    """an application in a process of its own"""

    def __init__(self, path):
        self.p = subprocess.Popen([sys.executable, "-c", APP, str(path)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        self.p.stdout.readline()

    def sql(self, text):
        self.p.stdin.write(text + "\n")
        self.p.stdin.flush()
        return self.p.stdout.readline().strip()

    def insert(self, n=1):
        for _ in range(n):
            assert self.sql("insert into t(b) values(randomblob(500))") == "[]"

    def close(self):
        self.p.stdin.close()
        self.p.wait(20)

    def kill(self):
        self.p.kill()
        self.p.wait()


@pytest.fixture
def apps():
    started = []

    def start(path):
        started.append(App(path))
        return started[-1]
    yield start
    for a in started:
        if a.p.poll() is None:
            a.kill()


def rows(path):
    con = sqlite3.connect(path, timeout=20) # which leaves nothing beside it
    try:
        return con.execute("select count(*) from t").fetchone()[0]
    finally:
        con.close()


def settled(path):
    """the database as a reader sees it; nothing is left beside it"""
    n = rows(path)
    integrity(path)
    rows(path)
    return n, beside(path)


def beside(path):
    return sorted(p.name for p in path.parent.glob(path.name + "*"))


@pytest.fixture
def one(world):
    """a database of 10 rows, replicated; nobody else has it open"""
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    return world, world.path / "a.db"


# ---- over a database

@pytest.mark.outside
def test_a_database_that_an_application_has_open_is_not_replaced(one, apps):
    world, path = one
    app = apps(path)
    inode = path.stat().st_ino
    r = world.ctl("restore", "a", "--force", check=False)
    assert r.returncode == 75, r.stderr
    assert f"is in use by python3 (pid {app.p.pid})" in r.stderr or f"(pid {app.p.pid})" in r.stderr
    assert "--force-in-use" in r.stderr
    app.insert(20)
    assert path.stat().st_ino == inode and rows(path) == 30
    world.sync() # and walsupd is not paused
    assert image(world.restore("a", "local")) == image(path)
    app.close() # the control: nobody has it open
    r = world.ctl("restore", "a", "--force", "--txid", "1")
    assert path.stat().st_ino != inode and rows(path) == 10


def test_force_in_use_replaces_it_all_the_same(one, apps):
    world, path = one
    app = apps(path)
    app.insert(5)
    world.sync()
    world.ctl("restore", "a", "--force-in-use", "--txid", "1")
    assert rows(path) == 10
    integrity(path)
    app.insert(1) # into the old file, which is gone: what was asked for
    assert rows(path) == 10
    app.close()
    assert rows(path) == 10
    integrity(path)


def test_a_connection_in_rollback_mode_holds_no_lock_and_is_seen_all_the_same(one, apps):
    world, path = one
    out = world.path / "other.db"
    con = sqlite3.connect(out)
    con.execute("create table t(a, b)")
    con.commit()
    con.close()
    app = apps(out)
    r = world.ctl("restore", "a", "-o", out, "--force", check=False)
    assert r.returncode == 75 and f"(pid {app.p.pid})" in r.stderr, r.stderr
    app.insert()
    assert rows(out) == 1
    app.close()
    world.ctl("restore", "a", "-o", out, "--force")
    assert rows(out) == 10


@pytest.mark.outside
def test_walsupd_lets_go_of_a_database_that_is_replaced_and_takes_it_up_again(one, apps):
    world, path = one
    app = apps(path)
    app.insert(50)
    app.close()
    world.sync()
    world.ctl("restore", "a", "--force", "--txid", "1")
    assert rows(path) == 10 and world.status("a")["paused"] is None
    app = apps(path)
    app.insert(3)
    world.sync()
    assert image(world.restore("a", "local")) == image(path)
    app.close()
    log = world.log.read_text()
    assert "is replacing the file" in log
    assert "something else than SQLite" not in log and "WAL changed without us" not in log
    # the commits of the old file, up to the last, are in the history
    assert rows(world.restore("a", "local", None, "--txid", f"{txids(world)[1]:016x}")) == 60


def test_one_that_was_paused_stays_paused(one):
    world, path = one
    world.ctl("pause", "a", "--reason", "mine")
    r = world.ctl("restore", "a", "--force")
    assert "stays paused" in r.stderr and "walsupctl resume a" in r.stderr
    assert world.status("a")["paused"]["reason"] == "mine"
    world.ctl("resume", "a")
    world.sync()


def in_the_window(world, *args):
    """a restore that is held where it has paused the database and not yet replaced it; strace now and then forgets to"""
    for _ in range(6):
        p = subprocess.Popen(["strace", "-f", "-o", "/dev/null", "-e", "trace=renameat2", "-e",
                              "inject=renameat2:delay_enter=4s:when=1+", str(OUT / "walsupctl"), "-c", str(world.ini),
                              "restore", "a", "--force", "--no-resume", *args], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, env=world.env)
        world.poll("paused", lambda: p.poll() is not None or world.status("a")["paused"])
        paused = world.status("a")["paused"]
        if paused and p.poll() is None:
            return p, int(re.search(r"pid (\d+)", paused["reason"])[1])
        out = p.communicate(timeout=60)
        assert p.returncode == 0, out
    raise AssertionError(out)


@pytest.mark.outside
def test_a_signal_while_it_is_paused_leaves_it_resumed(one):
    world, path = one
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        p, pid = in_the_window(world)
        os.kill(pid, sig)
        out, err = p.communicate(timeout=60)
        assert world.status("a")["paused"] is None, (sig, out, err)
        assert rows(path) == 10
        world.sync()
        assert [n for n in beside(path) if ".tmp-" in n] == []


@pytest.mark.outside
def test_the_daemon_dies_while_it_is_paused_and_the_command_to_resume_is_said(one):
    world, path = one
    p, pid = in_the_window(world)
    world.stop(signal.SIGKILL)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0 and "could not be resumed" in err and "walsupctl resume a" in err, err
    assert rows(path) == 10
    world.start()
    assert "is replacing the file" in world.status("a")["paused"]["reason"]
    world.ctl("resume", "a")
    world.sync()
    assert world.status("a")["state"] == "replicating"


@pytest.mark.outside
def test_killed_at_each_call_of_the_exchange_no_commit_of_the_old_one_is_lost(one, apps):
    """The old database has 40 of its 440 rows in its -wal only, and its application is dead."""
    world, path = one
    world.stop()
    out = world.path / "dir" / "old.db"
    out.parent.mkdir()
    seed = world.path / "seed.db"
    make_db(seed, rows=400).close() # most pages of which are not in the -wal
    app = apps(seed)
    app.insert(40)
    app.kill()
    log = (world.path / "seed.db-wal").read_bytes()
    assert len(log) > 40 * 4096
    new = image(world.restore("a", "local"))
    old = None
    seen = {"old": 0, "new": 0}
    for call in ("unlink", "rename,renameat2", "fsync", "fdatasync", "pwrite64", "ftruncate", "fcntl", "fchmod"):
        for when in (1, 2, 3, 4, 6, 9, 14):
            for p in out.parent.iterdir():
                p.unlink()
            shutil.copy(seed, out)
            (out.parent / "old.db-wal").write_bytes(log)
            if old is None:
                old = image(out)
                shutil.copy(seed, out)
                (out.parent / "old.db-wal").write_bytes(log)
            subprocess.run(["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                            f"inject={call}:signal=KILL:when={when}", str(OUT / "walsupctl"), "-c", str(world.ini),
                            "restore", "a", "--force", "-o", str(out)], capture_output=True, env=world.env, timeout=60)
            found = image(out)
            assert found in (old, new), (call, when)
            integrity(out)
            seen["old" if found == old else "new"] += 1
    print(seen)
    assert seen["old"] > 5 and seen["new"] > 5


# ---- beside what a database has left

def leave_wal(world, path, apps, captured):
    """path is moved away by `mv`, its -wal stays, with commits that the replica has, or not"""
    app = apps(path)
    app.insert(40)
    if captured:
        world.sync()
    else:
        world.stop()
        app.insert(1)
    app.kill()
    log = (path.parent / "a.db-wal").read_bytes() if (path.parent / "a.db-wal").exists() else b""
    assert len(log) > 4096
    if captured:
        world.stop()
    path.rename(path.with_name("moved.db"))
    for side in ("-wal", "-shm"):
        path.with_name("a.db" + side).unlink(missing_ok=True)
    path.with_name("a.db-wal").write_bytes(log)
    return log


@pytest.mark.outside
@pytest.mark.parametrize("how", ["mv", "mv to another directory", "rm", "force"])
def test_what_is_captured_and_not_uploaded_is_waited_for(world, apps, how):
    """right after the last commit, before anybody has uploaded it, and before walsupd has seen the move"""
    path = world.path / "a.db"
    make_db(path, rows=1).close()
    world.configure(world.file_target(), world.db("a"), sync_interval="2s")
    world.start()
    world.sync()
    (world.path / "other").mkdir()
    for n in range(3 if how == "force" else 1):
        app = apps(path)
        app.sql("begin")
        app.insert(200)
        app.sql("commit")
        app.close()
        moved = {"mv": path.with_name(f"moved{n}.db"), "mv to another directory": world.path / f"other/{n}.db"}.get(how)
        if moved:
            path.rename(moved)
        elif how == "rm":
            path.unlink()
        r = world.ctl("restore", "a", *(["--force"] if how == "force" else []))
        assert "warning" not in r.stderr, r.stderr
        assert rows(path) == 1 + 200 * (n + 1)
        assert moved is None or rows(moved) == 1 + 200 * (n + 1)
        assert world.status("a")["paused"] is None
        world.sync()
    assert image(world.restore("a", "local")) == image(path)


def test_what_cannot_be_uploaded_is_said(world, s3, apps):
    path = world.path / "a.db"
    make_db(path, rows=1).close()
    world.configure(s3.target(), world.db("a", target="s3"))
    world.start()
    world.sync()
    s3.faults({"verb": "PUT", "action": "status", "status": 503})
    app = apps(path)
    app.insert(5)
    app.close()
    world.poll("the target fails", lambda: world.status("a")["replicas"][0]["error"])
    path.rename(path.with_name("moved.db"))
    r = world.ctl("restore", "a")
    assert "could not be uploaded yet: what is restored is older" in r.stderr, r.stderr
    assert rows(path) == 1


def test_moved_away_and_restored_while_the_daemon_runs(one, apps):
    world, path = one
    app = apps(path)
    app.insert(600)
    app.close()
    world.sync()
    path.rename(path.with_name("a.db.backup"))
    world.ctl("restore", "a")
    assert rows(path) == 610
    world.sync()
    app = apps(path)
    app.insert()
    world.sync()
    assert image(world.restore("a", "local")) == image(path)
    app.close()


def test_a_leftover_wal_that_the_replica_has_is_no_obstacle(one, apps):
    world, path = one
    leave_wal(world, path, apps, captured=True)
    path.with_name("a.db-shm").write_bytes(b"\0" * 32768)
    world.ctl("restore", "a")
    assert beside(path) == ["a.db"]
    assert settled(path) == (50, ["a.db"])


def test_nor_is_it_for_an_earlier_state(one, apps):
    world, path = one
    leave_wal(world, path, apps, captured=True)
    world.ctl("restore", "a", "--txid", "1")
    assert beside(path) == ["a.db"]
    assert settled(path) == (10, ["a.db"])


def test_a_leftover_wal_with_commits_that_the_replica_lacks_is_refused(one, apps):
    world, path = one
    log = leave_wal(world, path, apps, captured=False)
    for more in ((), ("--txid", "1")):
        r = world.ctl("restore", "a", *more, check=False)
        assert r.returncode == 17, r.stderr
        assert "a.db-wal holds commits that are not in what is restored" in r.stderr
        assert "move it beside the database it belongs to" in r.stderr and "--force" in r.stderr
        assert not path.exists() and path.with_name("a.db-wal").read_bytes() == log
        assert beside(path) == ["a.db-wal"]
    # the remedy: nothing was lost
    path.with_name("a.db-wal").rename(path.with_name("moved.db-wal"))
    assert rows(path.with_name("moved.db")) == 51
    world.ctl("restore", "a")
    assert rows(path) in (10, 50) # what was uploaded before the stop


def test_force_removes_it(one, apps):
    world, path = one
    leave_wal(world, path, apps, captured=False)
    world.ctl("restore", "a", "--force", "--txid", "1")
    assert beside(path) == ["a.db"]
    assert settled(path) == (10, ["a.db"])


def test_what_holds_no_commit_is_no_obstacle(one, apps):
    world, path = one
    log = leave_wal(world, path, apps, captured=False)
    world.path.joinpath("moved.db").unlink()
    for junk in (b"", log[:32], log[:32 + 24 + 2000], b"\0" * 8192, log[:40] + b"\xff" * 8 + log[48:]):
        path.unlink(missing_ok=True)
        path.with_name("a.db-wal").write_bytes(junk)
        path.with_name("a.db-journal").write_bytes(b"")
        world.ctl("restore", "a", "--txid", "1")
        assert beside(path) == ["a.db"]
        assert settled(path) == (10, ["a.db"])


def test_a_moved_database_that_is_still_open_keeps_its_files(one, apps):
    world, path = one
    world.stop()
    app = apps(path)
    app.insert(5)
    path.rename(path.with_name("moved.db"))
    r = world.ctl("restore", "a", check=False)
    assert r.returncode == 75 and f"(pid {app.p.pid})" in r.stderr and "which has the database open" in r.stderr
    assert beside(path) == ["a.db-shm", "a.db-wal"]
    app.close() # SQLite does not fold the log into a database that was moved
    assert world.ctl("restore", "a", check=False).returncode == 17
    path.with_name("a.db-wal").rename(path.with_name("moved.db-wal"))
    assert rows(path.with_name("moved.db")) == 15
    world.ctl("restore", "a", "--txid", "1")
    assert rows(path) == 10


@pytest.mark.outside
def test_killed_at_each_call_beside_a_leftover_wal(one, apps):
    world, path = one
    log = leave_wal(world, path, apps, captured=True)
    latest, first = image(world.restore("a", "local")), image(world.restore("a", "local", None, "--txid", "1"))
    seen = []
    for want, more in ((latest, ()), (first, ("--txid", "1"))):
        for call in ("unlink", "rename,renameat2", "fsync", "fcntl"):
            for when in (1, 2, 3, 4, 6):
                for n in beside(path):
                    path.with_name(n).unlink()
                path.with_name("a.db-wal").write_bytes(log)
                subprocess.run(["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                                f"inject={call}:signal=KILL:when={when}", str(OUT / "walsupctl"), "-c",
                                str(world.ini), "restore", "a", *more], capture_output=True, env=world.env, timeout=60)
                seen.append(path.exists())
                if path.exists():
                    assert image(path) == want, (call, when, more)
                else: # the same command goes on
                    world.ctl("restore", "a", *more)
                    assert beside(path) == ["a.db"] and image(path) == want, (call, when, more)
    assert True in seen and False in seen


def test_a_database_is_removed_but_for_its_shm_and_made_anew_while_walsupd_has_that_open(world, apps):
    """whoever makes the new one takes the -shm for his own, since somebody has it open; he must not be left with that"""
    path = world.path / "a.db"
    make_db(path, rows=30).close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    app = apps(path)
    app.insert(5)
    world.sync()
    os.kill(world.proc.pid, signal.SIGSTOP)
    app.kill()
    path.unlink()
    (world.path / "a.db-wal").unlink()
    assert (world.path / "a.db-shm").exists()
    con = sqlite3.connect(path, isolation_level=None, timeout=5)

    def wal():
        try:
            return con.execute("pragma journal_mode=wal").fetchone() == ("wal",) and bool(con.execute("select count(*) from sqlite_master").fetchone())
        except sqlite3.Error as e:
            return print(e)

    assert not wal(), "without walsupd's help it goes well: there is nothing to be mended"
    os.kill(world.proc.pid, signal.SIGCONT)
    world.poll("the new database is usable", wal)
    con.execute("create table t(a integer primary key, b)")
    con.execute("insert into t(b) values(1)")
    assert con.execute("pragma integrity_check").fetchone() == ("ok",)
    world.poll("it is captured", lambda: "was removed" in world.log.read_text())
    world.sync()
    assert image(world.restore("a", "local")) == image(path)
    con.close()
