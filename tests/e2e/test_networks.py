"""What stands between walsup and a store: few requests a second, and proxies that take their time."""
import pytest

from conftest import image, make_db

NAMES = ["a", "b", "c"]


def write(con):
    con.execute("insert into t(b) values(randomblob(300))")
    con.commit()


def refused(s3fault):
    return sum(by.get("503", 0) for by in s3fault.counts().values())


@pytest.mark.parametrize("rate", [2, 0], ids=["two-a-second", "control"])
def test_a_store_that_admits_few_requests_starves_nobody(world, s3fault, rate):
    s3fault.control("/_profile", {"rate": rate})
    cons = {n: make_db(world.path / f"{n}.db") for n in NAMES}
    world.configure(s3fault.target("x"), *(world.db(n, target="x") for n in NAMES))
    world.start()
    for _ in range(2):
        for n in NAMES:
            world.sync(n)  # which fails if it takes its half minute
            write(cons[n])
    for n in NAMES:
        world.sync(n)
    counts = s3fault.counts()
    whole = [e["key"] for e in s3fault.ledger()
             if e["verb"] == "LIST" and e["status"] == 200 and e["key"].endswith("/000")]
    assert len(whole) == len(NAMES), "one for each replica"
    served = sum(n for by in counts.values() for status, n in by.items() if status[0] == "2")
    assert refused(s3fault) <= served if rate else not refused(s3fault), counts
    assert served >= 3 * len(NAMES)
    s3fault.control("/_profile", {})
    for n in NAMES:
        assert image(world.restore(n, "x")) == image(world.path / f"{n}.db")
