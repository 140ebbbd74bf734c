"""No room left, and what a restore that was killed leaves: the target is untouched or complete."""
import contextlib
import os
import re
import shutil
import subprocess
import time

import pytest

from conftest import OUT, make_db, pages_equal, sha

MIB = 1 << 20


@contextlib.contextmanager
def tmpfs(path, size):
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs")
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def replicated(world):
    """8 MiB that compress to almost nothing, in a snapshot and two small files"""
    con = make_db(world.path / "a.db", rows=300)
    con.execute("insert into t(b) values(zeroblob(?))", (8 * MIB,))
    con.commit()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    for i in range(2):
        con.execute("update t set b=randomblob(200) where a=?", (i + 1,))
        con.commit()
        world.sync()
    assert world.stop() == 0
    con.close()
    return world


def strace(world, inject, out, *args):
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    return subprocess.run(["strace", "-f", "-o", "/dev/null", "-e", f"trace={inject.split(':')[0]}",
                           "-e", f"inject={inject}", OUT / "walsupctl", "-c", world.ini, "restore",
                           "a", "-o", out, *args], capture_output=True, text=True)


def refused(r, at):
    """status 73 and one sentence: file system, need, what is free"""
    text = re.sub(r"\s+", " ", r.stderr)
    assert r.returncode == 73, (r.returncode, text)
    assert "No space left" in text and "hint: make room" in text, text
    assert f"in the file system mounted at {at}" in text, text
    assert re.search(r"needs (more than )?[0-9.]+ [KM]iB", text), text
    assert re.search(r"which has [0-9.]+ [KMGT]?i?B free", text), text
    return text


def restored_sha(w):
    out = w.path / "good.db"
    w.ctl("restore", "a", "-o", out)
    pages_equal(w.path / "a.db", out, 4096)
    return sha(out)


def test_a_restore_that_will_not_fit_is_refused_before_it_fetches_the_rest(replicated):
    w = replicated
    with tmpfs(w.path / "small", "4m") as small:  # the replica would fit, the database does not
        text = refused(w.ctl("restore", "a", "-o", small / "out.db", check=False), small)
        assert "needs 8.1 MiB for the database" in text or "needs 8.0 MiB for the database" in text, text
        assert not list(small.iterdir()), "something was left behind"
    with tmpfs(w.path / "tiny", "16k") as tiny:
        text = refused(w.ctl("restore", "a", "-o", tiny / "out.db", check=False), tiny)
        assert text.count("needs 8.") == 1, text
        assert not list(tiny.iterdir())
    with tmpfs(w.path / "enough", "9m") as enough:
        w.ctl("restore", "a", "-o", enough / "out.db")
        pages_equal(w.path / "a.db", enough / "out.db", 4096)


def test_an_existing_target_survives_a_restore_that_does_not_fit(replicated):
    w = replicated
    with tmpfs(w.path / "small", "4m") as small:
        old = {small / "out.db": b"old" * 100, small / "out.db-wal": b"its log"}
        for path, content in old.items():
            path.write_bytes(content)
        refused(w.ctl("restore", "a", "-o", small / "out.db", "--force", check=False), small)
        assert {p: p.read_bytes() for p in small.iterdir()} == old


@pytest.mark.outside
def test_space_that_somebody_else_takes_meanwhile(replicated):
    w = replicated
    out = w.path / "dir" / "out.db"
    out.parent.mkdir()
    good = restored_sha(w)
    mount = subprocess.run(["stat", "-c", "%m", w.path], capture_output=True,
                           text=True).stdout.strip()
    full, done = 0, 0
    for when in (1, 2, 3, 4, 5, 8, 13, 21, 34, 1000):
        r = strace(w, f"pwrite64:error=ENOSPC:when={when}+", out)
        if r.returncode:
            refused(r, mount)
            assert not list(out.parent.iterdir()), "something was left behind"
            full += 1
        else:
            assert sha(out) == good
            out.unlink()
            done += 1
    r = strace(w, "fsync:error=ENOSPC:when=1", out)
    refused(r, mount)
    assert not list(out.parent.iterdir())
    print(f"no room at {full} moments, {done} beyond the end")
    assert full >= 3 and done >= 1


