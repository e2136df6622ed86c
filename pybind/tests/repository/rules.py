"""The rules of the repository as pure functions: text in, violations out. `test_tidy.py` applies them."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LINES_WORTH_A_REMARK = 500
LINES_MAX = 800

UNSAFE_FILES = {
    "engine/src/log/sys.rs",
    "engine/src/log/storage/os/mapped.rs",
    "engine/tests/processes.rs",  # forking is unsafe, and this is the test that forks
}
LOG_MAY_IMPORT = {"error", "log", "version"}
# What must not come into a crate's tree, by the crate's name; names are compared by their beginning.
FORBIDDEN_IN_TREE = {
    "eventuali": ("tokio", "async-std", "sqlx", "pyo3", "eventuali-"),
    "eventuali-sql": ("pyo3", "eventuali-python", "eventuali-benches"),
    "eventuali-python": ("eventuali-benches", "pyo3-async-runtimes"),
}

_LEFTOVERS = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b|\b(?:dbg|todo|unimplemented)!")
_MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/\w+|[A-Z]:\\Users")
_UNSAFE = re.compile(r"\bunsafe\b")
_CRATE_PATH = re.compile(r"\bcrate::(?:(\w+)|\{([^}]*)\})")
_LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def leftovers(text: str) -> Iterator[str]:
    """Reminders and debugging aids that were left behind."""
    yield from _matching_lines(_LEFTOVERS, text)


def machine_paths(text: str) -> Iterator[str]:
    """Paths that exist on somebody's machine only."""
    yield from _matching_lines(_MACHINE_PATHS, text)


def unsafe_code(text: str) -> Iterator[str]:
    """Unsafe code in a Rust file."""
    yield from _matching_lines(_UNSAFE, _without_comments_and_strings(text))


def imports_of_log(text: str) -> Iterator[str]:
    """Modules that a file of `log/` must not know."""
    for single, several in _CRATE_PATH.findall(_without_comments_and_strings(text)):
        names = [single] if single else [name.split("::")[0].strip() for name in several.split(",")]
        yield from (name for name in names if name and name not in LOG_MAY_IMPORT)


def broken_links(text: str, exists: Mapping[str, bool]) -> Iterator[str]:
    """Relative links of a Markdown text that lead nowhere; `exists` answers for every one."""
    yield from (target for target in relative_links(text) if not exists[target])


def relative_links(text: str) -> list[str]:
    """The links of a Markdown text that stay in the repository."""
    return [target for target in _LINK.findall(text) if "://" not in target]


def versions_apart_from_workspace(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What a member's `Cargo.toml` decides for itself though the workspace does."""
    if manifest["package"]["version"] != {"workspace": True}:
        yield "package.version"
    tables = [manifest, *manifest.get("target", {}).values()]
    for table in tables:
        for kind in ("dependencies", "dev-dependencies", "build-dependencies"):
            for name, spec in table.get(kind, {}).items():
                of_workspace = isinstance(spec, dict) and (spec.get("workspace") is True or spec.get("path") == ".")
                if not of_workspace:
                    yield f"{kind}.{name}"


def tree(metadata: Mapping[str, Any], root: str, *, dev: bool = False) -> set[str]:
    """The package ids that `root` is built with; its own tests' too if `dev`."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    start = next(package["id"] for package in metadata["packages"] if package["name"] == root)
    found, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        for dependency in nodes[here]["deps"]:
            kinds = {kind["kind"] for kind in dependency["dep_kinds"]}
            wanted = kinds - {"dev"} or (dev and here == start)
            if wanted and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    return found


def forbidden_in_tree(metadata: Mapping[str, Any], root: str) -> Iterator[str]:
    """Crates in the tree of `root` that point the wrong way, or are too much for its users."""
    names = {package["id"]: package["name"] for package in metadata["packages"]}
    for package_id in tree(metadata, root):
        if names[package_id].startswith(FORBIDDEN_IN_TREE[root]) and names[package_id] != root:
            yield names[package_id]


def packages_against_deny(packages: Iterable[Mapping[str, Any]], deny: Mapping[str, Any]) -> Iterator[str]:
    """What `deny.toml` forbids: licences, bans, two versions of one crate, sources other than the registry."""
    allowed = set(deny["licenses"]["allow"])
    banned = dict(_name_and_major(entry["crate"]) for entry in deny["bans"]["deny"])
    skipped = {entry["crate"].split("@")[0] for entry in deny["bans"].get("skip", [])}
    versions: dict[str, str] = {}
    for package in packages:
        name, version = package["name"], package["version"]
        if not licence_is_allowed(package["license"] or "", allowed):
            yield f"{name}: licence {package['license']}"
        if name in banned and banned[name] in {"", version.split(".")[0]}:
            yield f"{name} {version}: banned"
        if versions.setdefault(name, version) != version and name not in skipped:
            yield f"{name}: versions {versions[name]} and {version}"
        if package["source"] is not None and not package["source"].startswith("registry+"):
            yield f"{name}: from {package['source']}"


def licence_is_allowed(expression: str, allowed: set[str]) -> bool:
    """Whether an SPDX expression can be satisfied with `allowed` licences alone."""
    words = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def alternatives() -> bool:
        result = conjunction()
        while words and words[0] == "OR":
            words.pop(0)
            result = conjunction() or result
        return result

    def conjunction() -> bool:
        result = one()
        while words and words[0] == "AND":
            words.pop(0)
            result = one() and result
        return result

    def one() -> bool:
        if not words:
            return False
        word = words.pop(0)
        if word == "(":
            result = alternatives()
            words.pop(0)
            return result
        if words and words[0] == "WITH":
            word = f"{word} {words.pop(0)} {words.pop(0)}"
        return word in allowed

    return alternatives()


def _name_and_major(crate: str) -> tuple[str, str]:
    name, _, version = crate.partition("@")
    return name, version.split(".")[0]


def _matching_lines(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.search(line):
            yield f"{number}: {line.strip()}"


def _without_comments_and_strings(rust: str) -> str:
    """Rust without line comments and plain strings: enough to look for a keyword."""
    return re.sub(r'//[^\n]*|"(?:\\.|[^"\\\n])*"', "", rust)
