#!/usr/bin/python3
"""make bench-outage: the store is away for OUTAGE seconds (60) while an application commits RATE times a second (50).

Printed: how many commits were lost (0), how long until the replica has everything, how large the spool became, how long
commits took with the store there and with the store away, and how many requests were made meanwhile. The store is
s3fault: during the outage it resets every connection (OUTAGE_HOW=reset), says 503 (503) or is
silent (stall).
"""
import json
import os
import pathlib
import shutil
import sqlite3
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))
from conftest import S3Fault, World, image, integrity, make_db  # noqa: E402

OUTAGE = float(os.environ.get("OUTAGE", "60"))
RATE = float(os.environ.get("RATE", "50"))
HOW = os.environ.get("OUTAGE_HOW", "reset")
CALM = 10
RULES = {"reset": {"action": "reset-before"}, "503": {"action": "status", "status": 503, "code": "SlowDown"},
         "stall": {"action": "stall"}}


class Writer(threading.Thread):
    """commits at a fixed rate; remembers when, and how long each took"""

    def __init__(self, path):
        super().__init__()
        self.path, self.end, self.took = path, threading.Event(), []

    def run(self):
        con = sqlite3.connect(self.path, timeout=30)
        due = time.monotonic()
        while not self.end.is_set():
            t0 = time.monotonic()
            con.execute("insert into t(b) values(randomblob(500))")
            con.commit()
            self.took.append((t0, time.monotonic() - t0))
            due += 1 / RATE
            self.end.wait(max(0, due - time.monotonic()))
        con.close()


def p99(took):
    return sorted(took)[int(len(took) * 0.99)] * 1000 if took else 0.0


def spool_bytes(w):
    total = 0
    for f in (w.state / "db/a").rglob("*.ltx"):
        try:
            total += f.stat().st_size
        except FileNotFoundError:  # it has gone up
            pass
    return total


def requests(s3):
    return json.loads(s3.control("/_stats"))["requests"]


def run(w, s3):
    w.configure(s3.target("x"), w.db("a", target="x", sync_interval="1s"))
    make_db(w.path / "a.db").close()
    w.start()
    w.sync("a")
    writer = Writer(w.path / "a.db")
    writer.start()
    try:
        before = requests(s3)
        time.sleep(CALM)
        calm = requests(s3) - before
        s3.faults(RULES[HOW])
        gone, peak = time.monotonic(), 0
        before = requests(s3)
        while time.monotonic() < gone + OUTAGE:
            time.sleep(0.5)
            w.notify.drain()  # nobody else reads it, and walsupd waits for whoever does
            peak = max(peak, spool_bytes(w))
        asked = requests(s3) - before
        lag = w.status("a")["replicas"][0]
        s3.faults()
        back = time.monotonic()
        w.sync("a", "--timeout", "1h", timeout=3700)  # of what is committed now, under load
        caught_up = time.monotonic() - back
        time.sleep(2)
    finally:
        writer.end.set()
        writer.join()
    w.sync("a", "--timeout", "1h", timeout=3700)
    out = w.restore("a", "x")
    integrity(out)
    con = sqlite3.connect(out)
    lost = 10 + len(writer.took) - con.execute("select count(*) from t").fetchone()[0]
    con.close()
    equal = image(out) == image(w.path / "a.db")
    there = [t for t0, t in writer.took if t0 < gone]
    away = [t for t0, t in writer.took if gone <= t0 < back]
    print(f"outage of {OUTAGE:.0f} s ({HOW}), {RATE:.0f} commits/s, load {os.getloadavg()[0]:.1f}")
    print(f"  commits             {len(writer.took)}, of them {len(away)} during the outage; lost {lost}, "
          f"restore {'equal' if equal else 'DIFFERS'}")
    print(f"  until it has all    {caught_up:.1f} s after the store was back, the application going on")
    print(f"  spool               {peak / 2**20:.1f} MiB at most")
    print(f"  p99 of a commit     {p99(there):.2f} ms with the store, {p99(away):.2f} ms without it")
    print(f"  requests            {calm / CALM:.2f}/s with the store, {asked / OUTAGE:.2f}/s without it; "
          f"state then: {lag['state']}")
    if lost or not equal or not away:
        raise SystemExit("bench-outage: commits were lost")


def main():
    d = pathlib.Path(tempfile.mkdtemp(prefix="walsup-outage-", dir=os.environ.get("BENCH_DIR")))
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
