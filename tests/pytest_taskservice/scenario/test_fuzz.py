"""Whatever a file holds: scenarios, or an error with a place. Never anything else, and never for long."""

from __future__ import annotations

import json
import re
import time
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_taskservice.errors import ScenarioError
from pytest_taskservice.scenario.fields import plain
from pytest_taskservice.scenario.load import load_text
from pytest_taskservice.scenario.nodes import documents
from pytest_taskservice.scenario.schema import PUBLISHED
from tests.pytest_taskservice.scenario import everything, paid

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
TEXTS = [
    paid.GOOD,
    everything.GOOD,
    (everything.DOCUMENTS / "begin.yaml").read_text(),
    *(path.read_text() for path in sorted((ROOT / "scenarios" / "first").iterdir())),
]
TREES = [plain(root) for text in TEXTS for root in documents(text, "f.yaml")]
SCHEMA = json.loads(PUBLISHED.read_text())
VALIDATOR = jsonschema_rs.Draft7Validator(SCHEMA)


def loads_or_says_why(data: bytes | str) -> str:
    """Return what is wrong; nothing if it loads. Every line of it must name a place in the text."""
    try:
        load_text(data, "f.yaml")
    except ScenarioError as error:
        size = data.count(b"\n") if isinstance(data, bytes) else data.count("\n")
        for line in str(error).split("\n"):
            place = re.match(r"f\.yaml:(\d+):(\d+): .", line)
            assert place, line
            # YAML has line ends of its own besides.
            assert 1 <= int(place[1]) <= max(size, len(data)) + 1
        return str(error)
    return ""


def keys_of(tree: Any) -> Iterator[str]:
    match tree:
        case dict():
            for key, value in tree.items():
                yield key
                yield from keys_of(value)
        case list():
            for value in tree:
                yield from keys_of(value)


def leaves_of(tree: Any) -> Iterator[Any]:
    match tree:
        case dict():
            yield tree
            for value in tree.values():
                yield from leaves_of(value)
        case list():
            yield tree
            for value in tree:
                yield from leaves_of(value)
        case _:
            yield tree


KEYS = sorted(
    {key for tree in TREES for key in keys_of(tree)}
    | {key for part in SCHEMA["definitions"].values() for key in part.get("properties", {})}
)
POOL = [leaf for tree in TREES for leaf in leaves_of(tree)]
WORDS = ["", " ", "${x}", "$${", "off", "1:00:10", "5", "9" * 40]
STRANGE: list[Any] = [None, True, False, 0, -1, 10**18, 1e308, *WORDS, [], {}, [[]]]

# Copied, or a change would reach into the next document.
values = (st.sampled_from(POOL) | st.sampled_from(STRANGE) | st.sampled_from(KEYS)).map(deepcopy)


@st.composite
def changed_trees(draw: st.DrawFn) -> Any:
    """Return a document of this repository with a few things in it replaced, left out, renamed or moved."""
    tree = json.loads(json.dumps(draw(st.sampled_from(TREES))))
    for _ in range(draw(st.integers(1, 3))):
        places = [leaf for leaf in leaves_of(tree) if isinstance(leaf, dict | list) and leaf]
        place = draw(st.sampled_from(places)) if places else tree
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        act = draw(st.sampled_from(["replace", "drop", "add"]))
        if act == "replace":
            place[key] = draw(values)
        elif act == "drop":
            del place[key]
        elif isinstance(place, dict):
            place[draw(st.sampled_from(KEYS))] = draw(values)
        else:
            place.append(draw(values))
    return tree


@settings(max_examples=300, deadline=None)
@given(changed_trees())
def test_what_the_readers_take_the_schema_takes(tree: Any) -> None:
    if not loads_or_says_why(json.dumps(tree)):
        assert [error.message for error in VALIDATOR.iter_errors(tree)] == []


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_else(data: bytes) -> None:
    loads_or_says_why(data)


