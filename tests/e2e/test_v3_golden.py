"""A small replica that the real Litestream v0.3.13 wrote, kept here: two generations, snapshots in
between. Needs no Litestream."""
import hashlib
import json
import os
import shutil
import struct
import sys

import pytest

from conftest import ROOT, integrity

sys.path.insert(0, str(ROOT / "tests" / "tools"))
import ltx_check  # noqa: E402

GOLDEN = ROOT / "tests" / "vectors" / "litestream-v0.3.13"
FACTS = json.loads((GOLDEN / "golden.json").read_text())


@pytest.fixture
def golden(world):
    """its url, its directory"""
    root = world.path / "replica"
    shutil.copytree(GOLDEN / "generations", root / "generations")
    for name, ms in FACTS["mtime_ms"].items():
        os.utime(root / name, ns=(ms * 1000000, ms * 1000000))
    return f"file://{root}", root


def stored_frame(data):
    """an LZ4 frame that compresses nothing"""
    head = bytes.fromhex("6470")
    check = ltx_check.xxh32(head) >> 8 & 0xff
    return (struct.pack("<I", 0x184d2204) + head + bytes([check]) +
            (struct.pack("<I", len(data) | 1 << 31) + data if data else b"") +
            struct.pack("<II", 0, ltx_check.xxh32(data)))


def restored(world, golden, *args, check=True):
    out = world.path / "out.db"
    for side in ("", "-wal", "-shm"):
        (world.path / f"out.db{side}").unlink(missing_ok=True)
    r = world.ctl("restore", "--url", golden[0], "-o", out, *args, check=check)
    return out, r


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_both_generations(world, golden):
    out, r = restored(world, golden, "--json", "--integrity-check", "full")
    d = json.loads(r.stdout)
    assert d["generation"] == FACTS["newer"]["generation"] and sha(out) == FACTS["newer"]["sha256"]
    assert d["page_size"] == 512 and d["dropped_bytes"] == 0 and d["checksum"] == "absent"
    out, r = restored(world, golden, "--generation", FACTS["older"]["generation"])
    assert sha(out) == FACTS["older"]["sha256"]
    assert f"generation {FACTS['older']['generation']}, WAL" in r.stdout


def test_each_point(world, golden):
    """every object ends a state that is sound, and states only grow until the vacuum"""
    d = json.loads(world.ctl("points", "--url", golden[0], "--json", "--limit", "0").stdout)
    assert d["total"] == len(FACTS["mtime_ms"]) == len(d["points"])
    reached = 0
    for p in d["points"]:
        out, r = restored(world, golden, "--timestamp", p["timestamp"], "--json", check=False)
        if r.returncode == 66:  # between a snapshot and the segments that belong to it
            assert "snapshot" in r.stdout
            continue
        integrity(out)
        assert json.loads(r.stdout)["timestamp_ms"] <= p["timestamp_ms"]
        reached += 1
    assert reached > len(d["points"]) // 2


def test_the_last_segment_is_cut_off(world, golden):
    """within a page, a frame, a transaction: up to the last commit, and it is said"""
    gen = golden[1] / "generations" / FACTS["newer"]["generation"] / "wal"
    last = sorted(gen.iterdir())[-1]
    stat = last.stat()
    raw = ltx_check.lz4_frame_decode(last.read_bytes(), 0, None)[0]
    seen = set()
    for cut in (0, 1, 100, 512, 536, 537, len(raw) - 1, len(raw)):
        last.write_bytes(stored_frame(raw[:len(raw) - cut]))
        os.utime(last, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        out, r = restored(world, golden, "--json")
        d = json.loads(r.stdout)
        integrity(out)
        frame = 512 + 24
        left = len(raw) - cut
        head = 32 if last.name.split("_")[1].startswith("00000000") else 0
        assert d["dropped_bytes"] % frame == (left - head if left >= head else left) % frame, (cut, d)
        assert (sha(out) == FACTS["newer"]["sha256"]) == (cut == 0)
        seen.add(sha(out))
    assert len(seen) > 1


def test_a_segment_that_ends_early_in_the_middle(world, golden):
    gen = golden[1] / "generations" / FACTS["newer"]["generation"] / "wal"
    segments = sorted(gen.iterdir())
    for i, s in enumerate(segments[:-1]):
        data = s.read_bytes()
        raw = ltx_check.lz4_frame_decode(data, 0, None)[0]
        # a whole transaction off the end of an index is not missed: nothing says how long that was
        ends = segments[i + 1].name.split("_")[1].startswith("00000000.")
        for cut in (1, 535) if ends else (1, 536):
            s.write_bytes(stored_frame(raw[:-cut]))
            out, r = restored(world, golden, check=False)
            if r.returncode == 0:  # before the snapshot: not used
                assert sha(out) == FACTS["newer"]["sha256"]
                continue
            assert r.returncode == 65 and not out.exists()
            assert s.name in r.stderr or segments[i + 1].name in r.stderr, r.stderr
        s.write_bytes(data)
