"""The command `jogak`: each verb calls one function of jogak.api, and every error becomes one sentence.

Exit codes: 0 done, 2 the caller's mistake, 1 the machine's or ours, 130 stopped by Ctrl-C. Nothing heavy is imported
before a verb runs, so that `--help` answers at once.
"""

import gc
import io
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from jogak import __version__
from jogak.errors import JogakError, UserError

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,  # rich takes longer to import than all of --help may
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DECODE = re.compile(r"decode\.\w+=")
MODEL_HELP = "A run: the folder that `jogak train` wrote."
OVERRIDES_HELP = "Changes to the recipe, such as train.steps=100 or model.width=256."

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help=OVERRIDES_HELP)]
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
DECODING_HELP = "decode.KEY=VALUE among them sets a key of the recipe's decode section."
Beam = Annotated[int | None, typer.Option("--beam", min=1, help="Hypotheses kept in the search; 1 is greedy.")]
MaxLength = Annotated[int | None, typer.Option("--max-length", min=1, help="Units after which an answer ends.")]
Revision = Annotated[str | None, typer.Option("--revision", help="A branch, tag or commit on the hub.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, ...")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16, int8 or int4: what the matrices are kept in.")
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"jogak {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _jogak(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train sequence models, run them, measure them, and look inside them."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file: data, codec, model, training.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run's last checkpoint stands.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is there already.")] = False,
    mixer: Annotated[
        str | None,
        typer.Option("--mixer", metavar="NAME", help="This mixer in every block, bidirectional where it must be."),
    ] = None,
) -> None:
    """Train what a recipe says, into a run folder.

    from=MODEL among the changes starts from a trained model's weights.
    """
    from jogak import api

    changes, start = _split_from(overrides or [])
    api.train(recipe, changes, resume=resume, from_=start, overwrite=overwrite, mixer=mixer)


