"""Litestream v0.5 and walsup restore each other's replicas.

Runs when LITESTREAM_BIN names a Litestream v0.5 program, and with S3 as well on the S3 server of
the tests. What each version can read decides what walsup is told to write: before v0.5.16 frames
only, from then on frames and blocks.
"""
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import time

import pytest

from conftest import KEY_ID, SECRET, integrity, make_db, pages_equal
from test_replicate import storm

BIN = os.environ.get("LITESTREAM_BIN")
SECONDS = float(os.environ.get("WALSUP_LOAD_SECONDS", "4"))
SIZES = (512, 4096, 65536)

pytestmark = pytest.mark.skipif(not BIN, reason="LITESTREAM_BIN names no Litestream v0.5 program")


def version(program=BIN):
    """(0, 5, 9) for v0.5.9, from what the compiler noted, or else what it says of itself; what cannot be
    told counts as the newest"""
    if not program:
        return (0, 0, 0)
    with open(program, "rb") as f:
        m = re.search(rb"mod\tgithub.com/benbjohnson/litestream\tv(\d+)\.(\d+)\.(\d+)", f.read())
    if not m:
        out = subprocess.run([program, "version"], capture_output=True).stdout
        m = re.search(rb"(\d+)\.(\d+)\.(\d+)", out)
    return tuple(int(x) for x in m.groups()) if m else (9, 9, 9)


VERSION = version()
ENCODINGS = ("frame",) if VERSION < (0, 5, 16) else ("block", "frame")


