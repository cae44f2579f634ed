"""Makes the embedded sets again: `python -m jogak.data.builders._embed [WORK_FOLDER]`.

Fetches the newest packages of the gettext builder's list up to LibreOffice, refuses any whose licence is not
permissive, and writes data/embedded/: NAME.tsv.xz, sources.json and NOTICE.
"""

import hashlib
import lzma
import sys
from pathlib import Path

from jogak import storage
from jogak.data import embedded
from jogak.data.builders._corpus import Corpus, Licence, parse_languages
from jogak.data.builders._packages import Fetcher
from jogak.data.builders.gettext import DEFAULT, collect
from jogak.data.embedded import PackageRecord, SetRecord, escape
from jogak.errors import UserError

SETS = ("ko-en", "de-en", "fr-en")
PERMISSIVE = ("BSD", "MIT", "Apache", "MPL-2.0")

HEAD = """\
The translation pairs in this folder are strings of the user interfaces of the packages below, with their
translations. jogak's own licence does not cover them; the licence of each package does. The third column
of every NAME.tsv.xz names the package of each pair; `xz -dc NAME.tsv.xz` shows the text. Changes made:
accelerator marks, invisible characters and outer spaces were removed, text was brought to Unicode NFC,
and pairs were left out where placeholders differ, where nothing is translated, and where a pair occurs
twice.
"""
MPL = """\
    This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0. If a copy of the MPL
    was not distributed with this file, You can obtain one at https://mozilla.org/MPL/2.0/.
    The pairs of this package stay under the MPL-2.0 and are given here in Source Code Form: as text, in the
    NAME.tsv.xz files. They were compiled from the Debian source package "libreoffice" of the version above,
    which `apt-get source libreoffice` gives free of charge, as do the LibreOffice project's source releases.
"""


def embed(folder: Path, work: Path) -> None:
    """Write every set of `SETS` into `folder`; downloads go to `work`."""
    fetcher = Fetcher(work)
    record: dict[str, SetRecord] = {}
    licences: dict[str, Licence] = {}
    for name in SETS:
        corpus, found = _collect(name, fetcher)
        text = "".join(
            f"{escape(source)}\t{escape(target)}\t{origin.split(':', 1)[0]}\n"
            for (source, target), origin in corpus.rows.items()
        ).encode("utf-8")
        counts = corpus.counts()
        packages = [
            PackageRecord(spec=spec, name=one.package, version=one.version, licence=one.name, pairs=counts[one.package])
            for spec, one in found
            if counts[one.package]
        ]
        record[name] = SetRecord(pairs=len(corpus.rows), sha256=hashlib.sha256(text).hexdigest(), packages=packages)
        licences |= {one.package: one for _, one in found if counts[one.package]}
        storage.write_bytes(folder / f"{name}.tsv.xz", lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    storage.write_json(folder / "sources.json", record)
    storage.write_text(folder / "NOTICE", notice(record, licences))


def _collect(name: str, fetcher: Fetcher) -> tuple[Corpus, list[tuple[str, Licence]]]:
    language = name.split("-", 1)[0]
    corpus = Corpus(parse_languages(name))
    found = []
    for wanted in DEFAULT[: DEFAULT.index("deb:libreoffice-l10n-{}") + 1]:
        fetcher.check([wanted.format(language)])
        package = fetcher.fetch(wanted.format(language))
        licence = package.licence
        if not any(word in licence.name for word in PERMISSIVE) or "GPL" in licence.name:
            raise UserError(f"{licence.package} {licence.version}: '{licence.name}' may not be embedded; leave it out")
        collect(corpus, package, language)
        debian = wanted.startswith("deb:")
        spec = f"deb:{licence.package}={licence.version}" if debian else f"{licence.package}=={licence.version}"
        found.append((spec, licence))
    return corpus, found


def notice(record: dict[str, SetRecord], licences: dict[str, Licence]) -> str:
    """The NOTICE: every package with its version, its licence and what that asks for, and its pairs."""
    parts = [HEAD]
    for name, one in record.items():
        parts.append(f"{name}: {one['pairs']} pairs, SHA-256 of the text {one['sha256']}\n")
    for licence in licences.values():
        used = [f"{p['pairs']} pairs in {n}" for n, s in record.items() for p in s["packages"]
                if p["name"] == licence.package]  # fmt: skip
        parts.append("=" * 100 + f"\n{licence.package} {licence.version}\n{licence.name}; {', '.join(used)}\n")
        if "MPL" in licence.name:
            parts.append("\n".join(f"    {line}" for line in licence.holders) + "\n\n" + MPL)
        else:
            parts.append("\n".join(f"    {line}".rstrip() for line in licence.text.strip().splitlines()) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    embed(Path(embedded.__file__).parent, Path(sys.argv[1] if len(sys.argv) > 1 else "data-out/embedding"))
