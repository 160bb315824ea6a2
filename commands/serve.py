"""`omnigen2 serve`: bundles behind an HTTP server."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runtime.errors import OmniGen2Error, RequestError
from .merging import with_loras
from .options import Backend, LoraFolder, MemoryLimit, Precision, Threads, check_range, load_options, needs_extra
from .terminal import note

if TYPE_CHECKING:
    from ..runtime.load_options import LoadOptions
    from ..runtime.pipeline import Pipeline
    from ..serving.service import Service
    from ..serving.settings import ServerSettings

MODULES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    bundle: Annotated[
        list[str] | None, typer.Option(help="A bundle and its name for clients, NAME=PATH; may be repeated. By default nano.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; an address that others reach needs --api-key-file.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.")] = 8000,
    api_key_file: Annotated[Path | None, typer.Option(help="A file of API keys, one a line.")] = None,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait for a bundle.")] = 64,
    max_active: Annotated[
        int | None, typer.Option(help="Requests that take turns; by default 2 on a CPU, 1 on a GPU or with --memory-limit.")
    ] = None,
    drain_seconds: Annotated[float, typer.Option(help="How long requests may go on after SIGTERM or Ctrl-C.")] = 30.0,
    allow_image_host: Annotated[list[str] | None, typer.Option(help="A host to fetch pictures from; may be repeated.")] = None,
    state: Annotated[Path | None, typer.Option(help="The folder where jobs outlive the server; without it they don't.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            help="A LoRA as a model of its own, NAME=FILE or NAME=FILE:SCALE, of the first bundle; NAME@BUNDLE=FILE for another. "
            "May be repeated; LoRAs of one name are merged together."
        ),
    ] = None,
    lora_dir: LoraFolder = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run the engines on a Ray cluster: its HOST:PORT, auto (this machine's), or local."),
    ] = None,
    min_replicas: Annotated[int | None, typer.Option(help="With --ray: the fewest replicas of a bundle; by default 1.")] = None,
    max_replicas: Annotated[int | None, typer.Option(help="The most; by default the fewest.")] = None,
    cpus_per_replica: Annotated[float | None, typer.Option(help="Processors that a replica reserves; by default 1.")] = None,
    gpus_per_replica: Annotated[float | None, typer.Option(help="GPUs, also a fraction of one; by default 0.")] = None,
    replica_wait: Annotated[
        float | None, typer.Option(help="Seconds to wait for the first replicas, and for one while none runs; by default 120.")
    ] = None,
) -> None:
    """Serve bundles over HTTP: OpenAI's endpoints, jobs and a web page."""
    needs_extra("serve", *MODULES)
    from ..serving.guard import LOOPBACK
    from ..serving.server import bound_socket, log_requests, run
    from ..serving.service import Service
    from ..serving.settings import ServerSettings

    check_range("--port", port, 1, 65_535)
    check_range("--max-queue", max_queue, 1, 10_000)
    if max_active is not None:
        check_range("--max-active", max_active, 1, 64)
    if not 0 <= drain_seconds <= 3600:
        raise RequestError(f"--drain-seconds={drain_seconds} is out of range; 0 to 3600 are allowed")
    settings = ServerSettings(
        max_queue=max_queue,
        max_active=max_active,
        drain_s=drain_seconds,
        image_hosts=frozenset(name.lower() for name in allow_image_host or ()),
        keys=read_keys(api_key_file),
        state=state,
    )
    if not settings.keys and host not in LOOPBACK:
        raise OmniGen2Error(f"--host {host!r} lets other machines in: give --api-key-file, or leave --host out")
    named = [_named(text) for text in bundle or ["nano=nano"]]
    paths = dict(named)
    if len(paths) < len(named):
        raise RequestError("--bundle: each bundle needs a name of its own")
    styles = _styles(lora or (), list(paths))
    if lora_dir is not None and not styles:
        raise RequestError("--lora-dir belongs to --lora")
    amounts = {"cpus": cpus_per_replica, "gpus": gpus_per_replica, "start_s": replica_wait}
    replicas = {"least": min_replicas, "most": max_replicas, **amounts}
    if ray is None and any(value is not None for value in replicas.values()):
        raise RequestError("the number of replicas and what each reserves belong to --ray ADDRESS")
    options = load_options(backend, precision, threads, memory_limit)
    chosen = {name: value for name, value in replicas.items() if value is not None}
    with bound_socket(host, port) as listener:
        merged = {name: str(with_loras(paths[style.bundle], style.loras, lora_dir)) for name, style in styles.items()}
        opened: AbstractContextManager[Service]
        if ray is None:
            opened = nullcontext(Service(_pipelines(paths, styles, merged, options), settings))
        else:
            opened = _on_ray(ray, {**paths, **merged}, settings, chosen, options, port)
        with opened as service:
            _announce(settings, list(service.bundles), host, port)
            log_requests()
            run(service, listener)


