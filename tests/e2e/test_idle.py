"""Databases nobody touches: let go, back with the next commit, bounded in number; and the walls of the spool."""
import pathlib
import os
import random
import signal
import sqlite3
import time

import pytest

from conftest import files_of, integrity, make_db, pages_equal


def open_files(world, db):
    pid = world.proc.pid
    names = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            names.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass
    return [n for n in names if str(db) in n]


def locks(world):
    """on databases: walsupd's own one is none of them"""
    pid = str(world.proc.pid)
    files = [*world.state.glob("state.db*"), pathlib.Path("/run/lock/walsup.databases")]
    own = {str(p.stat().st_ino) for p in files if p.exists()}
    return [l for l in open("/proc/locks").read().splitlines()
            if l.split()[4] == pid and "POSIX" in l and l.split()[5].split(":")[2] not in own]


def asleep(world, name):
    return lambda: world.status(name)["state"] == "idle"


@pytest.mark.outside
def test_an_idle_database_costs_no_descriptor_and_wakes_with_its_next_commit(world):
    con = make_db(world.path / "a.db", rows=100)
    world.configure(world.file_target(), world.db("a"), idle_timeout="1s", scan_interval="1h")
    world.start()
    for k in range(3):
        con.execute("insert into t(b) values(randomblob(3000))")
        con.commit()
        world.sync()
        assert world.status("a")["state"] == "replicating"
        assert open_files(world, world.path / "a.db")
        world.poll("it is let go", asleep(world, "a"))
        assert not open_files(world, world.path / "a.db") and not open_files(world, world.state / "db")
        assert not locks(world)
        assert world.status("a")["spool_files"] == 0, "every replica has it"
        # no sync asked for: the commit alone wakes it
        con.execute("insert into t(b) values(?)", (k,))
        con.commit()
        txid = int(world.status("a")["txid"], 16)
        world.poll("the commit is in the replica", lambda: len(files_of(world)) > 2 * k + 1 and
                   int(world.status("a")["replicas"][0]["txid"], 16) >= txid)
    world.sync()
    counters = world.status("a")["counters"]
    assert counters["full_captures"] == 1 and counters["resyncs"] == 0 and counters["continuity_lost"] == 0
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


@pytest.mark.parametrize("what", ["checkpoint", "last close", "commits and checkpoints", "vacuum"])
def test_what_an_application_does_to_a_sleeping_database(world, what):
    con = make_db(world.path / "a.db", rows=1000)
    world.configure(world.file_target(), world.db("a"), idle_timeout="1s", scan_interval="1h")
    world.start()
    world.sync()
    for _ in range(2):
        world.poll("it is let go", asleep(world, "a"))
        if what == "checkpoint":
            con.execute("pragma wal_checkpoint(truncate)")
        elif what == "last close":
            con.close()
            con = sqlite3.connect(world.path / "a.db")
        elif what == "vacuum":
            con.execute("vacuum")
        else:
            for i in range(5):
                con.execute("update t set b=randomblob(40) where a=?", (i,))
                con.commit()
                con.execute("pragma wal_checkpoint(truncate)")
        con.execute("insert into t(b) values('x')")
        con.commit()
        world.sync()
        pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
    assert world.status("a")["counters"]["full_captures"] == 1


@pytest.mark.outside
def test_more_databases_than_may_be_open(world):
    names = [f"d{i}" for i in range(14)]
    cons = {n: make_db(world.path / f"{n}.db", rows=20) for n in names}
    world.configure(world.file_target(), *[world.db(n) for n in names], max_open=4, sync_interval="10ms")
    world.start()
    rnd = random.Random(os.environ.get("WALSUP_SEED", "3"))
    most = 0
    for i in range(200):
        n = rnd.choice(names)
        cons[n].execute("insert or replace into t(a,b) values(?,randomblob(?))", (rnd.randrange(40), i * 7))
        cons[n].commit()
        if i % 10 == 0:
            attached = {f.split("/")[-1].split(".")[0] for f in open_files(world, world.path / "d")}
            most = max(most, len(attached))
    assert 0 < most <= 4, most
    world.sync(timeout=60)
    for n in names:
        pages_equal(world.path / f"{n}.db", world.restore(n, "local"), 4096)
        c = world.status(n)["counters"]
        assert c["full_captures"] == 1, (n, c)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_one_percent_rewritten_while_walsup_was_away_costs_two_percent_at_most(world, end):
    """64 MiB here; tests/bench measures it with 1 GiB"""
    db = world.path / "a.db"
    con = make_db(db)
    con.executemany("insert into t(b) values(?)", [(os.urandom(3500),) for _ in range(16000)])
    con.commit()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    con.execute("update t set b=randomblob(3500) where a % 400 = 1")
    con.commit()
    world.sync()
    if end == signal.SIGKILL:  # in the middle of load
        con.execute("update t set b=randomblob(3500) where a % 400 = 2")
        con.commit()
    world.stop(end)
    before = sum(p.stat().st_size for p in world.replica.rglob("*.ltx"))
    con.execute("update t set b=randomblob(3500) where a % 100 = 7")
    con.commit()
    con.execute("pragma wal_checkpoint(truncate)")
    con.close()
    world.start()
    world.sync()
    sent = sum(p.stat().st_size for p in world.replica.rglob("*.ltx")) - before
    size = db.stat().st_size
    print(f"{sent * 100 / size:.2f} % of {size >> 20} MiB")
    assert sent <= size * 0.02
    assert world.status("a")["counters"]["full_captures"] == 0
    pages_equal(db, world.restore("a", "local"), 4096)


def spooled(world):
    """bytes of LTX; files go while this looks"""
    size = 0
    for p in world.state.rglob("*.ltx"):
        try:
            size += p.stat().st_size
        except FileNotFoundError:
            pass
    return size


