"""Two writers: whatever they do to each other, the replica can be restored, and exactly one went on."""
import ctypes
import os
import random
import shutil
import signal
import sqlite3
import time

import pytest

from conftest import World, image, integrity, make_db, sha


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


class Statx(ctypes.Structure):
    """struct statx, as far as it matters: Python's os.stat knows no time of birth"""
    _fields_ = [("head", ctypes.c_uint8 * 32), ("ino", ctypes.c_uint64), ("size", ctypes.c_uint64),
                ("more", ctypes.c_uint8 * 16), ("time", ctypes.c_int64 * 8), ("rest", ctypes.c_uint8 * 128)]


def times(path):
    """inode, size, ns of birth, change and modification"""
    st, libc = Statx(), ctypes.CDLL(None, use_errno=True)
    assert libc.statx(-100, os.fsencode(path), 0, 0xfff, ctypes.byref(st)) == 0, os.strerror(ctypes.get_errno())
    ns = [st.time[i] * 10**9 + (st.time[i + 1] & 0xffffffff) for i in (2, 4, 6)]
    return st.ino, st.size, *ns


def crc64(data):
    crc = 2**64 - 1
    for c in data:
        crc ^= c
        for _ in range(8):
            crc = crc >> 1 ^ (0xd800000000000000 if crc & 1 else 0)
    return crc ^ 2**64 - 1


def as_in_an_image(w):
    """A copied disk has every file under its inode, with its times. A copied file has not, and walsupd would
    begin another history: so the record of which file it was says the copy's here. All the rest of the record, and of
    the state, is the original's, byte by byte."""
    record = w.state / "db/a/position"
    f = record.read_bytes().split()
    assert len(f) == 21 and f[0] == b"3" and crc64(record.read_bytes().rsplit(b" ", 1)[0]) == int(f[20], 16)
    ino, size, birth, change, modified = times(w.path / "a.db")
    wal = times(f"{w.path}/a.db-wal") if os.path.exists(f"{w.path}/a.db-wal") else (0, 0, 0, 0, 0)
    assert size == int(f[12]), "the database was written after the daemon had stopped"
    for i, v in ((9, ino), (10, birth), (13, modified), (14, change), (15, wal[0]), (16, wal[1]), (17, wal[4])):
        f[i] = b"%d" % v
    line = b" ".join(f[:20])
    record.write_bytes(b"%s %016x\n" % (line, crc64(line)))


def copy_machine(src, dst):
    """dst becomes what src is: state and database"""
    shutil.rmtree(dst.state, ignore_errors=True)
    for side in ("", "-wal", "-shm"):
        if os.path.exists(f"{dst.path}/a.db{side}"):
            os.unlink(f"{dst.path}/a.db{side}")
    shutil.copytree(src.state, dst.state)
    copy_db(src.path / "a.db", dst.path / "a.db")


def lineage(w):
    return (w.state / "db/a/position").read_bytes().split()[2]


IDLE = {"WALSUP_TEST_S3_IDLE_MS": "300", "WALSUP_TEST_S3_CONNECT_MS": "300"}  # an answer is late after that


def freeze(w, con):
    """stop it where it has none of SQLite's locks: an application waits for a process that is stopped with one"""
    for _ in range(20):
        w.proc.send_signal(signal.SIGSTOP)
        try:
            con.execute("begin immediate")
            con.rollback()
            return
        except sqlite3.OperationalError:
            w.proc.send_signal(signal.SIGCONT)
            time.sleep(0.05)  # it goes on
    raise AssertionError("it is never without a lock")


def a_trial(s3fault, a, b, ca, cb, kind, rnd):
    """a is stopped somewhere in its work, past every timeout, while b goes on"""
    if kind == "before it commits":
        freeze(a, ca)
    if kind == "its object stored, the answer on its way":
        n = len(s3fault.ledger())
        s3fault.faults({"verb": "PUT", "key_regex": "/0000/", "count": 1, "action": "stall",
                        "stored": True})
    add(ca, 1 + rnd.randrange(3))
    if kind == "its object stored, the answer on its way":
        a.poll("the store has it", lambda: any(e["action"] == "stall" for e in s3fault.ledger()[n:]))
        a.proc.send_signal(signal.SIGSTOP)
    if kind == "at any moment":
        time.sleep(rnd.random() * 0.15)  # the moment is what is tried here, nothing is awaited
        a.proc.send_signal(signal.SIGSTOP)
    add(cb, 1 + rnd.randrange(3))
    b.ctl("sync", "--wait", "--timeout", "10s", "a", check=False)
    between = image(b.restore("a", "x"))
    if kind == "never":
        a.ctl("sync", "--wait", "--timeout", "10s", "a", check=False)
        return between
    if "answer" in kind:
        time.sleep(2 * int(IDLE["WALSUP_TEST_S3_IDLE_MS"]) / 1000)  # past the timeout: nothing else tells
    a.proc.send_signal(signal.SIGCONT)
    a.ctl("sync", "--wait", "--timeout", "10s", "a", check=False)
    return between