PIECES = ["${x}", "true", "null", "1e999", "{}", "[]", "5s", "---\n", "as", "of", "? ", "!!set", "<<: ", "*a"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_random_changes_of_a_good_file_raise_nothing_else(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = begin + data.draw(st.integers(0, 12))
        piece = st.text("abc019-.:,${}[]&*!|>\"'#\n\t \\", max_size=8) | st.sampled_from(PIECES)
        text = text[:begin] + data.draw(piece) + text[end:]

    loads_or_says_why(text.encode("utf-8", "surrogatepass"))


def with_value(value: str) -> str:
    return paid.changed("returns: paid", f"returns: {value}")


def with_steps(steps: str) -> str:
    return everything.GOOD.replace(everything.STEP, steps)


RETRIES = "fails_times: 1000, retry: {max_attempts: 1000, delay: 1s, factor: 1.0001}"
BOMBS = {
    "aliases of aliases": "a: &a [x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n",
    "open brackets": "[" * 900_000,
    "open mappings": "{a: " * 200_000,
    "indentation": "\n".join(" " * n + "- a:" for n in range(1000)),
    "ten megabytes": b"a" * 10_000_000,
    "a long text": with_value("x" * 900_000),
    "a long key": f"{'k' * 900_000}: 1\n",
    "a long number": with_value("9" * 900_000),
    "many numbers": with_value(f"[{', '.join(['1e17'] * 30_000)}]"),
    "many documents": "---\n" * 240_000,
    "many wrong documents": "--- {a: 1}\n" * 20_000,
    "many keys": "".join(f"k{n}: 1\n" for n in range(20_000)),
    "many tasks": "schema: 1\nname: x\nsteps: [{launch: z}]\nexpect: {}\ntasks:\n"
    + "".join(f"  t{n}: {{}}\n" for n in range(10_000)),
    "tasks that differ little": "schema: 1\nname: x\nsteps: [{launch: aaaaaaaaaaaa}]\nexpect: {}\ntasks:\n"
    + "".join(f"  aaaaaaaaaaaaaab{n}: {{}}\n" for n in range(1000)),
    "many steps": with_steps("  - {launch: a}\n" * 3_000),
    "as many steps as may be": with_steps("".join(f"  - {{launch: a, as: n{n}}}\n" for n in range(1900))),
    "races": with_steps("  - together: [{stop: flow}, {stop: flow}]\n" * 1900),
    "many names": with_steps(f"  - {{wait: [{', '.join(['run'] * 20_000)}]}}"),
    "many seeds": everything.GOOD.replace("seeds: 3", f"seeds: [{', '.join(map(str, range(101_000)))}]"),
    "many rows": paid.GOOD + "parameters:\n" + "- {n: 1}\n" * 10_000,
    "three hundred rows": paid.GOOD + "parameters:\n" + "- {n: 1}\n" * 300,
    "rows in every world": paid.GOOD
    + "overrides: {celery: {seeds: 2}, celery-sim: {seeds: 2}, celery-eager: {seeds: 2}, anyio: {seeds: 2}}\n"
    + "parameters:\n"
    + "- {n: 1}\n" * 100,
    "rows in every document": "---\n".join(
        paid.GOOD.replace("name: paid", f"name: paid {n}") + "parameters:\n" + "- {n: 1}\n" * 990
        for n in range(30)
    ),
    "attempts in every step": with_steps("  - {launch: tried}\n" * 1900).replace(
        "  a:", f"  tried: {{{RETRIES}}}\n  a:"
    ),
    "attempts in every member": with_steps("  - {launch: every}\n" * 1900).replace(
        "  a:",
        "".join(f"  tried{n}: {{{RETRIES}}}\n" for n in range(200))
        + f"  every: {{group: [{', '.join(f'tried{n}' for n in range(200))}]}}\n  a:",
    ),
    "parameters that grow": paid.changed("returns: paid", f"returns: '{'${x}' * 1000}'")
    + f"parameters: [{{x: {'y' * 9000}}}]\n",
    "a pattern's worst": with_value("1").replace("5s", "1" * 5000 + "x"),
    "tabs": "\t" * 900_000,
    "escapes": with_value('"' + "\\u0041" * 30_000 + '"'),
    "comments": "#\n" * 450_000,
    "a folded text": "a: >\n" + " x\n" * 300_000,
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_no_file_takes_long_or_is_answered_at_length(text: bytes | str) -> None:
    began = time.process_time()

    answer = loads_or_says_why(text)

    took = time.process_time() - began
    # The slowest takes as long as some five thousand small files do, however fast the machine is just now.
    assert took < 1 or took < 500 * time_of_small_files(100)
    assert len(answer) < 20_000


def time_of_small_files(number: int) -> float:
    began = time.process_time()
    for _ in range(number):
        load_text(paid.GOOD, "f.yaml")
    return time.process_time() - began
