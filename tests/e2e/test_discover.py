"""Databases found by patterns: they come, they go, they are called something."""
import json
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
import time

import pytest

from conftest import image, integrity, make_db, section


restores = 0


def tree(world, pattern="**/*.db", target="local", **more):
    """a world whose databases are found below world.path/t"""
    base = world.path / "t"
    base.mkdir(exist_ok=True)
    world.configure(world.file_target(),
                    section("db t", {"path": base / pattern, "target": target, **more}))
    return base


def names(world):
    return sorted(d["name"] for d in world.status()["databases"])


def states(world):
    """idle is replicating with nothing to do"""
    return {d["name"]: d["state"].replace("idle", "replicating") for d in world.status()["databases"]}


def replicating(world, *want):
    world.poll(f"{want} replicating",
               lambda: states(world) == {n: "replicating" for n in want})


def same_restored(world, name, path):
    global restores
    restores += 1
    out = world.restore(name, "local", world.path / f"restored-{restores}.db")
    assert image(out) == image(path)
    integrity(out)


def test_found_at_start_in_every_depth(world):
    t = tree(world)
    (t / "a/b").mkdir(parents=True)
    (t / ".hidden").mkdir()
    (t / ".x.db-litestream").mkdir()
    for p in ["one.db", "a/two.db", "a/b/three.db", ".hidden/no.db", "a/no.txt"]:
        make_db(t / p).close()
    (t / "a/notes.db").write_text("not a database")
    world.start()
    assert names(world) == ["t/a/b/three.db", "t/a/two.db", "t/one.db"]
    world.sync()
    for n in names(world):
        same_restored(world, n, t / n[2:])
    assert sorted(os.listdir(world.state / "db")) == ["t%2Fa%2Fb%2Fthree.db", "t%2Fa%2Ftwo.db",
                                                      "t%2Fone.db"]
    assert "notes.db" not in world.log.read_text()
    assert world.stop() == 0


def test_appears_later_in_a_directory_that_appears_later(world):
    t = tree(world)
    world.start()
    assert names(world) == []
    (t / "x").mkdir()
    (t / "x/y").mkdir()
    con = make_db(t / "x/y/a.db")
    replicating(world, "t/x/y/a.db")
    make_db(t / "x/y/b.db").close()             # seen by its event: the scan would take longer
    world.poll("b", lambda: "t/x/y/b.db" in names(world), timeout=4)
    con.execute("insert into t(b) values('later')")
    con.commit()
    world.sync("t/x/y/a.db")
    same_restored(world, "t/x/y/a.db", t / "x/y/a.db")
    con.close()


def test_the_fixed_directory_appears_later(world):
    t = world.path / "t"
    world.configure(world.file_target(), world.db("t", t / "*.db"))
    world.start()
    t.mkdir()
    make_db(t / "a.db").close()
    replicating(world, "t/a.db")
    shutil.rmtree(t)
    world.poll("retired", lambda: names(world) == [])
    t.mkdir()
    make_db(t / "b.db").close()
    replicating(world, "t/b.db")


def test_created_empty_then_gets_its_header(world):
    t = tree(world)
    world.start()
    (t / "a.db").touch()
    (t / "b.db").write_bytes(b"SQLite format 2, or so" + bytes(1000))
    make_db(t / "mark.db").close()          # seen after the other two
    replicating(world, "t/mark.db")
    assert "a.db" not in world.log.read_text() and "b.db" not in world.log.read_text()
    make_db(t / "a.db").close()
    replicating(world, "t/a.db", "t/mark.db")


def test_a_sub_directory_is_moved_in_with_databases_already_inside(world):
    t = tree(world)
    world.start()
    (world.path / "outside/deep/er").mkdir(parents=True)
    for i in range(5):
        make_db(world.path / f"outside/deep/er/{i}.db").close()
    make_db(world.path / "outside/top.db").close()
    os.rename(world.path / "outside", t / "in")
    replicating(world, "t/in/top.db", *[f"t/in/deep/er/{i}.db" for i in range(5)])