KINDS = ("before it commits", "its object stored, the answer on its way", "never", "at any moment")


@pytest.mark.parametrize("how", ["the disk's image", "the files"])
def test_a_copied_machine_on_one_path_exactly_one_goes_on(world, s3fault, how):
    """WALSUP_FENCE_TRIALS=1000 for all of it, WALSUP_FENCE_SEED for others"""
    trials = int(os.environ.get("WALSUP_FENCE_TRIALS", "8"))
    rnd = random.Random(int(os.environ.get("WALSUP_FENCE_SEED", "1")))
    con, twin = pair(world, s3fault, "s3")
    went_on, same, kinds = {"stopped": 0, "other": 0}, 0, dict.fromkeys(KINDS, 0)
    con.close()
    source = world
    try:
        for i in range(trials):
            kind = KINDS[i % len(KINDS)]
            copy = twin if source is world else world
            copy_machine(source, copy)
            if how == "the disk's image":
                as_in_an_image(copy)
            source_lineage = lineage(source)
            a, b = (world, twin) if rnd.random() < 0.5 else (twin, world)
            both = [a, b]
            rnd.shuffle(both)
            for w in both:
                w.start(ready=False, **IDLE)
            for w in both:
                w.notify.wait("READY=1")
            ca, cb = (sqlite3.connect(w.path / "a.db") for w in (a, b))
            states = [image(w.path / "a.db") for w in (a, b)]
            between = a_trial(s3fault, a, b, ca, cb, kind, rnd)
            s3fault.faults()
            states += [image(w.path / "a.db") for w in (a, b)]
            assert between in states, f"trial {i}, {kind}: what was restored in between was nobody's"
            fenced = [replica(w)["state"] == "fenced" for w in (a, b)]
            assert sorted(fenced) == [False, True], f"trial {i}, {kind}: fenced {fenced}"
            winner, loser = (b, a) if fenced[0] else (a, b)
            went_on["stopped" if winner is a else "other"] += 1
            kinds[kind] += 1
            winner.sync("a")
            out = winner.restore("a", "x")
            integrity(out)
            assert image(out) == image(winner.path / "a.db"), f"trial {i}, {kind}: not the winner's"
            loser.stop(signal.SIGKILL)
            ca.close()
            cb.close()
            assert winner.stop() == 0
            same += lineage(winner) == source_lineage
            if how == "the disk's image":
                assert lineage(winner) == lineage(loser) == source_lineage, "it was no copy of one history"
                assert winner is a or "answer" not in kind, f"trial {i}: its object was stored, and it does not know it"
            source = winner
    finally:
        twin.stop(signal.SIGKILL)
    print(f"\n{how} copied: {trials} trials, 0 unrestorable, 0 with two writers or none; went on: {went_on}; "
          f"stopped {kinds}; {same} times in the history as it was")


def puts(s3fault, since, level):
    return [e for e in s3fault.ledger()[since:] if e["verb"] == "PUT" and f"/000{level}/" in e["key"]]


