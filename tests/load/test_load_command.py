"""The command from outside: what it prints, writes and ends with, and what it leaves behind."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from taskservice.cli import cli
from tests.load.conftest import LoadCommand, until


def test_a_set_up_is_started_loaded_and_reported(load_command: LoadCommand) -> None:
    done = load_command.run(
        "--backend",
        "celery",
        "--users",
        "5",
        "--pace",
        "100ms",
        "--duration",
        "2s",
        "--fail-if",
        "p95>60s",
        "--fail-if",
        "lost>0",
    )

    assert done.code == 0, done.out + done.err
    report = done.report
    assert report["ends"]["done"] == report["figures"]["arrivals"] > 5
    assert report["figures"]["throughput"] > 1
    parts = {part["name"]: part for part in report["parts"]}
    assert {name for name, part in parts.items() if part["count"]} == {
        "end_to_end", "uncorrected", "enqueue", "queue_wait", "run"
    }  # fmt: skip
    assert any(moment["waiting"] is not None for moment in report["timeline"])
    assert "worker started (prefork x2)" in done.err
    for word in ("end to end", "p99.9", "throughput", "still queued 0", "backlog", "gate p95>60s: passed"):
        assert word in done.out
    assert load_command.living() == []


def test_files_gates_and_errors_of_a_run_in_process(load_command: LoadCommand) -> None:
    (load_command.folder / "shop_tasks.py").write_text(
        """
from taskservice import task


@task
def pack(size):
    raise ValueError(f"no box of {size}")
"""
    )

    done = load_command.run(
        "--backend", "anyio", "-r", "30/s", "-d", "2s", "-t", "shop_tasks:pack", "--args", "[7]",
        "--fail-if", "p95>1h", "--fail-if", "failure_rate>0%", "--fail-if", "max_backlog>5", "-o", "x",
    )  # fmt: skip

    assert done.code == 1
    assert "gate p95>1h: passed" in done.out
    assert "gate failure_rate>0%: failed (100.00%)" in done.out
    assert "gate max_backlog>5: failed (no data)" in done.out
    assert "ValueError: no box of 7" in done.out
    folder = done.folder / "x"
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    rows = list(csv.DictReader((folder / "summary.csv").open()))
    assert [row["part"] for row in rows] == ["end_to_end", "uncorrected", "enqueue", "queue_wait", "run"]
    assert float(rows[0]["p95"]) > 0
    timeline = list(csv.DictReader((folder / "timeline.csv").open()))
    assert sum(int(row["failed"]) for row in timeline) == int(rows[1]["count"])
    assert {path.name for path in folder.glob("*.svg")} == {"throughput.svg", "latency.svg", "backlog.svg"}


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--fail-if", "p96>1s"], "unknown metric 'p96' in a gate; did you mean p9"),
        (["--fail-if", "p95>1"], "found the unit none"),
        (["--users", "0"], "0 is not in the range x>=1"),
        (["--duration", "5"], "--duration: found '5'; write a span"),
        (["--rate", "0/s"], "--rate: found '0/s'"),
        (["--args", "[1"], "--args"),
        (["--kind", "mail"], "'mail' is not one of"),
        (["--scenario", "nowhere.scenario.yaml"], "no file nowhere.scenario.yaml"),
        (["--find-limit", "--goal", "quick"], "cannot read the gate 'quick'"),
    ],
)
def test_a_mistake_is_told_before_anything_is_started(
    argv: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started: list[object] = []
    monkeypatch.setattr("taskservice.load.guard.Children.__enter__", started.append)

    done = CliRunner().invoke(cli, ["load", *argv])

    assert done.exit_code == 2, done.output
    assert told in done.output
    assert started == []
    assert list(tmp_path.iterdir()) == []


def test_what_can_never_be_sent_is_a_mistake(load_command: LoadCommand) -> None:
    done = load_command.run("--backend", "anyio", "--task", "nowhere:task")

    assert done.code == 2, done.err
    assert "taskservice: cannot find 'nowhere:task'" in done.err
    assert "Traceback" not in done.err


def test_a_broker_that_is_not_there_is_exit_code_3(load_command: LoadCommand) -> None:
    done = load_command.run("--redis-url", "redis://127.0.0.1:1/0", "-d", "2s")

    assert done.code == 3
    assert "the broker cannot be reached: no broker at redis://127.0.0.1:1" in done.err
    assert "Traceback" not in done.err


def test_ctrl_c_ends_cleanly_with_a_partial_report(load_command: LoadCommand) -> None:
    process = load_command.start("-u", "2", "-d", "60s", "--task", "load.nap", "--args", "[0.05]")
    load_command.await_line(process, " s · ")

    process.send_signal(signal.SIGINT)
    done = load_command.finish(process)

    assert done.code == 130, done.err
    assert done.report["ended"] == "interrupted"
    assert done.report["elapsed"] < 50
    assert done.report["ends"]["done"] > 0
    assert load_command.living() == []


def test_kill_9_leaves_nothing_behind(load_command: LoadCommand) -> None:
    process = load_command.start("-u", "2", "-d", "60s")
    load_command.await_line(process, " s · ")
    assert len(load_command.living()) > 5  # ours, the guard, Redis, the worker's, Locust and its engine

    process.kill()
    process.communicate()

    until(lambda: load_command.living() == [], f"end of {load_command.living()}")


def test_a_worker_that_dies_half_way_is_exit_code_3_with_a_report(load_command: LoadCommand) -> None:
    process = load_command.start("-u", "4", "-d", "60s", "--task", "load.nap", "--args", "[0.1]")
    load_command.await_line(process, " s · ")

    os.killpg(_leader(load_command, "taskservice.load.serve worker"), signal.SIGKILL)
    done = load_command.finish(process)

    assert done.code == 3
    assert "the worker died with status -9 while it was loaded" in done.err
    report = done.report
    assert report["ended"] == "died"
    assert sum(report["ends"].values()) == report["figures"]["arrivals"]
    assert report["ends"]["queued"] + report["ends"]["taken"] + report["ends"]["lost"] >= 1
    assert load_command.living() == []


def _leader(command: LoadCommand, wanted: str) -> int:
    """Return the process that leads the group of those whose command line has ``wanted``."""
    for process in Path("/proc").glob("[0-9]*"):
        line = command._marked(process)
        if wanted in line:
            return os.getpgid(int(process.name))
    raise AssertionError(f"no {wanted} among {command.living()}")


def test_two_processes_of_locust_are_one_run(load_command: LoadCommand) -> None:
    done = load_command.run("--backend", "anyio", "-r", "60/s", "-u", "8", "-d", "2s", "--processes", "2")

    assert done.code == 0, done.out + done.err
    report = done.report
    assert report["ends"]["done"] == report["figures"]["arrivals"]
    # Whatever else the machine has to do, and however long the two seconds are then.
    assert report["figures"]["arrival_rate"] == pytest.approx(60, rel=0.5)
    assert max(moment["users"] for moment in report["timeline"]) == 8


def test_a_spike_has_a_backlog_and_recovers(load_command: LoadCommand) -> None:
    # Two slots of 50 ms carry 40 a second at most: 20 are due, and 160 for a while.
    done = load_command.run(
        "-r", "20/s", "-u", "2", "-d", "6s", "--shape", "spike", "--factor", "8", "--drain", "30s",
        "-t", "load.nap", "--args", "[0.05]", "--concurrency", "2",
    )  # fmt: skip

    assert done.code == 0, done.out + done.err
    waiting = [moment["waiting"] for moment in done.report["timeline"] if moment["waiting"] is not None]
    assert max(waiting) > 50
    assert waiting[-1] == 0
    assert (done.folder / "load-report" / "users.svg").exists()


def test_steps_end_when_something_breaks(load_command: LoadCommand) -> None:
    done = load_command.run(
        "--backend", "anyio", "-r", "20/s", "-u", "2", "--shape", "steps", "--steps", "5", "-d", "60s",
        "--until", "p50>1us",
    )  # fmt: skip

    report = done.report
    assert report["elapsed"] < 30
    assert any(note.startswith("broke at step 1, 2 users: p50>1us") for note in report["notes"])


def test_the_http_api_and_workflows_are_loaded_from_outside(load_command: LoadCommand) -> None:
    done = load_command.run("--kind", "api", "--kind", "workflow", "-u", "4", "--pace", "500ms", "-d", "3s")

    assert done.code == 0, done.out + done.err
    report = done.report
    assert report["figures"]["failures"] == 0, done.out
    assert report["ends"]["done"] == report["figures"]["arrivals"] > 4
    assert "API started" in done.err
    assert "the HTTP API, workflow load.question" in done.out


def test_the_steps_of_a_scenario_are_the_load(load_command: LoadCommand) -> None:
    (load_command.folder / "orders.scenario.yaml").write_text(
        """
