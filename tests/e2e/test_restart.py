"""Position, numbering and lineage survive restarts and kill -9; never a gap, never two files with one
name."""
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from conftest import files_of, txids, ROOT, integrity, make_db, pages_equal, sha


def test_restart_goes_on_with_the_next_txid_and_the_same_lineage(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    assert world.stop() == 0
    before = files_of(world)
    con.execute("insert into t(b) values('while it was away')")
    con.commit()
    con.execute("pragma wal_checkpoint(truncate)")
    world.start()
    world.sync()
    assert txids(world) == list(range(1, len(before) + 2))
    after = files_of(world)
    assert all(after[n] == h for n, h in before.items()), "a file was written again, differently"
    r = subprocess.run([sys.executable, ROOT / "tests/tools/ltx_check.py",
                        *sorted(world.replica.glob("a/ltx/0/*"))], capture_output=True, text=True)
    nodes = {line.split()[-1] for line in r.stdout.splitlines() if "node id" in line}
    assert len(nodes) == 1, "the lineage changed"
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


def requests(s3):
    return [(e["verb"], e["key"]) for e in s3.ledger() if e["verb"] in ("PUT", "LIST", "GET")]


def test_restart_with_nothing_changed_uploads_nothing_and_lists_nothing(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"))
    world.start()
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.sync()
    assert world.stop() == 0
    before = requests(s3)
    world.start()
    world.sync()
    st = world.status("a")
    assert st["state"] == "idle" and st["counters"]["full_captures"] == 0 and st["counters"]["resyncs"] == 0
    assert requests(s3) == before
    con.execute("insert into t(b) values(2)")
    con.commit()
    world.sync()
    assert world.status("a")["counters"]["continuity_lost"] == 0
    pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_committed_while_it_was_away_is_the_only_thing_captured(world, how):
    con = make_db(world.path / "a.db", rows=2000)
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    con.execute("update t set b=randomblob(50) where a=3")
    con.commit()
    world.sync()
    world.stop(how)
    con.execute("insert into t(b) values('while it was away')")
    con.commit()
    world.start()
    world.sync()
    st = world.status("a")
    assert st["counters"]["resumed"] == 1
    assert st["counters"]["full_captures"] == 0 and st["counters"]["resyncs"] == 0
    newest = max(world.replica.glob("a/ltx/0/*.ltx"), key=lambda p: p.name)
    assert newest.stat().st_size < 20000, "more than the difference was captured"
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


@pytest.mark.parametrize("damage", ["wal restarted and copied", "record changed", "record gone"])
def test_a_position_that_cannot_be_proven_is_not_believed(world, damage):
    """The control of the tests above: then every page is compared."""
    con = make_db(world.path / "a.db", rows=50)
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    world.stop(signal.SIGKILL)
    record = world.state / "db/a/position"
    if damage == "record gone":
        record.unlink()
    elif damage == "record changed":
        text = record.read_text()
        record.write_text(text.replace(text.split()[1], "0" * 15 + "7"))
    else:
        for i in range(3):  # twice round, so that frames are lost for good
            con.execute("insert into t(b) values(randomblob(9000))")
            con.commit()
            con.execute("pragma wal_checkpoint(truncate)")
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.start()
    world.sync()
    st = world.status("a")
    assert st["counters"]["resumed"] == 0 and st["counters"]["resyncs"] == 1
    assert st["counters"]["full_captures"] == 0
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


def test_kill_9_at_any_moment_under_load(world):
    db = world.path / "a.db"
    make_db(db).close()
    stop = threading.Event()

    def load():
        con = sqlite3.connect(db, timeout=10, isolation_level=None)
        rnd = random.Random(1)
        while not stop.is_set():
            con.execute("insert or replace into t(a,b) values(?,randomblob(?))",
                        (rnd.randrange(300), rnd.randrange(8000)))
            if rnd.randrange(50) == 0:
                con.execute("pragma wal_checkpoint(passive)")
    t = threading.Thread(target=load)
    t.start()
    rnd = random.Random(os.environ.get("WALSUP_SEED", "7"))
    kills = int(os.environ.get("WALSUP_KILLS", "12"))
    seen = {}
    try:
        for k in range(kills):
            world.configure(world.file_target(), world.db("a"), sync_interval="10ms",
                            wal_limit="1MiB")
            world.start(ready=False)
            time.sleep(rnd.uniform(0.02, 0.5))  # the moment of the kill is the input here
            world.proc.send_signal(signal.SIGKILL)
            world.proc.wait()
            world.proc = None
            now = files_of(world)
            for name, h in seen.items():
                assert now.get(name, h) == h, f"{name} was written twice, differently"
            seen.update(now)
    finally:
        stop.set()
        t.join()
    world.start()
    world.sync()
    ids = txids(world)
    assert ids == list(range(1, ids[-1] + 1)), "a TXID is missing"
    out = world.restore("a", "local")
    pages_equal(db, out, 4096)
    integrity(out)
    assert world.stop() == 0  # while it runs, one may be in use
    left = [p for p in world.state.rglob("*") if ".tmp-" in p.name]
    assert not left, f"left over: {left}"


def test_local_state_lost_numbering_goes_on_behind_the_replica(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    for i in range(3):
        con.execute("insert into t(b) values(?)", (i,))
        con.commit()
        world.sync()
    world.stop()
    import shutil
    before = files_of(world)
    shutil.rmtree(world.state)
    world.start()
    world.sync()
    assert txids(world) == list(range(1, len(before) + 2))
    assert all(files_of(world)[n] == h for n, h in before.items())
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


def test_a_target_added_later_gets_a_base_and_the_old_one_goes_on(world, s3):
    # landlock: the bucket's port is not one that walsupd keeps open from the start
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), idle_timeout="1s", level1_interval="0s", landlock="off")
    world.start()
    for i in range(4):
        con.execute("insert into t(b) values(randomblob(4000))")
        con.commit()
        world.sync()
    world.poll("the spool is empty", lambda: world.status("a")["spool_bytes"] == 0)
    world.configure(world.file_target(), s3.target(), world.db("a", target="local, s3"), landlock="off")
    world.ctl("reload")
    world.poll("attached again", lambda: world.status("a")["state"] in ("replicating", "idle"))
    con.execute("insert into t(b) values('both')")
    con.commit()
    world.sync()
    for target in ("local", "s3"):
        pages_equal(world.path / "a.db", world.restore("a", target), 4096)
    keys = [e["key"] for e in s3.ledger() if e["verb"] == "PUT"]
    assert any("/0009/" in k for k in keys), keys
    ids = txids(world)
    assert ids == list(range(1, ids[-1] + 1))


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_a_target_that_moves_gets_everything_at_the_new_place(world, how):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    con.execute("insert into t(b) values(randomblob(9000))")
    con.commit()
    world.sync()
    if how == "restart":
        assert world.stop() == 0
    world.replica = world.path / "elsewhere"
    world.configure(world.file_target(), world.db("a"))
    if how == "restart":
        world.start()
    else:
        world.ctl("reload")
    con.execute("insert into t(b) values(randomblob(9000))")
    con.commit()
    world.sync()
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)


