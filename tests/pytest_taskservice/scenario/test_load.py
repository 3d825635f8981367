from __future__ import annotations

import time
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
import yaml

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.acts import Launch, Revoke, Wait
from pytest_taskservice.scenario.behaviour import Behaviour, Retry
from pytest_taskservice.scenario.load import load, load_text
from pytest_taskservice.scenario.model import Property, Skip

if TYPE_CHECKING:
    from pytest_taskservice.scenario.model import Scenario

GOOD = """\
schema: 1
name: paid
tasks:
  charge: {returns: paid}
steps:
  - {launch: charge, as: run}
expect:
  eventually:
    - {within: 5s, of: run, status: SUCCESS}
"""


def one(text: str) -> Scenario:
    (scenario,) = load_text(dedent(text), "f.yaml")
    return scenario


def wrong(data: bytes | str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load_text(data, "f.yaml")
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


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


WRONG = {
    "an unknown key": (
        changed("returns", "return"),
        "4:12: unknown key 'return' in task 'charge'; did you mean 'returns'? allowed: runs_for",
    ),
    "an unknown key at the top": (
        changed("steps:", "step:"),
        "5:1: unknown key 'step' in a scenario; did you mean 'steps'? allowed: schema, name",
    ),
    "the key on": (f"{GOOD}on: push\n", "10:1: unknown key 'on' in a scenario; "),
    "a key given twice": (
        changed("name: paid", "name: paid\nname: unpaid"),
        "3:1: found the key 'name' again; it stands in line 2 already",
    ),
    "a key that is a number": (
        changed("charge:", "7:"),
        "4:3: found 7 as a key; keys are text, quote it",
    ),
    "a time without a unit": (
        changed("5s", "5"),
        "9:16: found 5 without a unit; within is a number with a unit (ms, s, m, h, d), such as",
    ),
    "a time as a clock shows it": (
        changed("5s", "1:00:10"),
        "9:16: found '1:00:10', which is no duration; within is a number with a unit",
    ),
    "a negative time": (
        changed("5s", "-5s"),
        "9:16: found '-5s', which is no duration; within is",
    ),
    "a negative number": (changed("5s", "-5"), "9:16: found -5 without a unit; within is a"),
    "a huge time": (
        changed("5s", "3651d"),
        "9:16: found '3651d', which is longer than 10 years (3650d); within is",
    ),
    "a truth value for a time": (changed("5s", "true"), "9:16: found true; within is a number"),
    "a truth value for a count": (
        changed("as: run", "as: run, count: true"),
        "6:38: found true; count is a whole number from 1 to 10000",
    ),
    "a count of none": (
        changed("as: run", "as: run, count: 0"),
        "6:38: found 0; count is a whole number from 1 to 10000",
    ),
    "a word for a truth value": (
        changed("returns: paid", "ignores_soft_limit: yes"),
        "4:32: found 'yes'; ignores_soft_limit is true or false",
    ),
    "a tab": (changed("  - {launch", "\t- {launch"), "6:1: found a tab; indent with spaces"),
    "an alias": (
        changed("returns: paid", "returns: *paid"),
        "4:21: found the alias *paid; write the value out: files have no aliases",
    ),
    "an anchor": (
        changed("returns: paid", "returns: &paid x"),
        "4:21: found the anchor &paid; write the value out: files have no aliases",
    ),
    "a tag": (
        changed("returns: paid", "returns: !!python/name:os.system x"),
        "4:21: found the tag 'tag:yaml.org,2002:python/name:os.system'; write the value without",
    ),
    "a merge key": (changed("{returns: paid}", "{<<: {}}"), "4:12: unknown key '<<' in task"),
    "no YAML": (
        changed("{returns: paid}", "{returns: paid"),
        "5:6: found no YAML: ",
    ),
    "a parameter without quotes": (
        changed("5s", "${end}"),
        "9:17: found no YAML: ",
    ),
    "an empty file": (b"", "1:1: found no document; a scenario file has one or more"),
    "a file of comments": (b"# soon\n", "1:1: found no document; a scenario file has one or more"),
    "an empty document": (
        f"{GOOD}---\n",
        "11:1: found an empty document; write a scenario or remove its ---",
    ),
    "a list": (b"- a\n", "1:1: found a list; a scenario is a mapping of keys to values"),
    "a word": (b"a\n", "1:1: found 'a'; a scenario is a mapping of keys to values"),
    "no UTF-8": (b"name: \xff\n", "1:7: found byte 0xff; a file is UTF-8"),
    "no UTF-8 behind a letter of two bytes": (
        b"a: 1\nn: \xc3\xa4\xff\n",
        "2:5: found byte 0xff; a file is UTF-8",
    ),
    "a control character": (b"name: \x07\n", "1:7: found the control character '\\x07'; a file"),
    "a control character that is escaped": (
        changed("name: paid", 'name: "\\0"'),
        "2:7: found '\\x00' in a text; only printable characters are allowed",
    ),
    "half of a character that is escaped": (changed("name: paid", 'name: "\\ud800"'), ""),
    "a file too big": (b" " * 1_000_001, "1:1: found 1000001 bytes; a scenario file has at most"),
    "too deep a nesting": (
        changed("returns: paid", f"returns: {'[' * 40}{']' * 40}"),
        "4:50: found more than 32 values nested; flatten the document",
    ),
    "a number too big": (
        changed("returns: paid", f"returns: {'9' * 5000}"),
        "4:21: found the number 999999999999999999999999999999; numbers are between",
    ),
    "a name given twice": (
        f"{GOOD}---\n{GOOD}",
        "12:7: found the name 'paid' again; it stands in line 2 already",
    ),
    "a name with the mark of test ids": (
        changed("name: paid", "name: a::b"),
        "2:7: found 'a::b'; name has no '::' and at most 200 characters",
    ),
    "a name that is a number": (changed("name: paid", "name: 7"), "2:7: found 7; name is a text"),
    "another schema": (changed("schema: 1", "schema: 2"), "1:9: found 2; schema is 1, the only"),
    "a missing key": (changed("name: paid\n", ""), "1:1: name is missing in this scenario"),
    "no expectation": (
        changed("expect:\n  eventually:\n    - {within: 5s, of: run, status: SUCCESS}", "expect: {}"),
        "7:9: found an empty expect; a scenario that expects nothing proves nothing",
    ),
    "an unknown step": (
        changed("launch: charge", "lunch: charge"),
        "6:6: unknown key 'lunch' in a step; did you mean 'launch'? allowed: at, after, launch",
    ),
    "two steps in one": (
        changed("{launch: charge, as: run}", "{launch: charge, wait: 1s}"),
        "6:5: found launch and wait in one step; a step does one of: launch, start, input",
    ),
    "a step that does nothing": (
        changed("{launch: charge, as: run}", "{at: 1s}"),
        "6:5: a step does nothing; a step does one of: launch, start, input",
    ),
    "a step with two instants": (
        changed("as: run", "as: run, at: 1s, after: 1s"),
        "6:39: found at and after in one step; a step has one of the two",
    ),
    "an unknown task": (
        changed("launch: charge", "launch: change"),
        "6:14: unknown task 'change'; did you mean 'charge'? allowed: charge",
    ),
    "a run captured by nobody": (
        changed("of: run", "of: ran"),
        "9:24: unknown run 'ran' (captured by no as: of a step, and no beat entry); did you mean",
    ),
    "a run captured later": (
        changed("  - {launch", "  - {wait: run}\n  - {launch"),
        "6:12: unknown run 'run' (captured by no as: before this); allowed: none",
    ),
    "a run name given twice": (
        changed("as: run}", "as: run}\n  - {launch: charge, as: run}"),
        "7:26: found the name 'run' again; names are unique, and this one is a task run's from line 6",
    ),
    "steps out of order": (
        changed("as: run}", "as: run, at: 2s}\n  - {at: 1500ms, launch: charge}"),
        "7:5: found at: 1.5s behind a step that is not over before 2s; steps stand in the order",
    ),
    "an instant in finally": (
        f"{GOOD}finally: [{{at: 1s, launch: charge}}]\n",
        "10:12: found 'at' in finally, whose start nobody knows; allowed: after",
    ),
    "arguments for a synthetic task": (
        changed("as: run", "as: run, args: [1]"),
        "6:31: found args for 'charge', a synthetic task; only one with call takes any",
    ),
    "a behaviour for a task of the app": (
        changed("returns: paid", "returns: paid, call: shop.charge"),
        "4:12: found 'returns' beside call: a task of the app behaves as it is written; allowed:",
    ),
    "a call that is no path": (
        changed("returns: paid", "call: charge"),
        "4:18: found 'charge'; call is a dotted path: package.module.function",
    ),
    "an unknown exception": (
        changed("returns: paid", "fails_with: ValueErorr"),
        "4:24: unknown exception 'ValueErorr'; did you mean 'ValueError'? allowed: ",
    ),
    "an exception that ends the worker": (
        changed("returns: paid", "fails_with: SystemExit"),
        "4:24: unknown exception 'SystemExit'; did you mean 'SystemError'? allowed: ",
    ),
    "a retry of what never fails": (
        changed("returns: paid", "retry: {max_attempts: 2}"),
        "4:12: found retry in a task that never fails; add fails_with or fails_times",
    ),
    "a retry without a bound": (
        changed("returns: paid", "fails_times: 1, retry: {delay: 1s}"),
        "4:35: max_attempts is missing in retry: how often it runs at most",
    ),
    "an unknown status": (
        changed("SUCCESS", "RUNNING"),
        "9:37: unknown status 'RUNNING' of 'run', a task run; did you mean 'STARTED'? allowed: PENDING",
    ),
    "a bound before the launch": (
        changed("as: run", "as: run, at: 6s"),
        "9:16: found within: 5s, earlier than the launch at 6s; no run could meet it",
    ),
    "a bound before the run can be over": (
        changed("returns: paid", "runs_for: 1m"),
        "9:16: found within: 5s for SUCCESS, but the run takes until 1m at least; no run could",
    ),
    "a result of a failure": (
        changed("status: SUCCESS", "status: FAILURE, result: 1"),
        "9:54: found result beside status FAILURE; a FAILURE run has none",
    ),
    "an error of a success": (
        changed("SUCCESS", "SUCCESS, error: boom"),
        "9:53: found error beside status SUCCESS; a SUCCESS run has none",
    ),
    "more attempts than there can be": (
        changed("SUCCESS", "SUCCESS, attempts: 2"),
        "9:56: found 2 attempts; 'charge' makes 1 at most",
    ),
    "a limit that is not set": (
        changed("status: SUCCESS", "reason: soft_time_limit"),
        "9:37: found soft_time_limit, but config sets no task_soft_time_limit",
    ),
    "always what nothing is at first": (
        changed("eventually:\n    - {within: 5s, of", "always:\n    - {of"),
        "9:25: found SUCCESS in always; every run is PENDING at first",
    ),
    "an expectation without a bound": (
        changed("within: 5s, ", ""),
        "9:7: within is missing in an item of eventually; allowed: within, of, status",
    ),
    "an expectation that wants nothing": (
        changed(", status: SUCCESS", ""),
        "9:7: an item of eventually wants nothing; add one of: status, result",
    ),
    "an unknown backend": (
        f"{GOOD}backends: [selery]\n",
        "10:12: unknown backend 'selery'; did you mean 'celery'? allowed: celery, celery-sim, celery-eager",
    ),
    "an override for another world": (
        f"{GOOD}backends: [celery]\noverrides: {{anyio: {{config: {{}}}}}}\n",
        "11:13: unknown backend 'anyio' among backends; allowed: celery",
    ),
    "a wrong value in an override": (
        f"{GOOD}overrides: {{anyio: {{tasks: {{charge: {{runs_for: 1}}}}}}}}\n",
        "10:48: found 1 without a unit; runs_for is",
    ),
    "an override that is merged and says nothing": (
        f"{GOOD}overrides: {{anyio: {{tasks: {{charge: {{}}}}}}}}\n",
        "10:37: found an empty mapping, which changes nothing: charge is merged",
    ),
    "a skip without a reason": (
        f"{GOOD}overrides: {{anyio: {{skip: true}}}}\n",
        "10:27: found true; skip is a text",
    ),
    "a parameter without rows": (
        changed("5s", "'${end}'"),
        "9:16: unknown parameter 'end' (this scenario has no parameters); allowed: none",
    ),
    "a parameter without a value": (
        changed("5s", '"${end}"') + "parameters: [{end: 5s}, {ent: 5s}]\n",
        "9:16: unknown parameter 'end' in row 2 of parameters; did you mean 'ent'? allowed: ent",
    ),
    "a wrong value from a parameter": (
        changed("5s", '"${end}"') + "parameters: [{end: 5}]\n",
        "9:16: found 5 (from parameter 'end') without a unit; within is",
    ),
    "a list within a text": (
        changed("returns: paid", "returns: 'a ${x}'") + "parameters: [{x: [1]}]\n",
        "4:21: parameter 'x' is no single value and cannot stand within a text",
    ),
    "a parameter within parameters": (
        f"{GOOD}parameters: [{{a: '${{b}}'}}]\n",
        "10:18: found ${ in a parameter; parameters are not put into parameters",
    ),
    "a bomb of parameters": (
        changed("returns: paid", f"returns: '{'${x}' * 200}'") + f"parameters: [{{x: {'y' * 9000}}}]\n",
        "4:21: parameters put in more than 1000000 characters; use shorter ones",
    ),
    "too many rows": (
        f"{GOOD}parameters:\n" + "- {n: 1}\n" * 1001,
        "11:1: found 1001 rows, too many for a document of this size",
    ),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_told_at_its_place(data: bytes | str, message: str) -> None:
    assert wrong(data).startswith(f"f.yaml:{message}")


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_told_alike_without_libyaml(
    data: bytes | str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml, "__with_libyaml__", False)

    assert wrong(data).startswith(f"f.yaml:{message}")


def test_a_time_without_a_unit_is_told_what_it_may_have_meant() -> None:
    assert wrong(changed("5s", "5")).endswith("such as 500ms, 1.5m or 1h30m; did you mean '5s'?")


def test_a_parameter_without_quotes_is_told_to_have_some() -> None:
    message = wrong(changed("5s", "${end}"))

    assert message.endswith('; within { } and [ ] a parameter is quoted: "${x}"')


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
