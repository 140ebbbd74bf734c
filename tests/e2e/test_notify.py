"""What systemd hears, and that nothing waits for it to listen."""
import subprocess
import time

import pytest

from conftest import make_db, pages_equal

def states_of(heard):
    return [x.split("=")[0] for x in heard if not x.startswith(("JUNK", "EXTEND", "WATCHDOG"))]

def test_nobody_listens_and_the_daemon_works_all_the_same(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start(ready=False, deaf=True)
    world.poll("answers", lambda: world.ctl("status", check=False).returncode == 0)
    con.execute("insert into t(b) values('unheard')")
    con.commit()
    world.sync(timeout=20)
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
    # when there is room again, it is told what is true now
    world.notify.wait("READY=1")
    world.notify.wait("STATUS=")
    assert states_of(world.notify.heard)[0] == "READY"
    # a reload and its end are not lost, in this order, and the time is that of the reload
    world.notify.drain()
    world.notify.fill()
    world.notify.heard.clear()
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    world.ctl("reload")
    after = time.clock_gettime(time.CLOCK_MONOTONIC)
    world.notify.wait("READY=1")
    heard = states_of(world.notify.heard)
    assert heard.index("RELOADING") < heard.index("MONOTONIC_USEC") < heard.index("READY"), heard
    at = next(int(x.split("=")[1]) for x in world.notify.heard if x.startswith("MONOTONIC_USEC"))
    assert before * 1e6 <= at <= after * 1e6
    # nor does the end wait
    world.notify.drain()
    world.notify.fill()
    t0 = time.monotonic()
    assert world.stop() == 0
    assert time.monotonic() - t0 < 10

def test_more_time_is_asked_for_while_it_flushes_and_starting_over_is_announced_first(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"), shutdown_timeout="3s")
    world.start()
    world.sync()
    s3.faults({"action": "stall"})
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.notify.drain()
    world.notify.heard.clear()
    assert world.stop() == 0
    world.notify.drain()
    heard = world.notify.heard
    more = [int(x.split("=")[1]) for x in heard if x.startswith("EXTEND_TIMEOUT_USEC=")]
    assert 2 <= len(more) <= 8, heard
    assert all(15e6 < us <= 20e6 for us in more), more
    assert states_of(heard)[0] == "STOPPING"
    assert "STATUS=stopping: uploading what is left" in heard

@pytest.mark.outside
def test_a_merge_that_hangs_starves_the_watchdog_and_commits_go_on(world):
    """of the job's own file only: what captures and stores at level 0 writes elsewhere"""
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"), sync_interval="10ms", level1_interval="500ms")
    world.start(WATCHDOG_USEC="3000000")
    world.sync()
    hang = subprocess.Popen(["strace", "-f", "-o", world.path / "hang", "-e", "trace=openat", "-P",
                             world.state / "db" / "a" / "l1", "-e", "inject=openat:delay_enter=60s", "-p",
                             str(world.proc.pid)], stderr=subprocess.PIPE, text=True)
    try:
        assert any("attached" in hang.stderr.readline() for _ in range(2))

        def noticed():
            con.execute("insert into t(b) values('hangs')")
            con.commit()
            world.ctl("sync", "a")
            return "a: its worker has been silent" in world.log.read_text()

        world.poll("it is noticed", noticed, 20)
        world.sync("a", timeout=20)
    finally:
        hang.kill()
        hang.wait()
    world.notify.wait("WATCHDOG=1")


@pytest.mark.outside
def test_a_worker_that_hangs_starves_the_watchdog_and_an_idle_daemon_does_not(world):
    con = make_db(world.path / "a.db")
    world.configure(world.file_target(), world.db("a"))
    world.start(WATCHDOG_USEC="3000000")
    world.sync()

    def fed(seconds):
        world.notify.drain()
        world.notify.heard.clear()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            world.notify.drain()
        return world.notify.heard.count("WATCHDOG=1")

    assert fed(4) >= 2, "an idle daemon"
    assert "silent" not in world.log.read_text()
    hang = subprocess.Popen(["strace", "-f", "-o", world.path / "hang", "-e", "trace=renameat,renameat2",
                             "-e", "inject=renameat,renameat2:delay_enter=60s", "-p", str(world.proc.pid)],
                            stderr=subprocess.PIPE, text=True)
    try:
        assert "attached" in hang.stderr.readline()
        con.execute("insert into t(b) values('hangs')")
        con.commit()
        t0 = time.monotonic()
        world.poll("it is noticed", lambda: "a: its worker has been silent" in world.log.read_text(), 15)
        assert time.monotonic() - t0 < 6
        assert fed(1.5) == 0, "systemd would restart it"
        assert world.ctl("status", check=False).stdout, "the loop goes on"
    finally:
        hang.kill()  # and with it the hanging ends
        hang.wait()
    world.notify.wait("WATCHDOG=1")
    world.sync()
    pages_equal(world.path / "a.db", world.restore("a", "local"), 4096)