def test_a_base_is_followed_by_the_level_0_file_of_its_txid(world):
    """Litestream, taking over, looks at level 0 only: with none it would begin at TXID 1 again"""
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), idle_timeout="1s", level1_interval="0s")
    world.start()
    for i in range(3):
        con.execute("insert into t(b) values(randomblob(4000))")
        con.commit()
        world.sync()
    world.poll("the spool is empty", lambda: world.status("a")["spool_bytes"] == 0)
    late = world.path / "late"
    world.configure(world.file_target(), world.file_target("late", path=late),
                    world.db("a", target="local, late"))
    world.ctl("reload")
    world.poll("attached again", lambda: world.status("a")["state"] in ("replicating", "idle"))
    world.sync()
    (base,) = late.glob("a/ltx/9/*.ltx")
    txid = base.name[17:33]
    assert (late / f"a/ltx/0/{txid}-{txid}.ltx").exists()
    # with what it would have been if walsupd had died in between, it is sent again
    world.stop()
    (late / f"a/ltx/0/{txid}-{txid}.ltx").unlink()
    for p in world.state.rglob("acked.late"):
        p.unlink()
    world.start()
    world.sync()
    assert max(late.glob("a/ltx/0/*.ltx")).name[:16] == world.status("a")["txid"]
    pages_equal(world.path / "a.db", world.restore("a", "late"), 4096)


