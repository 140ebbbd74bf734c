"""Databases that this SQLite cannot check, or whose schema forbids what is in them: they are restored all the same.
The same with a damaged page: they are not."""
import json
import os
import sqlite3
import subprocess

import pytest

from conftest import OUT, image, sha


def change_schema(con, sql, *values):
    con.execute("pragma writable_schema=on")
    con.execute(sql, values)
    con.execute("pragma writable_schema=off")


def collation(con):
    con.create_collation("human_order", lambda a, b: (a > b) - (a < b))
    con.execute("create table u(n text collate human_order)")
    con.execute("create index ui on u(n)")
    con.executemany("insert into u values(?)", [("x%d" % i,) for i in range(500)])


def function(con):
    con.create_function("fullname", 1, lambda x: "Dr " + x, deterministic=True)
    con.execute("create table u(n text, f text generated always as (fullname(n)) virtual not null)")
    con.execute("create index ui on u(fullname(n))")
    con.executemany("insert into u(n) values(?)", [("x%d" % i,) for i in range(500)])


def not_null(con):
    con.execute("create table u(n text)")
    con.execute("insert into u values(null)")
    change_schema(con, "update sqlite_master set sql='create table u(n text not null)' where name='u'")


def check(con):
    con.execute("create table u(n integer)")
    con.execute("insert into u values(-1)")
    change_schema(con, "update sqlite_master set sql='create table u(n integer check(n > 0))' where name='u'")


def strict(con):
    con.execute("create table u(n integer)")
    con.execute("insert into u values('text')")
    change_schema(con, "update sqlite_master set sql='create table u(n integer) strict' where name='u'")


def newer_schema(con):
    con.execute("create table u(n integer)")
    con.executemany("insert into u values(?)", [(i,) for i in range(5000)])


def ordinary(con):
    con.execute("create table u(n integer)")


SAID = {
    "collation": "checksum verified; could not be checked by SQLite: no such collation sequence: human_order",
    "function": "checksum verified; could not be checked by SQLite: no such function: fullname",
    "not_null": "but for values that its schema forbids: NULL value in u.n",
    "check": "quick_check ok", # some versions of SQLite look at the constraint, some do not
    "strict": "but for values that its schema forbids: non-INTEGER value in u.n",
    "newer_schema": "checksum verified; could not be checked by SQLite: malformed database schema (u)",
    "ordinary": "quick_check ok\n",
}


def build(path, kind):
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("pragma journal_mode=wal")
    globals()[kind](con)
    con.execute("create table t(a integer primary key, b)")
    con.executemany("insert into t(b) values(randomblob(?))", [(1000,)] * 200)
    root = con.execute("select rootpage from sqlite_master where name='t'").fetchone()[0]
    if kind == "newer_schema": # from now on this SQLite cannot read it either
        change_schema(con, "update sqlite_master set sql='create table u(n integer) without anything' where name='u'")
    con.close()
    return root


def damage(path, pgno):
    with open(path, "r+b") as f:
        f.seek((pgno - 1) * 4096)
        f.write(b"\xff" * 4096)


def free_page_that_is_not_there(path):
    """what SQLite says in a line of text only, as everything can be read"""
    with open(path, "r+b") as f:
        f.seek(36)
        f.write(b"\0\0\0\x05")


@pytest.mark.parametrize("kind", SAID)
@pytest.mark.parametrize("how", ["quick", "full"])
def test_what_sqlite_cannot_check_is_restored_and_damage_is_not(world, kind, how):
    path = world.path / "a.db"
    root = build(path, kind)
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    before = image(path) if kind != "newer_schema" else None
    out = world.path / "out.db"
    r = world.ctl("restore", "a", "-o", out, "--integrity-check", how)
    said = SAID[kind].replace("quick_check", "integrity_check") if how == "full" else SAID[kind]
    assert said in r.stdout, r.stdout
    assert "verified: the database checksum is the source's" in r.stdout
    assert before is None or image(out) == before
    out.unlink()
    j = json.loads(world.ctl("restore", "a", "-o", out, "--json", "--integrity-check", how).stdout)
    key = "forbidden_values" if "forbids" in said else "unchecked"
    assert kind == "check" or (key in j) == (kind != "ordinary")
    assert j["checksum"] == "verified"
    world.ctl("verify", "a")
    world.stop()
    # the same with something that is wrong with pages
    out.unlink()
    for n, harm in enumerate((free_page_that_is_not_there, lambda p: damage(p, root))):
        harm(path)
        for p in (world.state, world.replica):
            os.rename(p, f"{p}.{n}")
        world.replica.mkdir()
        world.start()
        world.sync()
        r = world.ctl("restore", "a", "-o", out, "--integrity-check", how, check=False)
        assert r.returncode == 65 and "_check of the restored database: " in r.stderr, r.stderr
        assert not out.exists()
        world.stop()


def test_a_followed_copy_of_one(world):
    """its first step is a restore like any other"""
    build(world.path / "a.db", "collation")
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    copy = world.path / "copy.db"
    p = subprocess.Popen([str(OUT / "walsupctl"), "-c", str(world.ini), "restore", "a", "-o", str(copy), "--follow"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=world.env)
    try:
        assert "verified" in p.stdout.readline()
    finally:
        p.terminate()
        assert p.wait(20) == 0
    assert copy.exists()


def test_encrypted_pages_under_a_plain_header(world):
    """as SQLCipher keeps them with cipher_plaintext_header_size"""
    path = world.path / "a.db"
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("pragma journal_mode=wal")
    con.execute("create table t(a)")
    con.execute("insert into t values(randomblob(9000))")
    con.close()
    data = bytearray(path.read_bytes())
    data[20] = 80 # reserved in each page
    key = os.urandom(4096)
    for i in range(32, len(data)):
        data[i] ^= key[i % 4096] | 1
    data[44] |= 0x80
    path.write_bytes(data)
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    out = world.path / "out.db"
    r = world.ctl("restore", "a", "-o", out)
    assert "checksum verified; could not be checked by SQLite: its pages are encrypted" in r.stdout
    assert sha(out) == sha(path)
