"""The command line: parses, calls, prints.

Nothing heavy is imported before it is needed, so that `--help` answers at once and a run speaks before PyTorch is loaded.
"""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

import m2fedsa
from m2fedsa.answer_files import check_name
from m2fedsa.cli_compare import compare, sweep
from m2fedsa.cli_data import check, encoder, init
from m2fedsa.cli_help import Commands
from m2fedsa.cli_options import Debug, Settings, settings_of
from m2fedsa.deploy import commands
from m2fedsa.errors import ConfigError, CutError, InputError, Interrupted, M2FedSAError, WeightsError

if TYPE_CHECKING:
    from m2fedsa.prediction import Answers

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = Commands(
    name="m2fedsa",
    help="Federated split fine-tuning of multimodal encoders.",
    add_completion=False,
    pretty_exceptions_enable=False,
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _program(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"m2fedsa {m2fedsa.__version__}")
        raise typer.Exit


@app.command()
def run(
    target: Annotated[str | None, typer.Argument(metavar="[RECIPE | FILE.toml]", help="What to run; see `m2fedsa recipes`.")] = None,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run directory; runs/<name>-<date>-<n> if not given.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="DIR", help="Go on with the run in this directory.")] = None,
    track: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Send figures to tensorboard, mlflow or wandb. Repeatable.")
    ] = None,
    on_error: Annotated[str | None, typer.Option(click_type=click.Choice(["stop", "skip"]), help="Rows that cannot be used.")] = None,
    debug: Debug = False,
) -> None:
    """Run a federation on this machine: clients, main server and fed server."""
    from m2fedsa.reporting.progress import view
    from m2fedsa.reporting.run_directory import RunDirectory
    from m2fedsa.reporting.trackers import Tracking, trackers

    tracked = trackers(track or ())
    if on_error is not None:
        settings = [*(settings or ()), f"data.on_error={on_error}"]
    if resume is None:
        directory = RunDirectory.create(settings_of(target, settings), out)
    elif out is not None:
        raise click.UsageError("--out and --resume exclude each other: a run goes on in its own directory.")
    else:
        directory = RunDirectory.resume(
            resume, settings_of(target or str(resume / "config.toml"), settings) if target or settings else None
        )
    progress = view(directory.config)
    tracking = Tracking(directory.config, directory, tracked, progress)
    try:
        from m2fedsa.assembly import Extensions
        from m2fedsa.running import run_in

        run_in(directory, directory.config, Extensions(), tracking, resume=resume is not None)
    except (ConfigError, CutError, WeightsError) as error:
        place = target if target and target.endswith(".toml") else f"recipe {target}" if target else f"{resume}/config.toml"
        raise type(error)(f"{place}: {error}") from error
    finally:
        tracking.close()
        progress.close()
        directory.close()


@app.command()
def recipes() -> None:
    """List the configurations that come with the package."""
    from m2fedsa.recipes import summaries

    told = summaries()
    for name, summary in told.items():
        print(f"{name:<{max(map(len, told))}}  {summary}")


