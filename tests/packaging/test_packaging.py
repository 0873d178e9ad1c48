"""However it is installed, the package finds its configuration folder, its connectors and its command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LOOK = (
    "from importlib.metadata import entry_points as e; from harvester.catalog import config_folder, pack_names;"
    "from harvester.registry import connector_names;"
    "print(config_folder() / 'harvester.example.toml', 'http' in pack_names(), ' '.join(connector_names()))"
)


def run(*words, **more):
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, **more)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Give a copy of the checkout without what it ignores."""
    folder = tmp_path_factory.mktemp("sources") / "harvester"
    unwanted = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache", "artifacts", "dist", "build", ".hypothesis")
    shutil.copytree(PROJECT, folder, ignore=unwanted)
    return folder


@pytest.fixture(scope="module")
def built(sources):
    """Give the sdist, and the wheel that is built from it."""
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", cwd=sources)
    [sdist] = (sources / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(sources / "dist", filter="data")
    unpacked = sources / "dist" / sdist.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", cwd=unpacked)
    [wheel] = (unpacked / "dist").glob("*.whl")
    return sdist, wheel


@pytest.fixture
def environment(tmp_path):
    """Give a virtual environment that sees the dependencies of this one, but not its harvester."""
    folder = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    # A folder added by a .pth file has its own .pth files ignored, the editable harvester among them.
    packages = Path(run(folder / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (packages / "zz_dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def install(environment, how, what):
    if how == "uv":
        pytest.importorskip("uv")
        words = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", environment / "bin/python"]
    else:
        words = [sys.executable, "-m", "pip", "--python", environment / "bin/python", "install", "--quiet"]
    run(*words, "--no-deps", "--no-build-isolation", *what)


@pytest.mark.parametrize("how", ["pip", "uv"])
@pytest.mark.parametrize("what", ["wheel", "editable"])
def test_an_installed_package_finds_its_configuration_connectors_and_command(
    sources, built, environment, tmp_path, how, what
):
    install(environment, how, [built[1]] if what == "wheel" else ["-e", sources])
    said = run(environment / "bin/python", "-c", LOOK, cwd=tmp_path).split()
    example = Path(said[0])
    assert example.is_file()
    assert example.is_relative_to(sources if what == "editable" else environment)
    assert said[1:] == ["True", "postgres_slowlog", "prometheus"]
    assert "baseline" in run(environment / "bin/harvest", "--help", cwd=tmp_path)


def test_the_source_archive_holds_what_the_wheel_is_built_from(built):
    with tarfile.open(built[0]) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"config/harvester.example.toml", "LICENSE", "README.md", "CHANGELOG.md", "harvester/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", ".ci"))]
