"""on-state-change: what the program is told, what it is given, and that it can hold nobody up."""
import json
import os
import time

import pytest

from conftest import SECRET, make_db

NO_FILE = "no database at this path yet; it is picked up when it appears"
STATES = ("OLD_STATE", "NEW_STATE", "MESSAGE", "TARGET")


def hook(world, body, mode=0o755):
    """a program that writes a line for each run into world.told"""
    world.told = world.path / "told"
    p = world.path / "changed"
    p.write_text("#!/bin/sh\n" + body)
    p.chmod(mode)
    return p


TELL = ('printf "%s|%s|%s|%s|%s\\n" "$WALSUP_DATABASE" "$WALSUP_OLD_STATE" "$WALSUP_NEW_STATE" "$WALSUP_TARGET" '
        '"$WALSUP_MESSAGE" >> {0}/told\n')


def told(world):
    return [x.split("|") for x in world.told.read_text().splitlines()] if world.told.exists() else []


def running(world):
    """processes that the program has left"""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if str(world.path / "changed").encode() in open(f"/proc/{pid}/cmdline", "rb").read():
                found.append(int(pid))
        except OSError:
            pass
    return found


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_is_told_what_changed_and_that_all_is_well_again(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), world.db("a", target="s3"), world.db("b", target="s3"), retention="0s",
                    on_state_change=hook(world, TELL.format(world.path)))
    world.start()
    world.sync("a")
    world.poll("b waits", lambda: told(world) == [["b", "replicating", "waiting", "", NO_FILE]])
    s3.faults({"verb": "PUT", "action": "status", "status": 403, "code": "AccessDenied"})
    con.execute("insert into t(b) values(randomblob(300))")
    con.commit()
    behind = world.poll("a is behind", lambda: told(world)[1:])[0]
    assert behind[:4] == ["a", "replicating", "behind", "s3"] and "403 AccessDenied" in behind[4]
    assert SECRET not in world.told.read_text()
    s3.faults()
    world.sync("a")
    assert world.poll("a is well", lambda: told(world)[2:]) == [["a", "behind", "replicating", "", ""]]
    # that a database sleeps, wakes or is looked at is no news
    con.execute("insert into t(b) values(randomblob(300))")
    con.commit()
    world.sync("a")
    world.ctl("pause", "a", "--reason", "moving it")
    assert world.poll("a is paused", lambda: told(world)[3:])[0][:3] == ["a", "replicating", "paused"]


LOOK = """
import json, os, sys
fds = {n: os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")}
status = dict(l.split()[:2] for l in open("/proc/self/status") if len(l.split()) > 1)
mask = os.umask(0)
data = {"env": dict(os.environ), "cwd": os.getcwd(), "umask": mask, "fds": fds, "status": status,
        "ids": [os.getpid(), os.getpgrp(), os.getsid(0)]}
with open(sys.argv[1] + ".tmp", "w") as f:
    json.dump(data, f)
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
"""


def test_it_gets_nothing_of_the_daemons(world, s3):
    (world.path / "look.py").write_text(LOOK)
    program = hook(world, f"exec /usr/bin/python3 -S {world.path}/look.py {world.path}/told\n")
    world.configure(s3.target(), world.db("a", target="s3"), on_state_change=program)
    world.start(AWS_SECRET_ACCESS_KEY="not-for-others", SOMETHING="else")
    world.poll("it has run", world.told.exists)
    text = world.told.read_text()
    saw = json.loads(text)
    env = saw["env"]
    assert {"SOMETHING", "AWS_SECRET_ACCESS_KEY", "NOTIFY_SOCKET", "HOME"} & set(env) == set()
    assert {k for k in env if k.startswith("WALSUP_")} == {"WALSUP_DATABASE", *("WALSUP_" + s for s in STATES)}
    assert env["WALSUP_NEW_STATE"] == "waiting" and saw["cwd"] == "/" and saw["umask"] == 0o077
    assert saw["status"]["NoNewPrivs:"] == "1" and not int(saw["status"]["CapAmb:"], 16)
    assert not int(saw["status"]["SigBlk:"], 16)
    assert set(saw["fds"]) >= {"0", "1", "2"} and set(saw["fds"].values()) == {"/dev/null"}, saw["fds"]
    pid, group, session = saw["ids"]
    assert group == session == pid
    assert SECRET not in text


