"""What programs use SQLite with, in a table: does walsup replicate what they commit, and if it cannot, does it say so?

Each driver commits rows to a WAL database of its own, and notes each in a ledger when it was told that the row is
committed. It is killed (SIGKILL) in the middle, and started again. Then, once while it is at work and once after
another kill: `walsupctl sync --wait`, restore, and every row of the ledger has to be in what was restored.
A driver that cannot be replicated, since it has locks or a wal-index of its own, has to be noticed within 10 s of its
first commit: `status` is not healthy, or `sync --wait` fails. What is neither is the fault that this looks for.

  drivers.py DIRECTORY [--only NAME,...] [--table FILE]

WALSUP_OUT  where walsupd and walsupctl are
Each is installed into DIRECTORY by the client of its registry; what cannot be had is skipped, with the reason.
"""
import argparse
import dataclasses
import datetime
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
OUT = pathlib.Path(os.environ.get("WALSUP_OUT", HERE.parents[1] / "build" / "release")).resolve()
INSTALL_LIMIT, NOTICED_IN, ROWS = 900, 10, 150


class Missing(Exception):
    """cannot be installed here, and why"""


def run(args, cwd, limit=INSTALL_LIMIT, **more):
    if not shutil.which(str(args[0])):
        raise Missing(f"there is no {args[0]}")
    try:
        p = subprocess.run([str(a) for a in args], cwd=cwd, capture_output=True, text=True, timeout=limit,
                           stdin=subprocess.DEVNULL, **more)
    except subprocess.TimeoutExpired:
        raise Missing(f"{args[0]} took more than {limit} s") from None
    if p.returncode:
        lines = (p.stderr + p.stdout).strip().splitlines()
        raise Missing(f"{args[0]}: " + (next((x for x in lines if "rror" in x), lines[-1] if lines else "failed"))[:120])
    return p.stdout


# ---- how each kind is installed; each returns the command that takes DATABASE and LEDGER

def system_python(d, name, package):
    return ["/usr/bin/python3", HERE / "ledger.py", name]


def pip(d, name, package):
    if not (d / "bin" / "python").exists():
        run([sys.executable, "-m", "venv", "--without-pip", "."], d)
    if package:
        site = next((d / "lib").glob("python3*")) / "site-packages"
        run(["pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--python-version",
             "%d.%d" % sys.version_info[:2], "--upgrade", "--target", site, package], d)
        if name == "turso":
            run(["pip", "install", "-q", "--disable-pip-version-check", "--upgrade", "--target", site, "typing_extensions"], d)
    return [d / "bin" / "python", HERE / "ledger.py", name]


