"""restore --follow: the copy is a database in WAL mode like any other. Readers of several versions of SQLite, that set the
mode, hold long transactions or open it again and again; a follower that is killed; the copy that takes over.

WALSUP_READERS may name more Python programs, with a colon between them: of each, the modules sqlite3, pysqlite3 and
apsw are used, as far as they are there. How many versions of SQLite took part is printed."""
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import OUT, image, integrity, make_db
from test_follow import Follower, commit, content, ended, followed, newest  # noqa: F401 (ended is a fixture)

READER = r"""
import sys
module, path, kind = sys.argv[1:4]
if module == "apsw":
    import apsw
    def connect():
        c = apsw.Connection(path)
        c.setbusytimeout(20000)
        return c
    def run(c, sql):
        return list(c.cursor().execute(sql))
else:
    sqlite = __import__(module)
    def connect():
        return sqlite.connect(path, isolation_level=None, timeout=20)
    def run(c, sql):
        return c.execute(sql).fetchall()
c = connect()
print("ready", run(c, "select sqlite_version()")[0][0], flush=True)
looks = last = 0
for line in sys.stdin:
    if kind == "again":
        c.close()
        c = connect()
    if kind != "plain":
        assert run(c, "pragma journal_mode=wal") == [("wal",)]
    run(c, "pragma cache_size=10")
    run(c, "begin")
    a, b = run(c, "select v, (select count(*) from t) from state")[0]
    assert a == b, "%d in state, %d rows" % (a, b)
    if kind == "long": # through many steps
        if looks % 7:
            run(c, "commit")
            run(c, "begin")
            run(c, "select count(*) from t")
        else:
            import time
            time.sleep(0.5)
    ok = run(c, "pragma integrity_check")
    assert ok == [("ok",)], ok
    assert kind == "long" or run(c, "select v, (select count(*) from t) from state")[0] == (a, b)
    run(c, "commit")
    looks += 1
    print(looks, a, flush=True)
c.close()
print("end", flush=True)
"""


def libraries():
    """(python, module) for each SQLite that can be had, by version"""
    found = {}
    for python in [sys.executable, *filter(None, os.environ.get("WALSUP_READERS", "").split(":"))]:
        for module in ("sqlite3", "pysqlite3", "apsw"):
            what = "apsw.sqlite_lib_version()" if module == "apsw" else f"{module}.sqlite_version"
            r = subprocess.run([python, "-c", f"import {module}; print({what})"], capture_output=True, text=True)
            if r.returncode == 0:
                found.setdefault(r.stdout.strip(), (python, module))
    return found


