"""What the loader says of a wrong file."""

from __future__ import annotations

import pytest
import yaml

from tests.pytest_taskservice.scenario.paid import GOOD, changed, wrong

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
