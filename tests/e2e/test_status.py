"""The operator's view: the page, --watch, the JSON and its documentation, exit statuses."""
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import OUT, ROOT, image, make_db


def fields(value, at=""):
    """every path in a reply; what is a name or a number of its own, not a field, is called NAME"""
    if isinstance(value, dict):
        free = at in ("counts", "databases[].replicas[].level_bytes")
        for k, v in value.items():
            path = f"{at}.{'NAME' if free else k}".lstrip(".")
            yield path
            yield from fields(v, path)
    elif isinstance(value, list):
        for v in value:
            yield from fields(v, at + "[]")


def documented():
    text = (ROOT / "man" / "walsupctl.1").read_text().partition(".Sh STATUS AS JSON\n")[2].partition("\n.Sh ")[0]
    return re.findall(r"^\.It Li (\S+)$", text, re.M)


def test_every_field_of_the_json_is_documented_and_the_other_way_round(world, s3):
    """with everything wrong that can be: what is null otherwise is an object then"""
    con = make_db(world.path / "a.db")
    make_db(world.path / "p.db").close()
    (world.path / "rubbish.db").write_bytes(b"this is no database" * 1000)
    (world.path / "tenants").mkdir()
    make_db(world.path / "tenants" / "t.db").close()
    world.configure(world.file_target(), s3.target(), s3.target("gone", bucket="litestraem"),
                    world.db("a", target="local, s3, gone", verify_interval="1s"), world.db("p"), world.db("rubbish"),
                    world.db("tenants", world.path / "tenants/*.db"),
                    level1_interval="200ms", retention="1h", snapshot_interval="0s")
    world.start()
    s3.faults({"verb": "PUT", "key_regex": "/0001/", "action": "status", "status": 403, "code": "AccessDenied"})
    world.ctl("pause", "p", "--reason", "moving it", "--for", "10m")
    world.poll("the pattern has a database", lambda: world.status("tenants/t.db")["txid"])
    world.poll("it is removed", lambda: shutil.rmtree(world.path / "tenants", ignore_errors=True) or
               not (world.path / "tenants").exists())  # walsupd has it open, and makes files there
    world.poll("it has none", lambda: world.status()["lost_patterns"])

    def all_wrong():
        con.execute("insert into t(b) values(randomblob(300))")
        con.commit()
        d = world.status("a")
        return (d["verify"] and any(r["history_error"] for r in d["replicas"]) and any(r["error"] for r in d["replicas"])
                and any(r["level_bytes"] for r in d["replicas"]) and world.status("rubbish")["error"])

    world.poll("everything is wrong", all_wrong)
    reply = world.status()
    assert reply["schema"] == 1
    found, said = set(fields(reply)), documented()
    assert len(said) == len(set(said)) > 60
    assert found - set(said) == set() and set(said) - found == set()


def test_the_exit_status_is_0_1_2(world):
    con = make_db(world.path / "a.db")
    assert world.configure(world.file_target(), world.db("a")) is None
    assert world.ctl("status", check=False).returncode == 2  # not running
    world.start()
    world.sync("a")
    assert world.ctl("status", check=False).returncode == 0
    assert json.loads(world.ctl("status", "--json").stdout)["state"] == "healthy"
    world.ctl("pause", "a")
    assert world.ctl("status", check=False).returncode == 1
    world.ctl("resume", "a")
    con.close()
    world.stop()
    (world.path / "a.db").write_bytes(b"this is no database" * 1000)
    world.start()
    world.poll("failed", lambda: world.status("a")["state"] == "failed")
    assert world.ctl("status", check=False).returncode == 2
    assert world.ctl("status", "a", check=False).returncode == 2
    assert world.ctl("status", "nobody", check=False).returncode == 66


def watch(world, *args, **kw):
    return subprocess.Popen([OUT / "walsupctl", "-c", world.ini, "status", "--watch", "--interval", "100ms", *args],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=world.env, **kw)


def lines_until(proc, pattern, timeout=30):
    got, end = [], time.monotonic() + timeout
    os.set_blocking(proc.stdout.fileno(), True)
    while time.monotonic() < end:
        line = proc.stdout.readline()
        assert line, (got, proc.stderr.read())
        got.append(line.rstrip("\n"))
        if re.search(pattern, got[-1]):
            return got
    raise AssertionError(f"no {pattern}: {got}")


