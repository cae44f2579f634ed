"""The command: which function each verb calls with what, and how everything that goes wrong is told."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jogak
from jogak import cli
from jogak.errors import StorageError, UserError

SOURCE = str(Path(cli.__file__).parents[1])


class Figures:
    """Stands in for an evaluation, and for a comparison."""

    page = Path("compare.html")

    def to_dict(self) -> dict[str, object]:
        return {"pairs": 1, "말": "둘"}

    def to_rows(self) -> list[dict[str, str]]:
        return [{"source": "저장", "output": "Save"}]

    def table(self) -> str:
        return "1 held-out pair"

    def shown(self, count: int) -> str:
        return f" and {count} samples" if count else ""


class Recorder:
    """Stands in for jogak.api: notes each call, or raises what it was told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.raises: BaseException | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*positional: Any, **named: Any) -> Any:
            self.calls.append((name, positional, named))
            if self.raises is not None:
                raise self.raises
            return Figures() if name in ("evaluate", "compare") else ["gru", "attention"]

        return call


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setitem(vars(jogak), "api", recorder)
    return recorder


def outcome(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def command(
    *arguments: str, program: str = "from jogak.cli import main; main()", input: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        input=input,
        env={**os.environ, "PYTHONPATH": SOURCE, **environment},
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("line", "call"),
    [
        (
            "train 요리법.yaml train.steps=3 from=runs/ko-en run=결과",
            (
                "train",
                ("요리법.yaml", ["train.steps=3", "run=결과"]),
                {"resume": False, "from_": "runs/ko-en", "overwrite": False, "mixer": None},
            ),
        ),
        (
            "train r.yaml --resume --overwrite",
            ("train", ("r.yaml", []), {"resume": True, "from_": None, "overwrite": True, "mixer": None}),
        ),
        (
            "train r.yaml --mixer gru",
            ("train", ("r.yaml", []), {"resume": False, "from_": None, "overwrite": False, "mixer": "gru"}),
        ),
        (
            "run runs/ko-en 안녕 messages.po --json --n-best 3 --beam 5 --max-length 9 -o out --device cpu",
            (
                "run_inputs",
                ("runs/ko-en", ["안녕", "messages.po"]),
                {
                    "as_json": True,
                    "output": Path("out"),
                    "n_best": 3,
                    "beam": 5,
                    "max_length": 9,
                    "device": "cpu",
                    "dtype": None,
                },
            ),
        ),
        (
            "run runs/ko-en",
            ("run_inputs", ("runs/ko-en", []), {"as_json": False, "output": None, "device": "auto", "dtype": None}),
        ),
        (
            "run runs/lm 안녕 a=b decode.typical_p=0.9 decode.bad_words=[나쁜,말] --temperature 0.8 --top-p 0.9 "
            "--top-k 5 --min-p 0.1 --seed 7 --stop 끝 --stop . --regex [0-9]+",
            (
                "run_inputs",
                ("runs/lm", ["안녕", "a=b"]),
                {
                    "as_json": False,
                    "output": None,
                    "device": "auto",
                    "dtype": None,
                    "temperature": 0.8,
                    "top_p": 0.9,
                    "top_k": 5,
                    "min_p": 0.1,
                    "seed": 7,
                    "stop": ["끝", "."],
                    "regex": "[0-9]+",
                    "typical_p": 0.9,
                    "bad_words": ["나쁜", "말"],
                },
            ),
        ),
        (
            "run runs/lm --chat --system 짧게 --seed 1",
            ("chat", ("runs/lm",), {"system": "짧게", "device": "auto", "dtype": None, "seed": 1}),
        ),
        (
            "eval runs/ko-en decode.method=mbr a.tsv decode.min_p=0.1",
            ("evaluate", ("runs/ko-en", ["a.tsv"]), {"device": "auto", "method": "mbr", "min_p": 0.1}),
        ),
        (
            "eval runs/ko-en a.ko,b.en --beam 4 --device cpu",
            ("evaluate", ("runs/ko-en", ["a.ko,b.en"]), {"beam": 4, "device": "cpu"}),
        ),
        ("eval runs/ko-en", ("evaluate", ("runs/ko-en", None), {"device": "auto"})),
        ("look runs/ko-en 은행 -o 보기.png", ("look", ("runs/ko-en", "은행", Path("보기.png")), {})),
        ("plan transformer-big model.width=64", ("plan", ("transformer-big", ["model.width=64"]), {"length": None})),
        (
            "compare r.yaml train.steps=3 --mixers attention,mamba+attention --resume",
            (
                "compare",
                ("r.yaml", ["attention", "mamba+attention"], ["train.steps=3"]),
                {"resume": True, "overwrite": False},
            ),
        ),
        ("list mixers", ("names", ("mixers",), {})),
        ("data gettext -o corpus language=ko", ("build_data", ("gettext", Path("corpus"), ["language=ko"]), {})),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_verb_calls_one_function(api: Recorder, line: str, call: tuple[str, tuple[Any, ...], Any]) -> None:
    assert outcome(*line.split()) == 0
    assert api.calls == [call]


def test_a_schema_is_read_from_its_file(api: Recorder, tmp_path: Path) -> None:
    file = tmp_path / "형식.json"
    file.write_text('{"type": "integer"}', encoding="utf-8")
    assert outcome("run", "m", "text", "--json-schema", str(file), "--grammar", "start: /a/") == 0
    assert api.calls[0][2]["json_schema"] == '{"type": "integer"}'
    assert api.calls[0][2]["grammar"] == "start: /a/"


def test_a_chat_has_no_inputs(api: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("run", "m", "text", "--chat") == 2
    assert "leave out INPUT, --json and -o" in capsys.readouterr().err


def test_list_prints_one_name_a_line(api: Recorder, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("list", "mixers") == 0
    assert capsys.readouterr().out == "gru\nattention\n"


def test_eval_prints_a_table_or_json_and_writes_each_answer(
    api: Recorder, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert outcome("eval", "m") == 0
    assert capsys.readouterr().out == "1 held-out pair\n"
    assert outcome("eval", "m", "--samples", "3") == 0
    assert capsys.readouterr().out == "1 held-out pair and 3 samples\n"
    assert outcome("eval", "m", "--json", "-o", str(tmp_path / "답.jsonl")) == 0
    assert json.loads(capsys.readouterr().out) == {"pairs": 1, "말": "둘"}
    assert (tmp_path / "답.jsonl").read_text(encoding="utf-8") == '{"source": "저장", "output": "Save"}\n'


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UserError("요리법.yaml:3: unknown key 'stpes'"), 2, "jogak: 요리법.yaml:3: unknown key 'stpes'\n"),
        (UserError("two\nlines"), 2, "jogak: two lines\n"),
        (StorageError("run: the disk is full"), 1, "jogak: run: the disk is full\n"),
        (KeyboardInterrupt(), 130, "jogak: stopped\n"),
        (MemoryError(), 1, "jogak: not enough memory; make train.batch_tokens, decode.batch or the model smaller\n"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            1,
            "jogak: not enough memory; make train.batch_tokens, decode.batch or the model smaller\n",
        ),
        (PermissionError(13, "Permission denied", "secret.po"), 1, "jogak: secret.po: Permission denied\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line_and_an_exit_code(
    api: Recorder, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, told: str
) -> None:
    api.raises = error
    assert outcome("list", "mixers") == code
    assert capsys.readouterr() == ("", told)


def test_a_mistake_of_ours_says_so_and_keeps_the_traceback(
    api: Recorder, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    api.raises = KeyError("heads")
    assert outcome("list", "mixers") == 1
    (kept,) = tmp_path.iterdir()
    assert capsys.readouterr().err == (
        f"jogak: this is a bug in jogak (KeyError: 'heads'); the traceback is in {kept}; please report it\n"
    )
    assert "Traceback (most recent call last)" in kept.read_text(encoding="utf-8")
    assert "KeyError: 'heads'" in kept.read_text(encoding="utf-8")


def test_a_traceback_is_shown_when_asked_for(
    api: Recorder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOGAK_TRACEBACK", "1")
    api.raises = UserError("no such run")
    assert outcome("list", "mixers") == 2
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert told.endswith("\njogak: no such run\n")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("run", "Missing argument 'MODEL'; see 'jogak run --help'"),
        ("run m --beam 0", "Invalid value for '--beam'"),
        ("run m --bema 3", "No such option: --bema"),
        ("trian r.yaml", "No such command 'trian'"),
        ("data gettext", "Missing option '--output' / '-o'; see 'jogak data --help'"),
    ],
)
def test_a_wrong_call_is_one_line_and_points_to_help(
    api: Recorder, capsys: pytest.CaptureFixture[str], line: str, told: str
) -> None:
    assert outcome(*line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"jogak: {told}")
    assert err.count("\n") == 1
    assert "--help'" in err
    assert api.calls == []


def test_the_version_and_the_verbs_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome("--version") == 0
    assert capsys.readouterr().out == f"jogak {jogak.__version__}\n"
    assert outcome() == 0
    bare = capsys.readouterr().out
    assert outcome("--help") == 0
    assert capsys.readouterr().out == bare
    for verb in ("train", "compare", "run", "eval", "look", "plan", "list", "data"):
        assert f"\n  {verb} " in bare
        assert outcome(verb, "--help") == 0
        assert capsys.readouterr().out.startswith(f"Usage: jogak {verb} ")


HEAVY = "{'torch', 'numpy', 'yaml', 'rich', 'tokenizers', 'safetensors'}"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = f"""
import atexit, sys
atexit.register(lambda: print(sorted({HEAVY} & set(sys.modules))))
import jogak.cli
jogak.cli.main()
"""
    assert command(*arguments, program=program).stdout.decode().splitlines()[-1] == "[]"


def test_import_jogak_imports_nothing_heavy_and_knows_its_names() -> None:
    program = f"""
import sys, jogak
print("load" in dir(jogak), sorted(({HEAVY} | {{"pydantic", "typer"}}) & set(sys.modules)))
"""
    assert command(program=program).stdout.decode() == "True []\n"


# A stand-in for jogak.api in a process of its own: it prints what reached it.
ECHO = """
import json, sys, types, jogak
def run_inputs(model, inputs, **settings):
    print(json.dumps([model, inputs, sys.stdin.read()], ensure_ascii=False))
def names(kind):
    return [str(n) for n in range(100_000)]
jogak.api = types.SimpleNamespace(run_inputs=run_inputs, names=names)
from jogak.cli import main
main()
"""

LOCALES = [
    pytest.param({"LC_ALL": "C"}, id="C"),
    pytest.param({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, id="C not coerced"),
    pytest.param({"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"}, id="latin-1 streams"),
    pytest.param({"LC_ALL": "ko_KR.eucKR"}, id="EUC-KR, where there is such a locale"),
]


@pytest.mark.parametrize("environment", LOCALES)
def test_korean_passes_through_under_any_locale(environment: dict[str, str]) -> None:
    done = command("run", "실행", "나는 은행에 갔다", program=ECHO, input="표준 입력 🧵\n".encode(), **environment)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout.decode("utf-8")) == ["실행", ["나는 은행에 갔다"], "표준 입력 🧵\n"]


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ECHO, "list", "mixers"],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=30) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_standard_output_is_told() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", ECHO, "run", "m", "x"],
            env={**os.environ, "PYTHONPATH": SOURCE},
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, b"jogak: standard output: No space left on device\n")


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jogak", "--version"],
        env={**os.environ, "PYTHONPATH": SOURCE},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"jogak {jogak.__version__}\n")
