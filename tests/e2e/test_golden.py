"""State directories, replicas and databases of earlier versions (tests/vectors/walsup-*), and
the shape of their answers: this one continues, restores, and answers no less."""

import json
import re
import sqlite3
import sys

import pytest

from conftest import ROOT, sha

sys.path[:0] = [str(ROOT / "tests" / d) for d in ("lib", "tools")]
import golden  # noqa: E402
from golden import BASE, GoldenWorld, contents  # noqa: E402

VECTORS = sorted((ROOT / "tests" / "vectors").glob("walsup-*"))
assert VECTORS


@pytest.fixture(params=VECTORS, ids=lambda p: p.name)
def left(request):
    """(the world as that version left it, what is known of it)"""
    with golden.here(), GoldenWorld() as w:
        w.vector = request.param
        w.facts = golden.unpack(request.param)
        w.configure()
        yield w


def objects(w, name=""):
    return {str(p.relative_to(w.replica)): sha(p) for p in (w.replica / name).rglob("*.ltx")}


def equal(w, name):
    """what is restored is what the source has"""
    con = sqlite3.connect(w.path_of(name))  # the last one out moves the WAL into the file
    con.execute("pragma wal_checkpoint")
    want = con.execute("select a, b from t order by a").fetchall()
    con.close()
    restored = sqlite3.connect(w.restore(name, "disk"))
    assert restored.execute("select a, b from t order by a").fetchall() == want
    restored.close()
    return len(want)


def test_it_continues_where_the_other_version_stopped_and_uploads_only_what_is_new(left):
    before = objects(left)
    left.start()
    left.sync("shop")  # has a commit that nobody captured
    shop, tenant = left.status("shop"), left.status("tenants/a.db")
    assert shop["counters"]["full_captures"] == 0 and shop["counters"]["captures"] == 1
    assert shop["counters"]["pages"] <= 4, "the whole database was captured again"
    assert (tenant["counters"]["captures"], tenant["counters"]["resyncs"]) == (0, 0)
    for name in ("shop", "tenants/a.db"):
        left.commit(name, 2)
        left.sync(name)
        assert left.status(name)["counters"]["full_captures"] == 0
    after = objects(left)
    assert after.items() > before.items(), "an object was written again, or deleted"
    new = sorted(n for n in after if n not in before)
    assert {n.rpartition("/")[0] for n in new} == {"shop/ltx/0", "tenants/a.db/ltx/0"}
    assert (
        max((left.replica / n).stat().st_size for n in new)
        < left.path_of("shop").stat().st_size / 4
    )
    assert "begun anew" not in left.log.read_text(), "what it knew of its replicas was not read"
    assert equal(left, "shop") == left.facts["contents"]["shop"][0] + 2
    assert equal(left, "tenants/a.db") == left.facts["contents"]["tenants/a.db"][0] + 2


def test_what_was_paused_stays_so_and_resumes_without_a_whole_capture(left):
    before = objects(left, "still")
    left.start()
    d = left.status("still")
    assert (d["state"], d["paused"]["reason"]) == ("paused", "moving house")
    left.ctl("resume", "still")
    left.sync("still")
    assert left.status("still")["counters"]["full_captures"] == 0
    assert {n.rpartition("/")[0] for n in objects(left, "still") if n not in before} == {
        "still/ltx/0"
    }
    assert equal(left, "still") == left.facts["contents"]["still"][0]


def test_what_was_fenced_stays_so_until_it_takes_over(left):
    before = objects(left, "lost")
    left.start()
    assert left.sync("lost", check=False).returncode == 80
    assert left.status("lost")["replicas"][0]["state"] == "fenced"
    assert objects(left, "lost") == before
    left.ctl("takeover", "lost")
    left.sync("lost")
    assert objects(left, "lost").items() > before.items()
    assert equal(left, "lost") == left.facts["contents"]["lost"][0]


def test_every_point_of_its_replica_is_restored_without_a_daemon(left):
    assert len(left.facts["points"]) > 20
    levels = {n.split("/")[2] for n in objects(left) if n.startswith("shop/")}
    assert levels == {"0", "1", "2", "9"}
    for txid, want in left.facts["points"].items():
        assert contents(left.restore("shop", "disk", None, "--txid", txid)) == want, txid


def test_its_replica_is_proven_object_by_object(left):
    said = left.ctl("verify", "shop", "--target", "disk").stdout
    assert said.startswith("shop in disk: proven: "), said


def newer_inventory():
    con = sqlite3.connect(BASE / "state" / "state.db")
    con.execute("pragma user_version=99")
    con.close()


def newer_position():
    p = BASE / "state" / "db" / "shop" / "position"
    p.write_text("99 something that is not known yet\n")


def newer_page_map():
    p = BASE / "state" / "db" / "shop" / "pagemap"
    data = bytearray(p.read_bytes())
    data[8:12] = (99).to_bytes(4, "big")
    p.write_bytes(data)


@pytest.mark.parametrize(
    "newer, whole, said",
    [
        (
            newer_inventory,
            0,
            "the inventory is begun anew, and replicas are listed when something is to be deleted: "
            f"{BASE}/state/state.db is of version 99, this walsupd has version ",
        ),
        (newer_position, 0, ""),  # the pages are compared with the map
        (newer_page_map, 1, ""),  # shop has changed since: without its map all of it is captured
    ],
)
def test_when_a_newer_version_was_there_it_continues_and_names_what_it_lost(
    left, newer, whole, said
):
    """as when somebody goes back a version"""
    before = objects(left)
    newer()
    left.start()
    for name in ("shop", "tenants/a.db"):
        left.commit(name)
        left.sync(name)
        equal(left, name)
        assert left.status(name)["counters"]["full_captures"] == (whole if name == "shop" else 0)
    assert said in " ".join(left.log.read_text().split())
    assert objects(left).items() > before.items()


def test_a_replica_of_a_newer_version_is_refused_with_the_object_that_cannot_be_read(left):
    for p in (left.replica / "shop").rglob("*.ltx"):
        data = bytearray(p.read_bytes())
        data[:4] = b"LTX9"
        p.write_bytes(data)
    r = left.ctl("restore", "shop", "-o", left.path / "out.db", check=False)
    assert r.returncode != 0 and not (left.path / "out.db").exists()
    assert re.fullmatch(
        r"walsupctl: shop/ltx/\d/\w+-\w+\.ltx: LTX of version 9, which this walsup cannot read\n"
        r"hint: use the version of walsup or Litestream that wrote it, or a newer one\n",
        r.stderr,
    ), r.stderr


def types(text):
    return set(text.split("|")) - {"null"}


def test_what_tools_read_is_all_still_there_with_the_same_types(left):
    """additions only: a field, a method or a metric that goes away breaks somebody's script"""
    was = json.loads((left.vector / "answers.json").read_text())
    assert len(was["answers"]) > 15 and len(was["metrics"]) > 20 and len(was["interface"]) > 10
    left.start()
    left.sync("shop")
    now = golden.answers(left)
    gone = []
    for question, fields in was["answers"].items():
        for path, want in fields.items():
            got = now["answers"][question].get(path)
            if got is None:
                gone.append(f"{question}: {path} is gone")
            elif types(got) and types(want) and not types(got) <= types(want):
                gone.append(f"{question}: {path} was {want} and is {got}")
    gone += [
        f"the interface lost: {line}" for line in was["interface"] if line not in now["interface"]
    ]
    gone += [
        f"metric {name} was a {kind} and is {now['metrics'].get(name)}"
        for name, kind in was["metrics"].items()
        if now["metrics"].get(name) != kind
    ]
    assert not gone, "\n".join(gone)
