"""When nothing happens, walsupd does next to nothing, whatever state a database rests in."""
import sqlite3
import time

import pytest

from conftest import make_db, section

BUSY_S = 1.2   # longer than it takes until walsupd looks for commits itself
WINDOW_S = 2  # what is counted is a rate: this is no waiting for something
PER_SECOND = 100  # 1 to 18 are seen at rest, 500 and more where something goes in circles


def switches(pid):
    """how often the loop's thread has gone to sleep"""
    with open(f"/proc/{pid}/task/{pid}/status") as f:
        lines = f.read().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith("voluntary_ctxt_switches"))


def write_for(con, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        con.execute("insert into t(b) values('busy')")
        con.commit()


def state_is(world, *states):
    world.poll(f"it is {states}", lambda: world.status("a")["state"] in states)


def attached(world, con):
    world.sync()
    state_is(world, "replicating")


def asleep(world, con):
    state_is(world, "idle")


def paused(world, con):
    world.ctl("pause", "a")
    state_is(world, "paused")


def locked(world, con):
    con.close()
    state_is(world, "idle")
    world.held = held = sqlite3.connect(world.path / "a.db")
    held.execute("pragma locking_mode=exclusive")
    held.execute("insert into t(b) values('mine')")
    held.commit()
    state_is(world, "locked")


def missing(world, con):
    con.close()
    state_is(world, "idle")
    for side in ("", "-wal", "-shm"):
        (world.path / f"a.db{side}").unlink(missing_ok=True)
    state_is(world, "missing")


def no_target(world, con):
    """the directory is another one than at first"""
    world.replica.rename(world.path / "elsewhere")
    world.replica.mkdir()
    con.execute("insert into t(b) values('waits')")
    con.commit()
    world.poll("it is told", lambda: world.status("a")["replicas"][0]["error"])


@pytest.mark.outside
@pytest.mark.parametrize("rest", [attached, asleep, paused, locked, missing, no_target],
                         ids=lambda f: f.__name__)
def test_a_database_that_was_busy_lets_the_loop_sleep(world, rest):
    con = make_db(world.path / "a.db")
    idle = "1s" if rest in (asleep, locked, missing) else "1h"
    world.configure(world.file_target(), world.db("a"), idle_timeout=idle)
    world.start()
    write_for(con, BUSY_S)
    rest(world, con)

    seen = []

    def rests():  # the end of the burst takes its second: the last looks, the checkpoint
        before = switches(world.proc.pid)
        time.sleep(WINDOW_S)
        seen.append((switches(world.proc.pid) - before) / WINDOW_S)
        return seen[-1] <= PER_SECOND or len(seen) == 2
    world.poll("it rests", rests)
    assert seen[-1] <= PER_SECOND, f"the loop went to sleep so often in a second: {seen}"