def test_a_directory_is_renamed(world):
    t = tree(world)
    (t / "old/sub").mkdir(parents=True)
    make_db(t / "old/sub/a.db").close()
    world.start()
    world.sync()
    os.rename(t / "old", t / "new")
    replicating(world, "t/new/sub/a.db")
    log = world.log.read_text()
    assert log.count("t/old/sub/a.db: ") and "is gone: no longer replicated; its replica stays" in log
    assert log.count("is gone: ") == 1
    con = sqlite3.connect(t / "new/sub/a.db")
    con.execute("insert into t(b) values('moved')")
    con.commit()
    con.close()
    world.sync("t/new/sub/a.db")
    same_restored(world, "t/new/sub/a.db", t / "new/sub/a.db")
    world.restore("t/old/sub/a.db", "local")    # its replica stayed
    os.rename(t / "new", t / "old")             # and there again
    replicating(world, "t/old/sub/a.db")
    world.sync()
    same_restored(world, "t/old/sub/a.db", t / "old/sub/a.db")


def test_removed_and_created_again(world):
    t = tree(world)
    make_db(t / "a.db").close()
    make_db(t / "keep.db").close()
    world.start()
    world.sync()
    for suffix in "", "-wal", "-shm":
        (t / f"a.db{suffix}").unlink(missing_ok=True)
    replicating(world, "t/keep.db")             # retired
    assert any(p.is_file() for p in (world.state / "db/t%2Fa.db").rglob("*"))
    assert world.log.read_text().count("is gone: no longer replicated") == 1
    world.restore("t/a.db", "local")
    make_db(t / "a.db", rows=33).close()
    replicating(world, "t/a.db", "t/keep.db")
    world.sync()
    same_restored(world, "t/a.db", t / "a.db")


def test_replaced_in_no_time_stays_the_same_database(world):
    t = tree(world)
    make_db(t / "a.db").close()
    make_db(world.path / "other.db", rows=50).close()
    world.start()
    world.sync()
    for suffix in "-wal", "-shm":
        (t / f"a.db{suffix}").unlink(missing_ok=True)
    os.rename(world.path / "other.db", t / "a.db")
    world.poll("captured", lambda: len(image(t / "a.db")) and world.status("t/a.db")["txid"] >= f"{2:016x}")
    world.sync()
    same_restored(world, "t/a.db", t / "a.db")
    assert "is gone" not in world.log.read_text()


def test_what_is_pending_is_uploaded_after_the_file_has_gone(world):
    t = tree(world, sync_interval="3s")
    con = make_db(t / "a.db")
    world.start()
    world.sync()
    con.execute("insert into t(b) values('the last words')")
    con.commit()
    world.ctl("sync", "t/a.db")                 # captured, not waited for
    con.execute("insert into t(b) values('and some more')")
    con.commit()
    world.ctl("sync", "t/a.db")
    want = con.execute("select count(*) from t").fetchone()
    con.close()
    shutil.rmtree(t)
    world.poll("retired", lambda: names(world) == [])
    out = world.restore("t/a.db", "local")
    got = sqlite3.connect(out)
    assert got.execute("select count(*) from t").fetchone() == want
    got.close()


def test_three_hundred_created_at_once(world):
    t = tree(world)
    make_db(world.path / "seed.db").close()
    seed = (world.path / "seed.db").read_bytes()
    world.start()
    for i in range(300):
        d = t / f"{i % 17}/{i % 5}"
        d.mkdir(parents=True, exist_ok=True)
        (d / f"{i}.db").write_bytes(seed)
    want = {f"t/{i % 17}/{i % 5}/{i}.db": "replicating" for i in range(300)}
    world.poll("300 databases", lambda: states(world) == want, timeout=60)
    world.sync(timeout=120)
    for i in 0, 150, 299:
        out = world.restore(f"t/{i % 17}/{i % 5}/{i}.db", "local")
        assert image(out) == image(world.path / "seed.db")
    few = world.ctl("status").stdout.splitlines()
    assert "300 databases" in few[0] and len(few) < 10, few
    assert sum(int(n) for n in few[1].replace(",", "").split()[::2]) == 300
    assert len(world.ctl("status", "--all").stdout.splitlines()) > 300
    one = world.ctl("status", "t/0/0/0.db").stdout.splitlines()
    assert sum(line.startswith("t/") for line in one) == 1 and one[3].startswith("t/0/0/0.db"), one
    shutil.rmtree(t)
    world.poll("all retired", lambda: names(world) == [], timeout=60)


