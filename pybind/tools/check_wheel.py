"""Installs a wheel in a fresh environment and uses it with no Rust toolchain in reach: `check_wheel.py WHEEL`."""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

PROGRAM = """
import eventuali
from eventuali.sync import EventStore

class Tried(eventuali.DomainEvent):
    word: str

with EventStore.create("./store") as store:
    store.append("try-1", [Tried(word="stored")], aggregate_type="Try")
with EventStore.create("./store") as store:
    assert [event.word for event in store.read("try-1")] == ["stored"]
print("works:", eventuali.__file__)
"""


LICENCES = {"LICENSE-MIT": b"Permission is hereby granted", "LICENSE-APACHE": b"Apache License"}


def missing_licences(wheel: Path) -> list[str]:
    """The licences whose text is not in the wheel: in the sources they are links, which some systems break."""
    with zipfile.ZipFile(wheel) as contents:
        texts = {name.rpartition("/")[2]: contents.read(name) for name in contents.namelist() if "/licenses/" in name}
    return [name for name, words in LICENCES.items() if words not in texts.get(name, b"")]


def main() -> int:
    """Check the one wheel that is named; 1 if it is not one, or does not work."""
    wheels = [Path(name).resolve() for name in sys.argv[1:]]
    if len(wheels) != 1 or "-abi3-" not in wheels[0].name:
        print(f"expected one abi3 wheel, found {[wheel.name for wheel in wheels]}")
        return 1
    if missing := missing_licences(wheels[0]):
        print(f"{wheels[0].name} lacks {missing}")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "environment"
        venv.create(environment, with_pip=True)
        scripts = environment / ("Scripts" if sys.platform == "win32" else "bin")
        python = scripts / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheels[0]], check=True)
        without_rust = {**os.environ, "PATH": str(scripts)}
        if found := shutil.which("cargo", path=without_rust["PATH"]):
            print(f"{found} should not be there")
            return 1
        subprocess.run([python, "-c", PROGRAM], cwd=folder, env=without_rust, check=True)
        subprocess.run([scripts / "eventuali", "export", "./store", "./copy"], cwd=folder, env=without_rust, check=True)
    print(f"{wheels[0].name}: installed and used in a fresh environment without a Rust toolchain")
    return 0


if __name__ == "__main__":
    sys.exit(main())