def npm(d, name, package):
    run(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", d, package], d)
    shutil.copy(HERE / "ledger.js", d)
    return ["node", d / "ledger.js", name]


def go(d, name, package):
    shutil.copy(HERE / "go" / "main.go", d)
    module, imported, driver = package.split()
    (d / "driver.go").write_text(f'package main\n\nimport _ "{imported}"\n\nconst driver = "{driver}"\n')
    if not (d / "go.mod").exists():
        run(["go", "mod", "init", "ledger"], d)
    run(["go", "get", module], d)
    run(["go", "mod", "tidy"], d)
    run(["go", "build", "-o", "ledger", "."], d, env=dict(os.environ, CGO_ENABLED="1"))
    return [d / "ledger"]


def maven(d, name, package):
    for artifact in package.split():
        run(["mvn", "-q", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={d}"], d)
    run(["javac", "-d", d, HERE / "java" / "Ledger.java"], d)
    return ["java", "-cp", f"{d}:{d}/*", "Ledger"]


def cargo(d, name, package):
    (d / "src").mkdir(exist_ok=True)
    shutil.copy(HERE / "rust" / "main.rs", d / "src")
    (d / "Cargo.toml").write_text('[package]\nname = "ledger"\nversion = "0.0.0"\nedition = "2021"\n[workspace]\n'
                                  f"[dependencies]\n{package}\n")
    run(["cargo", "build", "-q", "--release"], d)
    return [d / "target" / "release" / "ledger"]


@dataclasses.dataclass
class Driver:
    name: str
    kind: object
    package: str
    version: str
    replicated: bool = True  # else it has to be noticed


DRIVERS = [
    Driver("sqlite3", system_python, "", "Python's, the system's library"),
    Driver("apsw", pip, "apsw==3.54.1.0", "apsw 3.54.1.0"),
    Driver("apsw-exclusive", pip, "apsw==3.54.1.0", "apsw, locking_mode=EXCLUSIVE", replicated=False),
    Driver("apsw-unix-none", pip, "apsw==3.54.1.0", "apsw, vfs unix-none", replicated=False),
    Driver("apsw-unix-dotfile", pip, "apsw==3.54.1.0", "apsw, vfs unix-dotfile", replicated=False),
    Driver("better-sqlite3", npm, "better-sqlite3@12.6.2", "better-sqlite3 12.6.2"),
    Driver("libsql", npm, "libsql@0.5.29", "libsql 0.5.29"),
    Driver("modernc", go, "modernc.org/sqlite@v1.62.0 modernc.org/sqlite sqlite", "modernc.org/sqlite 1.62.0"),
    Driver("ncruces", go, "github.com/ncruces/go-sqlite3@v0.37.0 github.com/ncruces/go-sqlite3/driver sqlite3",
           "ncruces/go-sqlite3 0.37.0"),
    Driver("mattn", go, "github.com/mattn/go-sqlite3@v1.14.53 github.com/mattn/go-sqlite3 sqlite3",
           "mattn/go-sqlite3 1.14.53"),
    Driver("xerial", maven, "org.xerial:sqlite-jdbc:3.54.1.0 org.slf4j:slf4j-api:2.0.17 org.slf4j:slf4j-nop:2.0.17",
           "xerial sqlite-jdbc 3.54.1.0"),
    Driver("rusqlite", cargo, 'rusqlite = { version = "=0.43.0", features = ["bundled"] }', "rusqlite 0.43.0, bundled"),
    Driver("turso", pip, "pyturso==0.8.3", "pyturso 0.8.3", replicated=False),
]


# ---- one database with walsupd and the driver's program

class Case:
    def __init__(self, root, command):
        self.root, self.command = root, [str(c) for c in command]
        self.db, self.ledger = root / "data" / "app.db", root / "ledger"
        (root / "data").mkdir()
        self.ini = root / "walsup.ini"
        self.ini.write_text(f"[walsup]\nstate-dir = {root}/state\nsocket = {root}/socket\nlandlock = off\n"
                            f"[target t]\ntype = file\npath = {root}/replica\n[db app]\npath = {self.db}\ntarget = t\n")
        self.walsupd = subprocess.Popen(
            [OUT / "walsupd", "-c", self.ini], stdout=open(root / "walsupd.log", "wb"), stderr=subprocess.STDOUT,
            env=dict(os.environ, WALSUP_TEST_LOCK_FILE=str(root / "lock")))
        self.until(lambda: (root / "socket").exists(), 20, "walsupd does not start")
        self.app = None

    def until(self, f, seconds, what):
        end = time.monotonic() + seconds
        while not f():
            if time.monotonic() > end:
                raise RuntimeError(what)
            time.sleep(0.02)

    def ctl(self, *args):
        return subprocess.run([OUT / "walsupctl", "-c", self.ini, *map(str, args)], capture_output=True, text=True)

    def rows(self):
        """of whole lines: what was told to be committed"""
        text = self.ledger.read_text() if self.ledger.exists() else ""
        return {int(x) for x in text[:text.rfind("\n") + 1].split()}

    def start(self, more):
        shutil.rmtree(f"{self.db}.lock", ignore_errors=True)  # what unix-dotfile leaves behind when it is killed
        goal = len(self.rows()) + more
        self.out = open(self.root / "app.log", "ab")
        self.app = subprocess.Popen([*self.command, str(self.db), str(self.ledger)], stdout=self.out, stderr=self.out)

        def there():
            if self.app.poll() is not None:
                text = (self.root / "app.log").read_text(errors="replace").strip().splitlines()
                raise RuntimeError("the program ended: " + (text[-1] if text else "without a word"))
            return len(self.rows()) >= goal
        self.until(there, 150, "the program commits nothing")

    def kill(self):
        if self.app and self.app.poll() is None:
            self.app.send_signal(signal.SIGKILL)
            self.app.wait()

    def told(self, until):
        """what walsup says at that moment that is not healthy, and since when it does"""
        since = line = None
        while True:
            s = self.ctl("status")
            if not s.returncode:
                since = None
            else:
                since = since or time.monotonic()
                lines = s.stdout.splitlines()
                at = next((i for i, x in enumerate(lines) if x.startswith("app")), 0)
                line = "status: " + " ".join(" ".join(lines[at:at + 3]).split()).replace(f"{self.root}/data/", "")
            if time.monotonic() >= until:
                return (since, line) if since else None
            time.sleep(0.2)

    def restored(self):
        """None, or how it says no; else how many of the ledger's rows are missing. What died in the middle of a commit
        may need a moment."""
        acked = self.rows()
        start, refused = time.monotonic(), None
        while (s := self.ctl("sync", "app", "--wait", "--timeout", "10s")).returncode:
            refused = "sync --wait: " + (s.stderr.strip().splitlines() or ["no"])[0]
            if time.monotonic() > start + NOTICED_IN:
                return None, refused
            time.sleep(0.5)
        late = f", after {time.monotonic() - start:.1f} s of '{refused}'" if refused else ""
        to = self.root / "restored.db"
        to.unlink(missing_ok=True)
        r = self.ctl("restore", "app", "-o", to)
        if r.returncode:
            return None, "restore: " + (r.stderr.strip().splitlines() or ["no"])[0]
        d = sqlite3.connect(to)
        back = {x for x, in d.execute("select id from t")} if d.execute(
            "select 1 from sqlite_master where name='t'").fetchone() else set()
        d.close()
        return len(acked - back), f"{len(acked & back)} of {len(acked)} rows{late}"

    def end(self):
        self.kill()
        self.walsupd.terminate()
        try:
            self.walsupd.wait(60)
        except subprocess.TimeoutExpired:
            self.walsupd.kill()


def play(c):
    """one that is to be replicated: (verdict, what was seen)"""
    c.start(ROWS)
    c.kill()
    c.start(ROWS)
    at_work, seen = c.restored()
    word = c.told(0)
    c.kill()
    after, seen_after = c.restored()
    seen = f"{seen} at work, {seen_after} after a kill"
    if at_work == 0 and after == 0 and not word:
        return "replicated", seen
    if word or at_work is None or after is None:
        return "noticed", f"{word[1]}; {seen}" if word else seen
    return "NOT NOTICED", f"{seen}, sync --wait exit 0, status healthy"


def play_foreign(c):
    """one that cannot be replicated"""
    began = time.monotonic()
    c.start(ROWS)
    word = c.told(began + NOTICED_IN)
    if word:
        verdict = "noticed", f"{word[0] - began:.1f} s after its start, {word[1]}"
    else:
        missing, seen = c.restored()
        verdict = ("noticed", f"status healthy for {NOTICED_IN} s, {seen}") if missing is None else (
            "NOT NOTICED" if missing else "replicated", f"{seen}, sync --wait exit 0, status healthy")
    c.kill()
    c.start(ROWS)  # walsup must not keep it out for good
    return verdict


def try_one(driver, directory):
    d = directory / driver.name
    d.mkdir(parents=True, exist_ok=True)
    try:
        command = driver.kind(d, driver.name, driver.package)
    except Missing as e:
        return "skipped", str(e), ""
    with tempfile.TemporaryDirectory(prefix="walsup-drivers-") as root:
        c = Case(pathlib.Path(root), command)
        try:
            verdict, seen = (play if driver.replicated else play_foreign)(c)
        except RuntimeError as e:
            verdict, seen = "FAILED", str(e)
        finally:
            c.end()
        log = pathlib.Path(root) / "app.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        first = lines[:1]
        late = [x for x in lines if x.startswith("could start only")]
        seen += "".join("; " + x for x in late)
    good = verdict == ("replicated" if driver.replicated else "noticed")
    return verdict if good else verdict.upper(), seen, (first or [""])[0]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("directory", type=pathlib.Path)
    a.add_argument("--only", default="")
    a.add_argument("--table", type=pathlib.Path)
    a = a.parse_args()
    wanted = [d for d in DRIVERS if not a.only or d.name in a.only.split(",")]
    rows, start = [], time.monotonic()
    for driver in wanted:
        one = time.monotonic()
        verdict, seen, version = try_one(driver, a.directory.resolve())
        rows.append((driver.version, version, verdict, seen))
        print(f"{driver.version} ({version}): {verdict}: {seen} ({time.monotonic() - one:.0f} s)", flush=True)
    good = sum(r[2] in ("replicated", "noticed") for r in rows)  # what was not expected is in capitals
    skipped = sum(r[2] == "skipped" for r in rows)
    if a.table:
        day = datetime.date.today().isoformat()
        a.table.write_text(f"Seen on {day}:\n\n| driver | SQLite, journal mode | verdict | what was seen |\n|---|---|---|---|\n"
                           + "".join(f"| {' | '.join(r)} |\n" for r in rows))
    print(f"drivers: {len(rows)} in {time.monotonic() - start:.0f} s")
    print(f"{good} passed, {len(rows) - good - skipped} failed, {skipped} skipped")
    sys.exit(0 if good and good + skipped == len(rows) else 1)


main()
