"""The first hour of a newcomer: what he types, and whether the answer helps."""
import os
import pty
import re
import shutil
import subprocess
import tempfile

import pytest

from conftest import KEY_ID, OUT, SECRET, S3, image, make_db, section
from test_tls import Authority

KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}


def on_a_terminal(world, *args, **env):
    """what walsupctl prints on a terminal, in lines"""
    master, slave = pty.openpty()
    p = subprocess.Popen([str(OUT / "walsupctl"), "-c", str(world.ini), *map(str, args)], stdin=subprocess.DEVNULL,
                         stdout=slave, stderr=slave, env={**world.env, "TERM": "dumb", **env})
    os.close(slave)
    out = b""
    try:
        while data := os.read(master, 65536):
            out += data
    except OSError:
        pass
    os.close(master)
    p.wait(60)
    # a progress line is drawn over itself
    text = re.sub(r"\r[^\n]*\x1b\[K", "", out.decode().replace("\r\n", "\n"))
    return text.splitlines()


def fits(lines):
    """80 columns, unless one word alone is longer"""
    wide = [x for x in lines if len(x) > 80 and " " in x.strip()]
    assert lines and not wide, wide


# ---- restore by a url ---------------------------------------------------------------------------

@pytest.fixture
def shop(world, s3):
    """a replica in a bucket, and no configuration"""
    make_db(world.path / "shop.db").close()
    make_db(world.path / "zoo.db").close()
    world.configure(s3.target(), world.db("shop", target="s3"), world.db("zoo", target="s3"))
    world.start()
    world.sync()
    world.stop()
    world.url = lambda path="backups/shop", more="": f"s3://litestream/{path}?endpoint={s3.endpoint}{more}"
    return world


def restore(world, *args, **env):
    out = world.path / "out.db"
    out.unlink(missing_ok=True)
    r = subprocess.run([str(OUT / "walsupctl"), "restore", "-o", str(out), *args], capture_output=True, text=True,
                       env={**world.env, **env}, timeout=60)
    assert r.returncode == 0 or not out.exists()
    return r


def test_a_url_where_a_name_belongs_is_understood(shop):
    r = restore(shop, shop.url(), **KEYS)
    assert r.returncode == 0, r.stderr
    assert image(shop.path / "out.db") == image(shop.path / "shop.db")
    assert "restored shop at TXID" in r.stdout
    assert "access: mode 0600, owner root:root (a replica knows neither)\n" in r.stdout or os.geteuid() != 0
    r = subprocess.run([str(OUT / "walsupctl"), "points", shop.url()], capture_output=True, text=True,
                       env={**shop.env, **KEYS}, timeout=60)
    assert r.returncode == 0 and r.stdout.startswith("shop in "), r.stderr


def test_a_url_where_the_file_belongs_is_refused(shop):
    r = subprocess.run([str(OUT / "walsupctl"), "restore", "shop", "-o", shop.url()], capture_output=True, text=True,
                       env={**shop.env, **KEYS}, timeout=60)
    assert r.returncode == 64 and "is a url: -o takes the file to create" in r.stderr


@pytest.mark.parametrize("path, hint", [
    ("backups/shpo", "hint: in the bucket, below backups there are shop, zoo\n"),
    ("backups", "hint: append the name of a replica to the path: there are shop, zoo\n"),
    ("shop", "hint: in the bucket there are backups/shop, backups/zoo\n")])
def test_a_name_that_is_wrong_leads_to_what_is_there(shop, s3, path, hint):
    r = restore(shop, shop.url(path), **KEYS)
    assert r.returncode == 66, r.stderr
    assert f"{s3.endpoint}/litestream/{path} as key id {KEY_ID}: the replica is empty\n{hint}" in r.stderr, r.stderr


def test_the_same_in_a_directory_also_of_litestream_v03(world):
    con = make_db(world.path / "shop.db")
    world.configure(world.file_target(), world.db("shop"))
    world.start()
    world.sync()
    world.stop()
    con.close()
    (world.replica / "old" / "generations" / "0123456789abcdef" / "snapshots").mkdir(parents=True)
    (world.replica / "old" / "generations" / "0123456789abcdef" / "snapshots" / "00000000.snapshot.lz4").write_bytes(b"x")
    r = restore(world, f"file://{world.replica}/shpo")
    assert r.returncode == 66
    assert f"hint: in {world.replica} there are old, shop\n" in r.stderr, r.stderr
    r = restore(world, f"file://{world.path}/nowhere/at/all")
    assert r.returncode == 66 and "there" not in r.stderr.split("hint")[0], r.stderr


def test_without_keys_it_names_the_variables_and_no_section(shop):
    r = restore(shop, shop.url())
    assert r.returncode == 78
    assert r.stderr.startswith("walsupctl: no secret access key was found\nhint: export WALSUP_ACCESS_KEY_ID and "
                               "WALSUP_SECRET_ACCESS_KEY "), r.stderr


