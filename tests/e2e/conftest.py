"""End-to-end tests: the real walsupd and walsupctl, real SQLite, real S3 over HTTP.

Nothing here sleeps for a result: readiness comes from NOTIFY_SOCKET, "it is in the replica" from
`walsupctl sync --wait`. Every process a test starts is ended by its fixture.
"""
import hashlib
import json
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from pathlib import Path

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(os.environ.get("WALSUP_OUT", ROOT / "build" / "release"))
KEY_ID, SECRET = "AKIAWALSUPTEST", "s3cr3t/with+signs="


class Notify:
    """What systemd would hear."""

    def __init__(self, path):
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.heard = []

    def fill(self):
        """from now on there is no room, until somebody listens"""
        senders = []  # one alone may run out of its own room (where systemd has made the queue long)
        try:
            while len(senders) < 1000:
                senders.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
                n = 0
                try:
                    while True:
                        senders[-1].sendto(b"JUNK=1", str(self.path))
                        n += 1
                except BlockingIOError:
                    if not n:
                        assert len(senders) > 1
                        return
        finally:
            for s in senders:
                s.close()
        raise AssertionError("the socket cannot be filled")

    def wait(self, what, timeout=90):
        end = time.monotonic() + timeout
        while not any(line.startswith(what) for line in self.heard):
            self.sock.settimeout(max(0.01, end - time.monotonic()))
            try:
                self.heard += self.sock.recv(65536).decode().splitlines()
            except socket.timeout:
                raise AssertionError(f"no {what} within {timeout} s; heard {self.heard}") from None

    def drain(self):
        self.sock.settimeout(0.001)
        try:
            while True:
                self.heard += self.sock.recv(65536).decode().splitlines()
        except socket.timeout:
            pass


class S3:
    """tests/s3server.py with one bucket; verifies signatures and payload hashes."""

    def __init__(self, root, cert=None, key=None):
        self.root = root
        args = [sys.executable, str(ROOT / "tests" / "s3server.py"), "--dir", str(root),
                "--bucket", "litestream", "--key-pair", f"{KEY_ID}:{SECRET}", "--until-eof"]
        self.scheme = "http"
        if cert:
            args += ["--cert", str(cert), "--key", str(key)]
            self.scheme = "https"
        self.proc = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.proc.stdout.readline())
        self.endpoint = f"{self.scheme}://127.0.0.1:{self.port}"

    def control(self, path, body=None):
        req = urllib.request.Request(self.endpoint + path,
                                     data=None if body is None else json.dumps(body).encode(),
                                     method="GET" if body is None else "POST")
        with urllib.request.urlopen(req, timeout=10) as r:
            data = r.read()
        return data.decode()

    def faults(self, *rules):
        self.control("/_faults", list(rules))

    def ledger(self):
        return json.loads(self.control("/_ledger"))

    def keys(self):
        return sorted(json.loads(m.read_text())["key"] for m in (self.root / "litestream").glob("*.json"))

    def take_away(self, keys):
        """somebody else deletes them"""
        assert sorted(json.loads(self.control("/_delete", list(keys)))) == sorted(keys)

    def target(self, name="s3", **more):
        keys = {"type": "s3", "endpoint": self.endpoint, "bucket": "litestream", "path": "backups",
                "access-key-id": KEY_ID, "secret-access-key": SECRET, **more}
        return section(f"target {name}", keys)

    def close(self):
        self.proc.stdin.close()
        self.proc.wait(10)


class S3Fault(S3):
    """tests/s3fault: everything that stores do, and a ledger of the truth. See its DESIGN.md."""

    def __init__(self, root, cert=None, key=None, *more):
        self.root = root
        args = [str(OUT / "helpers" / "s3fault"), "--dir", str(root), "--bucket", "litestream",
                "--key-pair", f"{KEY_ID}:{SECRET}", "--until-eof", *more]
        self.scheme = "http"
        if cert:
            args += ["--cert", str(cert), "--key", str(key)]
            self.scheme = "https"
        self.proc = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.proc.stdout.readline())
        self.endpoint = f"{self.scheme}://127.0.0.1:{self.port}"

    def objects(self):
        return {o["key"]: o for o in json.loads(self.control("/_objects"))}

    def counts(self):
        return json.loads(self.control("/_counts"))