class Reader:
    def __init__(self, library, path, kind, procs):
        self.kind = kind
        self.p = subprocess.Popen([library[0], "-c", READER, library[1], str(path), kind], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        procs.append(self.p)
        word, self.version = self.p.stdout.readline().split()
        assert word == "ready"
        self.asked = self.looks = 0

    def ask(self):
        self.p.stdin.write("look\n")
        self.p.stdin.flush()
        self.asked += 1

    def answer(self):
        line = self.p.stdout.readline()
        assert line, (self.version, self.kind, self.p.stderr.read())
        self.looks += 1
        return int(line.split()[1])

    def close(self):
        self.p.stdin.close()
        assert self.p.stdout.readline() == "end\n", self.p.stderr.read()
        assert self.p.wait(30) == 0


def change(con, k):
    """a transaction that grows the database, shrinks it or moves its pages"""
    if k % 9 == 8:
        con.execute("begin immediate")
        con.execute("delete from t where a % 3")
        con.execute("update state set v = (select count(*) from t)")
        con.execute("commit")
        con.execute("vacuum")
        return
    con.execute("begin immediate")
    con.execute(f"delete from t where a % 7 = {k % 7}")
    con.executemany("insert into t(b) values(randomblob(?))", [(700,)] * 150)
    con.execute("update state set v = (select count(*) from t)")
    con.execute("commit")


def test_readers_of_several_versions_that_set_wal_see_each_step_whole(world, ended):
    con = followed(world)
    con.execute("create index i on t(b)")
    commit(con, 100, 500)
    world.sync()
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    ended.append(f.proc)
    f.until(newest(world))
    libs = libraries()
    readers = [Reader(lib, copy, kind, ended) for lib in libs.values() for kind in ("plain", "wal", "again", "long")]
    for k in range(25):
        change(con, k)
        for r in readers:
            if r.asked == r.looks:
                r.ask()
        world.sync()
        f.until(newest(world))
        for r in readers:
            if r.kind != "long" or k % 3 == 2:
                while r.looks < r.asked:
                    r.answer()
    for r in readers:
        while r.looks < r.asked:
            r.answer()
        r.ask() # and they see what is new
        assert r.answer() == con.execute("select v from state").fetchone()[0], (r.version, r.kind)
        r.close()
    assert all(s["verified"] for s in f.steps) and len(f.steps) > 20
    assert f.end() == (0, "")
    assert sorted(p.name for p in world.path.glob("copy.db*")) == ["copy.db", "copy.db.follow"]
    assert image(copy) == image(world.path / "a.db")
    integrity(copy)
    print(f"{sum(r.looks for r in readers)} looks by {len(readers)} readers, {len(libs)} versions of SQLite: "
          f"{', '.join(sorted(libs))}; not tried: {'none' if len(libs) > 2 else 'others, see WALSUP_READERS'}")


def test_a_copy_that_is_written_to_under_its_readers_is_noticed_at_once(world, ended):
    """the control: somebody else's commit while it is followed, which the change counter in page 1 does not show"""
    con = followed(world)
    commit(con, 50, 500)
    world.sync()
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    ended.append(f.proc)
    f.until(newest(world))
    other = sqlite3.connect(copy, isolation_level=None)
    before = copy.with_name("copy.db").read_bytes()[24:28]
    other.execute("update t set b = zeroblob(500) where a = 7")
    assert other.execute("select hex(b) from t where a = 7").fetchone()[0] == "00" * 500
    assert copy.read_bytes()[24:28] == before
    commit(con)
    world.sync()
    f.until(newest(world))
    assert f.steps[-1]["anew"] == "something else has written to it"
    assert content(copy) == content(world.path / "a.db")
    other.close()
    assert f.end()[0] == 0


def test_killed_again_and_again_under_readers(world, ended):
    con = followed(world)
    commit(con, 100, 500)
    world.sync()
    copy = world.path / "copy.db"
    rng = random.Random(11)
    f = Follower(world, copy)
    f.until(newest(world))
    readers = [Reader(lib, copy, "wal", ended) for lib in libraries().values()]
    for k in range(40):
        change(con, k)
        world.sync()
        time.sleep(rng.random() / 20) # where in a step it dies is left to chance
        f.proc.kill()
        f.proc.wait()
        for r in readers:
            r.ask()
            r.answer()
        f.start()
    ended.append(f.proc)
    f.steps.clear()
    commit(con)
    world.sync()
    f.until(newest(world))
    assert [s["anew"] for s in f.steps if s["anew"]] == [] # nothing had to be restored anew
    for r in readers:
        r.ask()
        assert r.answer() == con.execute("select v from state").fetchone()[0]
        r.close()
    assert f.end()[0] == 0
    assert image(copy) == image(world.path / "a.db")
    integrity(copy)


@pytest.mark.outside
def test_killed_at_each_call_of_a_step_under_a_reader(world, ended):
    con = followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    f.until(1)
    assert f.end()[0] == 0
    reader = Reader((sys.executable, "sqlite3"), copy, "wal", ended)
    killed = 0
    for call in ("pwrite64", "fdatasync", "fsync", "ftruncate", "fcntl", "renameat2"):
        for when in (1, 2, 3, 5, 8, 13):
            change(con, when)
            world.sync()
            r = subprocess.Popen(["strace", "-D", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                                  f"inject={call}:signal=KILL:when={when}", *f.args],
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=world.env)
            if r.stdout.readline(): # the step was done before the call was reached
                r.send_signal(signal.SIGTERM)
            r.communicate(timeout=30)
            killed += r.returncode != 0
            reader.ask()
            reader.answer()
    assert killed > 10
    commit(con)
    world.sync()
    f.start()
    ended.append(f.proc)
    f.until(newest(world))
    assert f.steps[-1]["verified"]
    reader.close()
    assert f.end()[0] == 0
    assert image(copy) == image(world.path / "a.db")
    integrity(copy)


def test_a_reader_that_stays_for_long_holds_nobody_up_and_the_log_is_cut_afterwards(world, ended):
    con = followed(world)
    commit(con, 200, 3000)
    world.sync()
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    ended.append(f.proc)
    f.until(newest(world))
    reader = sqlite3.connect(copy, isolation_level=None)
    reader.execute("begin")
    seen = reader.execute("select v from state").fetchone()[0]
    for k in range(30):
        con.execute("begin immediate")
        con.execute("update t set b = randomblob(3000)")
        con.execute("commit")
        world.sync()
        f.until(newest(world)) # it goes on
    assert reader.execute("select v, count(*) from state, t").fetchone() == (seen, 200)
    assert reader.execute("pragma integrity_check").fetchone() == ("ok",)
    log = copy.with_name("copy.db-wal")
    assert log.stat().st_size > 16 << 20
    reader.execute("commit")
    for k in range(3):
        commit(con)
        world.sync()
        f.until(newest(world))
    assert log.stat().st_size < 1 << 20, log.stat().st_size
    assert reader.execute("select v from state").fetchone() == (seen + 9,)
    reader.close()
    assert f.end()[0] == 0


def test_the_log_does_not_begin_again_under_one_who_reads_it(world, ended):
    """all of it is in the database, by a checkpoint of somebody else, and a reader still takes its pages from the log"""
    con = followed(world)
    commit(con, 100, 3000)
    world.sync()
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    ended.append(f.proc)
    f.until(newest(world))

    def update():
        con.execute("begin immediate")
        con.execute("update t set b = randomblob(3000)")
        con.execute("commit")
        world.sync()
        f.until(newest(world))

    early, late, other = (sqlite3.connect(copy, isolation_level=None) for _ in range(3))
    late.execute("pragma cache_size=2")
    early.execute("begin")
    early.execute("select * from state").fetchall()
    update()
    late.execute("begin")
    before = late.execute("select a, hex(b) from t order by a").fetchall()
    early.execute("commit")
    busy, frames, copied = other.execute("pragma wal_checkpoint(passive)").fetchone()
    assert (busy, copied) == (0, frames) and frames > 50
    for _ in range(3):
        update()
        assert late.execute("select a, hex(b) from t order by a").fetchall() == before
        assert late.execute("pragma integrity_check").fetchone() == ("ok",)
    late.execute("commit")
    assert late.execute("select a, hex(b) from t order by a").fetchall() == content(world.path / "a.db")[1]
    for c in (early, late, other):
        c.close()
    assert f.end()[0] == 0


def test_when_nothing_is_read_the_log_begins_again(world, ended):
    con = followed(world)
    commit(con, 20, 3000)
    world.sync()
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    ended.append(f.proc)
    f.until(newest(world))
    sizes = []
    for k in range(20):
        con.execute("begin immediate")
        con.execute("update t set b = randomblob(3000)")
        con.execute("commit")
        world.sync()
        f.until(newest(world))
        sizes.append(copy.with_name("copy.db-wal").stat().st_size)
    assert max(sizes) < 3 * min(sizes), sizes
    assert content(copy) == content(world.path / "a.db")
    assert f.end()[0] == 0


@pytest.mark.parametrize("how", ["ended", "killed"])
def test_the_copy_can_take_over(world, ended, tmp_path, how):
    con = followed(world)
    commit(con, 50)
    world.sync()
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    f.until(newest(world))
    commit(con, 50)
    world.sync()
    f.until(newest(world))
    f.proc.send_signal(signal.SIGKILL if how == "killed" else signal.SIGTERM)
    f.proc.wait()
    want = content(world.path / "a.db")
    con.close()
    world.stop()
    # the first machine is gone; the second one replicates the copy as it is
    second = world.path / "second"
    second.mkdir()
    world.state = second / "state"
    world.configure(world.file_target("other", path=second / "replica"), world.db("b", path=copy, target="other"))
    (second / "replica").mkdir()
    world.start()
    world.sync()
    assert world.status("b")["state"] in ("replicating", "idle")
    app = sqlite3.connect(copy)
    assert app.execute("pragma journal_mode").fetchone() == ("wal",)
    app.execute("insert into t(b) values('after')")
    app.execute("update state set v = v + 1")
    app.commit()
    world.sync()
    back = content(world.restore("b", "other"))
    assert back == content(copy) and back[0] == want[0] + 1
    app.close()


def test_page_sizes(world, ended):
    for size in (512, 65536):
        path, copy = world.path / f"p{size}.db", world.path / f"copy{size}.db"
        world.state = world.path / f"state{size}"
        world.configure(world.file_target(path=world.path / f"replica{size}"), world.db("a", path=path), sync_interval="20ms")
        (world.path / f"replica{size}").mkdir()
        con = sqlite3.connect(path, isolation_level=None)
        con.execute(f"pragma page_size={size}")
        con.execute("pragma journal_mode=wal")
        con.execute("create table t(a integer primary key, b)")
        con.execute("create table state(v)")
        con.execute("insert into state values(0)")
        world.start()
        world.sync()
        f = Follower(world, copy)
        ended.append(f.proc)
        f.step()
        reader = Reader((sys.executable, "sqlite3"), copy, "wal", ended)
        for k in range(20): # of 512 bytes: several blocks of the wal-index, with a transaction that holds the log
            change(con, k)
            world.sync()
        reader.ask()
        while content(copy) != content(path):
            f.step()
        reader.answer()
        reader.close()
        assert f.end()[0] == 0
        integrity(copy)
        con.close()
        world.stop()


def test_many_frames_in_the_log_are_all_found(world, ended):
    """more than two blocks of the wal-index, while a reader keeps all of them in the log"""
    con = followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    ended.append(f.proc)
    f.until(newest(world))
    pin = sqlite3.connect(copy, isolation_level=None)
    pin.execute("begin")
    pin.execute("select * from state").fetchall()
    reader = Reader((sys.executable, "sqlite3"), copy, "wal", ended)
    for k in range(4):
        commit(con, 3000, 3500)
        world.sync()
        f.until(newest(world))
        reader.ask()
        assert reader.answer() == 3000 * (k + 1)
    assert copy.with_name("copy.db-wal").stat().st_size > 2.5 * 4096 * 4120
    pin.execute("commit")
    pin.close()
    reader.close()
    assert content(copy) == content(world.path / "a.db")
    assert f.end()[0] == 0
    integrity(copy)


def crc64(data, _table=[]):
    """CRC-64/GO-ISO"""
    if not _table:
        for i in range(256):
            for _ in range(8):
                i = i >> 1 ^ 0xD800000000000000 if i & 1 else i >> 1
            _table.append(i)
    c = 2**64 - 1
    for b in data:
        c = c >> 8 ^ _table[(c ^ b) & 255]
    return c ^ 2**64 - 1


def as_walsup_0_1_kept_it(copy):
    """rollback mode, a change counter of its own, and a record of another kind"""
    record = copy.with_name(copy.name + ".follow")
    old = bytearray(record.read_bytes())
    slots = old[8:8 + 2 * 144]
    data = bytearray(copy.read_bytes())
    assert slots[44:144] == slots[188:288] == data[:100]
    counter = int.from_bytes(data[24:28], "big") + 5
    data[18] = data[19] = 1
    data[24:28] = data[92:96] = counter.to_bytes(4, "big")
    copy.write_bytes(data)
    for at in (40, 184):
        slots[at:at + 4] = counter.to_bytes(4, "big")
    body = b"walsup-f" + bytes(slots)
    record.write_bytes(body + crc64(body).to_bytes(8, "big"))


def test_a_copy_in_rollback_mode_of_an_earlier_version_is_continued(world, ended):
    con = followed(world)
    commit(con, 20)
    world.sync()
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    f.until(newest(world))
    assert f.end()[0] == 0
    as_walsup_0_1_kept_it(copy)
    reader = sqlite3.connect(copy, isolation_level=None, timeout=20)
    assert reader.execute("pragma journal_mode").fetchone() == ("delete",)
    assert reader.execute("select v from state").fetchone() == (20,)
    commit(con)
    world.sync()
    f.steps.clear()
    f.start()
    ended.append(f.proc)
    step = f.until(newest(world))
    assert step["anew"] is None and step["verified"] and len(f.steps) == 1
    assert reader.execute("select v from state").fetchone() == (23,) # the same connection
    assert reader.execute("pragma journal_mode").fetchone() == ("wal",)
    reader.close()
    assert f.end()[0] == 0
    assert image(copy) == image(world.path / "a.db")


def test_one_whose_readers_never_let_go_is_refused_in_words(world):
    con = followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    f.until(newest(world))
    assert f.end()[0] == 0
    as_walsup_0_1_kept_it(copy)
    reader = sqlite3.connect(copy, isolation_level=None)
    reader.execute("begin")
    reader.execute("select * from state").fetchall()
    r = subprocess.run(f.args, capture_output=True, text=True, env=world.env, timeout=60)
    assert r.returncode == 75 and "bring it into WAL mode" in r.stderr and "stop them" in r.stderr, r.stderr
    assert reader.execute("pragma integrity_check").fetchone() == ("ok",)
    reader.close()
    con.close()


def test_another_mode_is_not_to_be_had_while_it_is_followed(world, ended):
    con = followed(world)
    copy = world.path / "copy.db"
    f = Follower(world, copy)
    ended.append(f.proc)
    f.until(newest(world))
    reader = sqlite3.connect(copy, timeout=0.2)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        reader.execute("pragma journal_mode=delete")
    reader.close()
    assert f.end()[0] == 0
    reader = sqlite3.connect(copy)
    assert reader.execute("pragma journal_mode=delete").fetchone() == ("delete",)
    reader.close()
    commit(con)
    world.sync()
    f.steps.clear()
    f.start()
    ended.append(f.proc)
    assert f.step()["anew"] == "something else has written to it"
    assert content(copy) == content(world.path / "a.db")
    check = sqlite3.connect(copy)
    assert check.execute("pragma journal_mode").fetchone() == ("wal",)
    check.close()
    assert f.end()[0] == 0
