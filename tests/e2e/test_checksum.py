"""Is the restored database the source's? The checksum of the whole, in each object's metadata, and
lineages. What it should be is computed here by the independent decoder of tests/tools.

A daemon that does not write the metadata is helped out, so that restore can be tested; what it does
write has to be right."""
import functools
import json
import os
import re
import sqlite3
import sys

import pytest

from conftest import ROOT, S3, integrity, make_db, pages_equal

sys.path.insert(0, str(ROOT / "tests" / "tools"))
import ltx_check  # noqa: E402

ATTR = "user.walsup-checksum"
FLAG = 1 << 63


@functools.lru_cache(None)
def page_sum(pgno, page):
    return ltx_check.page_checksum(pgno, page) | FLAG


def checksums(objects):
    """database checksum after each of the files, given in the order of their TXIDs"""
    pages, out = {}, []
    for data in objects:
        r = ltx_check.decode_auto(data)
        commit = r["header"]["commit"]
        pages.update({p["pgno"]: p["data"] for p in r["pages"]})
        pages = {p: d for p, d in pages.items() if p <= commit}
        out.append(functools.reduce(lambda c, p: (c ^ page_sum(p, pages[p])) | FLAG, pages, FLAG))
    return out


def xattr(path, name=ATTR):
    try:
        return os.getxattr(path, name).decode()
    except OSError:
        return None


def settle(replica):
    """every object of a directory has its checksum: [(file, checksum)]"""
    files = sorted(replica.glob("ltx/0/*.ltx"))
    sums = [f"{s:016x}" for s in checksums([f.read_bytes() for f in files])]
    there = [xattr(f) for f in files]
    if any(there):
        assert there == sums, "what the daemon wrote is wrong"
    else:
        try:
            for f, s in zip(files, sums):
                os.setxattr(f, ATTR, s.encode())
        except OSError:
            pytest.skip("no extended attributes here")
    print(f"{len(files)} objects, {sum(x is not None for x in there)} checksums from the daemon")
    return list(zip(files, sums))


@pytest.fixture
def history(world):
    """growth, changes, and a database that shrinks; one object each"""
    con = make_db(world.path / "a.db", 1024, rows=40)
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    for text in ("insert into t(b) select randomblob(700) from t",
                 "update t set b=randomblob(50) where a%7=0", "delete from t where a%3",
                 "vacuum", "insert into t(b) select randomblob(900) from t limit 5"):
        con.execute(text)
        con.commit()
        world.sync()
    world.stop()
    con.close()
    return world


def restore_json(w, out, *args, check=True):
    r = w.ctl("restore", "a", "-o", out, "--force", "--json", *args, check=check)
    return json.loads(r.stdout) if r.returncode == 0 else r


def test_every_restore_is_verified_against_the_sources_checksum(history):
    w = history
    objects = settle(w.replica / "a")
    assert len(objects) >= 6
    for f, s in objects:
        txid = f.stem.split("-")[1]
        d = restore_json(w, w.path / "out.db", "--txid", txid)
        assert (d["txid"], d["checksum"], d["database_checksum"]) == (txid, "verified", s)
    pages_equal(w.path / "a.db", w.path / "out.db", 1024)
    r = w.ctl("restore", "a", "-o", w.path / "text.db")
    assert f"verified: the database checksum is the source's, {objects[-1][1]}" in r.stdout


def test_a_replica_without_checksums_is_restored_and_says_so(history):
    w = history
    for f, _ in settle(w.replica / "a"):
        os.removexattr(f, ATTR)
    d = restore_json(w, w.path / "out.db")
    assert d["checksum"] == "absent"
    assert re.fullmatch("[0-9a-f]{16}", d["database_checksum"])
    r = w.ctl("restore", "a", "-o", w.path / "text.db")
    assert "not verified against the source's checksum: the replica carries none" in r.stdout
    pages_equal(w.path / "a.db", w.path / "text.db", 1024)


def test_a_database_that_is_not_the_sources_is_not_published(history):
    w = history
    objects = settle(w.replica / "a")
    wrong = "8000000000000001"
    os.setxattr(objects[-1][0], ATTR, wrong.encode())
    out = w.path / "dir" / "out.db"
    out.parent.mkdir()
    r = w.ctl("restore", "a", "-o", out, check=False)
    assert r.returncode == 65, r.stderr
    for part in (objects[-1][0].name, wrong, objects[-1][1], "hint:"):
        assert part in r.stderr, r.stderr
    assert not list(out.parent.iterdir()), "something was left behind"
    d = restore_json(w, out, "--txid", objects[-2][0].stem.split("-")[1])
    assert d["checksum"] == "verified"


