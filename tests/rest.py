#!/usr/bin/env python3
"""make rest: what sleeping databases cost the loop of walsupd, counted, so that no neighbour of this machine matters.

Two walsupds, one with a few databases and one with many, all asleep. In the same number of rounds of what happens every
second both must have looked at as many databases: the counters of `walsupctl status --json`, looks.visits and
watch.looked. The control has walsupd walk over all of them every second (WALSUP_TEST_LOOK=walk) and must be noticed.

  REST_FEW, REST_MANY   databases (10, 1000)
  REST_ROUNDS           rounds that are counted (5)
"""
import concurrent.futures
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "lib"))
from programs import ENV, OUT, Failed, Process, call  # noqa: E402

FEW, MANY = int(os.environ.get("REST_FEW", "10")), int(os.environ.get("REST_MANY", "1000"))
ROUNDS = int(os.environ.get("REST_ROUNDS", "5"))
SPREAD, ALIGNED = 0.05, 2  # the windows may begin on either side of a scan
WAIT = 300
SETTLE = 5  # seconds


class Daemon(Process):
    def __init__(self, where, n, **env):
        self.dir, self.n = where, n
        dbs = where / "dbs"
        dbs.mkdir()
        con = sqlite3.connect(where / "template.db")
        con.execute("pragma page_size=512")
        con.execute("pragma journal_mode=wal")
        con.execute("create table t(a)")
        con.close()
        data = (where / "template.db").read_bytes()
        for i in range(n):
            if i % 100 == 0:
                (dbs / str(i // 100)).mkdir()
            (dbs / str(i // 100) / f"d{i}.db").write_bytes(data)
        self.ini = where / "walsup.ini"
        self.ini.write_text(f"[walsup]\nstate-dir = {where}/state\nsocket = {where}/sock\nidle-timeout = 1s\ncopy-wait = 0s\n"
                            f"scan-interval = 24h\non-state-change = /bin/true\n"
                            f"level1-interval = 0s\nsnapshot-interval = 0s\nretention = 0s\n"
                            f"[target t]\ntype = file\npath = {where}/replica\n"
                            f"[db d]\npath = {dbs}/*/*.db\ntarget = t\nsync-interval = 10ms\n")
        self.start(**env)

    def start(self, **env):
        with open(self.dir / "log", "ab") as log:
            self.proc = subprocess.Popen([OUT / "walsupd", "-c", self.ini], stdout=log, stderr=log,
                                         env={**ENV, "WALSUP_TEST_PACE_MS": "1", **env})

    def status(self):
        return json.loads(call(self.dir / "sock", "Status", limit=0))["parameters"]

    def poll(self, what, fn):
        end = time.monotonic() + WAIT
        s = None
        while time.monotonic() < end:
            if self.proc.poll() is not None:
                raise Failed(f"walsupd ended: {(self.dir / 'log').read_text()[-2000:]}")
            try:
                s = self.status()
                if fn(s):
                    return s
            except OSError:
                pass
            time.sleep(0.1)
        raise Failed(f"{self.n} databases: never {what}: {s}")

    def asleep(self):
        return self.poll("all asleep", lambda s: s["total"] == self.n and s["counts"] == {"idle": self.n})

    def later(self, s, rounds):
        return self.poll("looked at", lambda now: now["looks"]["rounds"] >= s["looks"]["rounds"] + rounds)

    def visits(self):
        """in so many rounds, once a round has brought nothing new; with the control it always does"""
        s, end = self.asleep(), time.monotonic() + SETTLE
        while time.monotonic() < end:
            now = self.later(s, 1)
            if now["looks"]["visits"] == s["looks"]["visits"]:
                break
            s = now
        first = self.asleep()
        s = self.later(first, ROUNDS)
        return sum(s[a][b] - first[a][b] for a, b in (("looks", "visits"), ("watch", "looked")))

    def restart(self, **env):
        if not self.stop():
            raise Failed("walsupd does not stop")
        self.start(**env)


def alike(a, b):
    return abs(a - b) <= max(SPREAD * max(a, b), ALIGNED)


def main():
    shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    base = pathlib.Path(tempfile.mkdtemp(prefix="walsup-rest-", dir=shm))
    daemons = []
    try:
        for k in (FEW, MANY):
            (base / str(k)).mkdir()
            daemons.append(Daemon(base / str(k), k))
        with concurrent.futures.ThreadPoolExecutor() as pool:
            few, many = pool.map(Daemon.visits, daemons)
        daemons[1].restart(WALSUP_TEST_LOOK="walk")
        walked = daemons[1].visits()
    except Failed as e:
        print(f"rest: {e}")
        return 1
    finally:
        for d in daemons:
            if d.proc.poll() is None:
                d.proc.kill()
                d.proc.wait()
        shutil.rmtree(base, ignore_errors=True)
    print(f"rest: in {ROUNDS} rounds {few} looks with {FEW} sleeping databases, {many} with {MANY}; the control {walked}")
    if not alike(few, many):
        print("rest: what sleeps costs the loop something")
        return 1
    if alike(few, walked):
        print("rest: the control did not fail: this would see nothing")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
