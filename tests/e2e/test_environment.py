"""${NAME} in walsup.ini: from the environment of whoever reads the configuration."""
import pytest

from conftest import KEY_ID, SECRET, make_db, section


@pytest.mark.outside
def test_keys_and_places_from_the_environment_also_after_a_reload(world, s3):
    make_db(world.path / "a.db").close()
    env = {"T_DIR": str(world.path), "T_ENDPOINT": s3.endpoint, "T_ID": KEY_ID, "T_SECRET": SECRET, "T_EVERY": "50ms"}
    (world.path / "more.conf").write_text(section("db a", {"path": "${T_DIR}/a.db", "target": "s3"}))
    world.configure(section("target s3", {"type": "s3", "endpoint": "${T_ENDPOINT}", "bucket": "litestream", "path": "$x",
                                          "access-key-id": "${T_ID}", "secret-access-key": "${T_SECRET}"}),
                    include="${T_DIR}/*.conf", sync_interval="${T_EVERY}")
    world.start(**env)
    world.sync("a", **env)
    assert any(k.startswith("$x/a/") for k in s3.keys())
    environ = open(f"/proc/{world.proc.pid}/environ", "rb").read()
    assert SECRET.encode() not in environ and KEY_ID.encode() in environ
    # the secret is not in the environment any more, and still the configuration is the same
    r = world.ctl("reload", **env)
    assert r.stdout == "nothing changed (1 database)\n"
    r = world.ctl("restore", "a", "-o", world.path / "r.db", **env)
    assert "quick_check ok" in r.stdout


def test_a_variable_that_is_not_set_is_one_sentence_and_nothing_starts(world):
    world.configure(world.file_target(), world.db("a"), sync_interval="${T_EVERY}")
    proc = world.start(ready=False)
    assert proc.wait(10) == 78
    world.proc = None
    want = (f"{world.ini}:5: sync-interval: ${{T_EVERY}} is not set in the environment (set T_EVERY, for the service in "
            "/etc/walsup.env; for the text itself write $${T_EVERY})\n")
    assert world.log.read_text() == want
    assert world.ctl("list", check=False).stderr == want
    assert "a " in world.ctl("list", T_EVERY="1s").stdout
    shown = world.ctl("config", T_EVERY="7s").stdout
    assert "sync-interval = 7s " in shown
