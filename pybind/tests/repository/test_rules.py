"""Each rule finds what it is there for."""

from typing import Any

import pytest

from tests.repository import rules


@pytest.mark.parametrize("line", ["// TO" + "DO later", "dbg" + "!(x);", "todo" + "!()", "# FIX" + "ME"])
def test_leftovers_are_found(line: str) -> None:
    assert list(rules.leftovers(f"fn main() {{}}\n{line}\n")) == [f"2: {line}"]


def test_machine_paths_are_found_and_others_are_not() -> None:
    ours = "see /ho" + "me/ada/store"
    assert list(rules.machine_paths(f"{ours}\n/var/lib/orders ../work/x network/root/x")) == [f"1: {ours}"]


def test_unsafe_code_is_found_and_words_about_it_are_not() -> None:
    planted = '// unsafe is not used here\nlet words = "unsafe";\nunsafe { read(p) }\n#[expect(unsafe_code)]'
    assert list(rules.unsafe_code(planted)) == ["3: unsafe { read(p) }"]


def test_an_import_out_of_the_log_is_found_in_every_form() -> None:
    planted = "use crate::event::Event;\nuse crate::{error::Error, index::Index};\nuse crate::log::format;\n"
    assert list(rules.imports_of_log(planted)) == ["event", "index"]


def test_a_runtime_in_the_engines_tree_is_found_however_deep_and_a_tests_runtime_is_not() -> None:
    def node(name: str, *deps: tuple[str, str | None]) -> dict[str, Any]:
        return {"id": name, "deps": [{"pkg": to, "dep_kinds": [{"kind": kind}]} for to, kind in deps]}

    names = ("eventuali", "middle", "tokio")
    packages = [{"id": name, "name": name} for name in names]
    deep = [node("eventuali", ("middle", None)), node("middle", ("tokio", None)), node("tokio")]
    of_tests = [node("eventuali", ("tokio", "dev")), node("middle"), node("tokio")]

    def metadata(nodes: list[dict[str, Any]]) -> dict[str, Any]:
        return {"packages": packages, "resolve": {"nodes": nodes}}

    assert list(rules.forbidden_in_tree(metadata(deep), "eventuali")) == ["tokio"]
    assert list(rules.forbidden_in_tree(metadata(of_tests), "eventuali")) == []


def test_a_version_of_its_own_is_found() -> None:
    manifest = {
        "package": {"version": {"workspace": True}},
        "dependencies": {"uuid": {"workspace": True}, "serde": "1"},
        "target": {"cfg(unix)": {"dependencies": {"libc": {"version": "0.2"}}}},
    }
    assert list(rules.versions_apart_from_workspace(manifest)) == ["dependencies.serde", "dependencies.libc"]


def test_what_deny_toml_forbids_is_found() -> None:
    def package(name: str, version: str = "1.0.0", licence: str = "MIT", source: str = "registry+x") -> dict[str, str]:
        return {"name": name, "version": version, "license": licence, "source": source}

    deny = {"licenses": {"allow": ["MIT"]}, "bans": {"deny": [{"crate": "old@3"}, {"crate": "never"}]}}
    found = rules.packages_against_deny(
        [
            package("fine"),
            package("old", "2.0.1"),
            package("old", "3.0.0"),
            package("never"),
            package("copyleft", licence="GPL-3.0"),
            package("fork", source="git+x"),
        ],
        deny,
    )
    assert [violation.split(":")[0] for violation in found] == ["old 3.0.0", "old", "never 1.0.0", "copyleft", "fork"]


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0", False),
        ("", False),
        ("GPL-3.0 OR MIT", True),
        ("Apache-2.0 / MIT", True),
        ("GPL-3.0 AND MIT", False),
        ("(GPL-3.0 OR MIT) AND Zlib", True),
        ("MIT AND (GPL-3.0 OR LGPL-2.1)", False),
        ("Apache-2.0 WITH LLVM-exception", False),
    ],
)
def test_licence_expressions_are_understood(expression: str, *, allowed: bool) -> None:
    assert rules.licence_is_allowed(expression, {"MIT", "Zlib"}) is allowed


def test_a_broken_link_is_found() -> None:
    text = "[a](a.md) [b](b.md#part) [web](https://example.org/c.md)"
    assert list(rules.broken_links(text, {"a.md": True, "b.md": False})) == ["b.md"]