class Litestream:
    """one configuration file: name -> database path and replica"""

    def __init__(self, world, program=BIN):
        self.world = world
        self.program, self.version = program, version(program)
        self.conf = world.path / "litestream.yml"
        self.log = world.path / "litestream.log"
        self.env = {**world.env, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
        self.proc = None

    def configure(self, dbs, of_db=None, **top):
        # JSON is YAML
        self.conf.write_text(json.dumps({**top, "dbs": [
            {**(of_db or {}), "path": str(p), "replica": {k: str(v) if isinstance(v, os.PathLike) else v
                                         for k, v in r.items()}} for p, r in dbs]}))

    def try_run(self, *args):
        return subprocess.run([self.program, *map(str, args)], capture_output=True, text=True, timeout=120,
                              env=self.env)

    def run(self, *args):
        r = self.try_run(*args)
        assert r.returncode == 0, f"litestream {args}: {r.returncode}\n{r.stdout}{r.stderr}"
        return r.stdout

    def restore(self, path, out):
        if out.exists():
            out.unlink()
        self.run("restore", "-config", self.conf, "-o", out, path)
        return out

    def files(self, path):
        """[(level, min, max)] as Litestream lists them"""
        out = []
        for level in ["all"] if self.version >= (0, 5, 10) else [None]:
            lv = ["-level", level] if level else []
            for line in self.run("ltx", "-config", self.conf, *lv, path).splitlines():
                m = re.match(r"(?:(\d)\s+)?([0-9a-f]{16})\s+([0-9a-f]{16})\s", line)
                if m:
                    out.append((int(m[1] or 0), int(m[2], 16), int(m[3], 16)))
        return out

    def start(self):
        log = open(self.log, "ab")
        self.proc = subprocess.Popen([self.program, "replicate", "-config", str(self.conf)], stdout=log,
                                     stderr=log, env=self.env)
        log.close()

    def stop(self):
        """SIGTERM: Litestream uploads what is left"""
        self.proc.send_signal(signal.SIGTERM)
        status = self.proc.wait(60)
        self.proc = None
        assert status == 0, self.log.read_text()[-4000:]


@pytest.fixture
def litestream(world):
    ls = Litestream(world)
    yield ls
    if ls.proc is not None and ls.proc.poll() is None:
        ls.proc.kill()
        ls.proc.wait()


def s3_replica(s3, path):
    return {"type": "s3", "bucket": "litestream", "path": path, "endpoint": s3.endpoint,
            "region": "us-east-1", "force-path-style": True, "access-key-id": KEY_ID,
            "secret-access-key": SECRET}


def grow_and_shrink(path, page_size):
    con = sqlite3.connect(path, timeout=30, isolation_level=None)
    con.execute("create table if not exists big(a integer primary key, b blob)")
    con.execute("begin")
    con.executemany("insert into big(b) values(randomblob(?))", [(page_size,)] * 400)
    con.execute("commit")
    yield
    con.execute("delete from big where a%10")
    con.execute("vacuum")
    yield
    con.executemany("insert into big(b) values(zeroblob(?))", [(page_size,)] * 30)
    con.close()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_litestream_restores_what_walsup_wrote(world, s3, litestream, encoding):
    enc = {"ltx-encoding": encoding}
    dbs = [(ps, world.path / f"p{ps}.db") for ps in SIZES]
    for ps, p in dbs:
        make_db(p, ps).close()
    first = [world.file_target(**enc), s3.target(**enc)]
    late = world.file_target("late", path=world.path / "late", **enc)

    def conf(targets, names):
        world.configure(*targets, *[world.db(f"p{ps}", p, names) for ps, p in dbs],
                        sync_interval="10ms")
    conf(first, "local, s3")
    world.start()
    storm(dbs, SECONDS)
    changes = [grow_and_shrink(p, ps) for ps, p in dbs]
    for _ in range(3):
        for c in changes:
            next(c, None)
        world.sync()
    # away: what happens then is made up for by a comparison of all pages, under the next TXID
    assert world.stop() == 0
    for ps, p in dbs:
        con = sqlite3.connect(p)
        con.execute("update t set b=zeroblob(?)", (ps,))
        con.commit()
        con.execute("pragma wal_checkpoint(truncate)")
        con.close()
    world.start()
    storm(dbs, SECONDS / 2)
    world.sync()
    assert all(world.status(f"p{ps}")["counters"]["resyncs"] == 1 for ps, _ in dbs)
    # a target added later begins with a base at level 9, unless the spool still has everything
    conf([*first, late], "local, s3, late")
    world.ctl("reload")
    world.poll("attached again", lambda: all(world.status(f"p{ps}")["state"] in ("replicating", "idle")
                                             for ps, _ in dbs))
    storm(dbs, SECONDS / 2)
    world.sync("--timeout", "60s")
    first = min((world.path / "late").glob("p512/ltx/*/*.ltx"), key=lambda f: f.name)
    assert first.name.startswith("0000000000000001-"), first

    for target in ("local", "s3", "late"):
        litestream.configure([(p, s3_replica(s3, f"backups/p{ps}") if target == "s3" else
                               {"type": "file", "path": (world.replica if target == "local" else
                                                         world.path / "late") / f"p{ps}"})
                              for ps, p in dbs])
        for ps, p in dbs:
            files = litestream.files(p)
            txid = int(world.status(f"p{ps}")["txid"], 16)
            l0 = [f for f in files if f[0] == 0]
            print(f"{encoding} {target} {ps}: {len(files)} files, TXID {txid}, levels "
                  f"{sorted({f[0] for f in files})}, L0 {l0[0][1]}-{l0[-1][2]}")
            assert l0[-1][2] == txid and [f[1] for f in l0] == list(range(l0[0][1], txid + 1))
            out = litestream.restore(p, world.path / f"litestream-{target}-{ps}.db")
            pages_equal(p, out, ps)
            integrity(out)
            if target != "s3":
                url = f"file://{(world.replica if target == 'local' else world.path / 'late')}/p{ps}"
                out = world.path / "by-url.db"
                litestream.run("restore", "-o", out, url)
                pages_equal(p, out, ps)
                out.unlink()
    assert world.stop() == 0


def test_walsup_restores_what_litestream_wrote(world, litestream):
    """every level, snapshots and its retention in between"""
    dbs = [(ps, world.path / f"p{ps}.db") for ps in SIZES]
    for ps, p in dbs:
        make_db(p, ps).close()
    litestream.configure(
        [(p, {"type": "file", "path": world.path / "ls" / f"p{ps}", "sync-interval": "50ms"})
         for ps, p in dbs], {"monitor-interval": "50ms"},
        levels=[{"interval": i} for i in ("1s", "2s", "4s")],
        snapshot={"interval": "3s", "retention": "3s"}, **{
            "l0-retention": "1s", "l0-retention-check-interval": "1s"})
    litestream.start()
    # kinder than the storm: reopening and checkpoints by others crash some versions (SIGBUS)
    cons = [(ps, sqlite3.connect(p, timeout=30, isolation_level=None)) for ps, p in dbs]
    rnd = random.Random(1)
    end = time.monotonic() + 2 * SECONDS
    while time.monotonic() < end:
        for ps, con in cons:
            con.execute("insert or replace into t(a,b) values(?,randomblob(?))",
                        (rnd.randrange(400), rnd.randrange(3 * ps)))
            if rnd.randrange(50) == 0:
                con.execute("delete from t where a%7=?", (rnd.randrange(7),))
            if rnd.randrange(200) == 0:
                con.execute("vacuum")
        time.sleep(0.002)
    for ps, p in dbs:
        for _ in grow_and_shrink(p, ps):
            time.sleep(0.3)  # each into a file of its own: Litestream has no event to await
    litestream.stop()
    for _, con in cons:
        con.close()
    for ps, p in dbs:
        out = world.path / f"walsup-{ps}.db"
        restore = ("restore", "--url", f"file://{world.path}/ls/p{ps}", "-o", out,
                   "--integrity-check", "full")
        try:
            own = litestream.restore(p, world.path / f"own-{ps}.db")
        except AssertionError as e:
            # pages that v0.5.14 and older forget when a database grows (Litestream #1292)
            assert VERSION < (0, 5, 15) and "nonsequential page numbers" in str(e)
            r = world.ctl(*restore, check=False)
            assert r.returncode == 65 and "is in none of the files" in r.stderr
            assert not out.exists()
            print(f"{ps}: Litestream lost a page, and walsupctl says so: {r.stderr}")
            continue
        integrity(own)
        r = world.ctl(*restore)
        levels = {d.name: len(list(d.glob("*.ltx")))
                  for d in sorted((world.path / "ls" / f"p{ps}" / "ltx").iterdir())}
        print(f"{ps}: levels {levels}\n{r.stdout}{r.stderr}")
        pages_equal(own, out, ps)
        if VERSION >= (0, 5, 7):  # v0.5.0 leaves its last commits behind when it is stopped
            pages_equal(p, out, ps)
        integrity(out)