def test_an_outage_fills_the_spool_to_its_limit_and_no_further(world, s3):
    db = world.path / "a.db"
    con = make_db(db)
    con.execute("pragma synchronous=off")
    world.configure(s3.target(), world.file_target(), world.db("a", target="s3, local"), sync_interval="20ms",
                    spool_limit="1MiB", wal_limit="1MiB")
    world.start()
    world.sync()
    s3.faults({"verb": "PUT", "action": "status", "status": 503}, {"verb": "GET", "action": "status", "status": 503})
    spool, wal = 0, 0
    deadline = time.monotonic() + 30
    while "limit" not in world.log.read_text() or spool == 0:
        for i in range(20):
            con.execute("insert or replace into t(a,b) values(?,randomblob(9000))", (i,))
            con.commit()
        time.sleep(0.02)
        spool = max(spool, spooled(world))
        wal = max(wal, (world.path / "a.db-wal").stat().st_size)
        assert time.monotonic() < deadline, "the limit was never reached"
    for i in range(100):
        con.execute("insert or replace into t(a,b) values(?,randomblob(9000))", (i % 20,))
        con.commit()
        time.sleep(0.005)
        spool = max(spool, spooled(world))
    print(f"the spool never held more than {spool} bytes, the WAL {wal}")
    assert spool < 3 << 20
    # the other replica noticed nothing
    assert world.status("a")["replicas"][1]["error"] is None
    assert world.log.read_text().count("reached its limit") == 1
    s3.faults()
    world.sync(timeout=60)
    for target in ("s3", "local"):
        pages_equal(db, world.restore("a", target), 4096)
    con.execute("insert into t(b) values('after it')")
    con.commit()
    world.sync()
    pages_equal(db, world.restore("a", "s3"), 4096)


def test_below_the_room_to_be_left_free_nothing_is_written(world):
    con = make_db(world.path / "a.db")
    free = os.statvfs(world.path)
    world.configure(world.file_target(), world.db("a"),
                    min_free=f"{(free.f_bavail * free.f_frsize >> 30) + 50}GiB")
    world.start()
    st = world.status("a")
    assert st["state"] == "failed" and "kept free" in st["error"]["message"], st
    assert "min-free" in st["error"]["hint"]
    for i in range(50):
        con.execute("insert into t(b) values(randomblob(9000))")
        con.commit()
    assert not list(world.state.rglob("*.ltx"))
    world.configure(world.file_target(), world.db("a"), min_free="1MiB")
    world.ctl("reload")
    world.sync(timeout=60)
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
    integrity(world.restore("a", "local"))


def test_a_busy_writer_makes_no_events_and_loses_nothing(world):
    """it is looked after by the clock; as soon as it pauses, events are back"""
    con = make_db(world.path / "a.db", rows=50)
    con.execute("pragma synchronous=off")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()

    def events():
        return world.status()["watch"]["events"]

    n = 0

    def writes_for(seconds):
        """how many, and how many events they made"""
        nonlocal n
        before, first, end = events(), n, time.monotonic() + seconds
        while time.monotonic() < end:
            con.execute("insert or replace into t(a,b) values(?,randomblob(900))", (n % 50,))
            con.commit()
            n += 1
        return n - first, events() - before

    writes_for(2.5)
    # a machine that is too busy to let it write is a pause, and brings the events back: not each time
    seen = []
    while not seen or seen[-1][1] > 2:
        seen.append(writes_for(1))
        assert len(seen) < 40, f"its writes still make events: {seen}"
    assert seen[-1][0] > 20
    con.execute("insert into t(b) values('the last one')")
    con.commit()
    world.sync()
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
    for k in range(3):  # quiet again: a single commit arrives by its event, long before any scan
        time.sleep(0.5)  # the pause is the input
        con.execute("insert into t(b) values('alone')")
        con.commit()
        t0 = time.monotonic()
        want = con.execute("select count(*) from t").fetchone()[0]
        world.poll("it is there", lambda: sqlite3.connect(world.restore("a", "local")).execute(
            "select count(*) from t").fetchone()[0] == want, timeout=5)
    assert world.status("a")["counters"]["continuity_lost"] == 0


@pytest.mark.parametrize("name", ["a hard link", "its own name, the control"])
@pytest.mark.parametrize("how", ["sync", "scan"])
def test_an_application_that_opens_an_idle_database_by_another_name_is_noticed(world, how, name):
    """its -wal lies beside that name: nothing of it is seen where walsupd looks"""
    path = world.path / "a.db"
    make_db(path).close()
    other = world.path / "other.db"
    os.link(path, other)
    world.configure(world.file_target(), world.db("a"), idle_timeout="1s", scan_interval="1s" if how == "scan" else "1h")
    world.start()
    world.sync()
    world.poll("it is let go", asleep(world, "a"))
    con = sqlite3.connect(other if name == "a hard link" else path, isolation_level=None)
    con.execute("insert into t(b) values('committed')")
    if how == "scan" and name == "a hard link":
        world.poll("it is noticed", lambda: world.status("a")["state"] == "unseen")
    s = world.ctl("sync", "a", "--wait", check=False)
    if name == "a hard link":
        assert s.returncode == 74 and "by another name" in s.stderr, s.stderr
        assert world.ctl("status", check=False).returncode == 1
        con.close()
        other.unlink()
        world.poll("all is well again", lambda: world.ctl("sync", "a", "--wait", check=False).returncode == 0)
    else:
        assert s.returncode == 0, s.stderr
        con.close()
    assert world.ctl("status", check=False).returncode == 0
    pages_equal(path, world.restore("a", "local"), 4096)
