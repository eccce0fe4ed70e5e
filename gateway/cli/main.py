"""The `offhook` command. Errors that an operator can fix are one line on standard error and exit code 2."""

from __future__ import annotations

import os

# Before numpy is imported: the conversions are small, and a second BLAS thread only costs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import errno
import gc
import io
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from offhook.gateway import __version__
from offhook.gateway.agent.load import agent_from, load_agent
from offhook.gateway.agent.spec import Agent
from offhook.gateway.cli.canary import mount as mount_canary
from offhook.gateway.cli.phone import mount as mount_telephone
from offhook.gateway.cli.running import rehearsal as _rehearsal
from offhook.gateway.cli.running import run as _run
from offhook.gateway.cli.serve import is_worker, log_to_stderr, serve_with_workers, workers_wanted
from offhook.gateway.cli.serve import serve as run_serve
from offhook.gateway.cli.store import mount as mount_store
from offhook.gateway.cli.tools import mount as mount_tools
from offhook.gateway.cli.voices import mount as mount_voices
from offhook.gateway.config import Settings, misspelt, settings_from
from offhook.gateway.errors import AgentFileError, OffhookError, OperatorError
from offhook.gateway.files import check_writable, write_whole
from offhook.gateway.yamlfile import read_yaml

if TYPE_CHECKING:
    from offhook.gateway.cli.rehearse import Outside

__all__ = ["app", "log_to_stderr", "main"]

