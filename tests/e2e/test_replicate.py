"""The main job: a live database to its replicas and back, equal."""
import multiprocessing
import os
import random
import sqlite3
import stat
import subprocess
import sys
import time

import pytest

from conftest import OUT, ROOT, integrity, make_db, pages_equal, sha

SECONDS = float(os.environ.get("WALSUP_LOAD_SECONDS", "30"))


def hostile(path, seed, seconds, page_size, out):
    """One application: commits, spilled rollbacks, VACUUM, every checkpoint mode, reopening. Reports
    what went wrong for it and how long it ever waited."""
    rnd = random.Random(seed)
    end = time.monotonic() + seconds
    errors, waits = [], []
    while time.monotonic() < end:
        con = sqlite3.connect(path, timeout=30, isolation_level=None)
        con.execute("pragma synchronous=normal")
        con.execute(f"pragma cache_size={rnd.choice([5, 2000])}")
        con.execute(f"pragma wal_autocheckpoint={rnd.choice([0, 50, 1000])}")
        for _ in range(rnd.randrange(5, 60)):
            kind = rnd.randrange(40)
            t0 = time.monotonic()
            try:
                if kind < 30:
                    con.execute("insert or replace into t(a,b) values(?,randomblob(?))",
                                (rnd.randrange(400), rnd.randrange(3 * page_size)))
                elif kind < 34:
                    con.execute("begin immediate")
                    con.execute("update t set b=randomblob(?)", (page_size // 2,))
                    con.execute("rollback")
                elif kind < 36:
                    con.execute("delete from t where a%11=?", (rnd.randrange(11),))
                elif kind == 36:
                    con.execute("vacuum")
                elif kind < 39:
                    mode = rnd.choice(["passive", "full", "restart", "truncate"])
                    con.execute("pragma busy_timeout=500")
                    con.execute(f"pragma wal_checkpoint({mode})").fetchall()
                    con.execute("pragma busy_timeout=30000")
                else:
                    con.execute("create table if not exists u(x)")
                    con.execute("insert into u values(randomblob(10))")
            except sqlite3.OperationalError as e:
                errors.append(f"{kind}: {e}")
                if con.in_transaction:
                    con.execute("rollback")
            waits.append((time.monotonic() - t0, kind))
        con.close()
    out.put((errors, waits))


def storm(dbs, seconds):
    q = multiprocessing.Queue()
    procs = [multiprocessing.Process(target=hostile, args=(p, seed, seconds, ps, q))
             for ps, p in dbs for seed in (ps, ps + 1)]
    for p in procs:
        p.start()
    results = [q.get(timeout=seconds + 60) for _ in procs]
    for p in procs:
        p.join()
    waits = sorted(w for r in results for w in r[1])
    return [e for r in results for e in r[0]], waits


def test_three_databases_to_two_targets_under_hostile_writers_restore_equal(world, s3):
    dbs = [(ps, world.path / f"p{ps}.db") for ps in (512, 4096, 65536)]
    for ps, p in dbs:
        make_db(p, ps).close()
    # the control: the same load without walsup. Such writers starve each other now and then with
    # plain SQLite as well, so the longest waits are compared in bulk.
    errors, waits = storm(dbs, SECONDS / 2)
    world.configure(s3.target(), world.file_target(),
                    *[world.db(f"p{ps}", p, "s3, local") for ps, p in dbs], sync_interval="200ms")
    world.start()
    with_errors, with_waits = storm(dbs, SECONDS)
    p99, with_p99 = (w[int(len(w) * 0.99)][0] for w in (waits, with_waits))
    print(f"without walsup {len(waits)} statements, p99 {p99:.3f} s, max {waits[-1][0]:.3f} s, "
          f"errors {errors}; with {len(with_waits)}, p99 {with_p99:.3f} s, "
          f"max {with_waits[-1][0]:.3f} s, errors {with_errors}")
    assert len(waits) > 100 and len(with_waits) > 100
    assert not with_errors or errors, with_errors
    assert with_p99 < 3 * p99 + 0.1
    world.sync("--timeout", "60s")
    for ps, p in dbs:
        st = world.status(f"p{ps}")
        assert st["state"] in ("replicating", "idle") and st["counters"]["continuity_lost"] == 0
        assert st["counters"]["full_captures"] == 1
        for target in ("s3", "local"):
            out = world.restore(f"p{ps}", target)
            pages_equal(p, out, ps)
            integrity(out)
    puts = [r for r in s3.ledger() if r["verb"] == "PUT" and "walsup-fence" not in r["key"]]
    assert puts and all(r["status"] == 200 for r in puts)
    assert world.stop() == 0


def test_every_file_written_is_accepted_by_the_independent_decoder(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"), sync_interval="50ms")
    world.start()
    con = sqlite3.connect(world.path / "a.db")
    for i in range(20):
        con.execute("insert into t(b) values(randomblob(3000))")
        con.commit()
        world.ctl("sync")
    world.sync()
    files = sorted(world.replica.glob("a/ltx/*/*.ltx"))
    assert len(files) >= 15
    r = subprocess.run([sys.executable, ROOT / "tests/tools/ltx_check.py", *files],
                       capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout.count("result               OK") == len(files), r.stdout
    names = [int(f.name[:16], 16) for f in files if f.parent.name == "0"]  # on a slow machine some are merged as well
    assert names == list(range(1, len(names) + 1)), "a TXID is missing"


def test_frames_encoding_is_accepted_by_the_independent_decoder_and_restores(world):
    con = make_db(world.path / "a.db", rows=200)
    world.configure(world.file_target(**{"ltx-encoding": "frame"}), world.db("a"))
    world.start()
    con.execute("update t set b=randomblob(500)")
    con.commit()
    world.sync()
    files = sorted(world.replica.glob("a/ltx/*/*.ltx"))
    r = subprocess.run([sys.executable, ROOT / "tests/tools/ltx_check.py", *files],
                       capture_output=True, text=True)
    assert "v3 (frame)" in r.stdout and r.returncode == 0
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


@pytest.mark.outside
def test_the_database_is_untouched(world):
    db = world.path / "a.db"
    con = make_db(db)
    con.execute("pragma wal_checkpoint(truncate)")
    os.chown(db, 12345, 23456)
    for side in ("-wal", "-shm"):
        os.chown(f"{db}{side}", 12345, 23456)
    db.chmod(0o640)
    before = sha(db)
    schema = con.execute("select * from sqlite_master").fetchall()
    con.close()  # the last close removes -wal and -shm: walsupd has to create them
    assert not os.path.exists(f"{db}-wal")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    assert sha(db) == before, "attaching changed the database file"
    for p in (db, f"{db}-wal", f"{db}-shm"):
        st = os.stat(p)
        assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (12345, 23456, 0o640), p
    con = sqlite3.connect(db)
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.sync()
    assert con.execute("select * from sqlite_master").fetchall() == schema
    beside = {p.name for p in world.path.iterdir() if p.name.startswith("a.db")}
    assert beside == {"a.db", "a.db-wal", "a.db-shm"}
    assert world.stop() == 0
    con.close()
    assert sha(db) != before
    integrity(db)


def test_side_files_belong_to_the_owner_when_the_daemon_is_not_root(world):
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    if subprocess.run(["setpriv", "--version"], capture_output=True).returncode:
        pytest.skip("setpriv is missing")
    db = world.path / "a.db"
    con = make_db(db)
    con.close()
    os.chown(db, 12345, 12345)
    world.path.chmod(0o777)
    db.chmod(0o640)
    for p in [world.path, *world.path.parents]:
        if str(p).startswith("/tmp/") and p.stat().st_uid == 0:
            p.chmod(p.stat().st_mode | 0o755)
    world.configure(world.file_target(), world.db("a"))
    os.chown(world.ini, 23456, 23456)
    world.log.touch()
    world.start(wrap=("setpriv", "--reuid", "23456", "--regid", "23456", "--clear-groups",
                      "--inh-caps", "+chown,+dac_override", "--ambient-caps",
                      "+chown,+dac_override", "--bounding-set", "-all,+chown,+dac_override"))
    world.sync()
    for side in ("-wal", "-shm"):
        st = os.stat(f"{db}{side}")
        assert (st.st_uid, st.st_gid) == (12345, 12345), side


def test_a_commit_is_in_a_quiet_replica_without_anybody_asking(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    con.execute("insert into t(b) values('found by inotify')")
    con.commit()
    world.poll("TXID 2 in the replica",
               lambda: (world.replica / "a/ltx/0/0000000000000002-0000000000000002.ltx").exists(),
               timeout=5)


def test_each_replica_keeps_its_own_interval(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target("fast"), world.file_target("slow", path=world.path / "slow"),
                    world.db("a", target="fast, slow"),
                    "[replica a@slow]\nsync-interval = 1h\n", sync_interval="20ms")
    world.start()
    world.sync()
    for i in range(5):
        con.execute("insert into t(b) values(?)", (i,))
        con.commit()
        world.ctl("sync")
        world.poll("fast has it", lambda: world.status("a")["replicas"][0]["pending_files"] == 0)
    fast, slow = world.status("a")["replicas"]
    assert fast["pending_files"] == 0 and slow["pending_files"] >= 4
    world.sync()  # asked for, the interval does not matter
    fast, slow = world.status("a")["replicas"]
    assert slow["txid"] == fast["txid"] == world.status("a")["txid"]


def test_a_database_that_appears_later_is_picked_up(world):
    world.configure(world.file_target(), world.db("a"))
    world.start()
    assert world.status("a")["state"] == "waiting"
    make_db(world.path / "a.db").close()
    world.poll("replicating", lambda: world.status("a")["state"] in ("replicating", "idle"))
    world.sync()
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


def test_a_database_switched_to_wal_is_picked_up(world):
    con = sqlite3.connect(world.path / "a.db")
    con.execute("create table t(a)")
    con.commit()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    assert world.status("a")["state"] == "not-wal"
    assert "rollback journal" in world.status("a")["detail"]
    assert "journal_mode=WAL" in " ".join(world.ctl("status", check=False).stdout.split())
    header = (world.path / "a.db").read_bytes()[18:20]
    assert header == b"\x01\x01", "walsup converted the database"
    con.execute("pragma journal_mode=wal")
    world.poll("replicating", lambda: world.status("a")["state"] in ("replicating", "idle"))


def test_a_database_replaced_under_its_name_starts_a_new_history(world):
    db = world.path / "a.db"
    make_db(db).close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    other = world.path / "other.db"
    con = make_db(other, rows=77)
    con.execute("create table other(x)")
    con.commit()
    con.execute("pragma wal_checkpoint(truncate)")
    con.close()
    for side in ("-wal", "-shm"):
        if os.path.exists(f"{db}{side}"):
            os.unlink(f"{db}{side}")
    os.rename(other, db)
    world.poll("the new one is captured",
               lambda: world.status("a")["counters"]["full_captures"] == 2)
    world.sync()
    pages_equal(db, world.restore("a", "local"), 4096)


def test_an_application_checkpoint_with_truncate_gets_through(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    con.execute("pragma busy_timeout=5000")
    for i in range(3):
        con.execute("insert into t(b) values(randomblob(20000))")
        con.commit()
        busy = con.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
        assert busy == 0, "walsup's guard kept the application's checkpoint from finishing"
    world.sync()
    assert world.status("a")["counters"]["continuity_lost"] == 0
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


def test_applications_killed_at_any_moment_leave_a_wal_that_is_recovered_and_captured(world):
    db = world.path / "a.db"
    make_db(db).close()
    world.configure(world.file_target(), world.db("a"), sync_interval="20ms")
    world.start()
    rnd = random.Random(3)
    for _ in range(20):
        p = subprocess.Popen([OUT / "helpers" / "load_writer", db, "10", "0", "700"],
                             stdout=subprocess.DEVNULL)
        time.sleep(rnd.uniform(0.02, 0.2))  # the moment of the kill is the input here
        p.kill()
        p.wait()
    con = sqlite3.connect(db, timeout=5)
    con.execute("insert into t(b) values('the survivor')")
    con.commit()
    world.sync()
    out = world.restore("a", "local")
    pages_equal(db, out, 4096)
    integrity(out)
    assert con.execute("select count(*) from load").fetchone()[0] > 100
