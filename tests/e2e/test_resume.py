"""A restore that is killed, and the same command again."""
import json
import os
import pty
import random
import re
import signal
import sqlite3
import subprocess
import time

from conftest import OUT, image, make_db


def replicated(world, mib=24):
    world.configure(world.file_target(), world.db("a"))
    con = sqlite3.connect(world.path / "a.db")
    con.execute("pragma journal_mode=wal")
    con.execute("create table t(a integer primary key, b)")
    for i in range(mib):
        con.executemany("insert into t(b) values(randomblob(1000))", [()] * 1000)
        con.commit()
    world.start()
    world.sync()
    con.execute("update t set b = randomblob(1000) where a % 50 = 0")
    con.commit()
    world.sync()
    world.stop()
    return con


def beside(out):
    return sorted(p.name for p in out.parent.glob(out.name + "*"))


def is_right(world, out):
    assert beside(out) == [out.name] # nothing else is left
    assert image(out) == image(world.path / "a.db")
    for p in out.parent.glob(out.name + "*"): # what reading it left, too
        p.unlink()


def test_killed_at_any_moment_it_goes_on(world):
    replicated(world)
    out = world.path / "r" / "out.db"
    out.parent.mkdir()
    args = [str(OUT / "walsupctl"), "-c", str(world.ini), "restore", "a", "-o", str(out), "--json"]
    env = {**world.env, "WALSUP_TEST_KEEP_MS": "1"}
    rng = random.Random(11)
    kept = killed = 0
    for _ in range(25):
        p = subprocess.Popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(rng.random() * 0.12) # where it dies is left to chance
        p.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        text, err = p.communicate()
        if p.returncode == 79: # while it asks whether somebody replicates that file it ends in an orderly way
            assert "interrupted; nothing was re" in err
        if p.returncode < 0 or p.returncode == 79:
            killed += 1
            assert len(beside(out)) <= 3, beside(out)
            if out.exists(): # the rename was the last it did
                out.with_name("out.db.resume").unlink(missing_ok=True)
                is_right(world, out)
            continue
        assert p.returncode == 0, err
        r = json.loads(text)
        assert r["checksum"] == "verified"
        kept += r["kept_bytes"] > 0
        is_right(world, out)
    r = json.loads(world.ctl("restore", "a", "-o", out, "--json").stdout)
    kept += r["kept_bytes"] > 0
    is_right(world, out)
    assert killed > 3
    print(f"{killed} killed, {kept} gone on with")


def test_a_network_that_is_lost_for_good_and_comes_back(world, s3):
    replicated(world, 12)
    world.configure(s3.target(), world.file_target(), world.db("a", target="s3, local"))
    world.start()
    world.sync()
    world.stop()
    out = world.path / "out.db"
    s3.faults({"verb": "GET", "key_regex": r"ltx$", "nth": 8, "action": "status", "status": 403})
    r = world.ctl("restore", "a", "--target", "s3", "-o", out, check=False)
    assert r.returncode == 76 and "the same command continues where this ended" in r.stderr, r.stderr
    assert len(beside(out)) == 2
    s3.faults()
    r = world.ctl("restore", "a", "--target", "s3", "-o", out)
    assert "were there from an interrupted restore" in r.stdout and "verified" in r.stdout
    is_right(world, out)


def test_no_resume_starts_anew_and_leaves_nothing(world):
    replicated(world)
    out = world.path / "r" / "out.db"
    out.parent.mkdir()
    args = [str(OUT / "walsupctl"), "-c", str(world.ini), "restore", "a", "-o", str(out), "--json"]
    env = {**world.env, "WALSUP_TEST_KEEP_MS": "1"}
    for _ in range(50): # until one is killed at the right moment
        p = subprocess.Popen(args, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while p.poll() is None and not out.with_name("out.db.resume").exists() and time.monotonic() < end:
            pass
        p.kill()
        p.wait()
        if out.with_name("out.db.resume").exists() and not out.exists():
            break
        out.unlink(missing_ok=True)
    else:
        raise AssertionError("never killed in time")
    assert len(beside(out)) == 2
    r = json.loads(world.ctl("restore", "a", "-o", out, "--json", "--no-resume").stdout)
    assert r["kept_bytes"] == 0
    is_right(world, out)


def test_a_damaged_target_is_not_passed_over_in_silence(world):
    world.configure(world.file_target("one", path=world.path / "one"),
                    world.file_target("two", path=world.path / "two"), world.db("a", target="one, two"))
    make_db(world.path / "a.db").close()
    world.start()
    world.sync()
    world.stop()
    (damaged,) = world.path.glob("one/a/ltx/*/*.ltx")
    b = bytearray(damaged.read_bytes())
    b[len(b) // 2] ^= 1
    damaged.write_bytes(b)
    r = world.ctl("restore", "a", "-o", world.path / "out.db", check=False)
    assert r.returncode == 65
    assert "target one: " in r.stderr and damaged.name in r.stderr
    assert "hint: another replica may be sound: --target two" in r.stderr
    assert beside(world.path / "out.db") == []
    r = world.ctl("restore", "a", "-o", world.path / "out.db", "--target", "two")
    assert f"from two ({world.path / 'two'})" in r.stdout
    is_right(world, world.path / "out.db")


def test_progress_says_how_fast_and_how_long(world):
    replicated(world, 12)
    r = world.ctl("restore", "a", "-o", world.path / "out.db")
    assert re.search(r"^fetch: \d+0 % \([0-9.]+ \w+ of [0-9.]+ \w+(, [0-9.]+ \w+/s)?", r.stderr, re.M), r.stderr
    master, slave = pty.openpty()
    p = subprocess.Popen([str(OUT / "walsupctl"), "-c", str(world.ini), "restore", "a", "--force", "-o",
                          str(world.path / "out.db")], stderr=slave, stdout=subprocess.DEVNULL)
    os.close(slave)
    text = b""
    try:
        while piece := os.read(master, 65536):
            text += piece
    except OSError: # the other end is closed
        pass
    os.close(master)
    assert p.wait() == 0
    assert re.search(rb"\rfetch +\d+ %  [0-9.]+ \w+ of [0-9.]+ \w+", text), text