@app.command()
def run(
    model: ModelName,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Text, or .txt, .jsonl and .po files and folders of them; without any, lines on standard input. "
            + DECODING_HELP,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with scores.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file or folder to write instead of standard output.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="A conversation in the terminal, with history.")] = False,
    system: Annotated[str | None, typer.Option("--system", help="With --chat: what the model is told first.")] = None,
    n_best: Annotated[int | None, typer.Option("--n-best", min=1, help="Answers for each input.")] = None,
    beam: Beam = None,
    max_length: MaxLength = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Sample: below 1 nearer to the likeliest, above 1 freer.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="Sample from so many likeliest units.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", help="Sample from the likeliest that sum to p.")] = None,
    min_p: Annotated[float | None, typer.Option("--min-p", help="Sample from those p times as likely as one.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="What samples are drawn from.")] = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="A text that ends an answer; repeatable.")] = None,
    regex: Annotated[str | None, typer.Option("--regex", help="What the whole answer must match.")] = None,
    json_schema: Annotated[
        str | None, typer.Option("--json-schema", metavar="TEXT|FILE", help="The schema that the answer must fit.")
    ] = None,
    grammar: Annotated[
        str | None, typer.Option("--grammar", metavar="TEXT|FILE", help="The Lark grammar that it must follow.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Do the model's task on text, files or standard input; or chat with it."""
    from jogak import api

    texts, changes = _split_decode(inputs or [])
    asked = {
        "n_best": n_best,
        "beam": beam,
        "max_length": max_length,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "stop": stop or None,
        "regex": regex,
        "json_schema": _text_or_file(json_schema),
        "grammar": _text_or_file(grammar),
    }
    settings = {**{name: value for name, value in asked.items() if value is not None}, **changes}
    if chat:
        if texts or as_json or output is not None:
            raise UserError("--chat reads from the keyboard and writes to the terminal; leave out INPUT, --json and -o")
        api.chat(model, system=system, device=device, dtype=dtype, **settings)
        return
    if not texts and sys.stdin.isatty():
        print("jogak: reading lines from the keyboard; end with Ctrl-D", file=sys.stderr)
    api.run_inputs(model, texts, as_json=as_json, output=output, device=device, dtype=dtype, **settings)


@app.command("eval")
def evaluate(
    model: ModelName,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA", help="Sources as in a recipe; without any, the run's own held-out test. " + DECODING_HELP
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as one JSON object.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A .jsonl file for each source, reference and answer.")
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=0, help="Pairs to show with the model's answers.")] = 0,
    beam: Beam = None,
    device: Device = "auto",
) -> None:
    """Measure a model beside honest baselines.

    Each figure comes with its confidence interval.
    """
    from jogak import api
    from jogak.storage import write_text

    sources, changes = _split_decode(data or [])
    settings = changes if beam is None else {"beam": beam, **changes}
    found = api.evaluate(model, sources or None, device=device, **settings)
    if output is not None:
        write_text(output, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in found.to_rows()))
    if as_json:
        print(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
    else:
        print(found.table() + found.shown(samples))


@app.command()
def look(
    model: ModelName,
    text: Annotated[str, typer.Argument(metavar="INPUT", help="The text to look at.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page (.html) or picture (.png).")] = Path(
        "look.html"
    ),
) -> None:
    """Draw every attention map of one input.

    The page holds all it needs and opens without a network.
    """
    from jogak import api

    print(api.look(model, text, output))


@app.command()
def compare(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file, as for train.")],
    overrides: Overrides = None,
    mixers: Annotated[
        str, typer.Option("--mixers", help="Names, such as attention,mamba; mamba+attention takes turns.")
    ] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the runs that are there.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace runs that are there already.")] = False,
) -> None:
    """Train one recipe with several mixers, and tell them apart.

    The same data, seed and budget for each; a table, and a page in the run's folder.
    """
    from jogak import api

    found = api.compare(recipe, mixers.split(","), overrides or [], resume=resume, overwrite=overwrite)
    print(found.table())
    print(found.page)


@app.command()
def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL", help="Runs or checkpoints; NAME=MODEL gives one another name.")
    ],
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; others are reached only with a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0: any that is free.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="Holds the key that clients must show; else JOGAK_API_KEY does."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve others without a key.")] = False,
    rows: Annotated[int, typer.Option("--rows", help="Answers of a model that run together.")] = 64,
    queue: Annotated[int, typer.Option("--queue", help="Answers that may wait beside them.")] = 256,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds that a request may take.")] = 300.0,
    max_body: Annotated[int, typer.Option("--max-body", help="Bytes of a request.")] = 1 << 20,
    max_prompt: Annotated[int, typer.Option("--max-prompt", help="Units of a prompt.")] = 32768,
    max_output: Annotated[int, typer.Option("--max-output", help="Units of an answer.")] = 4096,
    cache: Annotated[int, typer.Option("--cache", help="MiB for prompts that begin alike; 0: none.")] = 512,
    grace: Annotated[float, typer.Option("--grace", help="Seconds to finish in, once told to stop.")] = 20.0,
    origin: Annotated[
        list[str] | None, typer.Option("--origin", help="A web page elsewhere that may ask; repeatable.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Another name by which the server is called; repeatable.")
    ] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write what is asked into the log.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line for every request.")] = False,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Serve models over HTTP, with a web page.

    OpenAI's interface, every other task, metrics; Ctrl-C ends it.
    """
    import logging

    try:
        from jogak.serving import server
        from jogak.serving.settings import Settings
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs {error.name}; install it with pip install 'jogak[serve]'") from None

    settings = Settings(
        host=host,
        port=port,
        api_key=_api_key(api_key_file),
        insecure=insecure,
        rows=rows,
        queue=queue,
        timeout=timeout,
        max_body=max_body,
        max_prompt=max_prompt,
        max_output=max_output,
        cache_bytes=cache << 20,
        grace=grace,
        origins=tuple(origin or ()),
        hosts=tuple(name or ()),
        log_prompts=log_prompts,
    )
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("jogak.serving").setLevel(logging.WARNING if quiet else logging.INFO)
    server.serve(models, settings, device=device, dtype=dtype)


@app.command()
def plan(
    name: Annotated[str, typer.Argument(metavar="PRESET|RECIPE", help="A preset's name or a recipe's file.")],
    overrides: Overrides = None,
    length: Annotated[
        int | None, typer.Option("--length", min=1, help="Units on each side of an example; else the recipe's longest.")
    ] = None,
) -> None:
    """Say what a model would cost, without building it.

    Parameters, FLOPs, memory, time on this machine, and how many GPUs of which kind.
    """
    gc.disable()  # nothing here is garbage, and looking for it takes a fifth of the time
    try:
        from jogak import api

        print(api.plan(name, overrides or [], length=length))
    finally:
        gc.enable()


@app.command("list")
def names(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="mixers, tasks, families, presets or data.")],
) -> None:
    """List what can be named, one a line."""
    from jogak import api

    for name in api.names(kind):
        print(name)


@app.command()
def data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set; `jogak list data` names them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="The builder's options.")] = None,
) -> None:
    """Build a data set from public packages.

    This verb alone uses the network.
    """
    from jogak import api

    print(api.build_data(name, output, options or []))


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A Hugging Face checkpoint's folder, or OWNER/NAME.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    revision: Revision = None,
) -> None:
    """Read a Hugging Face checkpoint and keep it in jogak's own form."""
    from jogak import api

    print(api.import_(name, output, revision=revision))


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, an imported model, or a checkpoint.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="bfloat16, int8 or int4: matrices so, in jogak's own form, for jogak alone."),
    ] = None,
) -> None:
    """Write a Hugging Face checkpoint that transformers loads, or a smaller model of jogak's own."""
    from jogak import api

    print(api.export(model, output, dtype=dtype))