@app.command()
def config(
    target: Annotated[str, typer.Argument(metavar="RECIPE | FILE.toml", help="Whose settings; see `m2fedsa recipes`.")],
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Print the complete settings of a recipe as TOML, every key explained, to be edited and run."""
    from m2fedsa.settings_text import commented

    print(commented(settings_of(target, settings)), end="")


@app.command()
def report(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run directories; several are compared.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write it, if not to report.html beside the run.")] = None,
    debug: Debug = False,
) -> None:
    """Write the HTML report on a run, or the comparison of several."""
    from m2fedsa.reporting.report import write_report

    print(write_report(directories, out))


@app.command()
def export(
    directory: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the model; must not be there yet.")],
    client: Annotated[str | None, typer.Option(metavar="NAME", help="Whose own tensors, where averaging rules keep some local.")] = None,
    debug: Debug = False,
) -> None:
    """Write a trained run as ordinary whole encoders, adapters and classifiers, with a model card."""
    from m2fedsa.exported import export as write

    print(f"{write(directory, out, client)}: a model for m2fedsa.load; its README.md tells how")


data = Commands(name="data", help="Samples of one's own: a manifest and its files.")
data.command()(check)
app.add_typer(data)
app.command()(init)
app.command()(encoder)


@app.command()
def predict(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A run directory, what `m2fedsa export` wrote, or with --via a client's folder.")
    ],
    manifest: Annotated[
        str | None,
        typer.Argument(metavar="[MANIFEST]", help="New samples, with any of the modalities. Without: the test samples of a run directory."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write what is predicted: .csv, .tsv, .jsonl or .parquet.")] = Path(
        "predictions.csv"
    ),
    folder: Annotated[str | None, typer.Option(metavar="DIR", help="Where paths begin, if not beside the manifest.")] = None,
    on_error: Annotated[str, typer.Option(click_type=click.Choice(["stop", "skip"]), help="Rows that cannot be used.")] = "stop",
    client: Annotated[str | None, typer.Option(metavar="NAME", help="Whose own tensors, where averaging rules keep some local.")] = None,
    via: Annotated[bool, typer.Option("--via", help="DIR is a client's folder, of heads alone; the main server does the rest.")] = False,
    debug: Debug = False,
) -> None:
    """Predict with a trained run or an export: labels and probabilities, by all modalities of a sample together and by each alone."""
    check_name(out)
    answers = _predicted(directory, manifest, folder, on_error == "skip", client, via)
    answers.write(out)
    for note in answers.notes:
        print(f"note: {note}")
    alone = [name for name in answers.values if name != "fused"]
    print(f"{out}: {len(answers.samples):,} samples, predicted by {', '.join(alone)} together (fused) and by each alone")


def _predicted(directory: Path, manifest: str | None, folder: str | None, skip: bool, client: str | None, via: bool) -> "Answers":
    from m2fedsa.exported import opened
    from m2fedsa.prediction import predict, predict_own

    if via:
        from m2fedsa.deploy.remote import predict_via

        if manifest is None or client is not None:
            raise ConfigError("--via predicts the rows of a manifest, as the client of the folder: m2fedsa predict DIR MANIFEST --via.")
        return predict_via(directory, manifest, paths=folder, skip=skip)
    model, settings = opened(directory, client)
    return predict_own(model, settings, "test") if manifest is None else predict(model, settings, manifest, folder=folder, skip=skip)


@app.command()
def cut(
    encoder: Annotated[str, typer.Argument(metavar="ENCODER", help="A folder, a name on the hub, or embedded:NAME.")],
    block: Annotated[int, typer.Option(metavar="K", help="The head keeps the embeddings and this many blocks.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write head and tail; must not be there yet.")],
    head_dtype: Annotated[str, typer.Option(click_type=click.Choice(["float32", "bfloat16", "int8", "int4"]))] = "float32",
    blocks: Annotated[list[str] | None, typer.Option(metavar="NAME", help="The blocks, where they are not known; may be repeated.")] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Modules that feed every block; may be repeated.")] = None,
    pooling: Annotated[str | None, typer.Option(click_type=click.Choice(["pooler", "mean", "cls", "last"]))] = None,
    revision: Annotated[str | None, typer.Option(metavar="REV", help="Branch, tag or commit on the hub.")] = None,
    debug: Debug = False,
) -> None:
    """Cut an encoder into two folders: DIR/head for clients, DIR/tail for the main server."""
    from typing import Any, cast

    from m2fedsa.cutting import Choice, cut_encoder
    from m2fedsa.reporting.slices import show

    show(cut_encoder(encoder, Choice(block, cast("Any", head_dtype), blocks, keep or (), cast("Any", pooling)), out, revision))


@app.command()
def plan(
    target: Annotated[str, typer.Argument(metavar="RECIPE | FILE.toml", help="Whose encoders and samples; see `m2fedsa recipes`.")],
    settings: Settings = None,
    client_bytes: Annotated[str | None, typer.Option(metavar="SIZE", help="What a client can store, e.g. 50MB.")] = None,
    uplink: Annotated[str, typer.Option(metavar="RATE", help="A client's line to the main server, e.g. 10Mbit (a second).")] = "10Mbit",
    downlink: Annotated[str, typer.Option(metavar="RATE", help="The line back.")] = "50Mbit",
    step_seconds: Annotated[float | None, typer.Option(metavar="S", min=0.0, help="Longest time on the line of one step.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Measure every possible cut of every encoder, and propose one that fits a client."""
    found = settings_of(target, settings)
    from m2fedsa.planning import Limits, bits_of, bytes_of, plan_cuts

    limits = Limits(bytes_of(client_bytes) if client_bytes else None, bits_of(uplink), bits_of(downlink), step_seconds)
    plans = plan_cuts(found, limits)
    if as_json:
        import json

        print(json.dumps(plans.plain(), indent=1))
        return
    from m2fedsa.reporting.plans import show

    show(plans)


app.command()(compare)
app.command()(sweep)
app.add_typer(commands.deploy)
for _name in ("main_server", "fed_server", "client"):
    app.command(_name.replace("_", "-"))(getattr(commands, _name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; its exit status: 0 done, 1 failed, 2 bad input, 130 stopped by Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(given, prog_name="m2fedsa", standalone_mode=False)
        if status == INTERRUPTED:  # typer's answer to a Ctrl-C that nobody caught
            raise KeyboardInterrupt
        sys.stdout.flush()
    except Interrupted as error:
        _finish_output()
        return _say(str(error), INTERRUPTED)
    except (KeyboardInterrupt, click.Abort):
        return _say("stopped before it began; nothing was changed.", INTERRUPTED)
    except BrokenPipeError:
        _finish_output()
        return DONE
    except Exception as error:
        if "--debug" in given:
            traceback.print_exc()
        return _explain(error)
    return status if isinstance(status, int) else DONE


def _finish_output() -> None:
    """What nobody reads any more goes nowhere, so that the interpreter's end does not complain of it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: Exception) -> int:
    """Say what was wrong, and what that means for the exit status."""
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        advice = f" Try `{context.command_path} --help`." if context else ""
        return _say(f"error: {error.format_message()}{advice}", BAD_INPUT)
    if isinstance(error, InputError):
        return _say(f"error: {error}", BAD_INPUT)
    if isinstance(error, M2FedSAError):
        return _say(f"error: {error}", FAILED)
    name = type(error).__name__
    return _say(f"error: {name}: {error}. This is a fault of m2fedsa itself; --debug shows where, please report it.", FAILED)


def _say(text: str, status: int) -> int:
    """One line for what is wrong, the next for what to do."""
    from m2fedsa.reporting.program import as_called

    text = as_called(text)
    if "\n" not in text:
        text = re.sub(r"(?<=\.) (?=[A-Z`])", "\n       ", text, count=1)
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
