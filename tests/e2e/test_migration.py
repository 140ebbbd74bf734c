"""walsup-migration(7), with the real programs: v0.3.13 as for test_litestream_v3.py, v0.5 when
LITESTREAM_BIN names one."""
import json
import os
import signal
import sqlite3
import subprocess
import time

import pytest

import test_litestream_v3 as v3tests
from conftest import image, integrity, make_db, pages_equal

V5 = os.environ.get("LITESTREAM_BIN")


def insert(db, text):
    con = sqlite3.connect(db, timeout=30)
    con.execute("insert into t(b) values(?)", (text,))
    con.commit()
    con.close()


def take_over(world, yml, litestream_env=None):
    """the commands of the manual page: import, check, start"""
    ini = world.ctl("import-litestream", yml).stdout
    mine = f"[walsup]\nstate-dir = {world.state}\nsocket = {world.socket}\n"
    world.ini.write_text(ini.replace("[walsup]\n", mine))
    world.ini.chmod(0o600)
    world.ctl("check")
    world.start()


class Program:
    def __init__(self, world, binary, yml):
        self.world, self.binary, self.yml, self.proc = world, binary, yml, None
        self.log = world.path / "litestream.log"

    def run(self, *args, check=True):
        r = subprocess.run([self.binary, *map(str, args)], capture_output=True, text=True, timeout=60,
                           env=self.world.env)
        assert not check or r.returncode == 0, f"{args}\n{r.stdout}{r.stderr}"
        return r

    def start(self):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen([self.binary, "replicate", "-config", str(self.yml)],
                                         stdout=log, stderr=log, env=self.world.env)

    def stop(self):
        self.proc.send_signal(signal.SIGINT)
        try:
            self.proc.wait(20)
        except subprocess.TimeoutExpired:  # v0.3.13 now and then
            self.proc.kill()
            self.proc.wait()
        self.proc = None


@pytest.fixture
def program(world):
    made = []

    def make(binary, config):
        yml = world.path / "litestream.yml"
        yml.write_text(json.dumps(config))
        made.append(Program(world, binary, yml))
        return made[-1]
    yield make
    for p in made:
        if p.proc is not None and p.proc.poll() is None:
            p.proc.kill()
            p.proc.wait()


def latest(world, root, out="latest.db"):
    path = world.path / out
    for side in ("", "-wal", "-shm"):
        (world.path / f"{out}{side}").unlink(missing_ok=True)
    r = world.ctl("restore", "--url", f"file://{root}", "-o", path, "--json", check=False)
    return path, json.loads(r.stdout)


@pytest.mark.skipif(not v3tests.BIN.exists(), reason="no Litestream v0.3.13: make deps-test")
def test_from_v03_and_back(world, program):
    db, root = world.path / "app.db", world.path / "backup" / "app"
    make_db(db).close()
    v3 = program(v3tests.BIN, {"dbs": [{
        "path": str(db), "monitor-interval": "20ms",
        "replicas": [{"path": str(root), "sync-interval": "20ms"}]}]})

    def in_v3(text):
        """whether a restore of the newest generation has it"""
        gens = sorted((root / "generations").glob("*"), key=lambda g: max(
            (o.stat().st_mtime_ns for o in g.glob("*/*.lz4")), default=0))
        if not gens:
            return None
        out = world.path / "gen.db"
        for side in ("", "-wal", "-shm"):
            (world.path / f"gen.db{side}").unlink(missing_ok=True)
        r = world.ctl("restore", "--url", f"file://{root}", "--generation", gens[-1].name, "-o", out,
                      check=False)
        if r.returncode != 0:
            return None
        con = sqlite3.connect(out)
        n = con.execute("select count(*) from t where b=?", (text,)).fetchone()[0]
        con.close()
        return gens[-1].name if n else None

    v3.start()
    insert(db, "by v0.3")
    first = world.poll("v0.3 has it", lambda: (root / "generations").exists() and in_v3("by v0.3"))
    v3.stop()
    take_over(world, v3.yml)
    insert(db, "by walsup")
    world.sync()
    assert world.status("app")["state"] == "replicating"
    out, d = latest(world, root)
    assert d["format"] == "ltx"
    pages_equal(db, out, 4096)
    # the time before the change is in the generation
    assert in_v3("by v0.3") == first and not in_v3("by walsup")
    d = json.loads(world.ctl("points", "app", "--generation", first, "--json").stdout)
    assert d["format"] == "litestream-v0.3"
    # and back: v0.3 begins a new generation at the same place, and has everything
    assert world.stop() == 0
    v3.start()
    insert(db, "by v0.3 again")
    second = world.poll("v0.3 has it", lambda: in_v3("by v0.3 again"))
    v3.stop()
    assert second and in_v3("by walsup") == second
    own = world.path / "own.db"
    v3.run("restore", "-config", v3.yml, "-o", own, db)
    con = sqlite3.connect(own)
    assert {r[0] for r in con.execute("select b from t where typeof(b)='text'")} == {
        "by v0.3", "by walsup", "by v0.3 again"}
    con.close()
    # walsup at the same place a second time notices what it missed
    world.start()
    insert(db, "by walsup again")
    world.sync()
    out, d = latest(world, root)
    pages_equal(db, out, 4096)
    assert world.stop() == 0


