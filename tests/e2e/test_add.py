"""walsupctl add, remove, and what reload says: databases that come and go while walsupd runs."""
import json
import os
import shutil
import subprocess
import time

import pytest

from conftest import OUT, image, make_db, section


@pytest.fixture
def w(world):
    world.d = world.path / "walsup.d"
    world.con = make_db(world.path / "a.db")
    world.base = (world.file_target(), world.db("a"))
    world.configure(*world.base, include=world.d / "*.ini")
    world.start()
    world.sync()
    yield world
    world.con.close()


def refused(w, *args, status=None):
    """what it says; nothing may have changed"""
    def shape():
        files = {p.name: p.read_bytes() for p in w.d.iterdir()} if w.d.exists() else {}
        return files, w.ini.read_bytes(), sorted(d["name"] for d in w.status()["databases"])
    before = shape()
    r = w.ctl(*args, check=False)
    assert r.returncode != 0 and r.stdout == "" and shape() == before, r
    assert status is None or r.returncode == status, r
    return r.stderr


def test_a_database_is_added_used_and_removed_and_its_replica_restores(w):
    con = make_db(w.path / "shop.db")
    r = subprocess.run([OUT / "walsupctl", "-c", w.ini, "add", "shop.db", "--set", "retention=14d", "--set", "sync-interval=200ms"],
                       cwd=w.path, env=w.env, capture_output=True, text=True, timeout=60)
    assert (r.returncode, r.stderr) == (0, ""), r
    assert r.stdout == f"shop: {w.path}/shop.db is replicated to local ({w.d}/shop.ini)\n"
    d = w.status("shop")
    assert d["state"] == "replicating" and d["replicas"][0]["sync_interval_ms"] == 200
    text = (w.d / "shop.ini").read_text()
    assert text.startswith("; made by walsupctl add, ") and text.endswith(
        f"[db shop]\npath = {w.path}/shop.db\ntarget = local\nretention = 14d\nsync-interval = 200ms\n")
    assert (w.d / "shop.ini").stat().st_mode & 0o777 == 0o644
    assert [p.name for p in w.d.iterdir()] == ["shop.ini"]
    w.stop()
    w.start()  # it is there after a restart
    assert w.status("shop")["state"] in ("replicating", "idle")
    for n in range(5):
        con.execute("insert into t(b) values (?)", (n,))
        con.commit()
    r = w.ctl("remove", "shop")  # without a sync before
    assert r.stdout == (f"shop: no longer replicated ({w.path}/shop.db)\nits replica stays in local; to restore it:\n"
                        f"  walsupctl restore --url 'file://{w.replica}/shop' -o FILE\n")
    assert [d["name"] for d in w.status()["databases"]] == ["a"] and not list(w.d.iterdir())
    out = w.path / "back.db"
    w.ctl("restore", "--url", f"file://{w.replica}/shop", "-o", out)
    assert image(out) == image(w.path / "shop.db")
    assert w.ctl("add", w.path / "shop.db", "--json").returncode == 0  # and back again: the history goes on
    w.sync("shop")
    assert image(w.restore("shop", "local")) == image(w.path / "shop.db")
    con.close()


def test_what_is_wrong_changes_nothing(w):
    make_db(w.path / "x.db").close()
    x = w.path / "x.db"
    assert "unknown key 'retentoin' in [db x] (did you mean retention?)" in refused(w, "add", x, "--set", "retentoin=1d", status=78)
    assert f"{w.d}/x.ini:4: there is no target" in refused(w, "add", x, "--target", "nowhere", status=78)
    assert "control character" in refused(w, "add", x, "--set", "retention=1d\n[db evil]", status=64)
    assert "duplicate key 'path'" in refused(w, "add", x, "--set", "path=/etc/passwd", status=78)
    assert "is replicated already, as a, by [db a] of" in refused(w, "add", w.path / "a.db", status=17)
    assert "duplicate section [db a]" in refused(w, "add", x, "--name", "a", status=78)
    assert "cannot be the name of a database" in refused(w, "add", x, "--name", "../../etc/cron.d/x", status=64)
    assert "KEY=VALUE" in refused(w, "add", x, "--set", "retention", status=64)
    assert "a pattern needs --name" in refused(w, "add", w.path / "*.db", status=64)
    said = refused(w, "remove", "a", status=64)
    assert f"[db a] was written by hand, at {w.ini}:" in said and f"delete that section in {w.ini}, then" in said
    assert "there is no database 'b'" in refused(w, "remove", "b", status=66)
    w.ctl("add", x)
    assert f"{w.d}/x.ini exists already" in refused(w, "add", w.path / "x2.db", "--name", "x", status=17)


def test_a_mistake_elsewhere_in_the_configuration_is_told_and_nothing_changes(w):
    make_db(w.path / "x.db").close()
    w.d.mkdir()
    (w.d / "other.ini").write_text("[db other]\nbogus = 1\n")
    assert "bogus" in refused(w, "add", w.path / "x.db", status=78)
    assert sorted(p.name for p in w.d.iterdir()) == ["other.ini"]


def test_another_section_that_needs_it_keeps_it(w):
    make_db(w.path / "x.db").close()
    w.ctl("add", w.path / "x.db")
    (w.d / "z.ini").write_text("[replica x@local]\nsync-interval = 5s\n")
    assert "x" in refused(w, "remove", "x", status=78)


