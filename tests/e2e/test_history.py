"""What becomes of files after they were captured: levels, snapshots, retention, the inventory. Hours are
seconds here: the intervals are configured, nothing else is different."""
import json
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import ROOT, make_db, pages_equal

# as 30 s, 5 min, 1 h, 24 h and 7 d, a few thousand times faster
FAST = {"sync_interval": "10ms", "level1_interval": "200ms", "level2_interval": "1s", "level3_interval": "3s",
        "snapshot_interval": "4s", "retention": "8s", "delete_delay": "0s", "idle_timeout": "2s"}
# nothing but what is asked for
CALM = {**FAST, "snapshot_interval": "0s", "retention": "0s"}


def levels(world, db="a"):
    """(level, min, max) of everything in the directory"""
    found = []
    for p in world.replica.glob(f"{db}/ltx/*/*.ltx"):
        found.append((int(p.parent.name), int(p.name[:16], 16), int(p.name[17:33], 16)))
    return sorted(found)


def count(world, level):
    return sum(1 for f in levels(world) if f[0] == level)


def replica(world, target="local"):
    return next(r for r in world.status("a")["replicas"] if r["target"] == target)


def write(con, n=1, size=300):
    for _ in range(n):
        con.execute("insert into t(b) values(randomblob(?))", (size,))
        con.commit()


def sql(world, text):
    con = sqlite3.connect(f"file:{world.state}/state.db?mode=ro", uri=True)
    try:
        return con.execute(text).fetchall()
    finally:
        con.close()


def plan(world, *args):
    return json.loads(world.ctl("restore", "a", "-o", world.path / "x.db", "--dry-run", "--json", *args).stdout)


def test_files_are_merged_level_by_level_and_a_restore_needs_few_of_them(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), **CALM)
    world.start()
    end = time.monotonic() + 60
    while count(world, 2) < 2 or count(world, 0) < 120:  # a quick machine is done before the second one is due
        assert time.monotonic() < end, levels(world)
        write(con)
        world.sync("a")
    write(con, 3)
    world.sync("a")
    found = levels(world)
    for level in (1, 2, 3):
        chain = [f for f in found if f[0] == level]
        for a, b in zip(chain, chain[1:]):  # on a slow machine an upload is skipped that the next level has made needless
            hole = (a[2] + 1, b[1] - 1)
            assert hole[0] > hole[1] or any(f[0] > level and f[1] <= hole[0] and f[2] >= hole[1] for f in found), (
                f"level {level} has a gap: {chain}")
    assert min(f[1] for f in found if f[0] == 1) == 2, "the first capture is not written again"
    n0 = sum(1 for f in found if f[0] == 0)
    files = plan(world)["files"]
    assert n0 > 100 and len(files) < 40, (n0, len(files))
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
    # each transaction can still be restored by itself
    for txid in (2, 60, n0 - 5):
        world.restore("a", "local", world.path / f"{txid}.db", "--txid", f"{txid:016x}")
    r = subprocess.run([sys.executable, str(ROOT / "tests" / "tools" / "ltx_check.py"),
                        *map(str, world.replica.glob("a/ltx/*/*.ltx"))], capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr


def test_a_snapshot_on_demand_is_where_the_next_restore_begins(world, s3):
    con = make_db(world.path / "a.db", rows=300)
    world.configure(world.file_target(), s3.target(), world.db("a", target="local, s3"), **CALM)
    world.start()
    write(con, 5)
    out = world.ctl("snapshot", "a").stdout
    assert out.count("snapshot of TXID") == 2, out
    txid = int(out.split("TXID ")[1].split(",")[0], 16)
    assert (9, 1, txid) in levels(world)
    assert any(k.endswith(f"0009/{1:016x}-{txid:016x}.ltx") for k in (e["key"] for e in s3.ledger() if e["verb"] == "PUT"))
    assert plan(world, "--target", "local")["files"][0]["level"] == 9
    status = world.ctl("status", "a").stdout
    assert "newest snapshot" in status and "restorable back to" in status
    for target in ("local", "s3"):
        pages_equal(world.path / "a.db", world.restore("a", target), 4096)
    r = world.ctl("snapshot", "a", "--target", "nowhere", check=False)
    assert r.returncode == 66 and "not replicated to a target called nowhere" in r.stderr


def test_what_is_older_than_the_retention_goes_and_every_point_inside_stays(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), **FAST)
    world.start()
    ledger = {}
    end = time.monotonic() + 60
    while count(world, 9) < 2 or replica(world)["deleted_files"] < 50:
        assert time.monotonic() < end, world.log.read_text()
        write(con)
        r = json.loads(world.sync("a", "--json").stdout)
        ledger[int(r["databases"][0]["txid"], 16)] = world_image(world)
    world.stop()
    found = levels(world)
    anchor = min(f[2] for f in found if f[0] == 9)
    assert anchor > 2
    assert all(f[2] > anchor for f in found if f[0] == 0)
    inside = [t for t in ledger if t > anchor]
    assert {f[2] for f in found if f[0] == 0} >= set(inside), "a point inside the window is gone"
    for txid in inside[::max(1, len(inside) // 15)]:
        out = world.restore("a", "local", world.path / "point.db", "--txid", f"{txid:016x}")
        assert image_of(out) == ledger[txid], f"TXID {txid:x}"
    r = world.ctl("restore", "a", "-o", world.path / "old.db", "--txid", "2", check=False)
    assert r.returncode != 0 and f"{anchor:016x}" in r.stderr, r.stderr
    assert not (world.path / "old.db").exists()


def image_of(path):
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return con.execute("select count(*), max(a), hex(b) from t where a = (select max(a) from t)").fetchone()
    finally:
        con.close()


def world_image(world):
    return image_of(world.path / "a.db")


def test_an_append_only_target_never_sees_a_delete(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), s3.target(delete="no"), world.db("a", target="local, s3"), **FAST)
    world.start()
    end = time.monotonic() + 60
    while replica(world)["deleted_files"] < 20:
        assert time.monotonic() < end, world.log.read_text()
        write(con)
        world.sync("a")
    assert not [e for e in s3.ledger() if e["verb"] in ("DELETE", "POST")]
    assert replica(world, "s3")["deleted_files"] == 0
    pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)