schema: 1
name: an order is packed and charged
tasks:
  pack: {returns: packed}
  charge: {fails_with: "ValueError: declined"}
steps:
  - {launch: pack, count: 2, as: parcels}
  - {wait: parcels, within: 5s}
  - {launch: charge}
expect:
  eventually:
    - {within: 5s, of: parcels, status: SUCCESS}
"""
    )

    done = load_command.run("--scenario", "orders.scenario.yaml", "-r", "4/s", "-d", "2s")

    ends = done.report["ends"]
    assert ends["failed"] > 0
    assert ends["done"] == 2 * ends["failed"]
    assert "scenario an order is packed and charged" in done.out
    assert "ignored 1 expectation: " in done.out
    assert "ValueError: declined" in done.out


def test_somebodys_celery_app_is_loaded_by_its_tasks_name(load_command: LoadCommand, redis_url: str) -> None:
    (load_command.folder / "theirs.py").write_text(
        f"""
from celery import Celery

app = Celery("theirs", broker={redis_url!r}, backend={redis_url!r})


@app.task
def add(x, y):
    return x + y
"""
    )

    done = load_command.run(
        "--app",
        "theirs:app",
        "--kind",
        "celery",
        "-t",
        "theirs.add",
        "--args",
        "[1, 2]",
        "-r",
        "20/s",
        "-d",
        "2s",
    )

    assert done.code == 0, done.out + done.err
    report = done.report
    assert report["ends"]["done"] == report["figures"]["arrivals"] > 0
    # Told by the worker's task events.
    assert {part["name"] for part in report["parts"] if part["count"]} >= {"queue_wait", "run"}


def test_runs_without_a_worker_are_still_queued(load_command: LoadCommand, redis_url: str) -> None:
    done = load_command.run(
        "--redis-url", f"{redis_url[:-1]}5", "--no-worker", "-r", "50/s", "-u", "1", "-d", "1s",
        "--drain", "0.1s",
    )  # fmt: skip

    ends = done.report["ends"]
    assert ends["queued"] == done.report["figures"]["arrivals"] > 0
    assert done.report["figures"]["backlog"] == ends["queued"]
    assert done.code == 0


def test_without_locust_it_says_what_to_install(load_command: LoadCommand) -> None:
    hidden = load_command.folder / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'locust' else real(name, *rest)\n"
    )

    done = load_command.run("-d", "1s")

    assert done.code == 2
    assert done.err.strip() == "taskservice: load tests need Locust: pip install 'taskservice[load]'"
