"""What ``--json`` prints is the published schema's, for every verb that has one."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from cli_shop import CHANGE, NOW
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource

from harvester.catalog import config_folder
from harvester.cli import OK

SCHEMAS = {path.name: json.loads(path.read_text()) for path in (config_folder() / "schemas").glob("*.json")}
REGISTRY = Registry().with_resources((name, Resource.from_contents(schema)) for name, schema in SCHEMAS.items())


def validator(verb):
    return Draft202012Validator(SCHEMAS[f"{verb}.json"], registry=REGISTRY, format_checker=FormatChecker())


@pytest.fixture
def busy(shop):
    """Give a shop with a change that is live and everything stored."""
    shop.fill("checkout", "latency", 0.48, 0.24)
    shop.fill("checkout", "replicas", 12, 8, noise=0)
    shop.now = CHANGE - timedelta(hours=1)
    assert shop("baseline", "index", "--expect", "checkout latency lower") == OK
    shop.now = CHANGE
    assert shop("shipped", "index") == OK
    shop.now = NOW
    return shop


WORDS = {
    "check": ["check"], "collect": ["collect"], "status": ["status"], "changes": ["changes", "list"], "diff": ["diff", "index"],
    "candidates": ["candidates"], "digest": ["digest"], "metrics": ["metrics"], "connectors": ["connectors"],
    "db-info": ["db", "info"], "db-check": ["db", "check"], "baseline": ["baseline", "other", "--dry-run"],
    "shipped": ["shipped", "index", "--at", "15d"], "db-repair": ["db", "repair"], "db-prune": ["db", "prune", "--keep", "30d"],
}


def test_every_schema_is_one_and_every_verb_that_prints_json_has_one():
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    assert {f"{verb}.json" for verb in WORDS} | {"comparison.json", "candidate.json", "change.json"} == set(SCHEMAS)


@pytest.mark.parametrize("verb", WORDS)
def test_what_is_printed_is_what_is_published(busy, verb):
    busy(*WORDS[verb], "--json")
    found = json.loads(busy.out)
    assert list(validator(verb).iter_errors(found)) == []
    assert found["schema"] == f"harvester/{verb}/1"


@pytest.mark.parametrize("words", [["collect", "--dry-run"], ["metrics", "--packs"], ["connectors", "prometheus"]])
def test_the_other_forms_of_a_verb_fit_its_schema_too(busy, words):
    busy(*words, "--json")
    assert list(validator(words[0]).iter_errors(json.loads(busy.out))) == []


def test_a_candidate_carries_the_comparison_it_was_made_of(busy):
    busy("candidates", "--json")
    [first, *_] = json.loads(busy.out)["data"]["candidates"]
    busy("diff", "index", "--json")
    assert first["headline"]["id"] in {one["id"] for one in json.loads(busy.out)["data"]["comparisons"]}