def test_keys_that_may_not_delete_are_named_once_and_nothing_else_suffers(world, s3):
    s3.faults({"verb": "DELETE", "action": "status", "status": 403, "code": "AccessDenied"})
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"), **FAST)
    world.start()
    end = time.monotonic() + 60
    while "delete = no" not in world.log.read_text():
        assert time.monotonic() < end, world.log.read_text()
        write(con)
        world.sync("a")
    write(con, 3)
    world.sync("a")
    assert world.log.read_text().count("delete = no") == 1
    assert world.status("a")["state"] == "replicating"
    pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)


def test_an_idle_database_comes_to_rest_and_then_makes_no_request(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"), **{**FAST, "idle_timeout": "1s"}, scan_interval="1s")
    world.start()
    for _ in range(30):
        write(con)
        world.sync("a")
    world.poll("it sleeps and nothing is due",
               lambda: world.status("a")["state"] == "idle" and not sql(world, "select * from due"), timeout=60)
    con.close()
    world.poll("asleep again", lambda: world.status("a")["state"] == "idle")
    before = len(s3.ledger())
    time.sleep(3)  # the quiet is what is tested
    assert len(s3.ledger()) == before
    whole = [e["key"] for e in s3.ledger() if e["verb"] == "LIST" and e["key"].endswith("/a/000")]
    assert len(whole) == 1, "at the very first start; a look before a snapshot is from a TXID on"


def test_the_inventory_is_lost_and_old_files_are_deleted_all_the_same(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), **CALM)
    world.start()
    for _ in range(30):
        write(con)
        world.sync("a")
    world.ctl("snapshot", "a")
    before = {f for f in levels(world) if f[0] == 0}
    world.stop()
    for p in world.state.glob("state.db*"):
        p.unlink()
    world.configure(world.file_target(), world.db("a"), **FAST)
    world.start()
    assert world.status("a")["state"] in ("idle", "replicating", "starting")
    end = time.monotonic() + 60
    while {f for f in levels(world) if f[0] == 0} & before:
        assert time.monotonic() < end, world.log.read_text()
        write(con)
        world.sync("a")
    assert "compared with the bucket" in world.log.read_text()
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