def test_a_loser_that_needs_a_base_looks_before_it_puts_it(world, s3fault):
    """its next file is lost from the spool: nothing but a base would help"""
    con, twin = pair(world, s3fault, "s3")
    try:
        as_in_an_image(twin)
        twin.start()
        s3fault.faults({"verb": "PUT", "action": "status", "status": 503})
        other = sqlite3.connect(twin.path / "a.db")
        add(other)
        twin.ctl("sync", "a")
        n = len(s3fault.ledger())
        twin.poll("it tries", lambda: puts(s3fault, n, 0))
        name = puts(s3fault, n, 0)[0]["key"].rsplit("/", 1)[1]
        for f in twin.state.rglob(name):
            f.unlink()
        assert twin.stop() == 0
        s3fault.faults()
        n = len(s3fault.ledger())
        world.start()
        add(con)
        world.sync("a")
        twin.start(ready=False)
        twin.notify.wait("READY=1")
        twin.poll("fenced", lambda: replica(twin)["state"] == "fenced")
        assert not puts(s3fault, n, 9), "a base that breaks the other's chain"
        add(con)
        world.sync("a")
        assert image(world.restore("a", "x")) == image(world.path / "a.db")
    finally:
        twin.stop(signal.SIGKILL)


@pytest.mark.parametrize("may", ["delete", "append only"])
def test_a_base_that_was_slower_than_the_other_writer_is_taken_back(world, s3fault, may):
    """a second target is added, where somebody else is: what it lacks is a base"""
    con, twin = pair(world, s3fault, "s3")
    shutil.rmtree(twin.state)
    twin.configure(twin.file_target(), twin.db("a", sync_interval="100ms"))
    twin.start()
    twin.sync("a")
    assert twin.stop() == 0
    twin.configure(twin.file_target(), s3fault.target("x", delete="yes" if may == "delete" else "no"),
                   twin.db("a", target="local, x", sync_interval="100ms"))
    try:
        s3fault.faults({"verb": "PUT", "key_regex": "/0009/", "count": 1, "action": "delay", "after_ms": 3000})
        n = len(s3fault.ledger())
        twin.start(ready=False)
        twin.poll("its base is on the way", lambda: '"fired":1' in s3fault.control("/_faults"))
        world.start()
        for _ in range(3):
            add(con)
            world.sync("a")
        twin.poll("fenced", lambda: twin.status("a")["replicas"][1]["state"] == "fenced")
        base = [e["key"] for e in puts(s3fault, n, 9) if e["stored"]]
        assert len(base) == 1, "it was not put at all: nothing was tried here"
        add(con)
        world.sync("a")
        if may == "delete":
            twin.poll("taken back", lambda: base[0] not in s3fault.objects())
        else:
            twin.poll("it is said", lambda: "let the other one run walsupctl snapshot" in twin.log.read_text())
            world.ctl("snapshot", "a")
        assert image(world.restore("a", "x")) == image(world.path / "a.db")
    finally:
        twin.stop(signal.SIGKILL)


def snapshots(w):
    return sorted(w.replica.glob("a/ltx/9/*.ltx"))


def test_the_answer_to_a_snapshot_that_is_lost_is_no_other_writer(world, s3fault):
    world.configure(s3fault.target("x"), world.db("a", target="x", sync_interval="50ms"))
    con = make_db(world.path / "a.db")
    con.execute("insert into t(b) values(zeroblob(70000000))")  # large enough to be streamed
    con.commit()
    world.start()
    world.sync("a")
    for verb, size in (("COMPLETE", "large"), ("PUT", "small")):
        s3fault.faults({"verb": verb, "key_regex": "/0009/", "count": 1, "action": "store-then"})
        world.ctl("snapshot", "a", check=False)  # the first answer may be the 500
        world.ctl("snapshot", "a")
        assert replica(world)["state"] == "ok"
        stored = [e["key"] for e in s3fault.ledger() if e["verb"] == verb and "/0009/" in e["key"] and e["stored"]]
        assert len(stored) == 1, f"{size}: {stored}"
        if size == "large":
            con.execute("delete from t where a > 10")
            con.commit()
            con.execute("vacuum")
            world.sync("a")
    assert image(world.restore("a", "x")) == image(world.path / "a.db")