app = typer.Typer(
    name="offhook",
    help="Pick up the phone with a model: Twilio Media Streams to Gemini Live or OpenAI Realtime; rehearsals of all.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
scenario_app = typer.Typer(help="Scenarios of rehearsals.", no_args_is_help=True)
app.add_typer(scenario_app, name="scenario")
log = logging.getLogger("offhook")

AgentPaths = Annotated[
    list[Path] | None, typer.Option("--agent", "-a", help="Agent file (YAML); repeat for several numbers.")
]
OtherUrl = Annotated[
    str,
    typer.Option(
        "--url",
        help="Another gateway that speaks Twilio Media Streams: its voice webhook (http, https) or "
        "its media socket (ws, wss). Signed where TWILIO_AUTH_TOKEN is set.",
    ),
]
PublicUrl = Annotated[str, typer.Option(help="The URL that gateway knows itself by, if it is not --url's.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", help="NAME=VALUE: a custom parameter of the stream, for a media socket."),
]
ModelAt = Annotated[
    str, typer.Option(help="HOST:PORT where the rehearsal model answers for that gateway, over plain HTTP.")
]
ModelCa = Annotated[Path | None, typer.Option(help="Write the model's certificate to this file, and use TLS.")]
ProviderName = Annotated[str, typer.Option(help="Provider of every agent's model (gemini, openai); none: its own.")]


def _provider(name: str) -> str:
    from offhook.gateway.providers import PROVIDERS

    if name and name not in PROVIDERS:
        raise OperatorError(f"--provider: give one of {', '.join(PROVIDERS)}")
    return name


def main() -> None:
    """Run the command line; an operator's error is one line and exit code 2."""
    gc.disable()  # imports leave no garbage; `_run` enables collection for long-running commands
    for stream in (sys.stdout, sys.stderr):  # a terminal or a pipe that is not UTF-8 shows the rest of the text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except OffhookError as error:
        print(f"offhook: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:  # the reader closed the pipe, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:  # a path that cannot be written, a full disk; any other is a bug
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"offhook: {where}{error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _to_write(*paths: Path | None) -> None:
    """Refuse, before anything runs for minutes, a file that cannot be written at the end."""
    for path in paths:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            check_writable(path)


def _folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise OperatorError(f"{path}: not writable: choose another --out")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"offhook {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    agent: AgentPaths = None,
    workers: Annotated[
        str, typer.Option(help="Processes that share the calls, and go on with those of one that dies; auto: per core.")
    ] = "1",
) -> None:
    """Answer calls until SIGTERM or Ctrl-C. Settings come from the environment: see `offhook config`."""
    settings, count = settings_from(os.environ), workers_wanted(workers)
    agents = _agents(agent, settings)
    log_to_stderr(settings.log_level, agents, os.environ, settings.replica if is_worker(os.environ) else "")
    if count == 1:
        import offhook.gateway.app  # noqa: F401  before `_run` enables the collection of garbage, which would take a fifth longer
    _run(run_serve(settings, agents) if count == 1 else serve_with_workers(settings, count, agent or []))


@app.command()
def talk(
    agent: Annotated[Path, typer.Argument(help="Agent file (YAML).")],
    script: Annotated[Path | None, typer.Option(help="A scenario whose model part answers.")] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = True,
) -> None:
    """Talk to an agent from the browser: no telephone, no account; without a key the rehearsal model answers."""
    from offhook.gateway.cli.talk import talk as run_talk

    log_to_stderr("warning", [load_agent(agent)], os.environ)
    with _rehearsal():
        _run(run_talk(agent, script, os.environ, open_page=open_page))


@app.command()
def config() -> None:
    """Show the settings read from the environment, secrets masked."""
    from offhook.gateway.providers import shown as of_providers

    shown = {**of_providers(os.environ), **settings_from(os.environ).shown()}
    for name, value in shown.items():
        print(f"{name:24} {value}")
    for problem in misspelt(os.environ):
        print(f"offhook: {problem}", file=sys.stderr)


@app.command()
def check(paths: Annotated[list[Path], typer.Argument(help="Agent files.")]) -> None:
    """Validate agent files as `serve` would."""
    from offhook.gateway.agent.policy import detector_of
    from offhook.gateway.agent.sounds import load_sounds
    from offhook.gateway.models.pricing import check_limit, load_prices
    from offhook.gateway.providers import check_agent, name_of, provider_of, published_prices
    from offhook.gateway.tools.build import board_of, build_tools
    from offhook.gateway.tools.http.client import HttpClient

    bad = False
    prices = load_prices(os.environ.get("OFFHOOK_PRICES", ""), published_prices())
    for path in paths:
        try:
            file = read_yaml(path, AgentFileError)
            agent = agent_from(file, directory=str(path.resolve().parent))
            check_limit(agent, name_of(agent), prices)
            tools = build_tools(agent, os.environ, HttpClient()).tools
            load_sounds(agent)
            board_of(agent)
            detector_of(agent)
            problems = check_agent(agent, tools.values(), os.environ)
        except OperatorError as error:  # continue with the next file
            if isinstance(error, AgentFileError) and error.line is None and error.field:
                error = file.error(error.what, file.steps(error.field))
            said = str(error)
            print(f"offhook: {said}" if str(path) in said else f"offhook: {path}: {said}", file=sys.stderr)
            bad = True
            continue
        for field, fix in problems:
            print(f"offhook: {file.error(fix, file.steps(field))}", file=sys.stderr)
        bad = bad or bool(problems)
        if not problems:
            print(f"{path}: ok ({agent.name}, {provider_of(agent)}: {name_of(agent)}, {len(tools)} tools)")
            if any(tool.mcp for tool in agent.tools):
                print(f"{path}: tools of its MCP servers are not counted: `offhook tools list {path}` lists them")
    if bad:
        raise typer.Exit(2)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for recording, picture and report.")] = Path("out/demo"),
    json: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
    provider: ProviderName = "",
    kill: Annotated[
        bool, typer.Option("--kill", help="Kill the process that has the call in mid-sentence: another one goes on.")
    ] = False,
) -> None:
    """Place a simulated call through the real gateway: no key, no account, no network."""
    with _rehearsal():
        from offhook.gateway.rehearsal.kill import demo as run_kill
        from offhook.gateway.rehearsal.run import demo as run_demo
    _folder(out)
    _to_write(json)
    _run(run_kill(out, json) if kill else run_demo(out, json, _provider(provider)))


