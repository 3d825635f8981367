"""Records as pictures and pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskservice.report.html import render_index, render_page, write_pages
from pytest_taskservice.report.lanes import picture_of
from pytest_taskservice.report.record import RunRecord, read, save

if TYPE_CHECKING:
    from pathlib import Path


def event(at: float, kind: str, run: str = "", *, worker: str = "", **detail: Any) -> dict[str, Any]:
    return {"at": at, "kind": kind, "run": run, "name": run, "worker": worker, "detail": detail}


def record(*events: dict[str, Any], **known: Any) -> RunRecord:
    values = {
        "kind": "scenario",
        "id": "shop.scenario.yaml::busy[celery-sim]",
        "recorded": "2026-01-01T00:00:00+00:00",
        "outcome": "passed",
        "backend": "celery-sim",
        "world": "celery-sim",
        "start": 0.0,
        "events": list(events),
    }
    return RunRecord.model_validate(values | known)


def bars(found: RunRecord) -> list[tuple[str, str, float, float, str, int]]:
    return [
        (lane.name, bar.run, bar.start, bar.end, bar.kind, bar.row)
        for lane in picture_of(found).lanes
        for bar in lane.bars
    ]


def test_a_run_waits_runs_and_runs_again() -> None:
    found = record(
        event(0, "sent", "a"),
        event(1, "received", "a", worker="w1"),
        event(2, "started", "a", worker="w1"),
        event(3, "retried", "a", worker="w1"),
        event(8, "started", "a", worker="w2"),
        event(10, "succeeded", "a", worker="w2"),
    )

    assert bars(found) == [
        ("queued", "a", 0, 2, "queued", 0),
        ("w1", "a", 2, 3, "retried", 0),
        ("w2", "a", 8, 10, "succeeded", 0),
    ]


def test_runs_that_overlap_have_a_row_each() -> None:
    found = record(
        event(0, "started", "a", worker="w1"),
        event(1, "started", "b", worker="w1"),
        event(2, "succeeded", "a", worker="w1"),
        event(3, "started", "c", worker="w1"),
        event(4, "failed", "b", worker="w1"),
        event(5, "failed", "c", worker="w1"),
    )

    assert [(run, row) for _, run, _, _, _, row in bars(found)] == [("a", 0), ("b", 1), ("c", 0)]


def test_what_a_dead_worker_had_is_lost_and_what_never_ends_is_unfinished() -> None:
    found = record(
        event(0, "started", "a", worker="w1"),
        event(3, "worker gone", worker="w1"),
        event(5, "started", "a", worker="w2"),
        event(10, "received", "b", worker="w2"),
    )

    assert [(lane, kind, end) for lane, _, _, end, kind, _ in bars(found)] == [
        ("w1", "lost", 3),
        ("w2", "unfinished", 10.2),
    ]


def test_a_workflow_run_is_told_by_its_statuses() -> None:
    found = record(
        event(0, "changed", "f", status="WAITING"),
        event(1, "changed", "f", status="INPUT"),
        event(4, "changed", "f", status="FAILED", reason="busy"),
    )

    (lane,) = picture_of(found).lanes
    assert lane.name == "workflows"
    assert [(bar.text, bar.start, bar.end) for bar in lane.bars] == [
        ("f is WAITING", 0, 1),
        ("f is INPUT", 1, 4),
        ("f is FAILED (busy)", 4, 4),
    ]


def test_faults_and_absences_are_bands() -> None:
    found = record(
        event(1, "fault", fault="latency", by="2s"),
        event(2, "fault", fault="kill worker=w1"),
        event(2, "worker gone", worker="w1"),
        event(3, "healed", fault="latency"),
        event(4, "worker up", worker="w1"),
        event(5, "fault", fault="down"),
        event(10, "sent", "a"),
    )

    assert [(band.text, band.place, band.start, band.end) for band in picture_of(found).bands] == [
        ("kill worker=w1", "", 2, 2),
        ("latency, by 2s", "", 1, 3),
        ("gone", "w1", 2, 4),
        ("down", "", 5, 10.2),
    ]


def test_what_no_lane_has_room_for_is_counted() -> None:
    found = record(*(event(0, "sent", f"r{number}") for number in range(20)))

    (lane,) = picture_of(found).lanes
    assert (lane.rows, lane.left_out) == (12, 8)


class _Tags(HTMLParser):
    """Keeps which tags are open, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "input", "line"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("text", ["</script><b>", '"onload="x', "<!--", "&amp;"])
def test_a_page_is_whole_whatever_a_record_says(text: str) -> None:
    found = record(
        event(0, "fault", fault=text),
        event(0, "started", text, worker=text, said=text),
        event(1, "failed", text, worker=text),
        message=text,
        id=text,
        outcome="failed",
        replay=text,
        options={text: text},
    )

    for page in (render_page(found, source="run.json"), render_index([("run.html", found)])):
        tags = _Tags()
        tags.feed(page)
        assert tags.open == []
        assert not [one for one in tags.addresses if re.match("[a-z]+:|//", one)]
        assert "http" not in page
        assert text not in re.sub(r"&(lt|gt|quot|amp);", "", page) or text == "&amp;"


def test_pages_are_written_for_records_alone(tmp_path: Path) -> None:
    found = record(event(0, "sent", "a")).model_dump(
        by_alias=True, exclude={"id", "recorded", "outcome", "message"}
    )
    for key in ("schema", "versions"):
        found.pop(key)
    path = tmp_path / "run.json"
    save({**found, "path": str(path)}, nodeid="x::y[z]", outcome="passed", message="")
    tmp_path.joinpath("other.json").write_text("[]", "utf-8")
    tmp_path.joinpath("broken.json").write_bytes(b"\xff{")

    write_pages(tmp_path)

    assert read(path).id == "x::y[z]"
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "broken.json", "index.html", "other.json", "run.html", "run.json",
    ]  # fmt: skip
    assert "1 run, 0 failed" in tmp_path.joinpath("index.html").read_text("utf-8")