def test_the_checksum_costs_no_request(world, tmp_path):
    first = S3(tmp_path / "s3")
    try:
        con = make_db(world.path / "a.db", rows=20)
        world.configure(first.target(), world.db("a", target="s3"))
        world.start()
        world.sync()
        con.execute("update t set b=randomblob(9) where a<3")
        con.commit()
        world.sync()
        world.stop()
        con.close()
    finally:
        first.close()
    metas = [(json.loads(p.read_text()), p) for p in (tmp_path / "s3/litestream").glob("*.json")]
    metas = sorted(((m, p) for m, p in metas if m["key"].endswith(".ltx")),
                   key=lambda x: x[0]["key"])
    sums = checksums([p.with_suffix(".data").read_bytes() for _, p in metas])
    name = "x-amz-meta-walsup-checksum"
    for (m, p), s in zip(metas, sums):
        assert m["headers"].setdefault(name, f"{s:016x}") == f"{s:016x}"
        p.write_text(json.dumps(m))
    again = S3(tmp_path / "s3")
    try:
        world.configure(again.target(), world.db("a", target="s3"))
        d = restore_json(world, world.path / "out.db")
        assert (d["checksum"], d["database_checksum"]) == ("verified", f"{sums[-1]:016x}")
        pages_equal(world.path / "a.db", world.path / "out.db", 4096)
        did = [(e["verb"], e["key"]) for e in again.ledger() if e["key"].endswith(".ltx")]
        assert sorted(did) == [("GET", m["key"]) for m, _ in metas], did
        assert not [e for e in again.ledger() if e["verb"] == "HEAD"]
    finally:
        again.close()


def test_another_database_under_the_old_name_never_mixes_with_it(world):
    """the application restores a backup of something else into its place"""
    con = make_db(world.path / "a.db", rows=200)
    con.execute("create table old(x)")
    con.commit()
    world.configure(world.file_target(), world.db("a"))
    world.start()
    world.sync()
    con.execute("insert into old values(1)")
    con.commit()
    world.sync()
    con.close()
    # while the daemon runs, so that it sees it: the old one goes away as a whole, and what its
    # last close left in its log with it
    src = sqlite3.connect(world.path / "a.db")
    rows = src.execute("select a, b from t").fetchall()
    src.close()
    for suffix in ("", "-wal", "-shm"):
        p = world.path / f"a.db{suffix}"
        if p.exists():
            p.rename(world.path / f"kept.db{suffix}")
    con = make_db(world.path / "new.tmp", 8192, rows=90)
    con.execute("create table new(x)")
    con.commit()
    con.close()
    (world.path / "new.tmp").rename(world.path / "a.db")
    con = sqlite3.connect(world.path / "a.db")
    world.sync()
    for k in range(3):  # whatever the base covers, files of the new one follow its first
        con.execute("insert into new values(?)", (k,))
        con.commit()
        world.sync()
    world.stop()
    files = sorted((world.replica / "a/ltx/0").glob("*.ltx"))
    heads = [ltx_check.parse_header(f.read_bytes()) for f in files]
    lineages = list(dict.fromkeys(h["node_id"] for h in heads))
    assert len(lineages) == 2, [h["node_id"] for h in heads]
    new = restore_json(world, world.path / "out.db")
    assert int(new["lineage"], 16) == lineages[1]
    pages_equal(world.path / "a.db", world.path / "out.db", 8192)
    last_old = [f for f, h in zip(files, heads) if h["node_id"] == lineages[0]][-1]
    old = restore_json(world, world.path / "old.db", "--txid", last_old.stem.split("-")[1])
    assert int(old["lineage"], 16) == lineages[0]
    got = sqlite3.connect(world.path / "old.db")
    assert got.execute("select a, b from t").fetchall() == rows
    assert got.execute("select x from old").fetchall() == [(1,)]
    got.close()
    # without its first file the new one cannot be had, and the old one must not stand in for it
    base = [f for f, h in zip(files, heads) if h["node_id"] == lineages[1]][0]
    base.unlink()
    for level9 in (world.replica / "a/ltx/9").glob("*.ltx"):  # another page size brings one
        level9.unlink()
    r = world.ctl("restore", "a", "-o", world.path / "x.db", check=False)
    assert r.returncode == 65 and not (world.path / "x.db").exists()
    con.close()
    integrity(world.path / "old.db")