@pytest.mark.outside
def test_what_a_killed_restore_left_goes_with_the_next_one(replicated):
    w = replicated
    out = w.path / "dir" / "out.db"
    out.parent.mkdir()
    good = restored_sha(w)
    stranger = out.parent / "out.db.tmp-0123"
    other = out.parent / "other.db.tmp-0123456789abcdef"
    for p in (stranger, other):
        p.write_bytes(b"not ours")
    killed = left = 0
    for inject in ("pwrite64", "fsync", "fchmod", "renameat,renameat2"):
        for when in (1, 2, 3, 5, 8):
            r = strace(w, f"{inject}:signal=KILL:when={when}", out)
            now = set(out.parent.iterdir()) - {stranger, other}
            killed += r.returncode != 0
            if out in now:
                assert sha(out) == good
                now.remove(out)
            assert all(re.fullmatch(r"out\.db\.tmp-[0-9a-f]{16}", p.name) for p in now), now
            left += len(now)
            w.ctl("restore", "a", "-o", out, "--force")
            assert sha(out) == good
            assert set(out.parent.iterdir()) == {out, stranger, other}
            out.unlink()
    print(f"{killed} killed, {left} files left by them and removed by the next")
    assert killed >= 4 and left >= 3


@pytest.mark.outside
def test_killed_while_replacing_the_old_or_the_new_is_there(replicated):
    w = replicated
    out = w.path / "dir" / "out.db"
    out.parent.mkdir()
    good, seen = restored_sha(w), []
    for inject in ("pwrite64", "fsync", "fchmod", "unlink", "rename", "renameat,renameat2"):
        for when in (1, 2, 3):
            out.write_bytes(b"the old one")
            old = sha(out)
            strace(w, f"{inject}:signal=KILL:when={when}", out, "--force")
            assert sha(out) in (old, good), (inject, when)
            seen.append("new" if sha(out) == good else "old")
    print(f"{seen.count('old')} times the old one, {seen.count('new')} times the new one")
    assert "old" in seen and "new" in seen


@pytest.mark.outside
def test_a_restore_that_runs_is_not_swept_away(replicated):
    w = replicated
    out = w.path / "dir" / "out.db"
    out.parent.mkdir()
    if not shutil.which("strace"):
        pytest.skip("needs strace")
    slow = subprocess.Popen(["strace", "-f", "-o", "/dev/null", "-e", "trace=fsync", "-e",
                             "inject=fsync:delay_enter=3s:when=1", OUT / "walsupctl", "-c", w.ini,
                             "restore", "a", "-o", out], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 20
        while not [p for p in out.parent.iterdir() if ".tmp-" in p.name]:
            assert time.monotonic() < end and slow.poll() is None
            time.sleep(0.01)
        held = {p.name for p in out.parent.iterdir()}
        w.ctl("restore", "a", "-o", out)
        assert held <= {p.name for p in out.parent.iterdir()}, "the other one's file was removed"
        before = sha(out)
        _, text = slow.communicate(timeout=60)
    finally:
        slow.kill()
        slow.wait()
    assert slow.returncode == 17 and "is there already" in text  # the later one was quicker
    assert sha(out) == before and list(out.parent.iterdir()) == [out]


@contextlib.contextmanager
def stopped(world):
    try:
        yield
    finally:
        status = world.stop()
    assert status == 0


def free(path):
    v = os.statvfs(path)
    return v.f_bavail * v.f_frsize


def test_what_is_kept_free_stays_free_while_a_sparse_database_is_captured(world):
    """nothing on the disk, and far more than there is room for when every page gets its frame"""
    with tmpfs(world.path / "st", "60m") as state, stopped(world):
        make_db(world.path / "a.db").close()
        world.state = state
        world.configure(world.file_target(), world.db("a"), world.db("b"), min_free="40MiB")
        big = world.path / "b.db"
        make_db(big).close()
        os.truncate(big, 256 << 30)
        world.start(ready=False)
        least = []

        def told():
            least.append(free(state))
            dbs = world.status().get("databases", ())
            return any("are kept free" in str(d["error"]) for d in dbs if d["name"] == "b")
        world.poll("it is told what is kept free", told)
        assert min(least) >= 38 * MIB, min(least) / MIB
        assert "lower min-free" in " ".join(world.ctl("status", check=False).stdout.split())
        world.sync("a", timeout=60)
        world.poll("what was begun is gone", lambda: free(state) >= 50 * MIB)