def test_a_large_database_gets_a_target_later(world):
    """many chunks of pages, the newest of them in the WAL; their number a multiple of a chunk, too"""
    names = {}
    for name, pages in (("a", 300), ("b", 512)):
        con = make_db(world.path / f"{name}.db")
        con.execute("pragma wal_autocheckpoint=0")
        while con.execute("pragma page_count").fetchone()[0] < pages:
            con.execute("insert into t(b) values(randomblob(3500))")
        con.commit()
        assert con.execute("pragma page_count").fetchone()[0] == pages
        names[name] = con
    world.configure(world.file_target(), *[world.db(n) for n in names])
    world.start()
    world.sync()
    world.configure(world.file_target(), world.file_target("late", path=world.path / "late"),
                    *[world.db(n, target="local, late") for n in names])
    for con in names.values():
        con.execute("update t set b=randomblob(3500)")
        con.commit()
    world.sync()
    world.ctl("reload")
    world.poll("attached again", lambda: all(world.status(n)["state"] in ("replicating", "idle")
                                             for n in names))
    world.sync()
    for n in names:
        for target in ("local", "late"):
            pages_equal(world.path / f"{n}.db", world.restore(n, target), 4096)


def test_a_damaged_spool_file_is_noticed_and_never_uploaded(world, s3):
    con = make_db(world.path / "a.db")
    s3.faults({"verb": "PUT", "action": "status", "status": 503})
    world.configure(s3.target(), world.db("a", target="s3"), sync_interval="10ms",
                    shutdown_timeout="1s")
    world.start()
    for i in range(3):
        con.execute("insert into t(b) values(randomblob(4000))")
        con.commit()
        world.ctl("sync")
    world.stop()
    spool = sorted((world.state / "db/a/l0").glob("*.ltx"))
    assert len(spool) >= 3
    raw = bytearray(spool[1].read_bytes())
    raw[len(raw) // 2] ^= 0x10
    spool[1].write_bytes(raw)
    s3.faults()
    world.start()
    world.sync()
    assert "damaged" in world.log.read_text()
    pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)


def test_sigterm_uploads_what_is_left(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), sync_interval="1h")
    world.start()
    world.sync()
    con.execute("insert into t(b) values('last words')")
    con.commit()
    assert world.stop() == 0
    world.notify.drain()
    assert "STOPPING=1" in world.notify.heard
    out = world.restore("a", "local")
    pages_equal(world.path / "a.db", out, 4096)


