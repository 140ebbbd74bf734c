"""Two writers: whatever they do to each other, the replica can be restored, and exactly one went on."""
import os
import shutil
import signal
import sqlite3

import pytest

from conftest import World, integrity, make_db


class Twin(World):
    """a second daemon with the state of the first, as on a copied machine"""

    def __init__(self, path, other):
        path.mkdir()
        super().__init__(path)
        shutil.copytree(other.state, self.state)
        self.replica = other.replica


def copy_db(src, dst):
    for side in ("", "-wal"):
        if os.path.exists(f"{src}{side}"):
            shutil.copy(f"{src}{side}", f"{dst}{side}")


def count(path):
    con = sqlite3.connect(path)
    try:
        return con.execute("select count(*) from t").fetchone()[0]
    finally:
        con.close()


def add(con, n=1, size=100):
    con.executemany("insert into t(b) values(randomblob(?))", [(size,)] * n)
    con.commit()


def replica(w, db="a"):
    return w.status(db)["replicas"][0]


def targets(world, s3fault, kind, **more):
    return world.file_target("x") if kind == "file" else s3fault.target("x", **more)


def pair(world, s3fault, kind):
    """a daemon that has replicated, stopped; a copy of its state and its database"""
    world.configure(targets(world, s3fault, kind), world.db("a", target="x", sync_interval="100ms"))
    con = make_db(world.path / "a.db")
    world.start()
    world.sync("a")
    assert world.stop() == 0
    twin = Twin(world.path / "twin", world)
    copy_db(world.path / "a.db", twin.path / "a.db")
    twin.configure(targets(world, s3fault, kind), twin.db("a", target="x", sync_interval="100ms"))
    return con, twin


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_copied_machine_is_fenced_and_takes_over_only_when_told(world, s3fault, kind):
    con, twin = pair(world, s3fault, kind)
    try:
        world.start()
        add(con)
        world.sync("a")
        twin.start()
        other = sqlite3.connect(twin.path / "a.db")
        add(other, 3, size=5000)
        r = twin.sync("a", check=False)
        assert r.returncode == 80, r.stdout + r.stderr
        said = " ".join(r.stderr.split())
        assert "was written by another writer on" in said and os.uname().nodename[:20] in said, said
        assert "of the history with lineage" in said and "walsupctl takeover" in said, said
        assert replica(twin)["state"] == "fenced"
        text = twin.ctl("status", check=False)
        assert text.returncode == 1 and "fenced" in text.stdout, text.stdout
        # the first one goes on, and the replica is its own
        add(con)
        world.sync("a")
        out = world.restore("a", "x")
        integrity(out)
        assert count(out) == count(world.path / "a.db")
        # it stays fenced after a restart, and also when what it knew of the replica is lost
        assert twin.stop() == 0
        for p in twin.state.rglob("acked.*"):
            p.unlink()
        twin.start()
        assert twin.poll("fenced", lambda: replica(twin)["state"] == "fenced")
        before = count(out)
        add(other)
        assert twin.sync("a", check=False).returncode == 80
        assert count(world.restore("a", "x")) == before
        # deliberately: the twin takes over, and then the first one is the one that stops
        r = twin.ctl("takeover", "a")
        assert "a -> x: taken over" in r.stdout
        twin.sync("a")
        out = world.restore("a", "x")
        integrity(out)
        assert count(out) == count(twin.path / "a.db")
        add(con)
        assert world.sync("a", check=False).returncode == 80
        assert "of the history with lineage" in " ".join(world.ctl("status", check=False).stdout.split())
        add(other)
        twin.sync("a")
        assert count(world.restore("a", "x")) == count(twin.path / "a.db")
        r = twin.ctl("takeover", "a", check=False)
        assert r.returncode == 64 and "nothing to take over" in r.stderr
    finally:
        twin.stop(signal.SIGKILL)


def test_an_answer_that_is_lost_is_no_other_writer(world, s3fault):
    world.configure(s3fault.target("x"), world.db("a", target="x", sync_interval="50ms"))
    con = make_db(world.path / "a.db")
    world.start()
    world.sync("a")
    for action in ({"action": "store-then"}, {"action": "reset-after", "stored": True},
                   {"action": "truncate", "stored": True}, {"action": "no-store", "stored": True}):
        s3fault.faults({"verb": "PUT", "key_regex": "/0000/", "count": 1, **action})
        add(con)
        world.sync("a")
        assert replica(world)["state"] == "ok"
    stored = [e["key"] for e in s3fault.ledger() if e["stored"] and e["verb"] == "PUT" and "/0000/" in e["key"]]
    assert len(stored) == len(set(stored)), "an object was written twice"
    out = world.restore("a", "x")
    assert count(out) == count(world.path / "a.db")