def test_a_certificate_of_ones_own_is_a_parameter_of_the_url(world, tmp_path):
    ca = Authority(tmp_path, "homelab")
    s3 = S3(tmp_path / "s3tls", *ca.sign("server"))
    try:
        make_db(world.path / "shop.db").close()
        world.configure(s3.target(**{"ca-file": ca.ca}), world.db("shop", target="s3"))
        world.start()
        world.sync()
        url = f"s3://litestream/backups/shop?endpoint={s3.endpoint}"
        r = restore(world, url, **KEYS)
        assert r.returncode != 0
        assert "hint: if the certificate is your own, append ca-file=/path/of/its/ca.pem to the url; skip-verify=yes " in r.stderr
        r = restore(world, f"{url}&ca-file={ca.ca}", **KEYS)
        assert r.returncode == 0, r.stderr
    finally:
        s3.close()


@pytest.mark.parametrize("change, hint", [
    ({"bucket": "litestraem"}, "create the bucket litestraem at {e}, or fix the bucket in the url"),
    ({"scheme": "https"}, "in the url")])
def test_no_hint_sends_anybody_to_a_section_that_is_not_there(shop, s3, change, hint):
    url = shop.url().replace("litestream", change.get("bucket", "litestream"))
    if "scheme" in change:
        url = url.replace("endpoint=http:", "endpoint=https:")
    r = restore(shop, url, **KEYS)
    assert r.returncode != 0 and "[target" not in r.stderr
    assert hint.format(e=s3.endpoint) in r.stderr or "the url" in r.stderr, r.stderr


# ---- 80 columns ---------------------------------------------------------------------------------

def test_nothing_is_cut_in_the_midst_of_a_word_on_a_terminal(shop, s3):
    shop.configure(s3.target(), shop.db("shop", target="s3"), shop.db("gone", target="s3"))
    lines = on_a_terminal(shop, "restore", "shop", "-o", shop.path / "r.db")
    fits(lines)
    assert any("quick_check ok" in x for x in lines) and lines[0].startswith("restored shop at TXID")
    fits(on_a_terminal(shop, "restore", "shop", "-o", shop.path / "r2.db", "--dry-run"))
    fits(on_a_terminal(shop, "points", "shop"))
    fits(on_a_terminal(shop, "restore", "nothing", "-o", shop.path / "r3.db"))
    s3.faults({"verb": "PUT", "action": "status", "status": 503})
    shop.start()
    con = make_db(shop.path / "new.db")
    con.close()
    shop.configure(s3.target(), shop.db("shop", target="s3"), shop.db("new", target="s3"))
    shop.ctl("reload")
    lines = on_a_terminal(shop, "sync", "new", "--wait", "--timeout", "2s")
    fits(lines)
    assert len(lines) > 1 and lines[0].startswith("walsupctl: new: ")
    # in a pipe it is one line, for grep
    r = shop.ctl("sync", "new", "--wait", "--timeout", "1s", check=False)
    assert len(r.stderr.splitlines()) <= 2 and max(map(len, r.stderr.splitlines())) > 80


def test_of_long_names_the_end_is_shown_as_well(world):
    (world.path / "t").mkdir()
    names = [f"customer-with-a-very-long-name-in-front-of-its-number-{n}.db" for n in (4711, 4712)]
    for n in names:
        make_db(world.path / "t" / n).close()
    world.configure(world.file_target(), section("db tenants", {"path": world.path / "t" / "*.db", "target": "local"}))
    world.start()
    out = world.ctl("status").stdout
    assert "4711.db" in out and "4712.db" in out, out
    assert all(len(x) <= 80 for x in out.splitlines())


# ---- add, remove, status ------------------------------------------------------------------------

def test_what_was_never_captured_is_removed_at_once_and_no_replica_is_promised(world):
    world.configure(world.file_target())
    world.start()
    (world.path / "text.db").write_text("this is no database, however long it may be" * 20)
    assert world.ctl("add", world.path / "text.db", check=False).returncode != 0
    r = world.ctl("remove", "text", timeout=20)
    assert r.stdout == f"text: no longer replicated ({world.path}/text.db); nothing of it was captured\n"


def test_add_does_not_blame_another_database(world):
    """that one needs a restart, this one has troubles of its own"""
    far = tempfile.mkdtemp(dir="/var/tmp")
    try:
        make_db(f"{far}/far.db").close()
        world.configure(world.file_target())
        world.start()
        if "confined by Landlock" not in world.log.read_text():
            pytest.skip("no Landlock: nothing needs a restart")
        world.configure(world.file_target(), world.db("far", f"{far}/far.db"))
        make_db(world.path / "near.db").close()
        r = world.ctl("add", world.path / "near.db")
        assert r.stdout.startswith("near: ") and "is replicated to local" in r.stdout
    finally:
        shutil.rmtree(far)


def test_without_a_database_status_says_that_nothing_is_replicated(world):
    world.configure(world.file_target())
    world.start()
    r = world.ctl("status")
    assert r.stdout.startswith("healthy: 0 databases")
    assert "Nothing is replicated: walsupctl add FILE adds a database" in " ".join(r.stdout.split())
    assert "ready: nothing to replicate" in world.log.read_text()