def test_without_an_include_it_goes_beside_the_configuration(world):
    con = make_db(world.path / "x.db")
    world.configure(world.file_target())
    world.start()
    r = world.ctl("add", world.path / "x.db")
    assert r.stdout == f"x: {world.path}/x.db is replicated to local ({world.path}/walsup.d/x.ini)\n"
    world.stop()
    world.start()
    assert [d["name"] for d in world.status()["databases"]] == ["x"]
    assert world.ctl("remove", "x").returncode == 0
    con.close()


def test_an_include_that_would_not_read_it_says_which_line_to_write(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"), include=world.path / "d" / "more.conf*")
    r = world.ctl("add", world.path / "x.db", check=False)
    assert r.returncode == 78 and "would not read a file x.ini" in r.stderr
    assert "write include = /etc/walsup.d/*.ini in its section [walsup]" in r.stderr


def test_more_than_one_target(world):
    make_db(world.path / "x.db").close()
    world.configure(world.file_target("one"), world.file_target("two", path=world.path / "two"),
                    include=world.path / "d" / "*.ini")
    r = world.ctl("add", world.path / "x.db", check=False)
    assert r.returncode == 64 and "which target? There are one, two\nhint: --target NAME, once for each\n" in r.stderr
    # no daemon: it is only written
    r = world.ctl("add", world.path / "x.db", "--target", "one", "--target", "two")
    assert "is replicated, once walsupd is started, to one, two" in r.stdout
    world.start()
    world.sync("x")
    assert {r["target"] for r in world.status("x")["replicas"]} == {"one", "two"}


def test_one_that_cannot_be_replicated_is_said_to_be_so_and_stays_until_removed(w):
    r = w.ctl("add", w.path / "later.db", check=False)
    assert r.returncode == 66 and r.stdout == ""
    assert "[db later] was added in" in r.stderr and "no database at this path yet" in r.stderr
    assert "It stays configured; walsupctl remove later takes it out again." in r.stderr
    assert w.status("later")["state"] == "waiting"
    w.ctl("remove", "later")
    assert not list(w.d.iterdir())
    (w.path / "text.db").write_text("this is no database, however long it may be" * 20)
    r = w.ctl("add", w.path / "text.db", check=False)
    assert r.returncode != 0 and "not replicated yet" in r.stderr, r


def test_remove_waits_for_the_upload_or_says_that_it_cannot(world, s3):
    con = make_db(world.path / "a.db")
    world.configure(s3.target(), include=world.path / "d" / "*.ini")
    world.start()
    world.ctl("add", world.path / "a.db")
    s3.faults({"verb": "PUT", "action": "status", "status": 503})
    con.execute("insert into t(b) values (1)")
    con.commit()
    r = world.ctl("remove", "a", "--timeout", "1s", check=False)
    assert r.returncode == 72 and "[db a] stays, since not everything may be in its replicas" in r.stderr
    assert "503" in r.stderr
    assert world.status("a")
    world.ctl("remove", "a", "--timeout", "1s", "--force")
    assert world.status()["databases"] == []
    s3.faults()
    world.ctl("add", world.path / "a.db")  # what waited in the spool goes up
    world.sync("a")
    assert image(world.restore("a", "s3")) == image(world.path / "a.db")
    con.close()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
@pytest.mark.outside
@pytest.mark.parametrize("how, word", [("mount --bind $D $D && mount -o remount,bind,ro $D", "read-only for it"),
                                       ("mount -t tmpfs none $D", "hidden from it")])
def test_a_path_outside_the_sandbox_is_told_with_what_to_do(world, how, word):
    out = world.path / "outside"
    out.mkdir()
    make_db(out / "x.db").close()
    world.configure(world.file_target(), include=world.path / "d" / "*.ini")
    world.start(wrap=["unshare", "-m", "sh", "-c", how.replace("$D", str(out)) + ' && exec "$0" "$@"'])
    r = world.ctl("add", out / "x.db", check=False)
    assert r.returncode == 77, r
    assert f"{out}/x.db is outside the sandbox of walsupd: {out} is {word}" in r.stderr
    assert "hint: walsupctl sandbox > /etc/systemd" in r.stderr


def test_reload_prints_what_changed_and_what_needs_a_restart(w):
    con = make_db(w.path / "b.db")
    assert w.ctl("reload").stdout == "nothing changed (1 database)\n"
    w.configure(w.file_target(), w.db("a", retention="14d"), w.db("b"), include=w.d / "*.ini", workers=8)
    assert w.ctl("reload").stdout.splitlines() == ["[walsup] workers: default -> 8, when walsupd is restarted",
                                                   "[db a] retention: default -> 14d", "[db b] added",
                                                   "added: b", "changed: a", "0 unchanged"]
    w.configure(w.file_target(), w.db("b"), include=w.d / "*.ini", workers=8)
    r = json.loads(w.ctl("reload", "--json").stdout)
    assert r["changes"] == [{"section": "db a", "change": "removed", "key": None, "from": None, "to": None, "restart": False}]
    assert r["removed"] == ["a"] and r["unchanged"] == 1
    log = w.log.read_text()
    assert "reload: [db a] retention: 14d, was default" in log and "reload: [db a] is gone" in log
    con.close()


def test_a_changed_secret_is_not_shown(world, s3):
    make_db(world.path / "a.db").close()
    world.configure(s3.target(), world.db("a", target="s3"))
    world.start()
    world.configure(s3.target(**{"secret-access-key": "another-secret-4711"}), world.db("a", target="s3"))
    r = world.ctl("reload")
    assert "[target s3] secret-access-key: ******** -> ********" in r.stdout
    assert "4711" not in r.stdout + world.log.read_text()
