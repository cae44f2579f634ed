"""What the documentation says is run and checked, so that it stays true.

A fenced block of sh or python is either run (`<!-- run -->` in the line before it) or says why not
(`<!-- not run: reason -->`). A yaml block whose first line is `# NAME.yaml` is written to that file. The blocks of one
page run in order in one empty folder, which holds a few of the user's files: see `desk`. What would take long or leave
the folder is replaced there: `jogak train` gets SMALL added, `jogak data` only has its builder looked up, `make` shows
what it would do, `pip` does nothing.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from jogak import config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.ko.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
SMALL = (
    "train.steps=4 train.minutes=null train.warmup=2 train.validate_every=4 train.save_every=4 train.batch_tokens=300 "
    "train.precision=float32 data.test=8 data.validation=4 codec.vocab_size=400 model.width=32 "
    "decode.max_length=24"
)
# The sides that a recipe's topology has are made shallow too.
SHALLOW = """sides="model.encoder.depth=1 model.decoder.depth=1"
grep -q 'topology: decoder' "$2" && sides=model.decoder.depth=1
grep -q 'topology: encoder$' "$2" && sides=model.encoder.depth=1
"""
VERBS = ("train", "compare", "run", "eval", "look", "plan", "list", "data", "import", "export", "verify", "serve")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the comment in the line before it, and the line where it starts."""

    language: str
    marker: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    before, language, inside, start = "", None, [], 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("```") and language is None:
            language, inside, start = line[3:].strip(), [], number
        elif line.startswith("```") and language is not None:
            found.append(Block(language, before, "\n".join(inside) + "\n", start))
            language, before = None, ""
        elif language is not None:
            inside.append(line)
        elif line.strip():
            before = line.strip() if line.startswith("<!--") else ""
    return found


