"""Packages by name, fetched with the ordinary clients (pip, apt-get) and unpacked; folders as they are."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.util import find_spec
from pathlib import Path

from jogak.data.builders._corpus import Licence
from jogak.errors import UserError

_PIP = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(==[A-Za-z0-9.!+_-]+)?")
_DEB = re.compile(r"deb:([a-z0-9][a-z0-9.+-]*)(=[A-Za-z0-9.:~+-]+)?")
_LICENCE_FILE = re.compile(r"licen[cs]e|copying|notice", re.IGNORECASE)
_HOLDER = re.compile(r"^\W*(Copyright\b.*\S)", re.MULTILINE | re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """An unpacked package."""

    name: str
    folder: Path
    licence: Licence


class Apt:
    """apt-get and dpkg-deb in a folder of their own: without root, and the system's lists stay untouched."""

    def __init__(self, folder: Path, languages: Sequence[str] = ("none",)) -> None:
        for client in ("apt-get", "dpkg-deb"):
            if shutil.which(client) is None:
                raise UserError(
                    f"{client} is not on this machine; build on Debian or Ubuntu (in a container, say), "
                    "or name only packages of PyPI and folders"
                )
        self.folder = folder.resolve()
        self.lists = self.folder / "lists"
        for part in ("lists/partial", "cache/archives/partial"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.options = [
            f"Dir::State::Lists={self.lists}",
            f"Dir::Cache={self.folder / 'cache'}",
            f"Acquire::Languages={','.join(languages)}",
            "Acquire::GzipIndexes=false",  # plain text, whatever the system is set to
            "APT::Sandbox::User=",  # the folder is the caller's, not _apt's
            "Debug::NoLocking=true",
        ]
        self.updated = False

    def run(self, *arguments: str) -> str:
        options = [word for option in self.options for word in ("-o", option)]
        return run(["apt-get", "-qq", *options, *arguments], self.folder)

    def update(self) -> None:
        """Bring the package lists (and descriptions in `languages`) into `lists`."""
        if not self.updated:
            self.run("update")
            self.updated = True

    def fetch(self, name: str, version: str) -> Package:
        """Download and unpack one package; `version` is "" or "=1.2-3"."""
        self.update()
        for old in self.folder.glob(f"{name}_*.deb"):
            old.unlink()
        self.run("download", f"{name}{version}")
        archive = next(iter(self.folder.glob(f"{name}_*.deb")))
        target = _empty(self.folder / name)
        run(["dpkg-deb", "-x", str(archive), str(target)], self.folder)
        found = run(["dpkg-deb", "-f", str(archive), "Version"], self.folder).strip()
        return Package(name, target, _debian_licence(name, found, target / "usr/share/doc" / name / "copyright"))


def run(command: list[str], folder: Path) -> str:
    """What the command prints.

    Raises: UserError with its last line of complaint if it fails.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if line.startswith(("E:", "ERROR"))] or said or ["it said nothing"]
        raise UserError(f"{' '.join(_short(command))} failed: {errors[0]}; check the name and the connection")
    return done.stdout


def _short(command: list[str]) -> list[str]:
    """The command without its options, for messages."""
    options = {i for i, word in enumerate(command) if word.startswith("-") or (i and command[i - 1] == "-o")}
    return [Path(word).name for i, word in enumerate(command) if i not in options]


class Fetcher:
    """What the user names, as unpacked packages: `NAME[==VERSION]`, `deb:NAME[=VERSION]`, or a folder."""

    def __init__(self, downloads: Path) -> None:
        self.downloads = downloads.resolve()  # pip and apt are run elsewhere
        self.apt: Apt | None = None

    def check(self, specs: Sequence[str]) -> None:
        """Refuse what can be refused before anything is downloaded."""
        for spec in specs:
            if _is_folder(spec):
                if not Path(spec).is_dir():
                    raise UserError(f"{spec}: there is no such folder")
            elif not (_DEB.fullmatch(spec) or _PIP.fullmatch(spec)):
                raise UserError(f"'{spec}' is not a package; write NAME, NAME==1.2, deb:NAME, or a folder with a /")
        if any(_DEB.fullmatch(spec) for spec in specs):
            self.apt = self.apt or Apt(self.downloads / "debian")

    def fetch(self, spec: str) -> Package:
        """The package, unpacked.

        Raises: UserError saying which client to install, or what the client said.
        """
        if _is_folder(spec):
            folder = Path(spec)
            name = folder.resolve().name.replace(":", "_")
            return Package(name, folder, Licence(name, "", "licence: your own folder's", (), "See the folder.\n"))
        if found := _DEB.fullmatch(spec):
            self.apt = self.apt or Apt(self.downloads / "debian")
            return self.apt.fetch(found[1], found[2] or "")
        found = _PIP.fullmatch(spec)
        assert found  # `check` has refused everything else
        return self.pip(found[1], found[2] or "")

    def pip(self, name: str, version: str) -> Package:
        """Download a wheel, without what it depends on and without running any of its code, and unpack it."""
        if find_spec("pip") is None:
            raise UserError("pip is not in this Python; install it with: python -m ensurepip --upgrade")
        folder = _empty(self.downloads / "pypi" / name)
        run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary=:all:", "--dest", str(folder), f"{name}{version}"], folder)  # fmt: skip
        archive = next(iter(folder.glob("*.whl")))
        target = folder / "unpacked"
        unpack(archive, target)
        return Package(name, target, _wheel_licence(name, target))


def _is_folder(spec: str) -> bool:
    return "/" in spec or spec.startswith(".")


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def unpack(archive: Path, target: Path) -> None:
    """A wheel or zip, or a tar; nothing is written outside `target`."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                file.extractall(target)
        else:
            with tarfile.open(archive) as file:
                file.extractall(target, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f"{archive.name}: damaged ({error}); delete it and run again") from None


def _wheel_licence(name: str, folder: Path) -> Licence:
    """What the wheel's METADATA and licence files say."""
    info = next(iter(folder.glob("*.dist-info")))
    meta = HeaderParser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
    classes = [value for value in meta.get_all("Classifier", []) if value.startswith("License ::")]
    licence = meta["License-Expression"] or "; ".join(value.split(" :: ")[-1] for value in classes) or meta["License"]
    files = sorted(path for path in info.rglob("*") if path.is_file() and _LICENCE_FILE.search(path.name))
    text = "\n\n".join(path.read_text(encoding="utf-8", errors="replace").strip() for path in files) + "\n"
    return Licence(name, meta["Version"], licence or "licence not stated", _holders(text), text)


def _debian_licence(name: str, version: str, path: Path) -> Licence:
    """What the package's copyright file says; for the machine-readable format, of `Files: *`."""
    if not path.is_file():
        return Licence(name, version, "licence: see the package's source", (), "The package has no copyright file.\n")
    text = path.read_text(encoding="utf-8", errors="replace")
    main = next((part for part in text.split("\n\n") if re.search(r"^Files:\s*\*\s*$", part, re.M)), "")
    found = re.search(r"^License:[ \t]*(\S.*)$", main, re.M)
    if found is None:
        return Licence(name, version, "licence: see its text", _holders(text), text)
    holders = re.search(r"^Copyright:((?:.*\n?(?:[ \t]+.*\n?)*))", main, re.M)
    lines = [line.strip() for line in holders[1].splitlines() if line.strip()] if holders else []
    return Licence(name, version, found[1].strip(), tuple(lines), text)


def _holders(text: str) -> tuple[str, ...]:
    lines = (found[1] for found in _HOLDER.finditer(text))
    return tuple(dict.fromkeys(line for line in lines if re.search(r"\d{4}|\(c\)|©", line)))
