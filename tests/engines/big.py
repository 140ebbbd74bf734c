#!/usr/bin/python3
"""make big: a database of WALSUP_BIG_GIB (6) whose pages compress well. Its first upload and a snapshot go up through
walsupd to s3fault and come back equal; what walsupd and walsupctl needed of memory is printed, and is below 256 MiB.
BIG_DIR: where; three times the size has to be free there."""
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from conftest import OUT, S3Fault, World  # noqa: E402

GIB = int(os.environ.get("WALSUP_BIG_GIB", "6"))
MOST = 256 << 20


def peak(pid):
    line = next(x for x in open(f"/proc/{pid}/status") if x.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def make(path):
    """not in WAL mode while it is filled: it would lie there twice"""
    con = sqlite3.connect(path)
    con.execute("pragma journal_mode=off")
    con.execute("pragma synchronous=off")
    con.execute("pragma cache_size=-20000")
    con.execute("create table t(a integer primary key, b blob)")
    while path.stat().st_size < GIB << 30:
        con.execute("insert into t(b) values(zeroblob(?))", (min(400 << 20, GIB << 28),))
        con.execute("insert into t(b) values(randomblob(100000))")
        con.commit()
    con.execute("pragma journal_mode=wal")
    return con


def ctl(w, *args):
    """its seconds, its peak of memory"""
    t0 = time.monotonic()
    log = w.path / "ctl.txt"
    with open(log, "w") as f:
        p = subprocess.Popen([OUT / "walsupctl", "-c", w.ini, *map(str, args)], env=w.env, stdout=f, stderr=f)
        _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode:
        raise SystemExit(f"big: walsupctl {args}: {log.read_text()}\n{w.log.read_text()}")
    return time.monotonic() - t0, usage.ru_maxrss << 10


def stored(s3):
    objects = s3.objects()
    return len(objects), sum(o["size"] for o in objects.values())


def run(w, s3):
    db, out = w.path / "a.db", w.path / "out.db"
    w.configure(s3.target("x"), w.db("a", target="x", snapshot_interval="0s"))
    con = make(db)
    most = []
    w.start()
    took, rss = ctl(w, "sync", "--wait", "--timeout", "1h")
    most.append(rss)
    n, size = stored(s3)
    print(f"big: {db.stat().st_size / 2**30:.1f} GiB, first upload {took:.0f} s, {n} objects, {size >> 20} MiB", flush=True)
    con.execute("update t set b=randomblob(5000) where a=2")
    con.commit()
    took, rss = ctl(w, "snapshot", "a")
    most.append(rss)
    n, size = stored(s3)
    assert any("/0009/" in k for k in s3.objects()), "there is no snapshot"
    print(f"big: snapshot {took:.0f} s, now {n} objects, {size >> 20} MiB", flush=True)
    daemon = peak(w.proc.pid)
    assert w.stop() == 0
    con.execute("pragma wal_checkpoint(truncate)")
    con.close()
    took, rss = ctl(w, "restore", "a", "-o", out)
    most.append(rss)
    assert subprocess.run(["cmp", db, out]).returncode == 0, "it came back different"
    print(f"big: restored in {took:.0f} s, equal; most memory: walsupd {daemon >> 20} MiB, "
          f"walsupctl {max(most) >> 20} MiB")
    assert daemon < MOST and max(most) < MOST, "more memory than 256 MiB"


def main():
    d = pathlib.Path(tempfile.mkdtemp(prefix="walsup-big-", dir=os.environ.get("BIG_DIR")))
    if shutil.disk_usage(d).free < 3 * GIB << 30:
        shutil.rmtree(d)
        raise SystemExit(f"big: less than {3 * GIB} GiB free in {d.parent}; BIG_DIR=DIR is another place")
    w, s3 = World(d), S3Fault(d / "s3")
    try:
        run(w, s3)
    finally:
        if w.proc:
            w.proc.kill()
            w.proc.wait()
        s3.close()
        shutil.rmtree(d)


main()
