"""Habits of people who run databases, at random, beside a real walsupd and with real processes.

Each of some databases has an application (a process that commits rows, each noted when it is acknowledged) and somebody
who does things to it and to its files: stop it and start it again, kill it, stop it in the middle of a commit
while walsup falls asleep or is paused, remove or replace what lies beside a database that nobody uses, cut its -shm to
nothing, copy a backup over it, copy a database with a full -wal in, slowly.
In the end the application has to find every row that it should, `sync --wait` has to succeed and what is restored has to
be what the application sees.

  habits.py [--seed N] [--databases N] [--rounds N] [--only HABIT,...] [--control]

--control: without walsupd: all that is done here does no harm then, or this test would be wrong. WALSUP_OUT: where
walsupd and walsupctl are."""
import argparse
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

OUT = pathlib.Path(os.environ.get("WALSUP_OUT", "build/release")).resolve()
APP = """
import sqlite3, sys
d = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
d.execute("pragma journal_mode=wal"), d.execute("pragma synchronous=full")
d.execute("create table if not exists t(id integer primary key, x)")
print("ready", d.execute("select count(*) from t").fetchone()[0], flush=True)
for line in sys.stdin:
    what, first, n = line.split()
    if what == "cut":
        print("cut", d.execute("pragma wal_checkpoint(truncate)").fetchone()[0], flush=True)
        continue
    for i in range(int(first), int(first) + int(n)):
        d.execute("insert into t values(?, randomblob(?))", (i, 300 + i % 900))
        print("row", i, flush=True)
    print("done", flush=True)
d.close()
"""


# 4 s at the end of each fsync of the thread that it is attached to
TRACE = ["strace", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_exit=4000000"] if shutil.which(
    "strace") and os.geteuid() == 0 else []


class Wrong(Exception):
    pass


class Walsup:
    def __init__(self, root):
        self.root, self.ini = root, root / "walsup.ini"
        self.ini.write_text(f"[walsup]\nstate-dir = {root}/state\nsocket = {root}/socket\nlandlock = off\n"
                            f"idle-timeout = 1s\n[target t]\ntype = file\npath = {root}/replica\n"
                            f"[db h]\npath = {root}/data/*/app.db\ntarget = t\n")
        self.start()

    def start(self):
        self.p = subprocess.Popen([OUT / "walsupd", "-c", self.ini], stdout=open(self.root / "walsupd.log", "ab"),
                                  stderr=subprocess.STDOUT, env=dict(os.environ, WALSUP_TEST_LOCK_FILE=str(self.root / "lock")))
        until(lambda: self.ctl("list").returncode == 0, 20, "walsupd does not start")

    def ctl(self, *args):
        return subprocess.run([OUT / "walsupctl", "-c", self.ini, *map(str, args)], capture_output=True, text=True)

    def end(self):
        self.p.terminate()
        try:
            return self.p.wait(60)
        except subprocess.TimeoutExpired:
            self.p.kill()
            return "killed: it did not end"


def until(f, seconds, what):
    end = time.monotonic() + seconds
    while not f():
        if time.monotonic() > end:
            raise Wrong(what)
        time.sleep(0.02)