def test_sigterm_during_an_outage_ends_in_time_and_a_second_one_at_once(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"), shutdown_timeout="2s")
    world.start()
    world.sync()
    s3.faults({"action": "stall"})
    con.execute("insert into t(b) values(1)")
    con.commit()
    t0 = time.monotonic()
    assert world.stop() == 0
    assert 1.5 < time.monotonic() - t0 < 6
    assert "not uploaded" in world.log.read_text()
    world.configure(s3.target(), world.db("a", target="s3"), shutdown_timeout="60s")
    world.start(ready=False)
    world.poll("answers", lambda: world.ctl("status", check=False).stdout)
    con.execute("insert into t(b) values(2)")
    con.commit()
    world.proc.send_signal(signal.SIGTERM)
    world.notify.wait("STOPPING=1")
    time.sleep(0.15)  # two signals within 100 ms count as one
    t0 = time.monotonic()
    world.stop()
    assert time.monotonic() - t0 < 5
    s3.faults()
    world.start()
    world.sync()
    pages_equal(world.path / "a.db", world.restore("a", "s3"), 4096)


def test_a_second_daemon_on_one_state_directory_is_refused(world):
    world.configure(world.file_target())
    world.start()
    from conftest import OUT
    other = world.path / "other.ini"
    other.write_text(world.ini.read_text().replace("walsup.sock", "other.sock"))
    r = subprocess.run([OUT / "walsupd", "-c", other], capture_output=True, text=True, timeout=10)
    assert r.returncode != 0 and "another walsupd uses the state directory" in r.stderr


def test_reload_adds_drops_and_changes_without_touching_the_others(world):
    cons = {n: make_db(world.path / f"{n}.db") for n in "abc"}
    world.configure(world.file_target(), world.db("a"), world.db("b"))
    world.start()
    world.sync()
    fulls = world.status("a")["counters"]["full_captures"]
    world.configure(world.file_target(), world.db("a"), world.db("c"))
    world.proc.send_signal(signal.SIGHUP)
    world.notify.wait("RELOADING=1")
    world.poll("c is there", lambda: {d["name"] for d in world.status()["databases"]} == {"a", "c"})
    cons["a"].execute("insert into t(b) values(1)")
    cons["a"].commit()
    world.sync()
    assert world.status("a")["counters"]["full_captures"] == fulls, "a was touched"
    assert world.replica.joinpath("b").exists(), "the replica of a dropped database must stay"
    world.poll("b is let go", lambda: world.ctl("reload", check=False).returncode == 0)
    r = world.ctl("reload", "--json")
    import json
    assert json.loads(r.stdout)["unchanged"] == 2
    # wrong: refused, everything goes on
    world.ini.write_text(world.ini.read_text() + "\n[db broken]\npath = relative\nbogus = 1\n")
    r = world.ctl("reload", check=False)
    assert r.returncode != 0 and "bogus" in r.stderr and "relative" in r.stderr, r.stderr
    assert {d["name"] for d in world.status()["databases"]} == {"a", "c"}
    world.sync()


def test_the_watchdog_is_fed(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start(ready=False, WATCHDOG_USEC="400000")
    world.notify.wait("READY=1")
    world.notify.wait("WATCHDOG=1")
    world.notify.wait("STATUS=")


@pytest.mark.parametrize("restart", [False, True])
def test_state_lost_and_a_replica_that_answers_late_is_never_spliced(world, s3, restart):
    """Its TXIDs are of a history that nobody here knows; ours has passed them by the time it answers."""
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.file_target(), world.db("a", target="s3, local"),
                    sync_interval="10ms", shutdown_timeout="1s")
    world.start()
    for i in range(3):
        con.execute("insert into t(b) values(randomblob(9000))")
        con.commit()
        world.sync()
    world.stop()
    import shutil
    shutil.rmtree(world.state)
    shutil.rmtree(world.replica)
    con.execute("delete from t")
    con.commit()
    con.execute("vacuum")
    s3.faults({"action": "status", "status": 503})
    world.start()
    for i in range(6):
        con.execute("insert into t(b) values(randomblob(300))")
        con.commit()
        world.ctl("sync", "--timeout", "20s")
    assert int(world.status("a")["txid"], 16) >= 6, "the numbering did not pass the replica's"
    if restart:
        world.stop()
        s3.faults()
        world.start()
    s3.faults()
    con.execute("insert into t(b) values('late')")
    con.commit()
    world.sync("--timeout", "60s")
    for target in ("s3", "local"):
        out = world.restore("a", target)
        pages_equal(world.path / "a.db", out, 4096)
        integrity(out)


def test_clients_that_leave_in_the_middle_of_a_sync_make_room(world, s3):
    import json
    import socket
    make_db(world.path / "a.db").close()
    s3.faults({"action": "status", "status": 503})
    world.configure(s3.target(), world.db("a", target="s3"), shutdown_timeout="1s")
    world.start()
    call = json.dumps({"method": "io.walsup.Sync",
                       "parameters": {"wait": True, "timeout_ms": 600000}}).encode() + b"\0"
    for _ in range(150):
        c = socket.socket(socket.AF_UNIX)
        c.connect(str(world.socket))
        c.sendall(call)
        c.close()
    assert world.status("a")["name"] == "a"
    assert world.stop() == 0
