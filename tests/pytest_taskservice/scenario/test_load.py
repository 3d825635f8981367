from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.acts import Launch, Revoke, Wait
from pytest_taskservice.scenario.behaviour import Behaviour, Retry
from pytest_taskservice.scenario.load import load, load_text
from pytest_taskservice.scenario.model import Property, Skip
from tests.pytest_taskservice.scenario.paid import GOOD, changed, one, wrong


def test_a_document_becomes_a_scenario() -> None:
    scenario = one(
        """\
        schema: 1
        name: the whole story
        description: |
          Two lines
          of text.
        tags: [slow, money]
        backends: [celery]
        config: {task_soft_time_limit: 1s, task_time_limit: 1m30s}
        tasks:
          charge:
            runs_for: 1.5s
            returns: {paid: true}
            fails_with: "ValueError: declined"
            fails_times: 2
            ignores_soft_limit: true
            retry: {max_attempts: 3, delay: 100ms, factor: 2, max_delay: 1h}
            queue: money
            priority: 3
          mail: {call: shop.tasks.mail}
        steps:
          - {at: 1s, launch: charge, count: 2, countdown: 500ms, expires: 1d, as: payments}
          - {after: 2s, launch: mail, args: [7], kwargs: {to: me}}
          - {wait: 1s}
          - {wait: [payments], within: 2s}
          - {revoke: payments}
        expect:
          at: [{time: 2s, of: payments, status: STARTED}]
          never: [{of: payments, status: REVOKED}]
        finally:
          - {launch: mail}
        """
    )

    charge = scenario.tasks["charge"]
    launch, mail, rest, wait, revoke = scenario.steps
    assert scenario.title == "the whole story"
    assert scenario.description == "Two lines\nof text.\n"
    assert scenario.tags == ("slow", "money")
    assert (scenario.config.task_soft_time_limit, scenario.config.task_time_limit) == (1.0, 90.0)
    assert (charge.queue, charge.priority) == ("money", 3)
    assert charge.behaviour == Behaviour(
        runs_for=1.5,
        returns={"paid": True},
        fails_with="ValueError: declined",
        fails_times=2,
        ignores_soft_limit=True,
        retry=Retry(max_attempts=3, delay=0.1, factor=2.0, max_delay=3600.0),
    )
    assert isinstance(launch, Launch)
    assert (launch.at, launch.count, launch.name) == (1.0, 2, "payments")
    assert (launch.countdown, launch.expires) == (0.5, 86400.0)
    assert isinstance(mail, Launch)
    assert (mail.after, mail.args, mail.kwargs) == (2.0, (7,), {"to": "me"})
    assert isinstance(rest, Wait)
    assert rest.duration == 1.0
    assert isinstance(wait, Wait)
    assert (wait.runs, wait.within) == (("payments",), 2.0)
    assert isinstance(revoke, Revoke)
    assert [claim.property for claim in scenario.expect] == [Property.AT, Property.NEVER]
    assert len(scenario.cleanup) == 1


def test_parameters_make_a_case_of_each_row() -> None:
    text = GOOD.replace("name: paid", "name: ${what} is paid").replace("returns: paid", 'returns: "${value}"')
    text += "parameters: [{what: lamp, value: 3}, {what: a desk, value: [x, null]}]\n"

    lamp, desk = load_text(text, "f.yaml")

    assert (lamp.title, desk.title) == ("lamp is paid[lamp-3]", "a desk is paid[a_desk-value]")
    assert lamp.tasks["charge"].behaviour == Behaviour(returns=3)
    assert desk.tasks["charge"].behaviour == Behaviour(returns=["x", None])


def test_rows_alike_get_ids_that_differ() -> None:
    cases = load_text(f"{GOOD}parameters: [{{n: 1}}, {{n: '1'}}]\n", "f.yaml")

    assert [scenario.case for scenario in cases] == ["1", "1-2"]


def test_a_parameter_may_stand_as_a_key() -> None:
    text = changed("{launch: charge, as: run}", "{'${step}': charge, as: run}")

    (scenario,) = load_text(f"{text}parameters: [{{step: launch}}]\n", "f.yaml")

    assert isinstance(scenario.steps[0], Launch)