def test_reconcile_finds_what_is_missing_and_what_was_not_known(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), **CALM)
    world.start()
    for _ in range(8):
        write(con)
        world.sync("a")
    assert "as expected" in world.ctl("reconcile", "a").stdout
    (world.replica / "a/ltx/0" / f"{4:016x}-{4:016x}.ltx").unlink()
    (world.replica / "a/ltx/0/stranger.txt").write_text("x")
    out = world.ctl("reconcile").stdout
    assert "1 missing" in out and f"0/{4:016x}" in out and "left alone" in out, out
    world.poll("a snapshot mends it", lambda: count(world, 9) == 1)
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
    assert "as expected" in world.ctl("reconcile", "a").stdout
    r = world.ctl("reconcile", "nowhere", check=False)
    assert r.returncode == 66 and "walsupctl list" in r.stderr


def test_a_replica_that_was_away_gets_the_merged_files_too(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), s3.target(), world.db("a", target="local, s3"), **CALM)
    world.start()
    world.sync("a")
    s3.faults({"verb": "PUT", "action": "status", "status": 503, "code": "SlowDown"})
    end = time.monotonic() + 30
    while count(world, 1) < 3:
        assert time.monotonic() < end
        write(con)
    s3.faults()
    world.sync("a", timeout=90)

    def same():
        keys = {e["key"] for e in s3.ledger() if e["verb"] == "PUT" and e["status"] == 200}
        merged = [f for f in levels(world) if f[0] > 0]
        top = [f for f in merged if not any(g[0] > f[0] and g[1] <= f[1] and g[2] >= f[2] for g in merged)]
        return top and all(f"backups/a/{f[0]:04x}/{f[1]:016x}-{f[2]:016x}.ltx" in keys for f in top)
    world.poll("what no higher level covers is there", same, timeout=60)
    for target in ("local", "s3"):
        pages_equal(world.path / "a.db", world.restore("a", target), 4096)


def test_merging_goes_on_after_kill_9_where_it_was(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), **CALM)
    for _ in range(4):
        world.start()
        n = count(world, 1)
        end = time.monotonic() + 30
        while count(world, 1) < n + 2:
            assert time.monotonic() < end
            write(con)
        world.stop(sig=9)
        pages_equal_prefix(world)
    world.start()
    write(con)
    world.sync("a")
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
    merged = sorted(f[1:] for f in levels(world) if f[0] in (1, 2, 3))
    have = 1
    for low, high in merged:
        assert low <= have + 1, f"TXID {have + 1} is at no level above 0: {merged}"
        have = max(have, high)
    assert have > 20


def pages_equal_prefix(world):
    """what was stored can be restored, and is a state that was committed"""
    out = world.restore("a", "local")
    con = sqlite3.connect(out)
    assert con.execute("pragma integrity_check").fetchall() == [("ok",)]
    con.close()


def big_db(path, mib=90):
    con = make_db(path)
    for _ in range(mib):
        con.execute("insert into t(b) values(randomblob(1000000))")
        con.commit()
    return con


def most_in(directory, proc):
    """the most that lay in a directory until a process ended, in bytes"""
    most = 0
    while proc.poll() is None:
        for p in directory.glob("*"):
            try:
                most = max(most, p.stat().st_blocks * 512)
            except FileNotFoundError:
                pass
        time.sleep(0.005)
    return most