def prose(page: Path) -> str:
    """The page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def inline(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with a user's files, and commands in `bin` that stand before the real ones."""
    pairs = [(f"파일 {n}을 열 수 없습니다", f"Cannot open file {n}") for n in range(60)]
    pairs += [(f"{n}번 항목을 저장했습니다", f"Item {n} was saved") for n in range(60)]
    (tmp_path / "mine.tsv").write_text(
        "source\ttarget\n" + "".join(f"{ko}\t{en}\n" for ko, en in pairs), encoding="utf-8"
    )
    (tmp_path / "other.tsv").write_text("source\ttarget\n저장\tSave\n열기\tOpen\n", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("안녕하세요\n파일을 저장했습니다\n", encoding="utf-8")
    (tmp_path / "messages.po").write_text(
        'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\nmsgid "파일을 저장했습니다"\nmsgstr ""\n',
        encoding="utf-8",
    )
    here = tmp_path / "bin"
    here.mkdir()
    python = f"{shlex.quote(sys.executable)}"
    scripts = {
        "jogak": f"""case "$1" in
train)
{SHALLOW}exec {python} -m jogak "$@" {SMALL} $sides;;
data) exec {python} -m jogak list data | grep -qx "$2";;
*) exec {python} -m jogak "$@";;
esac""",
        "make": f'PATH="${{PATH#*:}}"; exec make -C {shlex.quote(str(ROOT))} -n "$@"',
        "pip": "exit 0",
        "python": f'exec {python} "$@"',
    }
    for name, text in scripts.items():
        (here / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (here / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_block_says_whether_it_is_run(page: Path) -> None:
    silent = [
        f"{page.name}:{block.line}"
        for block in blocks(page)
        if block.language in ("sh", "python", "bash", "console")
        and not re.fullmatch(r"<!-- (run|not run: .+) -->", block.marker)
    ]
    assert silent == [], "put <!-- run --> or <!-- not run: reason --> in the line before"


# The Korean page has the English page's blocks (tested below), so that they need not run twice.
RUN = [page for page in PAGES if page.name != "README.ko.md" and any(b.marker == "<!-- run -->" for b in blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=[str(page.relative_to(ROOT)) for page in RUN])
def test_the_commands_of_a_page_work(page: Path, desk: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{desk / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
    }
    for block in blocks(page):
        if block.language == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", block.text)):
            (desk / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (desk / name[1]).write_text(block.text, encoding="utf-8")
        if block.marker != "<!-- run -->":
            continue
        program = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, block.text],
            cwd=desk,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{page.name}:{block.line}:\n{block.text}\n{done.stdout}\n{done.stderr}"


def test_the_korean_readme_has_the_same_blocks() -> None:
    def without_comments(name: str) -> list[tuple[str, str, str]]:
        return [(b.language, b.marker, re.sub(r" +# .*", "", b.text)) for b in blocks(ROOT / name)]

    assert without_comments("README.ko.md") == without_comments("README.md")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose(page))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_are_named_exist(page: Path) -> None:
    packages = "|".join(p.name for p in (ROOT / "src/jogak").iterdir() if p.is_dir() and p.name != "__pycache__")
    named = [
        name
        for name in inline(page)
        if re.fullmatch(rf"(src|tests|docs|recipes|bench|\.ci|{packages})/[\w./-]+", name) and "NAME" not in name
    ]
    assert [name for name in named if not ((ROOT / name).exists() or (ROOT / "src/jogak" / name).exists())] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_targets_verbs_keys_and_extras_that_are_named_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    sections = {name: field.annotation for name, field in config.Recipe.model_fields.items()}
    code = inline(page) + [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    unknown = []
    for text in code:
        unknown += [f"make {t}" for t in re.findall(r"(?:^|\s)make ([a-z]+)", text) if t not in targets]
        if installed := re.search(r"pip install .*\[([a-z,]+)\]", text):
            unknown += [f"[{extra}]" for extra in installed[1].split(",") if extra not in extras]
        unknown += [f"jogak {v}" for v in re.findall(r"(?:^|\| |; )jogak ([a-z]+)", text) if v not in VERBS]
        for section, key in re.findall(r"(?:^|\s)(data|codec|model|train|decode)\.([a-z_]+)(?==|$|\.)", text):
            fields = getattr(sections[section], "model_fields", {})
            is_file = (section, key) == ("model", "safetensors")
            unknown += [f"{section}.{key}"] if key not in fields and not is_file else []
    assert unknown == []


def test_the_index_leads_to_every_page() -> None:
    linked = re.findall(r"\]\(([^)#]+\.md)", (ROOT / "docs/index.md").read_text(encoding="utf-8"))
    assert sorted(p.name for p in (ROOT / "docs").glob("*.md") if p.name != "index.md" and p.name not in linked) == []


SECTIONS: dict[str, type[BaseModel]] = {
    "The file": config.Recipe,
    "data": config.Data,
    "codec": config.Codec,
    "model": config.Model,
    "model.head": config.Head,
    "model.encoder and model.decoder": config.Stack,
    "feedforward": config.FeedForward,
    "train": config.Train,
    "decode": config.Decode,
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_of_a_recipe_is_documented_with_its_default(heading: str) -> None:
    page = (ROOT / "docs/recipe.md").read_text(encoding="utf-8")
    section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (needed|see below|`[^`]*`) \|", section, flags=re.MULTILINE))
    fields = SECTIONS[heading].model_fields
    assert list(told) == list(fields)
    for key, default in told.items():
        if default == "needed":
            assert fields[key].is_required(), key
        elif default == "see below":
            assert isinstance(fields[key].default, BaseModel), key
        else:
            stated = SECTIONS[heading].model_validate({**needed(SECTIONS[heading]), key: yaml.safe_load(default[1:-1])})
            assert getattr(stated, key) == fields[key].default, key


def needed(section: type[BaseModel]) -> dict[str, object]:
    """The least that makes a section valid."""
    values: dict[str, object] = {"task": "translate", "sources": ["a.tsv"], "data": {"sources": ["a.tsv"]}}
    return {key: values[key] for key, field in section.model_fields.items() if field.is_required()}