def _pipelines(
    paths: Mapping[str, str],
    styles: Mapping[str, _Style],
    merged: Mapping[str, str],
    options: LoadOptions,
) -> dict[str, Pipeline]:
    """The bundles' pipelines, and those of the merged ones, which share what is alike."""
    from ..runtime.pipeline import load

    chosen = asdict(options)
    pipelines = {name: load(path, **chosen) for name, path in paths.items()}
    shared = {name: load(merged[name], **chosen, shares=pipelines[style.bundle]) for name, style in styles.items()}
    return {**pipelines, **shared}


@contextmanager
def _on_ray(
    address: str,
    bundles: dict[str, str],
    settings: ServerSettings,
    replicas: dict[str, Any],
    options: LoadOptions,
    port: int,
) -> Iterator[Service]:
    """A service with replicas on a Ray cluster. replicas: fields of `ReplicaSettings`."""
    needs_extra("ray", "ray")
    from ..distributed.front import replicated_service
    from ..distributed.settings import ReplicaSettings

    chosen = ReplicaSettings(**{"most": replicas.get("least", ReplicaSettings.most), **replicas})
    name = f"omnigen2-{socket.gethostname()}-{port}"
    with replicated_service(bundles, settings, chosen, address=address, name=name, options=options, note=note) as service:
        yield service


def read_keys(file: Path | None) -> frozenset[bytes]:
    """The digests of a file's API keys, one a line; empty lines and lines that begin with # don't count. Raises RequestError."""
    from ..serving.guard import digest

    if file is None:
        return frozenset()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RequestError(f"--api-key-file {str(file)!r} can't be read: {getattr(error, 'strerror', None) or error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise RequestError(f"--api-key-file {str(file)!r} holds no key: write one on each line")
    if not all(key.isascii() for key in keys):
        raise RequestError(f"--api-key-file {str(file)!r} holds a key that isn't ASCII, which HTTP can't carry: change it")
    if any(len(key) < 16 for key in keys):
        raise RequestError(f"--api-key-file {str(file)!r} holds a key of less than 16 characters: make them longer")
    return frozenset(map(digest, keys))


def _named(text: str) -> tuple[str, str]:
    """The name and path of NAME=PATH; a path alone is named after its folder."""
    name, found, path = text.partition("=")
    name, path = (name, path) if found else (Path(text).name, text)
    if not name or not path or len(name) > 100 or not name.isprintable():
        raise RequestError(f"--bundle {text!r} is not NAME=PATH")
    return name, path


@dataclass(frozen=True)
class _Style:
    """The LoRAs of a model, FILE or FILE:SCALE, and the name of the bundle that they are merged into."""

    bundle: str
    loras: list[str]


def _styles(texts: Sequence[str], bundles: Sequence[str]) -> dict[str, _Style]:
    """The models that --lora makes, by name. bundles: the names of the bundles. Raises RequestError."""
    styles: dict[str, _Style] = {}
    for text in texts:
        left, found, lora = text.partition("=")
        name, at, bundle = left.rpartition("@")
        name, bundle = (name, bundle) if at else (left, bundles[0])
        if not (found and name and lora) or len(name) > 100 or not name.isprintable():
            raise RequestError(f"--lora {text!r} is not NAME=FILE, NAME=FILE:SCALE or NAME@BUNDLE=FILE")
        if bundle not in bundles:
            raise RequestError(f"--lora {text!r} is for the bundle {bundle!r}; there are: {', '.join(bundles)}")
        if name in bundles or styles.setdefault(name, _Style(bundle, [])).bundle != bundle:
            raise RequestError(f"--lora {text!r}: the name {name!r} is another model's")
        styles[name].loras.append(lora)
    return styles


def _announce(settings: ServerSettings, names: list[str], host: str, port: int) -> None:
    in_memory = "kept in memory only; --state DIR lets them outlive the server"
    kept = f"kept in {str(settings.state)!r}" if settings.state else in_memory
    place = f"[{host}]" if ":" in host else host
    typer.echo(f"serving {', '.join(names)} at http://{place}:{port}; jobs are {kept}", err=True)