def test_a_doubled_dollar_is_no_parameter() -> None:
    scenario = one(changed("returns: paid", "returns: '$${paid}'"))

    assert scenario.tasks["charge"].behaviour == Behaviour(returns="${paid}")


def test_scalars_are_those_of_yaml_1_2() -> None:
    values = "[on, yes, 1:00:10, 010, 1e3, 0x1f, ~, true, -.5, '1', 2026-01-01, .inf]"
    scenario = one(changed("returns: paid", f"returns: {values}"))

    behaviour = scenario.tasks["charge"].behaviour
    assert behaviour is not None
    assert behaviour.returns == [
        *["on", "yes", "1:00:10", 10, 1000.0, "0x1f", None, True, -0.5, "1", "2026-01-01", ".inf"]
    ]


def test_an_override_is_merged_deeply_for_its_world() -> None:
    text = changed("{returns: paid}", "{returns: paid, runs_for: 1s}")
    scenario = one(f"{text}overrides: {{anyio: {{tasks: {{charge: {{runs_for: 2s}}}}}}}}\n")

    there, elsewhere = scenario.for_backend("anyio"), scenario.for_backend("celery")
    assert not isinstance(there, Skip)
    assert not isinstance(elsewhere, Skip)
    assert there.tasks["charge"].behaviour == Behaviour(returns="paid", runs_for=2.0)
    assert elsewhere.tasks["charge"].behaviour == Behaviour(returns="paid", runs_for=1.0)


def test_an_override_may_skip_a_world_with_its_reason() -> None:
    scenario = one(f"{GOOD}overrides: {{celery-eager: {{skip: no limits there}}}}\n")

    assert scenario.for_backend("celery-eager") == Skip(reason="no limits there")


def test_a_world_that_is_not_listed_is_skipped() -> None:
    scenario = one(f"{GOOD}backends: [celery, celery-sim]\n")

    assert scenario.for_backend("celery") is scenario
    assert scenario.for_backend("anyio") == Skip(reason="not meant for anyio; backends: celery, celery-sim")


def test_every_mark_is_the_place_in_the_file() -> None:
    scenario = one(GOOD)

    assert str(scenario.mark) == "f.yaml:1:1"
    assert str(scenario.tasks["charge"].mark) == "f.yaml:4:3"
    assert str(scenario.steps[0].mark) == "f.yaml:6:5"
    assert str(scenario.expect[0].mark) == "f.yaml:9:7"


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    (scenario,) = load_text(b"\xef\xbb\xbf" + GOOD.encode(), "f.yaml")

    assert str(scenario.mark) == "f.yaml:1:1"


def test_a_bound_may_be_the_instant_of_the_launch() -> None:
    scenario = one(changed("as: run", "as: run, at: 5s"))

    assert scenario.expect[0].instant == 5.0


def test_each_wrong_document_is_told_once() -> None:
    first = changed("returns", "return").replace("name: paid", "name: a")
    second = changed("SUCCESS", "DONE").replace("name: paid", "name: b")

    lines = wrong(f"{first}---\n{second}---\n{GOOD}").splitlines()

    assert [line.split(": ")[0] for line in lines] == ["f.yaml:4:12", "f.yaml:19:37"]


def test_a_file_is_named_as_the_caller_wishes(tmp_path: Path) -> None:
    path = tmp_path / "x.scenario.yaml"
    path.write_text("[]")

    with pytest.raises(ScenarioError, match=r"^here/x\.yaml:1:1: found a list"):
        load(path, shown="here/x.yaml")


def test_the_scenarios_of_this_repository_load() -> None:
    root = Path(__file__).parents[3] / "scenarios" / "first"

    names = {path.name: len(load(path)) for path in root.glob("*.scenario.yaml")}

    assert names == {
        "results.scenario.yaml": 9,
        "failures.scenario.yaml": 3,
        "retries.scenario.yaml": 4,
    }


def test_a_hundred_files_load_in_a_second(tmp_path: Path) -> None:
    path = tmp_path / "x.scenario.yaml"
    path.write_text("---\n".join(GOOD.replace("paid", f"paid {n}") for n in range(3)))

    began = time.process_time()
    for _ in range(100):
        load(path)

    assert time.process_time() - began < 1.0
