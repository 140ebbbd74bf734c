#!/usr/bin/env python3
"""make bench-resync: what it costs to find the thread again.

A database of BENCH_MIB (1024); walsupd ends, cleanly or by kill -9 in the middle of load; the application
rewrites 1 % of the pages, checkpoints with TRUNCATE and closes; walsupd starts. Printed: what is uploaded,
how long until the replica has it, and whether a restore equals the source. The control removes the page
map first, which must cost all of it. Then a start with nothing changed, which must upload nothing.
"""
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(os.environ.get("WALSUP_OUT", ROOT / "build" / "release")).resolve()
MIB = int(os.environ.get("BENCH_MIB", "1024"))


def ctl(d, *args):
    r = subprocess.run([OUT / "walsupctl", "-c", d / "w.ini", *map(str, args)], capture_output=True, text=True)
    if r.returncode:
        sys.exit(f"walsupctl {args}: {r.stdout}{r.stderr}\n{(d / 'log').read_text()}")
    return r.stdout


def start(d):
    log = open(d / "log", "ab")
    p = subprocess.Popen([OUT / "walsupd", "-c", d / "w.ini"], stderr=log, stdout=log)
    while not (d / "s.sock").exists() or subprocess.run([OUT / "walsupctl", "-c", d / "w.ini", "status"],
                                                        capture_output=True).returncode > 1:
        time.sleep(0.02)
    return p


def stored(d):
    return sum(f.stat().st_size for f in (d / "replica").rglob("*.ltx"))


def make(d):
    (d / "w.ini").write_text(f"[walsup]\nstate-dir = {d}/state\nsocket = {d}/s.sock\n[target local]\ntype = file\n"
                             f"path = {d}/replica\n[db a]\npath = {d}/a.db\ntarget = local\n")
    con = sqlite3.connect(d / "a.db", timeout=30)
    con.execute("pragma journal_mode=wal")
    con.execute("pragma synchronous=off")
    con.execute("create table t(a integer primary key, b)")
    rows = MIB * 256  # one row a page, about
    con.executemany("insert into t(b) values(?)", ((os.urandom(3900),) for _ in range(rows)))
    con.commit()
    con.execute("pragma wal_checkpoint(truncate)")
    con.close()
    return rows


def load(d, rows, stop):
    con = sqlite3.connect(d / "a.db", timeout=30, isolation_level=None)
    i = 0
    while not stop.is_set():
        con.execute("update t set b=randomblob(3900) where a=?", (i * 7919 % rows + 1,))
        time.sleep(0.001)  # a busy application; what it writes counts as uploaded, too
        i += 1
    con.close()


def away(d, rows, how, p):
    """ends walsupd, rewrites one percent, starts it; returns what was uploaded and how long it took"""
    if how == "kill -9 under load":
        stop = threading.Event()
        t = threading.Thread(target=load, args=(d, rows, stop))
        t.start()
        time.sleep(3)
        p.kill()
        stop.set()
        t.join()
    else:
        p.terminate()
    p.wait()
    if how == "control: no page map":
        (d / "state/db/a/pagemap").unlink()
    if how != "nothing changed":
        con = sqlite3.connect(d / "a.db", timeout=30)
        con.execute("update t set b=randomblob(3900) where a % 100 = ?", (len(how) % 100,))
        con.commit()
        con.execute("pragma wal_checkpoint(truncate)")
        con.close()
    before = stored(d)
    t0 = time.monotonic()
    p = start(d)
    ctl(d, "sync", "--wait", "--timeout", "600s")
    return p, stored(d) - before, time.monotonic() - t0


def same(a, b):
    size = os.path.getsize(a)
    if size != os.path.getsize(b):
        return False
    with open(a, "rb") as f, open(b, "rb") as g:
        while x := f.read(1 << 20):
            if x != g.read(1 << 20):
                return False
    return True


def main():
    d = pathlib.Path(tempfile.mkdtemp(prefix="walsup-resync-", dir=os.environ.get("BENCH_DIR")))
    p = None
    bad = []
    try:
        rows = make(d)
        size = os.path.getsize(d / "a.db")
        p = start(d)
        ctl(d, "sync", "--wait", "--timeout", "600s")
        print(f"{size >> 20} MiB database, 1 % of the pages rewritten and checkpointed while walsupd was away; "
              f"load {os.getloadavg()[0]:.1f}")
        for how in ("clean stop", "kill -9 under load", "nothing changed", "control: no page map"):
            p, sent, took = away(d, rows, how, p)
            out = d / "restored.db"
            for side in ("", "-wal", "-shm"):
                pathlib.Path(f"{out}{side}").unlink(missing_ok=True)
            ctl(d, "restore", "a", "-o", out)
            con = sqlite3.connect(d / "a.db")
            con.execute("pragma wal_checkpoint(passive)")
            con.close()
            equal = same(d / "a.db", out)
            print(f"  {how:22} uploaded {sent / size * 100:6.2f} % ({sent >> 20} MiB)  in {took:5.2f} s  "
                  f"restore {'equal' if equal else 'DIFFERS'}")
            share = sent / size
            if not equal or (how == "nothing changed" and sent) or (how.startswith("control") and share < 0.9) or \
                    (how in ("clean stop", "kill -9 under load") and share > 0.02):
                bad.append(how)
    finally:
        if p and p.poll() is None:
            p.terminate()
            p.wait()
        shutil.rmtree(d, ignore_errors=True)
    if bad:
        sys.exit(f"bench-resync: not as promised: {', '.join(bad)}")


main()