ODD = ["a b.db", "caf\u00e9.db", "new\nline.db", "50%.db", "%20.db", "a+b&c=d?.db", "..a.db.db", "-x.db",
       "ltx/0000/x.db", "quote\"'.db", "l" * 240 + ".db", "\u00fc" * 120 + ".db",
       b"latin\xe9.db".decode("utf-8", "surrogateescape"), "tab\t.db"]


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_files_with_odd_names(world, s3, kind):
    t = world.path / "t"
    t.mkdir()
    world.configure(world.file_target("local") if kind == "file" else s3.target("local"),
                    section("db t", {"path": t / "**/*.db", "target": "local"}),
                    section("db dots", {"path": t / "**/.*.db", "target": "local"}))
    for name in ODD + [".hidden.db"]:
        (t / name).parent.mkdir(parents=True, exist_ok=True)
        make_db(t / name).close()
    world.start()
    found = world.status()["databases"]
    assert all(d["state"] in ("replicating", "idle") for d in found), found
    assert len(found) == len(ODD) + 1 == len({d["name"] for d in found})
    assert {"t/a%20b.db", "t/caf%C3%A9.db", "t/new%0Aline.db", "t/50%25.db", "t/%2520.db",
            "dots/%2E.a.db.db", "dots/%2Ehidden.db", "t/%6Ctx/%30000/x.db", "t/latin%E9.db"} \
        <= {d["name"] for d in found}
    assert world.stop() == 0
    for i, name in enumerate(ODD):              # by path, with the daemon down
        out = world.path / f"out-{i}.db"
        world.ctl("restore", t / name, "-o", out)
        assert image(out) == image(t / name)
    for d in found:                             # and by name
        world.ctl("restore", d["name"], "--dry-run", "-o", world.path / "nothing.db")
    world.start()                               # the spools are found again
    assert all(d["counters"]["full_captures"] == 0 for d in world.status()["databases"])


