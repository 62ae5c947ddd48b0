"""The command `python -m mlflow_server`."""

import importlib.util
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from mlflow_server.errors import InputError, ServerError

_STORE_VARIABLE = "MLFLOW_BACKEND_STORE_URI"
# Locals in a traceback would show the store's password.
app = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)


@app.command()
def serve(
    context: typer.Context,
    store: Annotated[
        str,
        typer.Option(
            envvar=_STORE_VARIABLE,
            help="Database URI of experiments and runs, such as sqlite:///PATH. One with a "
            "password is only taken from the environment variable.",
        ),
    ],
    artifacts: Annotated[
        str, typer.Option(help="Folder or URI (s3://BUCKET/PATH) under which artifacts are kept.")
    ],
    host: Annotated[
        str,
        typer.Option(
            help="Interface to listen on; 0.0.0.0 is all of them, where --auth is in order."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
    startup_timeout: Annotated[
        float, typer.Option(help="Seconds that MLflow may take until it answers.")
    ] = 120.0,
    log_file: Annotated[
        Path | None, typer.Option(help="File to append MLflow's own log to.")
    ] = None,
    auth: Annotated[
        bool,
        typer.Option(
            help="Ask for user names and passwords. The first start creates an admin with a "
            "password from the environment variable MLFLOW_AUTH_ADMIN_PASSWORD, or a generated "
            "one that is printed once."
        ),
    ] = False,
    auth_folder: Annotated[
        Path | None,
        typer.Option(
            help="Private folder of --auth for its secret key and, where the store is SQLite, the "
            "users; beside that file unless given.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which clients reach the server, besides --host and loopback's; "
            "repeat for more. Requests by other names are refused."
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Site, as https://SITE, whose pages may call the server, besides its own and "
            "those on loopback; repeat for more."
        ),
    ] = None,
    page: Annotated[
        str,
        typer.Option(help="Path of the page whose address is printed once MLflow is ready."),
    ] = "",
) -> None:
    """Run an MLflow tracking server until SIGTERM or Ctrl-C.

    Exit codes: 0 stopped by a signal, 1 the server failed, 2 bad input.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    if importlib.util.find_spec("mlflow") is None:
        _fail("MLflow is not installed; pip install 'decrop[sweep]'", code=1)
    if auth and importlib.util.find_spec("flask_wtf") is None:
        _fail("--auth needs Flask-WTF, which is missing; pip install 'decrop[server]'", code=1)
    # Here, not at the top, because both need packages that come with MLflow.
    from mlflow_server.server import TrackingServer
    from mlflow_server.settings import ServerSettings
    from mlflow_server.store import contains_password

    try:
        source = context.get_parameter_source("store")
        if contains_password(store) and source is not None and source.name == "COMMANDLINE":
            raise InputError(
                "every user of this machine can read a password in --store; "
                f"set the environment variable {_STORE_VARIABLE} instead"
            )
        settings = ServerSettings(
            *(store, artifacts, host, port, startup_timeout, log_file),
            auth_folder=_auth_folder(auth_folder, store) if auth else None,
            allowed_hosts=tuple(allowed_host or ()),
            cors_origins=tuple(cors_origin or ()),
        )
        with TrackingServer(settings) as server:
            typer.echo(f"MLflow is ready at {server.url}{page}")
            if settings.auth_folder is not None:
                _show_new_admin(settings.auth_folder)
            server.wait()
    except InputError as error:
        _fail(str(error), code=2)
    except ServerError as error:
        _fail(str(error), code=1)


def _auth_folder(given: Path | None, store: str) -> Path:
    from mlflow_server.store import check_store, sqlite_file

    check_store(store)
    database = sqlite_file(store)
    if given is None and database is None:
        raise InputError("give --auth-folder FOLDER, a private place for the server's secret key")
    return given or Path(f"{database}.auth")


def _show_new_admin(folder: Path) -> None:
    from mlflow_server.authentication import forget_admin_password, kept_admin_password

    if (admin := kept_admin_password(folder)) is not None:
        name, password = admin
        typer.echo(f"User {name!r} was created with the password {password}, not shown again")
        forget_admin_password(folder)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    # A second signal must not interrupt the stop that the first one begins.
    for handled in (signal.SIGTERM, signal.SIGINT):
        signal.signal(handled, signal.SIG_IGN)
    raise SystemExit(0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"mlflow_server: {message}", err=True)
    raise typer.Exit(code)


if __name__ == "__main__":
    app(prog_name="python -m mlflow_server")