def test_watch_into_a_pipe_is_a_line_for_each_change(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"), world.db("b"))
    world.start()
    world.sync("a")
    proc = watch(world)
    try:
        got = lines_until(proc, r" b \(local\): waiting: no database at this path yet")
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z walsupd: degraded: 2 databases$", got[0])
        assert re.search(r" a \(local\): (replicating|idle)$", got[1])
        make_db(world.path / "b.db").close()
        got = lines_until(proc, r"walsupd: degraded -> healthy")
        got += lines_until(proc, r" b \(local\): \w+ -> (replicating|idle)$") if "b (local)" not in "".join(got) else []
        world.stop()
        got = lines_until(proc, "-> not answering")
        assert "walsupd is not running" in got[-1] or "cannot" in got[-1], got
        world.start()
        lines_until(proc, "not answering -> healthy")
        proc.send_signal(signal.SIGINT)
        assert proc.wait(10) == 0 and proc.stderr.read() == ""
    finally:
        proc.kill()


def test_watch_as_json_is_an_object_for_each_change(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"), world.db("b"))
    world.start()
    world.sync("a")
    proc = watch(world, "--json")
    try:
        all_of = [json.loads(x) for x in lines_until(proc, '"name":"b"')]
        assert all_of[0] == {**all_of[0], "name": None, "from": None, "to": "degraded", "message": "2 databases"}
        assert all_of[-1]["to"] == "waiting" and all_of[-1]["target"] == "local"
        world.ctl("pause", "a")
        change = json.loads(lines_until(proc, '"to":"paused"')[-1])
        assert change["name"] == "a" and change["from"] in ("replicating", "idle")
        proc.send_signal(signal.SIGTERM)
        assert proc.wait(10) == 1
    finally:
        proc.kill()


def test_watching_a_database_that_does_not_exist_ends(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    proc = watch(world, "b")
    assert proc.wait(10) == 66 and "no database is called b" in proc.stderr.read()
    r = world.ctl("status", "--watch", "--interval", "5", check=False)
    assert r.returncode == 64 and "not a time" in r.stderr


def on_terminal(world, args, env, until, and_then=None):
    """what is drawn on a terminal of 80 columns, and the exit status"""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    proc = subprocess.Popen([OUT / "walsupctl", "-c", world.ini, "status", *args], stdout=theirs, stderr=theirs,
                            stdin=theirs, env={**world.env, "TERM": "xterm", **env}, start_new_session=True)
    os.close(theirs)
    out, end = b"", time.monotonic() + 20
    while time.monotonic() < end:
        try:
            out += os.read(ours, 65536)
        except OSError:
            break
        if and_then and until(out):
            and_then(proc)
            and_then = None
    status = proc.wait(10)
    os.close(ours)
    return out.decode(), status


def test_colours_are_for_terminals_that_want_them(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"), world.db("later"))
    world.start()
    world.sync("a")
    page, status = on_terminal(world, [], {}, None)
    assert status == 1 and "\033[33mdegraded" in page and "\033[33mlater" in page
    for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        page, _ = on_terminal(world, [], env, None)
        assert "degraded" in page and "\033" not in page
    assert "\033" not in world.ctl("status", check=False).stdout


def test_watch_on_a_terminal_draws_the_page_again_and_ends_with_its_status(world):
    make_db(world.path / "a.db").close()
    world.configure(world.file_target(), world.db("a"), world.db("later"))
    world.start()
    world.sync("a")
    page, status = on_terminal(world, ["--watch", "--interval", "100ms"], {},
                               lambda out: out.count(b"\033[2J") >= 3, lambda p: p.send_signal(signal.SIGINT))
    assert status == 1 and page.endswith("\r\n")
    pages = page.split("\033[H\033[2J")[1:]
    assert len(pages) >= 3 and all("degraded" in p and "later" in p for p in pages)
    plain = re.sub(r"\033\[\d*[mHJ]", "", page)
    assert max(len(x.rstrip("\r")) for x in plain.split("\n")) <= 80


def test_one_is_one_database(world):
    """everywhere where a number of databases is said"""
    make_db(world.path / "only.db").close()
    world.configure(world.file_target(), f"[db all]\npath = {world.path}/on*.db\ntarget = local\n")
    world.start()
    world.sync()
    check = subprocess.run([OUT / "walsupd", "-c", world.ini, "--check"], capture_output=True, text=True).stdout
    texts = [world.log.read_text(), world.ctl("status").stdout, check, world.ctl("check").stdout,
             world.ctl("reload").stdout, *world.notify.heard]
    world.notify.drain()
    for text in [*texts, *world.notify.heard, world.log.read_text()]:
        assert not re.search(r"\b1 (databases|directories|targets|files|objects)\b", text), text
    assert "1 database" in texts[1] and "1 target" in check


def test_the_worst_of_many_come_first_and_the_reply_is_bounded(world):
    for i in range(120):
        make_db(world.path / f"d{i:03d}.db", rows=1).close()
    (world.path / "d060.db").write_bytes(b"this is no database" * 1000)
    missing = [world.db(f"m{i:02d}") for i in range(70)]
    world.configure(world.file_target(), *[world.db(f"d{i:03d}") for i in range(120)], *missing)
    world.start()
    world.poll("settled", lambda: world.status()["counts"].get("starting", 0) == 0 and
               world.status("d060")["state"] == "failed", timeout=60)
    whole = world.status()
    assert whole["total"] == 190 == sum(whole["counts"].values()) == len(whole["databases"])
    assert len({d["name"] for d in whole["databases"]}) == 190
    r = world.ctl("status", check=False)
    assert r.returncode == 2 and r.stdout.splitlines()[4].startswith("d060")
    shown = [x.split()[0] for x in r.stdout.splitlines() if re.match(r"[dm]\d\d", x)]
    assert len(shown) == 50 and all(x.startswith("m") for x in shown[1:])
    assert "The worst are shown; --all shows all." in r.stdout
    assert "1 failed" in r.stdout and "70 waiting" in r.stdout


@pytest.mark.parametrize("content,words", [(b"", "is empty: no application has made a database of it yet"),
                                           (b"hello", "is 5 bytes long, which is too short for a database")])
def test_what_is_there_is_no_database_yet(world, content, words):
    path = world.path / "a.db"
    path.write_bytes(content)
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.poll("told", lambda: words in " ".join(world.ctl("status", "a", check=False).stdout.split()))
    assert world.status("a")["state"] == "waiting"
    r = world.ctl("sync", "a", check=False)
    assert r.returncode != 0 and words in " ".join(r.stderr.split())
    path.unlink()
    make_db(path).close()
    world.sync()
    assert image(world.restore("a", "local")) == image(path)