@app.command()
def simulate(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Scenarios (*.call.yaml, or the name of a bundled one); none: all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for recordings, pictures and reports.")] = Path("out/simulate"),
    parallel: Annotated[int, typer.Option(min=1, max=50, help="Calls at once.")] = 4,
    repeat: Annotated[int, typer.Option(min=1, help="Times each scenario is played.")] = 1,
    seed: Annotated[
        int | None,
        typer.Option(help="For noise, jitter and names. The same seed makes the same calls; repeats count on"),
    ] = None,
    speed: Annotated[
        float,
        typer.Option(
            min=1,
            max=50,
            help="Up to this many times as fast, on a clock that stands still during computation.",
        ),
    ] = 1,
    json: Annotated[Path | None, typer.Option(help="Write one report of all calls to this file.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    details: Annotated[bool, typer.Option(help="Show the tables of passed calls, too.")] = False,
    baseline: Annotated[
        Path | None, typer.Option(help="An earlier run's --json: fail where this one is slower or acts differently.")
    ] = None,
    provider: ProviderName = "",
    voice: Annotated[
        str,
        typer.Option(
            help="Who speaks all lines, instead of the scenarios' own: espeak, people (recorded prompts, see "
            "`offhook voices`), or a language."
        ),
    ] = "",
    real: Annotated[
        bool,
        typer.Option(
            help="Agents, and callers who think with their judges, are the models that the environment has keys for. "
            "Costs money; with --url the callers and judges alone."
        ),
    ] = False,
    url: OtherUrl = "",
    public_url: PublicUrl = "",
    parameter: Parameters = None,
    model_at: ModelAt = "",
    model_ca: ModelCa = None,
) -> None:
    """Rehearse scenarios: simulated calls through the real gateway, a verdict for each expectation.

    OUT/index.html shows all results: verdicts, recordings, pictures, latency. Exit code 1 if one failed.
    """
    with _rehearsal():
        from offhook.gateway.cli.rehearse import simulate as run_simulate
    if real and speed > 1:
        raise OperatorError("--speed is for the rehearsal model: a real one, as --real has it, keeps the wall's clock")
    if real and model_at:
        raise OperatorError("--model-at has the rehearsal model answer for that gateway: remove it, or --real")
    if url and (speed > 1 or provider):
        raise OperatorError("--speed and --provider are for a gateway that is started here, not for --url")
    outside = _outside(url, public_url, parameter, model_at, model_ca)
    _folder(out)
    _to_write(json, junit)
    wanted = run_simulate(
        files or [],
        out,
        parallel=parallel,
        repeat=repeat,
        seed=seed,
        speed=speed,
        json_path=json,
        junit=junit,
        details=details,
        baseline=baseline,
        provider=_provider(provider),
        voice=voice,
        outside=outside,
        real=real,
    )
    good = _run(wanted)
    if not good:
        raise typer.Exit(1)


def _outside(
    url: str, public_url: str, parameters: list[str] | None, model_at: str, model_ca: Path | None
) -> Outside | None:
    """Another gateway by the options that describe it; None without --url."""
    from offhook.gateway.cli.rehearse import Outside
    from offhook.gateway.rehearsal.outside import target_of

    if not url and (public_url or parameters or model_at or model_ca):
        raise OperatorError("--public-url, --parameter, --model-at and --model-ca go with --url, another gateway's")
    if model_ca and not model_at:
        raise OperatorError("--model-ca goes with --model-at, where the rehearsal model listens")
    token = os.environ.get("TWILIO_AUTH_TOKEN", "")
    return Outside(target_of(url, public_url, token, parameters or []), model_at, model_ca) if url else None


@scenario_app.command("schema")
def scenario_schema() -> None:
    """Print the JSON Schema of scenario files, for editors."""
    import json

    with _rehearsal():
        from offhook.gateway.rehearsal.scenario.schema import scenario_schema as made
    print(json.dumps(made(), indent=2))


@scenario_app.command("from-call")
def scenario_from_call(
    call: Annotated[Path, typer.Argument(help="A call's record, or a report of several (JSON).")],
    sid: Annotated[str, typer.Option("--call", help="SID of the call, if there are several.")] = "",
    agent: Annotated[Path | None, typer.Option(help="The agent's file; none: one is made from the record.")] = None,
    out: Annotated[Path | None, typer.Option(help="The scenario to write, NAME.call.yaml; none: print it.")] = None,
) -> None:
    """Make a scenario from a recorded call: its words, timings, tools and faults."""
    with _rehearsal():
        from offhook.gateway.rehearsal.scenario.from_call import read_record, scenario_text
    folder = out.resolve().parent if out else Path.cwd()
    beside = os.path.relpath(agent.resolve(), folder) if agent else ""
    name = out.name.partition(".")[0] if out else "recorded"
    text = scenario_text(read_record(call, sid), name, beside, folder)
    if out is None:
        print(text, end="")
    else:
        _to_write(out)
        write_whole(out, text)
        print(f"{out}: play it with `offhook simulate {out}`")


@app.command()
def load(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Scenarios, played in turn by all callers; none: the demo's.")
    ] = None,
    url: Annotated[
        str,
        typer.Option(
            help="A running gateway of this project, http://HOST:PORT; of any other its voice webhook or media socket, "
            "with a path. None: start one, with the rehearsal model."
        ),
    ] = "",
    public_url: PublicUrl = "",
    parameter: Parameters = None,
    model_at: ModelAt = "",
    model_ca: ModelCa = None,
    start: Annotated[int, typer.Option(min=1, help="Calls of the first step.")] = 5,
    most: Annotated[int, typer.Option(min=1, help="Number of calls at which to stop in any case.")] = 1_000,
    hold: Annotated[float, typer.Option(min=1, help="Seconds each number of calls is held.")] = 30.0,
    ramp: Annotated[float, typer.Option(min=0, help="Seconds in which the number is reached.")] = 10.0,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Number of caller processes.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for load.json and load.png.")] = Path("out/load"),
) -> None:
    """Find how many calls a gateway carries with none failed and frame lateness P99 within 5 ms, and what limits it.

    The number is doubled until a step fails, then bisected. Exit code 1 if the first step failed.
    """
    with _rehearsal():
        from offhook.gateway.cli.rehearse import load as run_load
        from offhook.gateway.rehearsal.load.search import LoadPlan
    plan = LoadPlan(start=min(start, most), most=most, hold_s=hold, ramp_s=ramp, processes=processes)
    ours = not url or (url.startswith("http") and not urlsplit(url).path.strip("/"))
    outside = _outside("" if ours else url, public_url, parameter, model_at, model_ca)
    _folder(out)
    if not _run(run_load(files or [], out, plan, url if ours else "", outside)):
        raise typer.Exit(1)


@app.command()
def faults(
    numbers: Annotated[list[int] | None, typer.Argument(help="Cases by number; none: all.")] = None,
    quick: Annotated[bool, typer.Option(help="Only cases that take seconds.")] = False,
    parallel: Annotated[int, typer.Option(min=1, max=50, help="Cases at once.")] = 4,
    json: Annotated[Path | None, typer.Option(help="Write the outcomes to this file.")] = None,
    cluster: Annotated[
        bool, typer.Option(help="Faults of a fleet: three gateways, HAProxy and Redis, which must be installed.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="With --cluster: which gateways, and when. With --planted: of the first run.")
    ] = 1,
    calls: Annotated[int, typer.Option(min=2, max=500, help="With --cluster: calls under way.")] = 12,
    planted: Annotated[
        bool, typer.Option("--planted", help="A test of the tests: do the bundled scenarios catch mutated gateways?")
    ] = False,
    matrix: Annotated[
        bool, typer.Option("--matrix", help="With --planted: play every scenario that reaches a mutation against it.")
    ] = False,
    clean: Annotated[
        int, typer.Option(min=0, help="With --planted: runs without a mutation of each scenario that caught one.")
    ] = 20,
    url: OtherUrl = "",
    public_url: PublicUrl = "",
    parameter: Parameters = None,
    model_at: ModelAt = "",
    model_ca: ModelCa = None,
) -> None:
    """Inject faults: each case runs calls through a gateway of its own and checks the outcome.

    With --cluster: through one fleet, case after case. Exit code 1 if one failed.

    With --url: those that a carrier causes, and with --model-at those that a model does, to another gateway.

    With --planted: mutations of the gateway and of agents, one at a time, each against the scenarios that reach it and
    have an expectation that names what it breaks, on the quick clock. Exit code 1 if less than 95 % of them are caught,
    or a scenario fails without a mutation.
    """
    with _rehearsal():
        from offhook.gateway.cli.rehearse import cluster_faults
        from offhook.gateway.cli.rehearse import faults as run_faults
    if planted and (numbers or cluster or quick):
        raise OperatorError("--planted has no numbered cases: omit them, --cluster and --quick")
    outside = _outside(url, public_url, parameter, model_at, model_ca)
    if outside is not None and (planted or cluster):
        raise OperatorError("--planted and --cluster are for gateways that are started here, not for --url")
    if matrix and not planted:
        raise OperatorError("--matrix goes with --planted")
    _to_write(json)
    if planted:
        from offhook.gateway.cli.planted.run import PlantedPlan, planted_faults

        plan = PlantedPlan(parallel=parallel, seed=seed, clean_runs=clean, matrix=matrix)
        good = _run(planted_faults(plan, json))
    elif cluster:
        good = _run(cluster_faults(numbers or [], quick=quick, seed=seed, calls=calls, json_path=json))
    else:
        good = _run(run_faults(numbers or [], quick=quick, parallel=parallel, json_path=json, outside=outside))
    if not good:
        raise typer.Exit(1)


@app.command()
def report(
    what: Annotated[str, typer.Argument(help="SID of an ended call, or a JSON file with a report or a call's record.")],
    call: Annotated[str, typer.Option(help="SID of the call, if the file holds several.")] = "",
    url: Annotated[str, typer.Option(help="The gateway that handled the call.")] = "http://127.0.0.1:8080",
    out: Annotated[Path, typer.Option(help="Folder for the call's picture.")] = Path("out/report"),
) -> None:
    """Show one call: turns with every latency, barge-ins and tools; draw its picture."""
    with _rehearsal():
        from offhook.gateway.cli.report import report as run_report

        run_report(what, call, url, out, os.environ)


@app.command("rehearsal-model")
def rehearsal_model(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    script: Annotated[Path | None, typer.Option(help="A scenario, or its model part as JSON.")] = None,
    ca_out: Annotated[Path | None, typer.Option(help="File for the certificate to trust (SSL_CERT_FILE).")] = None,
    provider: Annotated[
        str, typer.Option(help="Print the URL for clients of this provider (gemini, openai); both are served.")
    ] = "",
    tls: Annotated[
        bool, typer.Option(help="Off: plain ws and http, for clients that cannot be given a certificate.")
    ] = True,
) -> None:
    """Serve the rehearsal model alone, for any program that honours GOOGLE_GEMINI_BASE_URL or OPENAI_BASE_URL."""
    with _rehearsal():
        from offhook.gateway.cli.rehearse import rehearsal_model as run_model
    _to_write(ca_out)
    _run(run_model(host, port, script, ca_out, _provider(provider), tls=tls))


mount_canary(app)
mount_telephone(app)
mount_store(app)
mount_tools(app)
mount_voices(app)


def _agents(paths: list[Path] | None, settings: Settings) -> list[Agent]:
    return [load_agent(path) for path in paths or settings.agents]
