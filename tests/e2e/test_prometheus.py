"""What Prometheus makes of walsupd's metrics: the text, each alert, the dashboard. promtool is Debian's; make deps-test
fetches it (tests/tools/get_promtool.sh)."""
import json
import re
import subprocess

import pytest

from conftest import OUT, ROOT

RULES = ROOT / "etc" / "prometheus" / "walsup.rules.yml"
TOOL = ROOT / "build" / "tools" / "promtool"
ME = 'instance="h", job="walsup"'
D = ME + ', database="a"'
R = D + ', target="s3"'


def of(metric, labels, values):
    return metric + "{" + labels + "}", values


# alert: (series for which it fires, series for which it does not); a sample a minute
ALERTS = {
    "WalsupDown": (
        [of("up", ME, "0x70")],
        [of("up", ME, "1x70")]),
    "WalsupDatabaseFailed": (
        [of("walsup_database_error", D, "1x70")],
        [of("walsup_database_error", D, "1 1 0x70")]),
    "WalsupDatabaseDegraded": (
        [of("walsup_database_health", D, "1x70")],
        [of("walsup_database_health", D, "0x70")]),
    "WalsupReplicaError": (
        [of("walsup_replica_error", R, "1x70")],
        [of("walsup_replica_error", R, "1 1 0x70")]),
    "WalsupReplicaLate": (
        [of("walsup_replica_lag_seconds", R, "301x70")],
        [of("walsup_replica_lag_seconds", R, "300x70")]),
    "WalsupHistoryError": (
        [of("walsup_replica_history_error", R, "1x90")],
        [of("walsup_replica_history_error", R, "1x20 0x70")]),
    "WalsupReplicaDamaged": (
        [of("walsup_database_verify_result", D, "1x70")],
        [of("walsup_database_verify_result", D, "0x70")]),
    "WalsupReplicaUnsafe": (
        [of("walsup_database_verify_result", D, "2x70")],
        [of("walsup_database_verify_result", D, "1x70")]),
    "WalsupNotVerified": (
        [of("walsup_database_last_verified_timestamp_seconds", D, "-2600000x90")],
        [of("walsup_database_last_verified_timestamp_seconds", D, "0x90")]),
    "WalsupSnapshotOld": (
        [of("walsup_replica_snapshot_timestamp_seconds", R, "-260000x90"), of("walsup_database_last_commit_timestamp_seconds", D, "0x90")],
        [of("walsup_replica_snapshot_timestamp_seconds", R, "-260000x90"), of("walsup_database_last_commit_timestamp_seconds", D, "-90000x90")]),
    "WalsupWalLarge": (
        [of("walsup_database_wal_bytes", D, "600000000x70")],
        [of("walsup_database_wal_bytes", D, "50000000x70")]),
    "WalsupSpoolLarge": (
        [of("walsup_database_spool_bytes", D, "600000000x70")],
        [of("walsup_database_spool_bytes", D, "50000000x70")]),
    "WalsupTargetDenied": (
        [of("walsup_target_requests_total", ME + ', target="s3", operation="put", outcome="denied"', "0+1x70")],
        [of("walsup_target_requests_total", ME + ', target="s3", operation="put", outcome="denied"', "7x70"), of("walsup_target_requests_total", ME + ', target="s3", operation="put", outcome="ok"', "0+1x70")]),
    "WalsupLoopBusy": (
        [of("walsup_loop_delay_max_seconds", ME, "2x70")],
        [of("walsup_loop_delay_max_seconds", ME, "0.05x70")]),
}


def promtool(*args, **kw):
    assert TOOL.exists(), f"{TOOL} is missing: make deps-test"
    r = subprocess.run([str(TOOL), *map(str, args)], capture_output=True, text=True, timeout=60, **kw)
    return r.returncode, r.stdout + r.stderr


def metrics():
    out = subprocess.run([str(OUT / "walsupctl"), "metrics", "--list", "--json"], capture_output=True, text=True,
                         check=True).stdout
    return {m["name"]: m for m in json.loads(out)["metrics"]}


def named_in(text):
    return set(re.findall(r"\bwalsup_\w+", text))


def test_the_rules_are_rules_and_name_metrics_that_exist():
    status, said = promtool("check", "rules", RULES)
    assert status == 0 and f"{len(ALERTS)} rules found" in said, said
    assert named_in(RULES.read_text()) <= set(metrics())
    assert sorted(re.findall(r"alert: (\w+)", RULES.read_text())) == sorted(ALERTS)


def case(alert, series, fires):
    """as promtool has it; whether it fires is asked after an hour, by its name alone"""
    return {"interval": "1m", "input_series": [{"series": s, "values": v} for s, v in series],
            "promql_expr_test": [{"expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})', "eval_time": "65m",
                                  "exp_samples": [{"labels": "{}", "value": 1}] if fires else []}]}


def run_cases(tmp_path, cases):
    f = tmp_path / "test.yml"
    f.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": cases}))
    return promtool("test", "rules", f)


def test_each_alert_fires_when_it_should_and_not_when_it_should_not(tmp_path):
    cases = [case(a, series, fires) for a, both in ALERTS.items() for series, fires in zip(both, (True, False))]
    status, said = run_cases(tmp_path, cases)
    assert status == 0, said
    assert len(cases) == 2 * len(ALERTS) > 0


@pytest.mark.parametrize("alert", ["WalsupReplicaError", "WalsupReplicaLate"])
def test_the_judge_of_the_alerts_can_say_no(tmp_path, alert):
    fires, quiet = ALERTS[alert]
    assert run_cases(tmp_path, [case(alert, fires, False)])[0] == 1
    assert run_cases(tmp_path, [case(alert, quiet, True)])[0] == 1


def test_the_dashboard_is_json_and_names_metrics_that_exist():
    text = (ROOT / "etc" / "grafana" / "walsup.json").read_text()
    board = json.loads(text)
    asked = [t["expr"] for p in board["panels"] for t in p.get("targets", [])]
    assert len(asked) >= 10 and all(named_in(e) for e in asked)
    assert named_in(text) <= set(metrics())
    grid = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(set(grid)) == len(grid)
    assert len({p["id"] for p in board["panels"]}) == len(board["panels"])


def test_every_metric_has_its_unit_in_its_name_and_a_help():
    for name, m in metrics().items():
        assert name.startswith("walsup_") and m["help"].endswith(".") and m["type"] in ("gauge", "counter")
        assert (m["type"] == "counter") == name.endswith("_total"), name
    manual = (ROOT / "man" / "walsupd.8").read_text()
    assert [f".It Sy {n}" in manual for n in metrics()] == [True] * len(metrics())
