"""Litestream v0.5 and a replica of walsup's with levels, snapshots and retention: restored by it at every TXID
and time that is left, taken over from it and handed back, in directories and buckets.

LITESTREAM_BIN names the program, LITESTREAM_OLD_BIN one before v0.5.16, which reads LZ4 frames only."""
import json
import os
import random
import re
import shutil
import sqlite3
import time

import pytest

from conftest import KEY_ID, SECRET, integrity, make_db, pages_equal
from test_litestream import Litestream, s3_replica, version

PROGRAMS = [p for p in (os.environ.get("LITESTREAM_BIN"), os.environ.get("LITESTREAM_OLD_BIN")) if p]
PAGE_SIZE = 4096
HISTORY = {"sync_interval": "20ms", "level1_interval": "1s", "level2_interval": "2s", "level3_interval": "4s",
           "snapshot_interval": "3s", "retention": "1h", "l0_retention": "3s", "delete_delay": "0s"}

pytestmark = pytest.mark.skipif(not PROGRAMS, reason="LITESTREAM_BIN names no Litestream v0.5 program")


def name_of(program):
    return "v" + ".".join(map(str, version(program))) if program else "none"


@pytest.fixture(params=PROGRAMS or [None], ids=name_of)
def litestream(world, request):
    ls = Litestream(world, request.param)
    yield ls
    if ls.proc is not None and ls.proc.poll() is None:
        ls.proc.kill()
        ls.proc.wait()


def encodings(ls):
    return {"ltx_encoding": "block" if ls.version >= (0, 5, 16) else "frame"}


class Load:
    """commits of a few rows, until told to stop; now and then the database shrinks"""

    def __init__(self, db):
        self.con = sqlite3.connect(db, timeout=30, isolation_level=None)
        self.rnd = random.Random(3)
        self.n = 0

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.n += 1
            self.con.execute("insert or replace into t(a,b) values(?,randomblob(?))",
                             (self.rnd.randrange(200), self.rnd.randrange(3000)))
            if self.n % 120 == 0:
                self.con.execute("delete from t where a%3=1")
                self.con.execute("vacuum")
            time.sleep(0.02)


def replica_of(world, s3, where):
    if where == "s3":
        return s3_replica(s3, "backups/a")
    return {"type": "file", "path": str(world.replica / "a")}


def target_of(world, s3, where, ls):
    return s3.target(**encodings(ls)) if where == "s3" else world.file_target("local", **encodings(ls))