def section(name, keys):
    return f"[{name}]\n" + "".join(f"{k.replace('_', '-')} = {v}\n" for k, v in keys.items()) + "\n"


def guard():
    """a call to a disk by the loop of walsupd ends it"""
    so = (OUT / "helpers" / "loop_guard.so").resolve()
    return {"LD_PRELOAD": str(so)} if so.exists() else {}


class World:
    """A directory of its own with a configuration, at most one daemon, and the tool."""

    def __init__(self, path):
        self.path = path
        self.ini = path / "walsup.ini"
        self.socket = path / "walsup.sock"
        self.state = path / "state"
        self.replica = path / "replica"
        self.log = path / "walsupd.log"
        self.proc = None
        self.notify = None
        self.env = {k: v for k, v in os.environ.items()
                    if not k.startswith(("AWS_", "LITESTREAM_", "WALSUP_"))}
        self.starts = 0

    def configure(self, *sections, **daemon):
        # most tests make a database and want to see it replicated at once; test_second_opinion.py has the default
        head = {"state-dir": self.state, "socket": self.socket, "copy-wait": daemon.pop("copy_wait", "0s"), **daemon}
        self.ini.write_text(section("walsup", head) + "".join(sections))
        self.ini.chmod(0o600)

    def file_target(self, name="local", **more):
        return section(f"target {name}", {"type": "file", "path": self.replica, **more})

    def db(self, name, path=None, target="local", **more):
        return section(f"db {name}", {"path": path or self.path / f"{name}.db", "target": target,
                                      **more})

    def start(self, ready=True, wrap=(), deaf=False, **env):
        self.starts += 1
        self.notify = Notify(self.path / f"notify{self.starts}.sock")
        if deaf:
            self.notify.fill()
        full = {"WALSUP_TEST_LOOK": "check", **guard(), **self.env, "NOTIFY_SOCKET": str(self.notify.path), **env}
        log = open(self.log, "ab")
        self.proc = subprocess.Popen([*wrap, str(OUT / "walsupd"), "-c", str(self.ini)], env=full,
                                     stderr=log, stdout=log)
        log.close()
        if ready:
            try:
                self.notify.wait("READY=1")
            except AssertionError:
                raise AssertionError(f"walsupd is not ready:\n{self.log.read_text()}") from None
        return self.proc

    def stop(self, sig=signal.SIGTERM, timeout=90):
        """end the daemon; returns its exit status"""
        if self.proc is None:
            return None
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        status = self.proc.wait(timeout)
        self.proc = None
        return status

    def ctl(self, *args, check=True, timeout=120, **env):
        r = subprocess.run([str(OUT / "walsupctl"), "-c", str(self.ini), *map(str, args)],
                           capture_output=True, text=True, timeout=timeout,
                           env={**self.env, **env}, stdin=subprocess.DEVNULL)
        if check and r.returncode != 0:
            raise AssertionError(f"walsupctl {args}: {r.returncode}\n{r.stdout}{r.stderr}\n"
                                 f"--- log\n{self.log.read_text() if self.log.exists() else ''}")
        return r

    def sync(self, *args, **kw):
        return self.ctl("sync", "--wait", *args, **kw)

    def status(self, name=None):
        r = self.ctl("status", "--json", check=False)
        d = json.loads(r.stdout)
        if name is None:
            return d
        return next(x for x in d["databases"] if x["name"] == name)

    def restore(self, name, target, out=None, *args):
        out = out or self.path / f"restored-{name.replace('/', '-')}-{target}.db"
        for side in ("", "-wal", "-shm"):
            Path(f"{out}{side}").unlink(missing_ok=True)
        self.ctl("restore", name, "--target", target, "-o", out, *args)
        return out

    def poll(self, what, fn, timeout=90):
        """await something only the daemon's own status can tell"""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            v = fn()
            if v:
                return v
            time.sleep(0.02)
        raise AssertionError(f"never: {what}\n{self.log.read_text()}\n{self.ctl('status', check=False).stdout}")


def fields(value, at=""):
    """every path in a reply; what is a name or a number of its own, not a field, is called NAME"""
    if isinstance(value, dict):
        free = at in ("counts", "databases[].replicas[].level_bytes")
        for k, v in value.items():
            path = f"{at}.{'NAME' if free else k}".lstrip(".")
            yield path
            yield from fields(v, path)
    elif isinstance(value, list):
        for v in value:
            yield from fields(v, at + "[]")