@pytest.mark.skipif(not V5, reason="LITESTREAM_BIN names no Litestream v0.5 program")
def test_from_v05_and_back(world, program):
    db, root = world.path / "app.db", world.path / "backup" / "app"
    make_db(db).close()
    v5 = program(V5, {"dbs": [{"path": str(db), "monitor-interval": "20ms",
                               "replica": {"type": "file", "path": str(root),
                                           "sync-interval": "20ms"}}]})

    def in_v5(text):
        out = world.path / "v5.db"
        for side in ("", "-wal", "-shm"):
            (world.path / f"v5.db{side}").unlink(missing_ok=True)
        r = v5.run("restore", "-config", v5.yml, "-o", out, db, check=False)
        if r.returncode != 0:
            return False
        con = sqlite3.connect(out)
        n = con.execute("select count(*) from t where b=?", (text,)).fetchone()[0]
        con.close()
        return n == 1

    for round in range(2):
        v5.start()
        insert(db, f"by v0.5 {round}")
        world.poll("v0.5 has it", lambda: root.exists() and in_v5(f"by v0.5 {round}"))
        v5.stop()
        out, d = latest(world, root)
        pages_equal(db, out, 4096)
        before = int(d["txid"], 16)
        take_over(world, v5.yml)
        insert(db, f"by walsup {round}")
        if round:  # with the state of the first time: Litestream is another writer, as the page says
            assert world.sync("app", check=False).returncode == 80
            world.ctl("takeover", "app")
        world.sync()
        out, d = latest(world, root)
        assert int(d["txid"], 16) > before
        pages_equal(db, out, 4096)
        assert world.stop() == 0
        assert in_v5(f"by walsup {round}") and in_v5(f"by v0.5 {round}")
        integrity(world.path / "v5.db")
        points = json.loads(world.ctl("points", "app", "--json", "--limit", "0").stdout)
        assert not points["gap"]
        print(f"round {round}: {points['total']} points, levels {points['levels']}")
    for p in points["points"]:
        # Litestream restores what was before a time, walsup what was until then
        ms, ours, theirs = p["timestamp_ms"], world.path / "ours.db", world.path / "theirs.db"
        stamp = [f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(t // 1000))}.{t % 1000:03d}Z"
                 for t in (ms, ms + 1)]
        for f in (ours, theirs):
            for side in ("", "-wal", "-shm"):
                (world.path / f"{f.name}{side}").unlink(missing_ok=True)
        r = world.ctl("restore", "app", "--timestamp", stamp[0], "-o", ours, "--json")
        assert json.loads(r.stdout)["timestamp_ms"] == ms
        v5.run("restore", "-config", v5.yml, "-timestamp", stamp[1], "-o", theirs, db)
        pages_equal(theirs, ours, 4096)
        out = world.path / f"at-{p['txid']}.db"
        world.ctl("restore", "app", "--txid", p["txid"], "-o", out)
        integrity(out)
