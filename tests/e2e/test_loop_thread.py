"""The thread that runs the loop of walsupd touches no disk: a file system that is away cannot stop it. Every daemon of
these tests runs with tests/loop_guard.c, which ends it at the first such call; here is what has to be noticed."""
import signal

import pytest

from conftest import guard, image, make_db

pytestmark = [pytest.mark.outside, pytest.mark.skipif(not guard(), reason="this flavour has no tests/loop_guard.c")]


def test_a_call_to_a_disk_by_the_loop_ends_walsupd(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start(ready=False, LOOP_GUARD_CONTROL="1")
    assert world.proc.wait(20) == -signal.SIGABRT
    assert "loop_guard: the loop calls access(/somewhere/on/a/disk)" in world.log.read_text()
    world.proc = None


def test_what_people_do_to_a_running_walsupd_is_no_call_to_a_disk_by_its_loop(world):
    con = make_db(world.path / "a.db")
    (world.path / "found").mkdir()
    program = world.path / "changed"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o700)
    found = world.db("f", world.path / "found" / "*.db")
    world.configure(world.file_target(), world.db("a"), found, on_state_change=program)
    world.start()
    world.sync()
    make_db(world.path / "found" / "x.db").close()
    world.poll("it is found", lambda: any(d["name"] == "f/x.db" for d in world.status()["databases"]))
    make_db(world.path / "b.db").close()
    world.configure(world.file_target(), world.db("a"), world.db("b"), found, on_state_change=program)
    world.ctl("reload")
    world.sync("b")
    for name in ("a", "b"):
        world.ctl("pause", name)
        world.ctl("resume", name)
    world.ctl("snapshot", "a")
    world.ctl("verify", "a")
    world.ctl("metrics")
    con.execute("insert into t(b) values(1)")
    con.commit()
    world.sync()
    (world.path / "found" / "x.db").rename(world.path / "found" / "y.db")
    world.poll("it has another name", lambda: any(d["name"] == "f/y.db" for d in world.status()["databases"]))
    world.configure(world.file_target(), world.db("a"), on_state_change=program)
    world.proc.send_signal(signal.SIGHUP)
    world.poll("the others are gone", lambda: [d["name"] for d in world.status()["databases"]] == ["a"])
    assert image(world.restore("a", "local")) == image(world.path / "a.db")
    assert world.stop() == 0
    assert "loop_guard" not in world.log.read_text()
