"""What may become of a database file while it is replicated, or while nobody looks: each row restores equal."""
import os
import shutil
import signal
import sqlite3
import subprocess

import pytest

from conftest import image, integrity, make_db, pages_equal, txids


def other_db(path, rows=40, page_size=4096):
    con = make_db(path, page_size=page_size, rows=rows)
    con.execute("create table other(x)")
    con.executemany("insert into other values(?)", [(os.urandom(700),) for _ in range(rows)])
    con.commit()
    con.execute("pragma wal_checkpoint(truncate)")
    con.close()


def lineages(world, name="a"):
    """in the order of the TXIDs"""
    return [p.read_bytes()[72:80].hex() for p in sorted(world.replica.glob(f"{name}/ltx/0/*.ltx"))]


def check(world, page_size=4096):
    world.sync(timeout=60)
    out = world.restore("a", "local")
    pages_equal(world.path / "a.db", out, page_size)
    integrity(out)


def started(world, **conf):
    con = make_db(world.path / "a.db", rows=200)
    world.configure(world.file_target(), world.db("a"), **conf)
    world.start()
    con.execute("insert into t(b) values('before')")
    con.commit()
    world.sync()
    return con


WHEN = ["attached", "asleep", "stopped"]


def in_state(world, when):
    if when == "asleep":
        world.poll("it is let go", lambda: world.status("a")["state"] == "idle")
    elif when == "stopped":
        assert world.stop() == 0


def delete_mode(con):
    try:
        return con.execute("pragma journal_mode=delete").fetchone() == ("delete",)
    except sqlite3.OperationalError:
        return False


def back(world, when):
    if when == "stopped":
        world.start()


@pytest.mark.parametrize("when", WHEN)
def test_replaced_by_rename_is_another_history_and_the_old_one_stays_restorable(world, when):
    con = started(world, idle_timeout="1s" if when == "asleep" else "30s")
    before = dump_of(con)
    old = txids(world)[-1]
    in_state(world, when)
    con.close()
    other_db(world.path / "new.db")
    for side in ("-wal", "-shm"):
        if (p := world.path / f"a.db{side}").exists():
            p.unlink()
    os.rename(world.path / "new.db", world.path / "a.db")
    back(world, when)
    world.poll("the new one is captured", lambda: len(set(lineages(world))) == 2)
    check(world)
    then = world.restore("a", "local", world.path / "then.db", "--txid", f"{old:016x}")
    assert dump_of(sqlite3.connect(then)) == before, "the history of the old one"


def dump_of(con):
    return con.execute("select * from t order by 1").fetchall()


@pytest.mark.parametrize("when", WHEN)
def test_copied_over_in_place(world, when):
    """the same inode, other content: by a tool that knows nothing of SQLite"""
    con = started(world, idle_timeout="1s" if when == "asleep" else "30s")
    con.execute("pragma wal_checkpoint(truncate)")
    world.sync()
    if when == "attached":  # quiet, so that the WAL holds nothing that would be laid over the copy
        world.poll("settled", lambda: world.status("a")["wal_pending_bytes"] == 0)
        import time
        time.sleep(1.5)  # beyond the settling job; the copy is what is looked for
    in_state(world, when)
    if when == "stopped":
        con.close()
    other_db(world.path / "new.db")
    with open(world.path / "a.db", "r+b") as f:
        f.write((world.path / "new.db").read_bytes())
        f.truncate()
    back(world, when)
    world.poll("noticed", lambda: world.status("a")["counters"]["resyncs"] > 0
               or world.status("a")["counters"]["full_captures"] > 1)
    world.sync(timeout=60)
    out = world.restore("a", "local")
    assert out.read_bytes() == (world.path / "new.db").read_bytes()


@pytest.mark.parametrize("when", WHEN)
def test_deleted_and_made_anew(world, when):
    con = started(world, idle_timeout="1s" if when == "asleep" else "30s")
    in_state(world, when)
    con.close()
    for side in ("", "-wal", "-shm"):
        (world.path / f"a.db{side}").unlink(missing_ok=True)
    if when != "stopped":
        world.poll("it is gone", lambda: world.status("a")["state"] == "missing")
    assert txids(world), "the replica stays"
    con = make_db(world.path / "a.db", rows=7)
    back(world, when)
    world.poll("the new one is captured", lambda: len(set(lineages(world))) == 2)
    check(world)


@pytest.mark.parametrize("when", WHEN)
def test_vacuum_and_shrinking(world, when):
    con = started(world, idle_timeout="1s" if when == "asleep" else "30s")
    con.executemany("insert into t(b) values(?)", [(os.urandom(3000),) for _ in range(500)])
    con.commit()
    world.sync()
    in_state(world, when)
    con.execute("delete from t where a > 20")
    con.commit()
    con.execute("vacuum")
    back(world, when)
    check(world)
    assert len(set(lineages(world))) == 1