def trial(world, s3fault, twin, con, other, i, stop):
    """one of the two is stopped past every timeout in the middle of its work"""
    a, b = (world, twin) if i % 2 else (twin, world)
    ca, cb = (con, other) if i % 2 else (other, con)
    if stop:
        a.proc.send_signal(signal.SIGSTOP)
    add(ca)
    add(cb)
    b.ctl("sync", "--wait", "--timeout", "10s", "a", check=False)
    if stop:
        a.proc.send_signal(signal.SIGCONT)
    a.ctl("sync", "--wait", "--timeout", "10s", "a", check=False)


def test_two_daemons_on_one_path_exactly_one_goes_on(world, s3fault):
    """WALSUP_FENCE_TRIALS=1000 for all of it"""
    trials = int(os.environ.get("WALSUP_FENCE_TRIALS", "6"))
    con, twin = pair(world, s3fault, "s3")
    other = sqlite3.connect(twin.path / "a.db")
    world.start()
    twin.start()
    went_on = {"first": 0, "twin": 0}
    try:
        for i in range(trials):
            trial(world, s3fault, twin, con, other, i, stop=i % 3 != 2)
            states = replica(world)["state"], replica(twin)["state"]
            assert sorted(s == "fenced" for s in states) == [False, True], f"trial {i}: {states}"
            winner, loser = (world, twin) if states[1] == "fenced" else (twin, world)
            went_on["first" if winner is world else "twin"] += 1
            winner.sync("a")
            out = world.restore("a", "x")
            integrity(out)
            assert count(out) == count(winner.path / "a.db"), f"trial {i}"
            # both start the next one as writers: from the same moment, with the same right
            loser.stop(signal.SIGKILL)
            assert winner.stop() == 0
            shutil.rmtree(loser.state)
            shutil.copytree(winner.state, loser.state)
            (con if loser is world else other).close()
            for side in ("", "-wal", "-shm"):
                if os.path.exists(f"{loser.path}/a.db{side}"):
                    os.unlink(f"{loser.path}/a.db{side}")
            copy_db(winner.path / "a.db", loser.path / "a.db")
            if loser is world:
                con = sqlite3.connect(world.path / "a.db")
            else:
                other = sqlite3.connect(twin.path / "a.db")
            world.start()
            twin.start()
    finally:
        twin.stop(signal.SIGKILL)
    print(f"\n{trials} trials, 0 unrestorable, 0 with two writers or none; {went_on}")


def test_a_second_daemon_on_one_database_is_kept_out(world, tmp_path):
    world.configure(world.file_target("x"), world.db("a", target="x", sync_interval="50ms"))
    con = make_db(world.path / "a.db")
    world.start()
    world.sync("a")
    second = World(tmp_path / "second")
    second.path.mkdir()
    second.configure(second.file_target("x"), second.db("a", world.path / "a.db", target="x"))
    try:
        second.start()
        text = " ".join(second.ctl("status", check=False).stdout.split())
        assert f"another walsupd replicates {world.path}/a.db already (process {world.proc.pid})" in text, text
        assert second.status("a")["state"] == "failed"
        add(con)
        world.sync("a")
        world.stop(signal.SIGKILL)  # its lock goes with it
        second.sync("a", "--timeout", "40s")
        assert count(second.restore("a", "x")) == count(world.path / "a.db")
    finally:
        second.stop(signal.SIGKILL)


def test_a_store_that_ignores_the_condition_is_named(world, s3fault):
    s3fault.faults({"verb": "PUT", "action": "ignore-condition"})
    world.configure(s3fault.target("x"), world.db("a", target="x"))
    con = make_db(world.path / "a.db")
    world.start()
    world.sync("a")
    assert world.poll("fencing", lambda: replica(world)["fencing"] == "off")
    text = " ".join(world.ctl("status", check=False).stdout.split())
    assert "fencing: off: the store ignores If-None-Match" in text, text
    assert world.log.read_text().count("fencing is off") == 1
    world.stop()
    s3fault.faults()
    world.start()
    assert replica(world)["fencing"] == "unknown"  # nothing was to be uploaded, and so nothing asked
    add(con)
    world.sync("a")
    assert world.poll("fencing", lambda: replica(world)["fencing"] == "on")
    assert not [k for k in s3fault.objects() if "walsup-fence" in k], "the scratch object is left"


def test_an_outage_at_the_start_leaves_the_question_for_later(world, s3fault):
    s3fault.faults({"verb": "PUT", "action": "status", "status": 503, "count": 2})
    world.configure(s3fault.target("x"), world.db("a", target="x"))
    make_db(world.path / "a.db")
    world.start(ready=False)
    world.poll("status", lambda: world.ctl("status", check=False).returncode in (0, 1))
    world.sync("a")
    assert world.poll("fencing", lambda: replica(world)["fencing"] == "on")
