"""What people do to databases and walsup cannot see from its own view: other names, other locks, slow disks, files that
come and go. Nothing acknowledged may be missed in silence, and the application must not notice that walsupd is there.
Each situation has its control: the same without what is peculiar about it is right, and healthy."""
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import image, integrity, make_db, section

APP = """
import json, sqlite3, sys
d = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=float(sys.argv[2]), uri=True)
for line in sys.stdin:
    try:
        print(json.dumps(["ok", d.execute(line).fetchall()]), flush=True)
    except sqlite3.Error as e:
        print(json.dumps(["error", str(e)]), flush=True)
d.close()
"""


class App:
    """An application in a process of its own: what it locks is another process's."""

    def __init__(self, path, *wrap, timeout=5):
        self.p = subprocess.Popen([*map(str, wrap), sys.executable, "-c", APP, str(path), str(timeout)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def send(self, sql):
        self.p.stdin.write(sql + "\n")
        self.p.stdin.flush()

    def answer(self):
        kind, value = __import__("json").loads(self.p.stdout.readline())
        return value if kind == "ok" else AssertionError(value)

    def sql(self, sql):
        self.send(sql)
        v = self.answer()
        if isinstance(v, Exception):
            raise v
        return v

    def close(self):
        self.p.stdin.close()
        assert self.p.wait(20) == 0

    def kill(self):
        self.p.kill()
        self.p.wait()


@pytest.fixture
def apps():
    all_of = []

    def start(*args, **kw):
        all_of.append(App(*args, **kw))
        return all_of[-1]
    yield start
    for a in all_of:
        a.kill()


def one(world, copy_wait="0s", **daemon):
    path = world.path / "data" / "a.db"
    path.parent.mkdir()
    make_db(path, rows=5).close()
    world.configure(world.file_target(), world.db("a", path), copy_wait=copy_wait, **daemon)
    world.start()
    world.sync()
    return path


def rows(path):
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return con.execute("select count(*) from t").fetchone()[0]
    finally:
        con.close()


INSERT = "insert into t(b) values(randomblob(100))"


def holds(world, path):
    d = f"/proc/{world.proc.pid}/fd"
    for f in os.listdir(d):
        try:
            if os.readlink(f"{d}/{f}") == str(path):
                return True
        except OSError:
            pass
    return False


# ---- the owner's story -------------------------------------------------------------------------------------------


@pytest.mark.outside
@pytest.mark.parametrize("how", ["mv", "mv to another directory", "rm"])
@pytest.mark.parametrize("wait", [0.01, 2])
def test_the_application_has_left_and_its_file_is_moved_away_and_restored(world, how, wait, apps):
    """every row is in the file that was moved, nothing is left beside it, restore needs no option"""
    path = one(world, idle_timeout="30s")
    app = apps(path)
    for _ in range(60):
        app.sql(INSERT)
    assert holds(world, path)
    app.close()
    time.sleep(wait)  # how long after the last close: the input
    aside = path.with_name("a.db.backup") if how == "mv" else world.path / "elsewhere.db"
    path.unlink() if how == "rm" else path.rename(aside)
    world.poll("it is said", lambda: world.status("a")["state"] == "missing")
    detail = world.status("a")["detail"]
    assert ("removed" if how == "rm" else "was moved away") in detail and "picked up when it appears" in detail
    r = world.ctl("sync", "a", check=False)
    assert r.returncode == 66 and ("removed at 2" if how == "rm" else "was moved away") in r.stderr, r.stderr
    assert "hint: walsupctl restore a brings it back" in r.stderr and "yet" not in r.stderr
    assert [x for x in os.listdir(path.parent) if x != "a.db.backup"] == [], "nothing is left beside it"
    if how != "rm":
        assert rows(aside) == 65
        integrity(aside)
    world.ctl("restore", "a")
    assert rows(path) == 65
    world.poll("picked up", lambda: world.status("a")["state"] in ("replicating", "idle"))
    world.sync()
    assert world.ctl("status").returncode == 0


@pytest.mark.outside
def test_moved_away_while_its_application_has_it_open_nothing_is_taken_from_it(world, apps):
    path = one(world)
    app = apps(path)
    app.sql(INSERT)
    world.sync()
    aside = path.with_name("a.db.backup")
    path.rename(aside)
    world.poll("it is said", lambda: world.status("a")["state"] == "missing")
    assert path.with_name("a.db-wal").exists(), "the application is using it"
    for _ in range(20):
        app.sql(INSERT)
    assert app.sql("select count(*) from t") == [[26]]
    assert app.sql("pragma integrity_check") == [["ok"]]


# ---- files as SQLite would have left them -------------------------------------------------------------------------


@pytest.mark.outside
@pytest.mark.parametrize("how", ["asleep", "paused", "stopped", "a second after the last close"])
def test_nothing_lies_beside_a_database_that_nobody_uses(world, how, apps):
    path = one(world, idle_timeout="1s" if how == "asleep" else "60s")
    app = apps(path)
    app.sql(INSERT)
    world.sync()
    assert path.with_name("a.db-wal").exists()
    app.close()
    if how == "paused":
        world.ctl("pause", "a")
    elif how == "stopped":
        world.stop()
    world.poll("gone", lambda: sorted(os.listdir(path.parent)) == ["a.db"], timeout=5) if how != "stopped" else None
    assert sorted(os.listdir(path.parent)) == ["a.db"]
    if how == "paused":
        world.ctl("resume", "a")
    if how == "stopped":
        world.start()
    world.sync()
    c = world.status("a")["counters"]
    assert c["resync_pages"] == 0 and c["full_captures"] <= 1, c  # continuity survives it
    assert image(world.restore("a", "local")) == image(path)


@pytest.mark.outside
def test_the_last_close_is_left_to_the_application_that_has_it_open_still(world, apps):
    """the control: with another application there nothing is removed"""
    path = one(world)
    first, second = apps(path), apps(path)
    first.sql(INSERT)
    second.sql("select count(*) from t")
    first.close()
    world.ctl("pause", "a")
    assert path.with_name("a.db-wal").exists() and path.with_name("a.db-shm").exists()
    assert second.sql("select count(*) from t") == [[6]]


@pytest.mark.outside
def test_an_application_that_wants_the_database_for_itself_gets_it(world, apps):
    path = one(world, idle_timeout="60s")
    app = apps(path)
    app.sql(INSERT)
    world.sync()
    app.close()
    app = apps(path)
    app.sql("pragma locking_mode=exclusive")
    app.sql(INSERT)
    locked = world.poll("it is said", lambda: world.status("a")["state"] == "locked" and world.status("a"))
    assert str(app.p.pid) in locked["detail"], locked["detail"]
    world.poll("degraded", lambda: world.ctl("status", check=False).returncode == 1, timeout=10)
    app.close()
    world.poll("captured", lambda: world.status("a")["state"] in ("replicating", "idle"))
    world.sync()
    assert image(world.restore("a", "local")) == image(path)


# ---- what walsup cannot see ---------------------------------------------------------------------------------------


@pytest.mark.outside
@pytest.mark.parametrize("other", [True, False])
def test_the_application_uses_another_name_of_the_file(world, apps, other):
    path = one(world, scan_interval="2s")
    link = world.path / "other.db"
    os.link(path, link)
    app = apps(link if other else path)
    for _ in range(5):
        app.sql(INSERT)
    if not other:
        world.sync()
        assert world.ctl("status").returncode == 0
        return
    d = world.poll("it is said", lambda: world.status("a")["state"] == "unseen" and world.status("a"), timeout=10)
    assert f"(pid {app.p.pid}, " in d["detail"] and "by another name" in d["detail"]
    assert world.ctl("status", check=False).returncode == 1
    r = world.sync(check=False)
    assert r.returncode == 74 and "commits may be missed" in r.stderr
    app.close()


@pytest.mark.outside
@pytest.mark.parametrize("vfs", ["unix-none", "unix-dotfile", "unix"])
def test_an_application_whose_locks_cannot_be_seen(world, apps, vfs):
    path = world.path / "a.db"
    world.configure(world.file_target(), world.db("a", path), copy_wait="2s")
    world.start()
    app = apps(f"file:{path}?vfs={vfs}")
    if vfs != "unix":
        app.sql("pragma locking_mode=exclusive")
    assert app.sql("pragma journal_mode=wal") == [["wal"]]
    app.sql("create table t(a integer primary key, b)")
    for _ in range(20):
        app.sql(INSERT)
    r = world.sync("--timeout", "6s", check=False)
    if vfs == "unix":
        assert r.returncode == 0, r.stderr
        return
    assert r.returncode != 0 and str(path) in r.stderr
    world.poll("not healthy", lambda: world.ctl("status", check=False).returncode == 1, timeout=10)
    assert app.sql("pragma integrity_check") == [["ok"]]


@pytest.mark.outside
def test_a_commit_whose_fsync_takes_seconds_arrives_soon_after_it(world, apps):
    path = one(world, idle_timeout="60s")
    app = apps(path, "strace", "-f", "-o", "/dev/null", "-P", f"{path}-wal", "-e", "trace=fdatasync,fsync", "-e",
               "inject=fdatasync,fsync:delay_enter=5s:when=1+")
    app.sql(INSERT)
    end = time.monotonic()
    world.poll("in the replica", lambda: world.status("a")["txid"] > f"{1:016x}", timeout=3)
    assert time.monotonic() - end < 3
    world.sync()
    assert image(world.restore("a", "local")) == image(path)


@pytest.mark.outside
@pytest.mark.parametrize("how", ["pause", "stop"])
def test_a_commit_in_its_fsync_while_walsup_lets_go_is_there_afterwards(world, apps, how):
    path = one(world)
    app = apps(path, "strace", "-f", "-o", "/dev/null", "-P", f"{path}-wal", "-e", "trace=fdatasync,fsync", "-e",
               "inject=fdatasync,fsync:delay_enter=4s:when=1+")
    app.send(INSERT)
    world.poll("its frames are written", lambda: path.with_name("a.db-wal").exists() and
               path.with_name("a.db-wal").stat().st_size > 4000)
    if how == "pause":
        world.ctl("pause", "a")
    else:
        world.stop()
    assert app.answer() == []
    if how == "pause":
        world.ctl("resume", "a")
    else:
        world.start()
    world.sync()
    assert rows(world.restore("a", "local")) == 6


@pytest.mark.outside
def test_a_writer_killed_in_its_commit_is_no_doubt_for_long(world, apps):
    path = one(world)
    app = apps(path, "strace", "-f", "-o", "/dev/null", "-P", f"{path}-wal", "-e", "trace=fdatasync,fsync", "-e",
               "inject=fdatasync,fsync:delay_enter=30s:when=3+")
    app.sql(INSERT)  # of whose two the first is for the header of the -wal
    size = os.stat(f"{path}-wal").st_size
    app.send(INSERT)
    world.poll("its frames are written", lambda: os.stat(f"{path}-wal").st_size > size)
    subprocess.run(["pkill", "-9", "-P", str(app.p.pid)], check=False)
    app.kill()
    began = time.monotonic()
    world.sync("--timeout", "20s")
    assert time.monotonic() - began < 10
    assert image(world.restore("a", "local")) == image(path)


# ---- patterns, side files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", [False, True])
def test_all_databases_of_a_pattern_are_gone(world, restart):
    (world.path / "t").mkdir()
    for n in "abc":
        make_db(world.path / "t" / f"{n}.db").close()
    world.configure(world.file_target(), section("db t", {"path": world.path / "t/*.db", "target": "local"}), scan_interval="1s")
    world.start()
    world.sync()
    assert world.ctl("status").returncode == 0  # the control
    (world.path / "t").rename(world.path / "elsewhere")
    (world.path / "t").mkdir()
    if restart:
        world.stop()
        world.start()
    world.poll("it is said", lambda: world.status()["lost_patterns"])
    r = world.ctl("status", check=False)
    assert r.returncode == 1 and "had databases, and has none now" in " ".join(r.stdout.split())
    (world.path / "t").rmdir()
    (world.path / "elsewhere").rename(world.path / "t")
    world.poll("back", lambda: not world.status()["lost_patterns"])
    world.sync()


@pytest.mark.outside
def test_a_truncated_shm_is_the_error_of_that_database_only(world, apps):
    path = one(world)
    other = world.path / "other.db"
    con = make_db(other)
    world.configure(world.file_target(), world.db("a", path), world.db("other", other))
    world.ctl("reload")
    app = apps(path)
    app.sql(INSERT)
    world.sync()
    app.kill()
    os.truncate(f"{path}-shm", 0)
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.sync("other")
    assert world.proc.poll() is None
    assert image(world.restore("other", "local")) == image(other)
    app = apps(path)
    app.sql(INSERT)
    world.sync("a")
    assert rows(world.restore("a", "local")) == 7


@pytest.mark.outside
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mkfs.ext4"), reason="needs root, to mount a file system")
def test_a_file_system_that_keeps_times_in_seconds(world, apps):
    """what was noted of the file must not hold for a later commit of the same second"""
    image_file, disk = world.path / "image", world.path / "disk"
    disk.mkdir()
    with open(image_file, "wb") as f:
        f.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-I", "128", image_file], check=True, stderr=subprocess.DEVNULL)
    if subprocess.run(["mount", "-o", "loop", image_file, disk], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("no loop mounts here")
    try:
        path = disk / "a.db"
        make_db(path, rows=20).close()
        world.configure(world.file_target(), world.db("a", path), idle_timeout="1s", copy_wait="0s")
        world.start()
        world.sync()
        app = apps(path)
        for k in range(4):
            app.sql("update t set b=randomblob(1000) where a=1")
            world.poll("let go", lambda: not holds(world, path), timeout=15)
            os.kill(world.proc.pid, signal.SIGSTOP)
            app.sql(f"update t set b=randomblob(1000) where a={5 + k}")
            app.sql("pragma wal_checkpoint(passive)")
            app.sql("update t set b=randomblob(1000) where a=2")
            os.kill(world.proc.pid, signal.SIGCONT)
            world.sync()
            assert image(world.restore("a", "local")) == image(path)
        app.close()
        world.stop()
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


# ---- healthy means proven -------------------------------------------------------------------------------------------


@pytest.mark.outside
def test_a_disk_that_does_not_answer_a_job_is_stalled_not_healthy(world):
    path = world.path / "a.db"
    make_db(path).close()
    world.configure(world.file_target(), world.db("a", path), landlock="off")
    world.start(ready=False, wrap=("strace", "-f", "-o", "/dev/null", "-P", str(path), "-e", "trace=pread64", "-e",
                                   "inject=pread64:delay_enter=60s:when=1+"))
    try:
        world.poll("it answers", lambda: world.ctl("list", check=False).returncode == 0 and world.socket.exists())
        d = world.poll("it is said", lambda: world.status("a")["state"] == "stalled" and world.status("a"), timeout=30)
        assert "no progress for" in d["detail"], d["detail"]
        assert world.ctl("status", check=False).returncode == 1
    finally:
        subprocess.run(["pkill", "-9", "-P", str(world.proc.pid)], check=False)


@pytest.mark.outside
def test_files_that_nobody_could_look_at_for_long_are_unproven_not_healthy(world):
    path = one(world, scan_interval="1s", idle_timeout="1s", landlock="off")
    world.poll("asleep", lambda: world.status("a")["state"] == "idle")
    assert world.ctl("status").returncode == 0  # the control
    hang = subprocess.Popen(["strace", "-f", "-o", "/dev/null", "-p", str(world.proc.pid), "-P", str(path), "-e",
                             "trace=newfstatat,stat,statx", "-e", "inject=newfstatat,stat,statx:delay_enter=90s:when=1+"])
    try:
        d = world.poll("it is said", lambda: world.status("a")["state"] == "unproven" and world.status("a"), timeout=60)
        assert d["proven_ms"] < d["since_ms"] + 90000
        assert world.ctl("status", check=False).returncode == 1
    finally:
        hang.kill()
        hang.wait()
        world.proc.kill()


def test_sync_right_after_the_application_made_the_database_does_not_answer_by_how_it_was(world):
    """the call and the event of the new file reach walsupd in the same moment"""
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.poll("it waits for one", lambda: world.status("a")["state"] == "waiting")
    world.proc.send_signal(signal.SIGSTOP)
    make_db(world.path / "a.db").close()
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(60)
        line.connect(str(world.socket))
        line.sendall(b'{"method":"io.walsup.Sync","parameters":{"db":"a","wait":true}}\0')
        world.proc.send_signal(signal.SIGCONT)
        reply = b""
        while not reply.endswith(b"\0"):
            reply += line.recv(65536)
    assert b"error" not in reply, reply
    assert image(world.restore("a", "local")) == image(world.path / "a.db")