@app.command()
def verify(
    name: Annotated[str, typer.Argument(metavar="FOLDER", help="A Hugging Face checkpoint's folder, or OWNER/NAME.")],
    as_json: Annotated[bool, typer.Option("--json", help="What was found as one JSON object.")] = False,
    revision: Revision = None,
) -> None:
    """Prove that a checkpoint is read rightly.

    Its keys, its tensors there and back, and beside transformers, where installed, its outputs and its text.
    """
    from jogak import api

    found = api.verify(name, revision=revision)
    print(json.dumps(found.to_dict(), ensure_ascii=False, indent=2) if as_json else found.table())
    if not found.holds:
        raise typer.Exit(1)


def _split_decode(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments without `decode.KEY=VALUE`, and what those say; values are read as in a recipe."""
    changes = [a for a in arguments if DECODE.match(a)]
    if not changes:
        return list(arguments), {}
    from jogak.config import pairs

    given = {key.removeprefix("decode."): value for key, value in pairs(changes)}
    return [a for a in arguments if not DECODE.match(a)], given


def _text_or_file(given: str | None) -> str | None:
    """What is given, or what is in the file of that name."""
    if given is None or not os.path.isfile(given):  # noqa: PTH113  # a schema can be longer than pathlib takes
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{given}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _api_key(file: Path | None) -> str | None:
    """The key in a file, or in the environment; never on the command line, where every user of the machine reads it."""
    if file is None:
        return os.environ.get("JOGAK_API_KEY") or None
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; it is to hold the API key")
    key = file.read_text(encoding="utf-8").strip()
    if not key:
        raise UserError(f"{file}: is empty; it is to hold the API key")
    return key


def _split_from(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """The overrides without `from=MODEL`, and that model."""
    start = next((o.removeprefix("from=") for o in overrides if o.startswith("from=")), None)
    return [o for o in overrides if not o.startswith("from=")], start


# ---------------------------------------------------------------- around every verb


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and leave with its exit code."""
    if arguments is None:
        _insist_on_utf8()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        _speak_utf8(stream)
    code = _outcome(sys.argv[1:] if arguments is None else list(arguments))
    if arguments is None and sys.argv[1:2] == ["plan"]:
        # Nothing is left to close or to write, and taking torch's modules apart is a quarter of the time.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if "triton" not in sys.modules:  # which takes what is frozen for its own leak, and fills the terminal with it
        gc.freeze()  # or Python looks through torch's modules once more on its way out, for half a second
    sys.exit(code)


def _insist_on_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale would garble Korean arguments and file names."""
    if sys.getfilesystemencoding().lower() != "utf-8" and not sys.flags.utf8_mode:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def _speak_utf8(stream: object) -> None:
    if isinstance(stream, io.TextIOWrapper):  # tests and notebooks put objects of their own here
        stream.reconfigure(encoding="utf-8", errors="strict" if stream is sys.stdin else "backslashreplace")


def _outcome(arguments: list[str]) -> int:
    """Run one verb; the exit code, every error told in one line on standard error."""
    try:
        command = typer.main.get_command(app)
        with command.make_context("jogak", arguments) as context:  # app() would swallow what is told below
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as done:
        return done.exit_code
    except BrokenPipeError:
        # The reader went away (`| head`): nothing to say, and nothing more to flush when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except (KeyboardInterrupt, typer.Abort):
        return _say("stopped", 130)
    except JogakError as error:
        return _say(str(error), error.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of typer or, before 0.27, of click
            return _say(_usage(error), 2)
        return _unexpected(error)


def _usage(error: Any) -> str:  # noqa: ANN401  # its class moved between releases of typer
    context = getattr(error, "ctx", None)
    sentence = " ".join(error.format_message().split()).rstrip(".")
    return f"{sentence}; see '{context.command_path if context else 'jogak'} --help'"


def _unexpected(error: Exception) -> int:
    """What is nobody's sentence yet: a full memory, a disk, or a mistake of ours."""
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "OutOfMemory" in type(error).__name__:
        return _say("not enough memory; make train.batch_tokens, decode.batch or the model smaller", 1)
    if isinstance(error, OSError) and error.strerror:
        return _say(f"{error.filename or 'standard output'}: {error.strerror}", 1)
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="jogak-", suffix=".txt", delete=False) as file:
            traceback.print_exc(file=file)
        where = f"the traceback is in {file.name}"
    except OSError:
        where = "JOGAK_TRACEBACK=1 shows the traceback"
    return _say(f"this is a bug in jogak ({type(error).__name__}: {error}); {where}; please report it", 1)


def _say(sentence: str, code: int) -> int:
    if os.environ.get("JOGAK_TRACEBACK"):
        traceback.print_exc()
    print(f"jogak: {' '.join(sentence.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