@pytest.mark.parametrize("size", ["small", "streamed"])
def test_a_snapshot_of_another_writer_is_not_overwritten(world, tmp_path, size):
    """what a loser sends of levels 1 to 9 before it knows that it has lost"""
    other = World(tmp_path / "other")
    other.path.mkdir()
    try:
        for w in (world, other):
            w.configure(w.file_target("x"), w.db("a", target="x"))
            con = make_db(w.path / "a.db")
            if size == "streamed":
                con.execute("insert into t(b) values(zeroblob(70000000))")
                con.commit()
            w.start()
            w.sync("a")
            add(con)
            w.sync("a")
        other.ctl("snapshot", "a")
        theirs = snapshots(other)[-1]
        place = world.replica / "a/ltx/9" / theirs.name
        place.parent.mkdir(exist_ok=True)
        shutil.copy(theirs, place)
        r = world.ctl("snapshot", "a", check=False, timeout=30)
        said = " ".join((r.stdout + r.stderr).split())
        assert r.returncode == 80 and "was written by another writer" in said, said
        assert replica(world)["state"] == "fenced"
        assert sha(place) == sha(theirs), "it was overwritten"
        # and a person's decision is the end of it: the name that is taken is not tried again
        world.ctl("takeover", "a")
        world.sync("a")
        world.ctl("snapshot", "a")
        assert replica(world)["state"] == "ok" and sha(place) == sha(theirs)
        assert image(world.restore("a", "x")) == image(world.path / "a.db")
    finally:
        other.stop(signal.SIGKILL)


def test_a_merged_file_of_another_writer_is_not_overwritten(world, tmp_path):
    """level 1: its name is free until the merge, and the other one was quicker"""
    other = World(tmp_path / "other")
    other.path.mkdir()
    settings = {"level2_interval": "0s", "level3_interval": "0s", "snapshot_interval": "0s", "retention": "0s"}

    def configure(w, interval):
        w.configure(w.file_target("x"), w.db("a", target="x", sync_interval="10ms", level1_interval=interval, **settings))

    def merged(w):
        return sorted(w.replica.glob("a/ltx/1/*.ltx"))

    try:
        for w in (world, other):
            configure(w, "1h")
            con = make_db(w.path / "a.db")
            w.start()
            w.sync("a")
            for _ in range(4):
                add(con)
                w.sync("a")
        assert not merged(world) and not merged(other), "merged too early"
        configure(other, "200ms")
        other.ctl("reload")
        other.poll("merged", lambda: merged(other))
        theirs = merged(other)[0]
        place = world.replica / "a/ltx/1" / theirs.name
        place.parent.mkdir(exist_ok=True)
        shutil.copy(theirs, place)
        configure(world, "200ms")
        world.ctl("reload")
        world.poll("fenced", lambda: replica(world)["state"] == "fenced")
        assert "was written by another writer" in " ".join(world.ctl("status", check=False).stdout.split())
        assert sha(place) == sha(theirs), "it was overwritten"
        world.ctl("takeover", "a")
        world.sync("a")
        assert image(world.restore("a", "x")) == image(world.path / "a.db")
        assert sha(place) == sha(theirs)
    finally:
        other.stop(signal.SIGKILL)


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


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_machine_that_went_back_in_time_meets_its_own_past(world, s3fault, kind):
    """its state directory was restored from a snapshot or a backup; the databases went on, or back as well"""
    world.configure(targets(world, s3fault, kind),
                    *[world.db(n, target="x", sync_interval="50ms") for n in "ab"])
    cons = [make_db(world.path / f"{n}.db") for n in "ab"]
    world.start()
    world.sync()
    assert world.stop() == 0
    shutil.copytree(world.state, world.path / "snapshot-of-state")
    world.start()
    for con in cons:
        for _ in range(6):
            add(con)
            world.sync()
    assert world.stop() == 0
    shutil.rmtree(world.state)
    os.rename(world.path / "snapshot-of-state", world.state)
    world.start()
    for con in cons:
        add(con, 2)
    for name in "ab":
        r = world.sync(name, check=False)
        said = " ".join(r.stderr.split())
        assert r.returncode == 80 and "is this machine's own past" in said and "went back in time" in said, said
        assert "another writer" not in said and "takeover --all" in said, said
    taken = world.ctl("takeover", "--all").stdout
    assert "a -> x: taken over" in taken and "b -> x: taken over" in taken, taken
    world.sync()
    assert "nothing to take over" in world.ctl("takeover", "--all").stdout
    assert world.ctl("takeover", "a", "--all", check=False).returncode == 64
    for name, con in zip("ab", cons):
        assert replica(world, name)["state"] == "ok"
        add(con)
        world.sync(name)
        assert image(world.restore(name, "x")) == image(world.path / f"{name}.db")
        world.ctl("reconcile", name)
        said = world.ctl("verify", name).stdout  # its own mark is no damage
        assert "proven" in said, said
