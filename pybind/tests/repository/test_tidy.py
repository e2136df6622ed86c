"""The shape of the repository: who may import whom, where unsafe code may be, what must not be left behind."""

import json
import subprocess
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.repository import rules

ROOT = Path(__file__).resolve().parents[3]
MEMBERS = ("engine", "sql-adapters", "pybind", "benches")
SOURCE_ENDINGS = (".rs", ".py", ".pyi", ".toml", ".yml", "Makefile", "run")
TEXT_ENDINGS = (*SOURCE_ENDINGS, ".md", ".lock")


@cache
def files(*endings: str) -> dict[str, str]:
    """The text of the repository's files with these endings, by path."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - whichever git the user has
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    found = {path: ROOT / path for path in listed if path.endswith(endings)}
    return {path: file.read_text(encoding="utf-8") for path, file in found.items() if file.is_file()}


def violations(texts: Mapping[str, str], rule: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
    """What breaks the rule, by path."""
    return {path: found for path, text in texts.items() if (found := list(rule(text)))}


@cache
def metadata() -> dict[str, Any]:
    """What cargo says about the workspace and everything it is built with."""
    answer = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1"],  # noqa: S607 - whichever cargo the user has
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    return dict(json.loads(answer))


def toml(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


def test_nothing_is_left_behind_in_the_source() -> None:
    assert violations(files(*SOURCE_ENDINGS), rules.leftovers) == {}


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    assert violations(files(*TEXT_ENDINGS), rules.machine_paths) == {}


def test_unsafe_code_is_where_it_is_expected_only() -> None:
    sources = {path: text for path, text in files(".rs").items() if path not in rules.UNSAFE_FILES}
    assert violations(sources, rules.unsafe_code) == {}


def test_the_log_knows_errors_versions_and_itself() -> None:
    log = {path: text for path, text in files(".rs").items() if path.startswith("engine/src/log/")}
    assert log
    assert violations(log, rules.imports_of_log) == {}


@pytest.mark.parametrize("crate", rules.FORBIDDEN_IN_TREE)
def test_dependencies_point_in_one_direction(crate: str) -> None:
    assert list(rules.forbidden_in_tree(metadata(), crate)) == []


def test_licences_versions_and_sources_are_those_that_deny_toml_allows() -> None:
    shipped = set().union(*(rules.tree(metadata(), crate, dev=True) for crate in rules.FORBIDDEN_IN_TREE))
    packages = [package for package in metadata()["packages"] if package["id"] in shipped]
    assert list(rules.packages_against_deny(packages, toml("deny.toml"))) == []


@pytest.mark.parametrize("member", MEMBERS)
def test_versions_stand_in_the_workspace_alone(member: str) -> None:
    assert list(rules.versions_apart_from_workspace(toml(f"{member}/Cargo.toml"))) == []


def test_the_package_has_the_workspaces_version() -> None:
    workspace = toml("Cargo.toml")["workspace"]
    paths = [spec for spec in workspace["dependencies"].values() if isinstance(spec, dict) and "path" in spec]
    assert {spec["version"] for spec in paths} == {workspace["package"]["version"]}
    assert toml("pybind/pyproject.toml")["project"]["dynamic"] == ["version"]


def test_no_source_file_is_longer_than_anyone_reads() -> None:
    lengths = {path: text.count("\n") for path, text in files(".rs", ".py", ".pyi").items()}
    assert {path: lines for path, lines in lengths.items() if lines > rules.LINES_MAX} == {}


def test_links_between_documents_lead_somewhere() -> None:
    for path, text in files(".md").items():
        folder = (ROOT / path).parent
        exists = {target: (folder / target).exists() for target in rules.relative_links(text)}
        assert (path, list(rules.broken_links(text, exists))) == (path, [])