@pytest.mark.outside
def test_events_are_lost_in_an_overflow(world):
    """everything is looked at once, and at once: the safety scan would take a minute for all of them"""
    t = tree(world)
    n = 40
    for i in range(n):
        (t / f"d{i}").mkdir()
        make_db(t / f"d{i}/a.db").close()
    world.start()
    world.sync()
    world.proc.send_signal(signal.SIGSTOP)      # nobody reads the queue
    limit = int(pathlib.Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    (t / "x").touch()
    (t / "y").touch()
    for _ in range(limit // 2 + 100):           # equal neighbours would fold into one
        os.utime(t / "x")
        os.utime(t / "y")
    for i in range(n):
        con = sqlite3.connect(t / f"d{i}/a.db")
        con.execute("insert into t(b) values('nobody announced this')")
        con.commit()
        con.close()
        (t / f"d{i}/deep").mkdir()
        make_db(t / f"d{i}/deep/new.db").close()
    for suffix in "", "-wal", "-shm":
        (t / f"d3/a.db{suffix}").unlink(missing_ok=True)
    world.proc.send_signal(signal.SIGCONT)
    want = {f"t/d{i}/{f}" for i in range(n) for f in ("a.db", "deep/new.db")} - {"t/d3/a.db"}
    world.poll("found and missed", lambda: set(names(world)) == want, timeout=20)
    assert world.status()["watch"]["overflows"] > 0
    world.poll("captured", lambda: all(d["txid"] >= f"{2:016x}" for d in world.status()["databases"]
                                       if d["name"].endswith("/a.db")), timeout=20)
    world.sync()
    same_restored(world, "t/d7/a.db", t / "d7/a.db")


def few_watches(n):
    """a command that runs another one where no more than n inotify watches can be had"""
    return ["unshare", "-U", "-r", "sh", "-c",
            f'echo {n} > /proc/sys/user/max_inotify_watches && exec "$@"', "sh"]


def test_no_more_watches_are_to_be_had(world):
    if subprocess.run([*few_watches(5), "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces")
    t = tree(world)
    for i in range(12):
        (t / f"d{i}").mkdir()
        make_db(t / f"d{i}/a.db").close()
    ini = world.ini.read_text()
    world.ini.write_text(ini.replace("[walsup]", "[walsup]\nscan-interval = 1s"))
    world.start(wrap=few_watches(5))
    assert len(names(world)) == 12
    world.poll("counted", lambda: world.status()["watch"]["scanned_only"] == 13 - 5)
    log = world.log.read_text()
    assert log.count("raise fs.inotify.max_user_watches") == 1
    assert "No space left" not in log
    # news are seen nevertheless
    for i in range(12):
        con = sqlite3.connect(t / f"d{i}/a.db")
        con.execute("insert into t(b) values('unannounced')")
        con.commit()
        con.close()
        make_db(t / f"d{i}/b.db").close()
    world.poll("all of them", lambda: len(names(world)) == 24)
    world.poll("all captured",
               lambda: all(world.status(f"t/d{i}/a.db")["txid"] >= f"{2:016x}" for i in range(12)))
    # rm finds the directory not empty if walsupd has just opened b.db, whose side files rm had not seen
    gone = ["rm", "-rf", str(t / "d11")]
    world.poll("removed", lambda: subprocess.run(gone).returncode == 0)
    world.poll("retired", lambda: len(names(world)) == 22)
    assert not (t / "d11").exists(), "walsup put something back"


def test_two_names_for_one_file(world):
    t = tree(world)
    make_db(t / "a.db").close()
    os.symlink(t / "a.db", t / "b.db")
    (t / "sub").mkdir()
    os.link(t / "a.db", t / "sub/c.db")
    os.symlink(t, t / "sub/loop")               # a loop, and everything a second time
    world.start()
    assert names(world) in (["t/a.db"], ["t/sub/c.db"])
    kept = names(world)[0][2:]
    log = world.log.read_text()
    for other in {"a.db", "sub/c.db", "b.db"} - {kept}:
        assert f"{t}/{other} is the same file as {t}/{kept}, which is replicated as t/{kept}" in log
    (t / kept).unlink()                         # then the other one is the file
    world.poll("the other name", lambda: len(names(world)) == 1 and names(world)[0][2:] != kept)


def test_two_sections_for_one_file_by_a_link(world):
    make_db(world.path / "a.db").close()
    os.symlink(world.path / "a.db", world.path / "b.db")
    world.configure(world.file_target(), world.db("a"), world.db("b"))
    world.start()
    assert states(world)["a"] == "replicating"
    b = world.status("b")
    assert b["state"] == "failed"
    assert f"{world.path}/b.db is the same file as {world.path}/a.db, which is replicated as a" \
        in b["error"]["message"]
    (world.path / "b.db").unlink()
    make_db(world.path / "b.db").close()
    world.poll("b on its own", lambda: states(world)["b"] == "replicating")


def test_a_target_and_the_state_lie_inside_the_tree(world):
    world.replica = world.path / "t/backup"
    world.state = world.path / "t/state"
    t = tree(world, pattern="**")
    world.ini.write_text(world.ini.read_text().replace("[walsup]", "[walsup]\nscan-interval = 1s"))
    make_db(t / "a.db").close()
    world.start()
    world.sync()
    make_db(t / "backup/b.db").close()          # even a database in there is not one of ours
    os.symlink(t / "backup", t / "link")
    make_db(t / "c.db").close()
    replicating(world, "t/a.db", "t/c.db")
    time.sleep(2.5)                             # two scans
    assert names(world) == ["t/a.db", "t/c.db"]
    assert world.status()["watch"]["directories"] == 1


def test_restore_by_name_and_by_path_with_the_daemon_down(world):
    t = tree(world)
    (t / "x").mkdir()
    make_db(t / "x/tenant.db").close()
    want = image(t / "x/tenant.db")
    world.start()
    world.sync(t / "x/tenant.db")
    assert world.ctl("status", t / "x/tenant.db", "--json").returncode == 0
    wrong = world.ctl("sync", "tenant.db", check=False)
    assert wrong.returncode != 0 and "did you mean t/x/tenant.db?" in wrong.stderr
    rows = [d for d in json.loads(world.ctl("list", "--json").stdout)["databases"]]
    assert [(d["name"], d["pattern"], d["section"]) for d in rows] == [("t/x/tenant.db", False, "t")]
    assert world.stop() == 0
    shutil.rmtree(t)                            # everything is lost
    rows = json.loads(world.ctl("list", "--json").stdout)["databases"]
    assert [(d["name"], d["pattern"]) for d in rows] == [("t", True)]
    assert "[db t]" in world.ctl("list").stdout
    wrong = world.ctl("restore", "t/x/tenannt.db", check=False)
    assert wrong.returncode != 0
    wrong = world.ctl("restore", "tenant.db", check=False)
    assert wrong.returncode != 0 and "did you mean t/x/tenant.db?" in wrong.stderr
    wrong = world.ctl("restore", "t", check=False)
    assert wrong.returncode != 0 and "stands for every database that matches" in wrong.stderr
    (t / "x").mkdir(parents=True)
    world.ctl("restore", t / "x/tenant.db")
    assert image(t / "x/tenant.db") == want
    out = world.restore("t/x/tenant.db", "local")
    assert image(out) == want


def test_reload_leaves_alone_what_stays(world):
    t = tree(world)
    for n in "a", "b", "c":
        make_db(t / f"{n}.db").close()
    world.start()
    world.sync()
    before = {d["name"]: d["since_ms"] for d in world.status()["databases"]}
    whole = world.ini.read_text()
    # a section of its own takes one over, another pattern comes second, the interval changes
    world.ini.write_text(whole + world.db("mine", t / "b.db") +
                         section("db late", {"path": t / "*", "target": "local", "name": "late/{path}"}))
    r = json.loads(world.ctl("reload", "--json").stdout)
    assert (r["added"], r["removed"], r["unchanged"]) == (["mine"], ["t/b.db"], 2)
    replicating(world, "mine", "t/a.db", "t/c.db")
    world.poll("said", lambda: "[db t] and [db late] both match" in world.log.read_text())
    assert world.log.read_text().count("both match") == 1
    world.ini.write_text(whole)
    world.ctl("reload")
    replicating(world, "t/a.db", "t/b.db", "t/c.db")
    after = {d["name"]: d["since_ms"] for d in world.status()["databases"]}
    assert all(before[n] == after[n] for n in ("t/a.db", "t/c.db"))
    # another pattern for the same files
    world.ini.write_text(whole.replace("**/*.db", "[ab].db"))
    r = json.loads(world.ctl("reload", "--json").stdout)
    assert (r["removed"], r["unchanged"]) == (["t/c.db"], 2)
    replicating(world, "t/a.db", "t/b.db")
    assert world.status("t/a.db")["since_ms"] == before["t/a.db"]
    # new shape: every one is replaced
    world.ini.write_text(whole.replace("target = local", "target = local, two") +
                         section("target two", {"type": "file", "path": world.path / "two"}))
    world.ctl("reload")
    world.poll("both targets", lambda: states(world) == {f"t/{n}.db": "replicating" for n in "abc"} and
               all(len(d["replicas"]) == 2 for d in world.status()["databases"]))
    world.sync()
    same_restored(world, "t/a.db", t / "a.db")
    # without the section
    world.configure(world.file_target(), world.db("one", t / "a.db"))
    world.ctl("reload")
    replicating(world, "one")
    assert world.stop() == 0


def test_names_by_a_template(world):
    t = tree(world, name="x/{path}/of-{section}")
    make_db(t / "a.db").close()
    world.start()
    assert names(world) == ["x/a.db/of-t"]
    world.sync("x/a.db/of-t")
    assert (world.replica / "x/a.db/of-t/ltx/0").is_dir()
    same_restored(world, "x/a.db/of-t", t / "a.db")
    r = world.ctl("-c", world.ini, "restore", "x/a.db", "-o", world.path / "no.db", check=False)
    assert r.returncode != 0


def test_a_second_name_for_a_file_that_was_put_in_place_of_another(world):
    t = tree(world)
    make_db(t / "a.db").close()
    make_db(world.path / "new.db", rows=77).close()
    world.start()
    world.sync()
    for suffix in "-wal", "-shm":
        (t / f"a.db{suffix}").unlink(missing_ok=True)
    os.rename(world.path / "new.db", t / "a.db")
    world.poll("captured", lambda: world.status("t/a.db")["txid"] >= f"{2:016x}")
    os.link(t / "a.db", t / "b.db")
    world.poll("refused", lambda: f"{t}/b.db is the same file as {t}/a.db" in world.log.read_text())
    assert names(world) == ["t/a.db"]