def test_one_that_hangs_holds_nobody_up_and_ends_with_the_daemon(world):
    """what it has started as well; and of what changes meanwhile only the last is told"""
    con = make_db(world.path / "a.db")
    body = TELL.format(world.path) + 'test "$WALSUP_DATABASE" = first && { sleep 1000 & sleep 1000; }\n'
    world.configure(world.file_target(), world.db("first"), world.db("a"),
                    on_state_change=hook(world, body))
    world.start()
    world.poll("it hangs", lambda: told(world) == [["first", "replicating", "waiting", "", NO_FILE]])
    for _ in range(3):
        world.ctl("pause", "a")
        world.poll("seen", lambda: world.status("a")["state"] == "paused")
        world.ctl("resume", "a")
        con.execute("insert into t(b) values(randomblob(300))")
        con.commit()
        world.sync("a", timeout=20)
    assert len(told(world)) == 1 and len(running(world)) == 1
    t0 = time.monotonic()
    assert world.stop() == 0 and time.monotonic() - t0 < 10
    world.poll("it is gone", lambda: not running(world))


def test_it_is_killed_after_a_while_and_the_next_one_runs(world):
    body = TELL.format(world.path) + f"sleep 1000 & echo $! >> {world.path}/started; sleep 1000\n"
    world.configure(world.file_target(), world.db("x"), world.db("y"), on_state_change=hook(world, body),
                    on_state_change_timeout="300ms")
    world.start()
    world.poll("both were told", lambda: sorted(x[0] for x in told(world)) == ["x", "y"])
    world.poll("it is said", lambda: "on-state-change: killed, because it ran for more than 300 ms" in world.log.read_text())
    world.poll("nothing is left", lambda: not running(world))
    started = [int(x) for x in (world.path / "started").read_text().split()]
    world.poll("nor what it had started", lambda: len(started) == 2 and not any(map(alive, started)))
    assert world.log.read_text().count("killed, because") == 1


def test_that_it_fails_and_works_again_is_said_once(world):
    for name in "xyz":
        (world.path / f"{name}.db").write_bytes(b"this is no database" * 1000)
    body = TELL.format(world.path) + "test -e $0.well || kill -9 $$\n"
    world.configure(world.file_target(), *[world.db(n) for n in "xyz"], on_state_change=hook(world, body))
    world.start()
    world.poll("each of them was told", lambda: sorted(x[0] for x in told(world)) == ["x", "y", "z"])
    assert [x[1:3] for x in told(world)] == [["replicating", "failed"]] * 3
    assert all(x[4] and x[3] == "" for x in told(world))
    world.poll("it is said", lambda: world.log.read_text().count("on-state-change: ended by signal 9") == 1)
    (world.path / "changed.well").write_text("")
    world.ctl("pause", "x")
    world.poll("it is well", lambda: "on-state-change works again" in world.log.read_text())
    assert world.log.read_text().count("on-state-change: ended by signal 9") == 1


@pytest.mark.outside
@pytest.mark.parametrize("how", ["group", "others", "directory", "owner", "missing"])
def test_what_others_may_write_is_not_run(world, how):
    p = hook(world, TELL.format(world.path))
    if how == "directory":
        inner = world.path / "open"
        inner.mkdir()
        p = p.rename(inner / "changed")
        inner.chmod(0o777)
    elif how == "owner":
        os.chown(p, 12345, 0)
    elif how == "missing":
        p.unlink()
    else:
        p.chmod(0o775 if how == "group" else 0o757)
    world.configure(world.file_target(), world.db("a"), world.db("b"), on_state_change=p)
    world.start()
    says = {"directory": "others may put another file in its place, in " + str(world.path / "open"),
            "missing": "No such file"}.get(how, "others than root and walsup's user may write it")
    world.poll("it is said", lambda: says in world.log.read_text())
    world.poll("and was asked for again", lambda: world.status("b")["state"] == "waiting")
    assert world.log.read_text().count(says) == 1 and not told(world)
    if how == "directory":
        world.path.joinpath("open").chmod(0o755)
    elif how == "owner":
        os.chown(p, 0, 0)
    elif how == "missing":
        p = hook(world, TELL.format(world.path))
    else:
        p.chmod(0o755)
    world.ctl("pause", "a")
    world.poll("now it runs", lambda: ["a", "waiting", "paused"] in [x[:3] for x in told(world)])
    world.poll("which is said", lambda: "on-state-change works again" in world.log.read_text())


def test_a_reload_brings_it_and_takes_it_away(world):
    world.configure(world.file_target(), world.db("a"))
    world.start()
    program = hook(world, TELL.format(world.path))
    world.configure(world.file_target(), world.db("a"), on_state_change=program)
    world.ctl("reload")
    world.poll("what is wrong is told", lambda: told(world) == [["a", "replicating", "waiting", "", NO_FILE]])
    world.configure(world.file_target(), world.db("a"))
    world.ctl("reload")
    make_db(world.path / "a.db").close()
    world.poll("it was noticed", lambda: world.status("a")["state"] in ("replicating", "idle"))
    world.sync("a")
    assert len(told(world)) == 1