def test_a_large_snapshot_is_read_and_uploaded_at_the_same_time_while_the_application_writes(world):
    con = big_db(world.path / "a.db")
    other = world.path / "other"
    world.configure(world.file_target(), world.file_target("other", path=other),
                    world.db("a", target="local, other"), **{**CALM, "idle_timeout": "1h"})
    world.start()
    world.sync("a", timeout=60)
    tool = subprocess.Popen([str(ROOT / "build/release/walsupctl"), "-c", str(world.ini), "snapshot", "a"],
                            stdout=subprocess.PIPE, text=True)
    writer = subprocess.Popen([sys.executable, "-c", f"""
import sqlite3, sys
con = sqlite3.connect({str(world.path / 'a.db')!r}, isolation_level=None)
for i in range(4000):
    con.execute("insert into t(b) values(randomblob(500))")
    con.execute("update t set b = randomblob(700000) where a = ?", (20 + i % 60,)) if i % 50 == 0 else None
"""])
    most = most_in(world.state / "db" / "a" / "snapshot", tool)
    assert tool.returncode == 0 and writer.wait(60) == 0
    out = tool.stdout.read()
    txid = int(out.split("TXID ")[1].split(",")[0], 16)
    size = (world.replica / f"a/ltx/9/{1:016x}-{txid:016x}.ltx").stat().st_size
    assert size > 80e6 and most < size * 0.9, (size, most)
    assert not list((world.state / "db/a/snapshot").glob("*"))
    world.sync("a", timeout=60)
    for target in ("local", "other"):
        pages_equal(world.path / "a.db", world.restore("a", target), 4096)
        world.restore("a", target, world.path / "then.db", "--txid", f"{txid:016x}")
    assert json.loads(world.ctl("restore", "a", "--txid", f"{txid:016x}", "-o", world.path / "y.db", "--dry-run", "--json")
                      .stdout)["files"][0]["level"] == 9
    assert world.status("a")["counters"]["continuity_lost"] == 0
    con.close()


def test_a_large_database_gets_to_a_target_that_is_added_later(world):
    con = big_db(world.path / "a.db", 70)
    world.configure(world.file_target(), world.db("a"), **CALM)
    world.start()
    world.sync("a", timeout=60)
    world.poll("it sleeps, the spool is empty", lambda: world.status("a")["spool_bytes"] == 0)
    late = world.path / "late"
    world.configure(world.file_target(), world.file_target("late", path=late), world.db("a", target="local, late"), **CALM)
    world.ctl("reload")
    world.poll("it has everything", lambda: replica(world, "late")["txid"] == replica(world)["txid"] != "0" * 16, timeout=60)
    write(con, 3)
    world.sync("a")
    assert list(late.glob("a/ltx/9/*.ltx"))
    pages_equal(world.path / "a.db", world.restore("a", "late"), 4096)


def test_kill_9_in_the_middle_of_a_large_snapshot_leaves_nothing_behind(world):
    con = big_db(world.path / "a.db", 70)
    world.configure(world.file_target(), world.db("a"), **CALM)
    world.start()
    world.sync("a", timeout=60)
    tool = subprocess.Popen([str(ROOT / "build/release/walsupctl"), "-c", str(world.ini), "snapshot", "a"],
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((world.state / "db/a/snapshot").glob("*")):
        assert tool.poll() is None
    world.stop(sig=9)
    assert tool.wait(30) != 0
    world.start()
    write(con)
    world.sync("a")
    assert not list((world.state / "db/a/snapshot").glob("*")) and count(world, 9) == 0
    world.ctl("snapshot", "a")
    assert count(world, 9) == 1
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


@pytest.mark.parametrize("text, words", [
    ("retention = 1h\nsnapshot-interval = 2h\n", "shorter than its snapshot-interval"),
    ("l0-retention = 9d\n", "l0-retention that is longer than its retention"),
])
def test_settings_that_contradict_each_other_are_refused(world, text, words):
    world.configure(world.file_target(), world.db("a"))
    world.ini.write_text(world.ini.read_text().replace("[walsup]\n", "[walsup]\n" + text))
    r = subprocess.run([str(ROOT / "build/release/walsupd"), "-c", str(world.ini), "--check"], capture_output=True, text=True)
    assert r.returncode == 78 and words in r.stderr, r.stderr