@pytest.mark.parametrize("when", WHEN)
def test_another_page_size(world, when):
    con = started(world, idle_timeout="1s" if when == "asleep" else "30s")
    in_state(world, when)
    con.close()
    con = sqlite3.connect(world.path / "a.db", timeout=30)
    if when == "attached":  # SQLite cannot leave WAL mode while walsupd is attached
        world.stop()
    world.poll("it leaves WAL mode", lambda: delete_mode(con))  # walsupd may be about to look at its last close
    con.execute("pragma page_size=1024")
    con.execute("vacuum")
    assert con.execute("pragma journal_mode=wal").fetchone()[0] == "wal"
    con.execute("insert into t(b) values('after')")
    con.commit()
    if when == "attached":
        world.start()
    back(world, when)
    world.poll("captured", lambda: world.status("a")["page_size"] == 1024)
    check(world, 1024)
    con.execute("insert into t(b) values('and on')")
    con.commit()
    check(world, 1024)
    assert len(set(lineages(world))) == 2


def test_journal_mode_back_and_forth_while_asleep(world):
    con = started(world, idle_timeout="1s")
    for k in range(2):
        world.poll("it is let go", lambda: world.status("a")["state"] == "idle")
        con.execute("insert into t(b) values(1)")
        con.commit()
        world.sync()
        world.poll("it is let go", lambda: world.status("a")["state"] == "idle")
        assert con.execute("pragma journal_mode=delete").fetchone()[0] == "delete"
        con.execute("insert into t(b) values('in rollback mode')")
        con.commit()
        world.poll("it is said", lambda: world.status("a")["state"] == "not-wal")
        assert con.execute("pragma journal_mode=wal").fetchone()[0] == "wal"
        con.execute("insert into t(b) values('in WAL mode again')")
        con.commit()
        world.poll("it is back", lambda: world.status("a")["state"] in ("replicating", "idle"))
        check(world)


def test_a_symbolic_link_that_is_turned_elsewhere(world):
    (world.path / "one").mkdir()
    (world.path / "two").mkdir()
    con = make_db(world.path / "one/x.db", rows=30)
    con.close()
    (world.path / "a.db").symlink_to("one/x.db")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    other_db(world.path / "two/x.db")
    assert world.stop() == 0
    os.unlink(world.path / "a.db")
    (world.path / "a.db").symlink_to("two/x.db")
    world.start()
    check(world)
    assert len(set(lineages(world))) == 2


@pytest.mark.parametrize("what", ["empty", "header only", "text", "encrypted", "a directory", "a dangling link",
                                  "a loop of links", "a WAL without a database"])
def test_what_is_no_database_is_named_and_picked_up_when_it_becomes_one(world, what):
    db = world.path / "a.db"
    if what == "empty":
        db.touch()
    elif what == "header only":
        db.write_bytes(b"SQLite format 3\0")
    elif what == "text":
        db.write_text("this is not a database " * 100)
    elif what == "encrypted":
        db.write_bytes(os.urandom(8192))
    elif what == "a directory":
        db.mkdir()
    elif what == "a dangling link":
        db.symlink_to("nowhere.db")
    elif what == "a loop of links":
        db.symlink_to("a.db")
    else:
        (world.path / "a.db-wal").write_bytes(os.urandom(4152))
    con = make_db(world.path / "good.db")
    world.configure(world.file_target(), world.db("a"), world.db("good"))
    world.start()
    world.sync("good")
    st = world.status("a")
    assert st["state"] in ("waiting", "failed"), st
    print(what, "->", st["state"], st["error"] and st["error"]["message"], st["detail"])
    assert st["state"] == "waiting" or str(db) in st["error"]["message"]
    (shutil.rmtree if what == "a directory" else os.unlink)(db if what[0:5] != "a WAL" else f"{db}-wal")
    make_db(db, rows=3)
    world.poll("it is picked up", lambda: world.status("a")["state"] in ("replicating", "idle"), timeout=60)
    check(world)


def test_a_crashed_application_leaves_a_wal_that_walsup_recovers(world):
    con = started(world)
    child = subprocess.Popen(["/usr/bin/python3", "-c",
                              "import sqlite3,os,signal,sys\n"
                              f"c=sqlite3.connect({str(world.path / 'a.db')!r})\n"
                              "c.execute(\"insert into t(b) values('kept')\"); c.commit()\n"
                              "c.execute('begin immediate'); c.execute('update t set b=randomblob(90000)')\n"
                              "os.kill(os.getpid(), signal.SIGKILL)"])
    assert child.wait() == -signal.SIGKILL
    check(world)
    assert image(world.path / "a.db")