def stamp(ms):
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(ms // 1000))}.{ms % 1000:03d}Z"


def fresh(path):
    for side in ("", "-wal", "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)
    return path


def proven(world):
    """Everything is sound and the source's. What one of the levels has not (yet) taken from the other program's
    level below it is not there, and nothing is lost by that."""
    d = json.loads(world.ctl("verify", "a", "--json", check=False).stdout)
    for r in d["replicas"]:
        assert r["latest_restores"] and r["source"]["compared"] == "equal" and not r["lost"], r
        assert {o["state"] for o in r["objects"]} <= {"MISSING"}, r
        assert all(o["level"] > 0 for o in r["objects"]), r
        for o in r["objects"]:
            print("level", o["level"], "has not", o["min"], "to", o["max"])


@pytest.mark.parametrize("where", ("local", "s3"))
def test_every_point_of_a_replica_with_levels(world, s3, litestream, where):
    db = world.path / "a.db"
    make_db(db, PAGE_SIZE).close()
    world.configure(target_of(world, s3, where, litestream), world.db("a", db, where), **HISTORY)
    world.start()
    load = Load(db)
    load.run(9)
    world.sync()
    proven(world)
    litestream.configure([(db, replica_of(world, s3, where))])
    files = litestream.files(db)
    levels = {lv: sum(f[0] == lv for f in files) for lv in sorted({f[0] for f in files})}
    assert world.stop() == 0
    points = json.loads(world.ctl("points", "a", "--json", "--limit", "0").stdout)["points"]
    # the newest, the oldest, where levels end, and some between
    some = points[:2] + points[-3:] + [p for p in points if p["level"]] + points[::max(1, len(points) // 12)]
    for p in {p["txid"]: p for p in some}.values():
        ours, theirs = fresh(world.path / "ours.db"), fresh(world.path / "theirs.db")
        world.ctl("restore", "a", "--txid", p["txid"], "-o", ours)
        litestream.run("restore", "-config", litestream.conf, "-txid", p["txid"], "-o", theirs, db)
        pages_equal(ours, theirs, PAGE_SIZE)
        # Litestream restores what was before a time, walsup what was until then
        fresh(ours), fresh(theirs)
        r = json.loads(world.ctl("restore", "a", "--timestamp", stamp(p["timestamp_ms"]), "-o", ours, "--json").stdout)
        assert r["timestamp_ms"] == p["timestamp_ms"]
        r = litestream.try_run("restore", "-config", litestream.conf, "-timestamp", stamp(p["timestamp_ms"] + 1), "-o",
                               theirs, db)
        if r.returncode == 0:
            pages_equal(ours, theirs, PAGE_SIZE)
        else:  # older than its oldest snapshot of level 9: it does not look for others
            assert p["timestamp_ms"] < points[-1]["timestamp_ms"]
    out = litestream.restore(db, world.path / "latest.db")
    pages_equal(db, out, PAGE_SIZE)
    integrity(out)
    print(f"{name_of(litestream.program)} {where}: levels {levels}, {len(points)} points")
    assert {0, 1, 2, 9} <= set(levels)


def configure_litestream(ls, db, replica, l0_retention):
    ls.configure([(db, {**replica, "sync-interval": "50ms"})], {"monitor-interval": "50ms"},
                 levels=[{"interval": i} for i in ("1s", "2s", "4s")],
                 **{"l0-retention": l0_retention, "l0-retention-check-interval": "1s"})


def test_handed_back_to_a_litestream_that_thins_out_level_0(world, s3, litestream):
    """Litestream deletes of level 0 what is older than the newest of level 1, whether or not level 1 has it"""
    db = world.path / "a.db"
    make_db(db, PAGE_SIZE).close()
    configure_litestream(litestream, db, replica_of(world, s3, "local"), "2s")
    world.configure(target_of(world, s3, "local", litestream), world.db("a", db, "local"), **HISTORY)
    load = Load(db)
    litestream.start()
    load.run(3)
    world.poll("Litestream has it all", lambda: caught_up(world, litestream, db))
    litestream.stop()
    world.start()
    load.run(2)
    world.ctl("snapshot", "a")  # as walsup-migration(7) tells
    world.sync()
    assert world.stop() == 0
    litestream.start()
    load.run(5)
    litestream.stop()
    assert caught_up(world, litestream, db)


@pytest.mark.parametrize("where", ("local", "s3"))
def test_taken_over_and_handed_back(world, s3, litestream, where):
    """Litestream writes, walsup goes on with its numbers, Litestream goes on with walsup's: what it uploads then is
    what changed, not the whole"""
    db = world.path / "a.db"
    con = make_db(db, PAGE_SIZE)
    con.executemany("insert into t(b) values(randomblob(?))", [(3000,)] * 800)
    con.commit()
    con.close()
    configure_litestream(litestream, db, replica_of(world, s3, where), "1h")
    world.configure(target_of(world, s3, where, litestream), world.db("a", db, where), **HISTORY)
    load = Load(db)
    for turn in range(2):
        litestream.start()
        load.run(3)
        world.poll("Litestream has it all", lambda: caught_up(world, litestream, db))
        litestream.stop()
        before = max(f[2] for f in litestream.files(db))
        shutil.rmtree(world.state, ignore_errors=True)  # as walsup-migration(7) tells: it is of before Litestream
        world.start()
        load.run(2)
        world.sync()
        proven(world)
        mine = int(world.status("a")["txid"], 16)
        assert mine > before
        out = fresh(world.path / f"walsup-{turn}.db")
        world.ctl("restore", "a", "--target", where, "-o", out)
        pages_equal(db, out, PAGE_SIZE)
        out = litestream.restore(db, world.path / f"litestream-{turn}.db")
        pages_equal(db, out, PAGE_SIZE)
        assert world.stop() == 0
    # and back for the last time: with a small change only
    whole = os.stat(db).st_size
    litestream.start()
    con = sqlite3.connect(db, timeout=30)
    con.execute("update t set b=randomblob(200) where a=5")
    con.commit()
    con.close()
    world.poll("Litestream has it", lambda: caught_up(world, litestream, db))
    litestream.stop()
    sizes = new_sizes(world, s3, where, mine)
    print(f"{name_of(litestream.program)} {where}: database {whole} bytes; handed back at TXID {mine:x}, then "
          f"level 0 of {sizes} bytes")
    assert sizes and min(sizes) < whole / 20
    out = fresh(world.path / "last.db")
    world.ctl("restore", "a", "--target", where, "-o", out, "--integrity-check", "full")
    pages_equal(db, out, PAGE_SIZE)
    r = json.loads(world.ctl("verify", "--url", url_of(world, s3, where), "--json", check=False,
                             AWS_ACCESS_KEY_ID=KEY_ID, AWS_SECRET_ACCESS_KEY=SECRET).stdout)
    assert r["replicas"][0]["latest_restores"], r


def url_of(world, s3, where):
    return f"s3://litestream/backups/a?endpoint={s3.endpoint}" if where == "s3" else f"file://{world.replica}/a"


def caught_up(world, ls, db):
    out = fresh(world.path / "caught.db")
    r = ls.try_run("restore", "-config", ls.conf, "-o", out, db)
    if r.returncode != 0:
        return False
    try:
        pages_equal(db, out, PAGE_SIZE)
    except AssertionError:
        return False
    return True


def new_sizes(world, s3, where, after):
    """bytes of the level 0 objects beyond a TXID"""
    if where == "s3":
        objects = [json.loads(m.read_text()) for m in (s3.root / "litestream").glob("*.json")]
        found = [(re.search(r"backups/a/0000/([0-9a-f]{16})-", o["key"]), o["size"]) for o in objects]
        return [size for m, size in found if m and int(m[1], 16) > after]
    return [p.stat().st_size for p in (world.replica / "a" / "ltx" / "0").glob("*.ltx")
            if int(p.name[:16], 16) > after]