def image(path):
    """the database as an ordinary reader sees it, page by page"""
    con = sqlite3.connect(f"file:{urllib.parse.quote(os.fsencode(path))}?mode=ro", uri=True)
    try:
        con.execute("begin")
        con.execute("select count(*) from sqlite_master").fetchone()
        return con.serialize() if hasattr(con, "serialize") else dump(con)
    finally:
        con.close()


def dump(con):
    return "\n".join(con.iterdump()).encode()


def pages_equal(a, b, page_size):
    """the same pages; the lists of those that differ else"""
    x, y = image(a), image(b)
    assert len(x) == len(y), f"{a} has {len(x)} bytes, {b} {len(y)}"
    bad = [i // page_size + 1 for i in range(0, len(x), page_size)
           if x[i:i + page_size] != y[i:i + page_size]]
    assert not bad, f"{a} and {b} differ in pages {bad[:20]}"


def integrity(path):
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        assert con.execute("pragma integrity_check").fetchall() == [("ok",)]
    finally:
        con.close()


def make_db(path, page_size=4096, rows=10):
    con = sqlite3.connect(path)
    con.execute(f"pragma page_size={page_size}")
    assert con.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    con.execute("create table t(a integer primary key, b blob)")
    con.executemany("insert into t(b) values(randomblob(?))", [(100 + i,) for i in range(rows)])
    con.commit()
    return con


def sha(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def txids(world, db="a"):
    return sorted(int(p.name[:16], 16) for p in world.replica.glob(f"{db}/ltx/0/*.ltx"))


def files_of(world):
    return {p.name: sha(p) for p in world.replica.glob("a/ltx/*/*.ltx")}


def pytest_configure(config):
    config.addinivalue_line("markers", "outside: traces the programs, reads their /proc, gives files away: what the "
                            "sandbox of the unit is there to prevent")


# These take longest. They begin first, so that no worker is left alone with one at the end: only the time depends on it.
LONG = """
test_killed_at_each_call_beside_a_leftover_wal
test_a_transaction_of_1_gib_across_the_lock_page
test_a_large_snapshot_is_read_and_uploaded_at_the_same_time_while_the_application_writes
test_every_key_is_mapped_or_explained
test_the_matrix_of_faults
test_what_a_killed_restore_left_goes_with_the_next_one
test_killed_at_each_call_of_the_exchange_no_commit_of_the_old_one_is_lost
test_every_object_changed
test_killed_while_replacing_the_old_or_the_new_is_there
test_three_databases_to_two_targets_under_hostile_writers_restore_equal
test_the_whole_life_of_a_replica
test_a_full_spool_disk_hurts_neither_the_application_nor_its_wal_and_heals
test_the_matrix_of_faults_of_deletions
test_a_copied_machine_on_one_path_exactly_one_goes_on
test_files_that_nobody_could_look_at_for_long_are_unproven_not_healthy
test_each_object_damaged_in_turn
test_a_loser_that_needs_a_base_looks_before_it_puts_it
test_more_than_a_thousand_objects_are_listed
test_an_outage_is_one_line_and_its_end_another
test_wal_and_memory_stay_bounded_while_the_store_is_away
test_a_large_database_gets_to_a_target_that_is_added_later
""".split()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.originalname) if item.originalname in LONG else len(LONG))
    if not os.environ.get("WALSUP_SANDBOXED"):
        return
    first = {}
    for item in items:
        if item.get_closest_marker("outside"):
            item.add_marker(pytest.mark.skip(reason="not inside the sandbox: it looks at it from outside"))
        # The sandbox knows paths, system calls and capabilities; with other parameters a test asks for the same ones.
        elif first.setdefault(item.nodeid.partition("[")[0], item) is not item and \
                os.environ["WALSUP_SANDBOXED"] != "every":
            item.add_marker(pytest.mark.skip(reason="not inside the sandbox: there with its first parameters"))


@pytest.fixture
def world(tmp_path):
    w = World(tmp_path)
    yield w
    if w.proc is not None and w.proc.poll() is None:
        w.proc.kill()
        w.proc.wait()


@pytest.fixture
def s3(tmp_path):
    s = S3(tmp_path / "s3")
    yield s
    s.close()


@pytest.fixture
def s3fault(tmp_path):
    s = S3Fault(tmp_path / "s3fault")
    yield s
    s.close()