class Database(threading.Thread):
    def __init__(self, n, seed, root, walsup, rounds, only):
        super().__init__()
        self.dir = root / "data" / str(n)
        self.dir.mkdir(parents=True)
        self.path, self.name, self.walsup = self.dir / "app.db", f"h/{n}/app.db", walsup
        self.rng = random.Random(f"{seed}/{n}")
        self.rounds, self.did, self.wrong = rounds, [], None
        self.app, self.rows, self.next = None, set(), 1
        self.habits = only or sorted(x[6:] for x in dir(self) if x.startswith("habit_"))
        self.aside = root / "aside" / str(n)
        self.aside.mkdir(parents=True)

    # ---- the application

    def begin(self):
        self.app = subprocess.Popen([sys.executable, "-c", APP, str(self.path)], stdin=subprocess.PIPE,
                                    stdout=subprocess.PIPE, stderr=open(self.aside / "errors", "ab"), text=True)
        words = self.app.stdout.readline().split()
        if words[:1] != ["ready"] or int(words[1]) != len(self.rows):
            self.finish(kill=True)
            raise Wrong(f"the application starts and finds {' '.join(words[1:]) or 'no database: ' + self.errors()} rows "
                        f"of {len(self.rows)}")

    def errors(self):
        lines = (self.aside / "errors").read_text().splitlines()
        return lines[-1] if lines else ""

    def order(self, what, n):
        self.app.stdin.write(f"{what} {self.next} {n}\n")
        self.app.stdin.flush()

    def hear(self):
        while True:
            words = self.app.stdout.readline().split()
            if words[:1] != ["row"]:
                return words
            self.rows.add(int(words[1]))
            self.next = int(words[1]) + 1

    def commit(self, n=0):
        self.order("rows", n or self.rng.randint(1, 15))
        if self.hear() != ["done"]:
            raise Wrong("a commit failed: " + self.errors())

    def cut(self):
        """everything is in the database, and its -wal is empty: is it?"""
        self.order("cut", 0)
        return self.hear() == ["cut", "0"]

    def finish(self, kill=False):
        if kill:
            self.app.kill()
        else:
            self.app.stdin.close()
        self.app.stdout.read()
        if self.app.wait() and not kill:
            raise Wrong("the application did not end well: " + self.errors())
        self.app = None

    def wait(self, *seconds):
        time.sleep(self.rng.choice(seconds))

    # ---- habits: each finds the application at work and leaves it so

    def habit_restart(self):
        self.finish()
        self.wait(0, 0.3, 2)
        self.begin()

    def habit_kill(self):
        self.finish(kill=True)
        self.wait(0, 0.3, 2)
        self.begin()

    def stopped(self, meanwhile):
        """in the middle of a commit, which nothing follows: in its fsync, if strace may hold it there, else anywhere"""
        start = time.monotonic()
        self.commit(5)
        takes = (time.monotonic() - start) / 5
        if TRACE and self.rng.random() < 0.8:
            with open(self.aside / "strace", "w") as f:
                p = subprocess.Popen(TRACE + ["-p", str(self.app.pid)], stdout=f, stderr=f, text=True)
            until(lambda: "attached" in (self.aside / "strace").read_text(), 10, "strace does not attach")
            self.order("rows", 1)
            meanwhile()
            heard = self.hear()
            p.terminate()
            p.wait()
        else:
            self.order("rows", 1)
            time.sleep(self.rng.uniform(0, takes))
            self.app.send_signal(signal.SIGSTOP)
            meanwhile()
            self.app.send_signal(signal.SIGCONT)
            heard = self.hear()
        if heard != ["done"]:
            raise Wrong("a commit failed: " + self.errors())

    def habit_stopped_asleep(self):
        self.stopped(lambda: self.wait(2.5, 4))

    def habit_stopped_pause(self):
        def meanwhile():
            self.wait(0.1, 0.5, 1.5)
            self.steer("pause")
        self.stopped(meanwhile)
        self.steer("resume")

    def steer(self, verb):
        if self.walsup:
            r = self.walsup.ctl(verb, self.name)
            if r.returncode:
                raise Wrong(f"{verb}: {r.stderr.strip()}")

    def habit_rm_shm(self):
        self.finish(kill=self.rng.random() < 0.5)
        self.side("-shm").unlink(missing_ok=True)
        self.begin()

    def habit_rm_both(self):
        if not self.cut():
            return
        self.finish(kill=self.rng.random() < 0.5)
        self.side("-shm").unlink(missing_ok=True)
        self.side("-wal").unlink(missing_ok=True)
        self.begin()

    def side(self, end):
        return self.dir / ("app.db" + end)

    def habit_cut_shm(self):
        self.finish()
        self.wait(0, 0.3)
        try:
            os.truncate(self.side("-shm"), 0)
        except FileNotFoundError:
            pass
        self.wait(0, 0.3)
        self.begin()

    def backup(self):
        """as VACUUM INTO makes it, and the rows in it"""
        to = self.aside / "backup.db"
        to.unlink(missing_ok=True)
        d = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        d.execute("vacuum into ?", (str(to),))
        rows = {x for x, in d.execute("select id from t")}
        d.close()
        return to, rows

    def over(self, let_go):
        to, rows = self.backup()
        self.commit()
        self.finish()
        let_go()
        if self.rng.random() < 0.5:
            shutil.copyfile(to, self.path)
        else:
            os.rename(to, self.path)
        self.rows = rows
        self.wait(0, 0.3)
        self.begin()

    def habit_cp_over(self):
        self.over(lambda: self.wait(2.5, 4))

    def habit_cp_over_paused(self):
        self.over(lambda: self.steer("pause"))
        self.steer("resume")

    def habit_copy_in(self):
        self.finish()
        hot = self.aside / "hot.db"
        shutil.copyfile(self.path, hot)
        for end in ("-wal", "-shm"):
            if self.side(end).exists():
                shutil.copyfile(self.side(end), str(hot) + end)
        d = sqlite3.connect(hot, isolation_level=None)
        d.execute("pragma journal_mode=wal"), d.execute("pragma wal_autocheckpoint=0")
        for i in range(40):
            d.execute("insert into t values(?, randomblob(500))", (self.next,))
            self.rows.add(self.next)
            self.next += 1
        db, wal = hot.read_bytes(), pathlib.Path(str(hot) + "-wal").read_bytes()
        d.close()
        for end in ("", "-wal", "-shm"):
            self.side(end).unlink(missing_ok=True)
        self.wait(0, 0.5)
        self.path.write_bytes(db)
        self.wait(0.1, 0.5, 1)
        with open(self.side("-wal"), "ab", buffering=0) as f:
            for at in range(0, len(wal), len(wal) // 3 + 1):
                f.write(wal[at:at + len(wal) // 3 + 1])
                self.wait(0.1, 0.5)
        self.wait(0, 0.5)
        self.begin()

    # ----

    def run(self):
        try:
            self.begin()
            self.commit(20)
            for i in range(self.rounds):
                habit = self.rng.choice(self.habits)
                self.did.append(habit)
                getattr(self, "habit_" + habit)()
                if i + 1 < self.rounds:  # else what was missed would come with it
                    self.commit()
                self.wait(0, 0.2, 1)
            self.judge()
        except Wrong as e:
            self.wrong = str(e)
        except Exception as e:  # of a program that met the fault in its own way
            self.wrong = repr(e)
        if self.app:
            self.finish(kill=True)

    def judge(self):
        d = sqlite3.connect(self.path, timeout=30)
        rows = d.execute("select id, x from t order by id").fetchall()
        integrity = d.execute("pragma integrity_check").fetchone()[0]
        if {x for x, _ in rows} != self.rows or integrity != "ok":
            raise Wrong(f"the source has {len(rows)} of {len(self.rows)} rows, integrity {integrity[:60]}")
        if self.walsup:
            r = self.walsup.ctl("sync", self.name, "--wait", "--timeout", "30s")
            if r.returncode:
                raise Wrong("sync --wait: " + r.stderr.strip()[:200])
            to = self.aside / "restored.db"
            r = self.walsup.ctl("restore", self.name, "-o", to)
            if r.returncode:
                raise Wrong("restore: " + r.stderr.strip()[:200])
            back = sqlite3.connect(to)
            if back.execute("select id, x from t order by id").fetchall() != rows:
                n = back.execute("select count(*) from t").fetchone()[0]
                raise Wrong(f"sync --wait succeeded, and the replica has {n} rows of {len(rows)}, or others")
            back.close()
        d.close()


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--seed", default=str(int(time.time())))
    a.add_argument("--databases", type=int, default=16)
    a.add_argument("--rounds", type=int, default=4)
    a.add_argument("--only", default="")
    a.add_argument("--control", action="store_true")
    a = a.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="walsup-habits-") as root:
        root = pathlib.Path(root)
        (root / "data").mkdir()
        walsup = None if a.control else Walsup(root)
        all_of = [Database(n, a.seed, root, walsup, a.rounds, [x for x in a.only.split(",") if x]) for n in range(a.databases)]
        for d in all_of:
            d.start()
        for d in all_of:
            d.join()
        died = walsup.p.poll() if walsup else None
        end = walsup.end() if walsup else 0
        bad = [d for d in all_of if d.wrong]
        for d in bad:
            print(f"violation: habits --seed {a.seed}, database {d.name} ({', '.join(d.did)}): {d.wrong}")
        if died is not None or end:
            print(f"violation: habits --seed {a.seed}: walsupd ended with {died if died is not None else end}: "
                  + (root / "walsupd.log").read_text(errors="replace")[-300:])
        n = sum(len(d.did) for d in all_of)
        print(f"habits: seed {a.seed}{' without walsupd' if a.control else ''}: {a.databases} databases, {n} habits, "
              f"{sum(len(d.rows) for d in all_of)} rows, {len(bad)} violations, {time.monotonic() - start:.0f} s")
        sys.exit(1 if bad or died is not None or end or not n else 0)


main()
