# SPDX-License-Identifier: Apache-2.0
"""podgate hooks: putting the hooks into a node's container runtimes, taking them out, and how they are.

Exit status: 0 done, or all as it should be; 1 it could not be done, or something is missing or wrong; 2 usage.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click
from tabulate import tabulate

from rthook.failure import Treatment, is_name
from rthook.install.checks import RuntimeStatus
from rthook.install.errors import InstallError
from rthook.install.files import apply_steps, check_writable, locked
from rthook.install.host import Host
from rthook.install.options import (
    DEFAULT_AGENT_SOCKET,
    DEFAULT_CONTAINERD_CONFIG,
    DEFAULT_DEADLINE_MS,
    DEFAULT_FAILURE_RULE,
    DEFAULT_INSTALL_DIR,
    DEFAULT_PIN_DIR,
    HookOptions,
    Mode,
    Options,
    RuleOptions,
    RuntimeName,
    Stage,
)
from rthook.install.plan import Plan, diff_of
from rthook.install.planner import plan_install, plan_uninstall
from rthook.install.runtimes import detect_some
from rthook.install.status import status_of

EXIT_WRONG = 1
AUTO = "auto"
SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
# What the hook itself accepts (hook/options.h); one that refuses its arguments refuses every container.
MAX_DEADLINE_MS = 60_000
MAX_PATH = 255
MAX_SOCKET_PATH = 107

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Failed(click.ClickException):
    """Prints the reason as it is: it may begin with a file, line and column."""

    exit_code = EXIT_WRONG

    def show(self, file: Any = None) -> None:  # noqa: ARG002 - click's signature
        click.echo(self.message, err=True)


class HostPath(click.ParamType[str]):
    """An absolute path of the host, without the prefix of --root."""

    name = "path"

    def __init__(self, most: int = MAX_PATH) -> None:
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        path = os.path.normpath(str(value))
        if not path.startswith("/"):
            self.fail(f"{value!r} is not absolute", param, ctx)
        if len(os.fsencode(path)) > self._most:
            self.fail(f"{value!r} has more than {self._most} bytes", param, ctx)
        return path


class Namespace(click.ParamType[str]):
    """The name of a Kubernetes namespace."""

    name = "namespace"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_name(str(value)):
            self.fail(f"{value!r} is no namespace's name", param, ctx)
        return str(value)


def _options(*options: Callable[[Any], Any]) -> Callable[[_Function], _Function]:
    def add(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _path(name: str, default: str, text: str, most: int = MAX_PATH) -> Callable[[Any], Any]:
    return click.option(name, type=HostPath(most), default=default, show_default=True, help=text)


runtime_option = click.option(
    "--runtime",
    type=click.Choice([AUTO, *(name.value for name in RuntimeName)]),
    default=AUTO,
    show_default=True,
    help="Which container runtime; auto: all that are there.",
)
root_option = click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
    default=Path("/"),
    show_default=True,
    help="Where the host's file system is mounted. Other paths are the host's, without it.",
)
config_option = _path("--containerd-config", DEFAULT_CONTAINERD_CONFIG, "containerd's configuration file.")
install_dir_option = _path("--install-dir", DEFAULT_INSTALL_DIR, "Where the hook's program goes.")
hooks_dir_option = click.option("--hooks-dir", type=HostPath(), help="[default: the first that the runtime reads]")
rule_option = _path("--failure-rule", DEFAULT_FAILURE_RULE, "The failure rule's file, made where there is none.")
binary_option = click.option(
    "--binary",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The hook's program. Otherwise the one that came with podgate, or build/podgate-hook.",
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Print what would change, and change nothing.")
output_option = click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
hook_options = _options(
    click.option(
        "--stage",
        type=click.Choice([stage.value for stage in Stage]),
        default=Stage.CREATE_CONTAINER.value,
        show_default=True,
        help="When the hook holds a container; createRuntime where pods use user namespaces.",
    ),
    _path("--agent-socket", DEFAULT_AGENT_SOCKET, "The agent's socket.", MAX_SOCKET_PATH),
    _path("--pin-dir", DEFAULT_PIN_DIR, "The agent's pins."),
    click.option(
        "--deadline-ms",
        type=click.IntRange(1, MAX_DEADLINE_MS),
        default=DEFAULT_DEADLINE_MS,
        show_default=True,
        help="What the hook takes altogether; 3 s later, in whole seconds, the runtime ends it.",
    ),
)
rule_options = _options(
    rule_option,
    click.option(
        "--default",
        type=click.Choice([treatment.value for treatment in Treatment]),
        help="Of a new failure rule.  [default: open]",
    ),
    click.option("--exempt", type=Namespace(), multiple=True, help="Always open in a new failure rule; repeatable."),
    click.option("--own-namespace", type=Namespace(), help="podgate's own, exempt like kube-system. Found in a pod."),
)
containerd_options = _options(
    config_option,
    click.option("--mode", type=click.Choice([mode.value for mode in Mode]), help="With containerd.  [default: nri]"),
    click.option(
        "--plugin", type=HostPath(), help="The host's podgate-nri, for nri-preinstalled.  [default: this one's]"
    ),
)


@click.group()
def hooks() -> None:
    """Put podgate's hooks into this node's container runtimes, take them out, and tell how they are."""


@hooks.command()
@_options(runtime_option, install_dir_option, hooks_dir_option, containerd_options, hook_options, rule_options)
@_options(binary_option, root_option, dry_run_option, output_option)
def install(runtime: str, root: Path, dry_run: bool, output: str, **given: Any) -> None:
    """Put the hooks in. Doing it twice changes nothing; no runtime is restarted."""
    host = Host(root)
    names = _runtimes(host, runtime)
    _check_usage(names, given)
    options = Options(
        install_dir=given["install_dir"],
        hooks_dir=given["hooks_dir"] or "",
        containerd_config=given["containerd_config"],
        failure_rule=given["failure_rule"],
        mode=Mode(given["mode"] or Mode.NRI.value),
        hook=HookOptions(Stage(given["stage"]), given["agent_socket"], given["pin_dir"], given["deadline_ms"]),
        rule=_rule(given),
        binary=given["binary"],
        plugin=given["plugin"] or str(Path(sys.executable).parent / "podgate-nri"),
    )
    _carry_out(host, lambda: plan_install(host, options, names), dry_run, output)


def _check_usage(names: Sequence[RuntimeName], given: dict[str, Any]) -> None:
    """click.UsageError for options that would do nothing."""
    if given["mode"] and RuntimeName.CONTAINERD not in names:
        raise click.UsageError("--mode is containerd's alone")
    if given["plugin"] and given["mode"] != Mode.NRI_PREINSTALLED.value:
        raise click.UsageError("--plugin goes with --mode nri-preinstalled")


def _rule(given: dict[str, Any]) -> RuleOptions:
    asked = bool(given["default"] or given["exempt"] or given["own_namespace"])
    own = given["own_namespace"] or _own_namespace()
    return RuleOptions(given["default"] or Treatment.OPEN.value, given["exempt"], own, asked)


def _own_namespace() -> str:
    """Of the pod that this runs in; empty outside of pods."""
    name = os.environ.get("POD_NAMESPACE", "")
    if not name and SERVICE_ACCOUNT_NAMESPACE.is_file():
        name = SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    if name and not is_name(name):
        raise click.UsageError(f"{name!r}, this pod's namespace, is no namespace's name: see --own-namespace")
    return name


@hooks.command()
@_options(runtime_option, install_dir_option, hooks_dir_option, config_option)
@_options(root_option, dry_run_option, output_option)
def uninstall(runtime: str, root: Path, dry_run: bool, output: str, **given: Any) -> None:
    """Take the hooks out: exactly what install put in. The options matter only without its record."""
    host = Host(root)
    names = _runtimes(host, runtime)
    options = Options(**{**given, "hooks_dir": given["hooks_dir"] or ""})
    _carry_out(host, lambda: plan_uninstall(host, options, names), dry_run, output)


@hooks.command()
@_options(runtime_option, config_option, rule_option, binary_option, root_option, output_option)
def status(runtime: str, root: Path, output: str, **given: Any) -> None:
    """What the running runtimes use. Exit status 1 when something is missing or wrong."""
    host = Host(root)
    statuses = _or_fail(lambda: status_of(host, Options(**given), _runtimes(host, runtime)))
    if output == "json":
        click.echo(
            json.dumps({"ok": all(s.ok for s in statuses), "runtimes": [_as_json(s) for s in statuses]}, indent=2)
        )
    else:
        _print_statuses(statuses)
    if not all(item.ok for item in statuses):
        sys.exit(EXIT_WRONG)


def _as_json(item: RuntimeStatus) -> dict[str, Any]:
    checks = [{**asdict(check), "verdict": check.verdict.value.lower()} for check in item.checks]
    return {**asdict(item), "runtime": item.runtime.value, "ok": item.ok, "checks": checks}


def _print_statuses(statuses: Sequence[RuntimeStatus]) -> None:
    for item in statuses:
        click.echo(f"{item.runtime.value} {item.version}")
        rows = [(check.name, check.verdict.value, check.detail) for check in item.checks]
        if item.refusal:
            rows.append(("refusal", "", item.refusal))
        click.echo(tabulate(rows, tablefmt="plain", disable_numparse=True))
        for check in item.checks:
            if check.advice:
                click.echo(f"{item.runtime.value}, {check.name}: {check.advice}", err=True)


def _runtimes(host: Host, runtime: str) -> tuple[RuntimeName, ...]:
    if runtime == AUTO:
        return _or_fail(lambda: detect_some(host))
    return (RuntimeName(runtime),)


def _carry_out(host: Host, make: Callable[[], Plan], dry_run: bool, output: str) -> None:
    plan = _or_fail(make) if dry_run else _or_fail(lambda: _apply(host, make))
    if output == "json":
        steps = [
            {"action": step.action, "path": step.path, "text": step.text, "diff": diff_of(step)} for step in plan.steps
        ]
        fields = {"dry_run": dry_run, "steps": steps, "notes": plan.notes, "commands": plan.commands}
        click.echo(json.dumps(fields, indent=2))
    else:
        _print_plan(plan, dry_run)


def _apply(host: Host, make: Callable[[], Plan]) -> Plan:
    """Planned under the lock: what another installation has changed meanwhile is seen."""
    with locked(host):
        plan = make()
        check_writable(host, plan.steps)
        apply_steps(host, plan.steps)
    return plan


def _print_plan(plan: Plan, dry_run: bool) -> None:
    for step in plan.steps:
        click.echo(f"{'would ' if dry_run else ''}{step.text}")
        click.echo("".join(f"  {line}" for line in diff_of(step).splitlines(keepends=True)), nl=False)
    if not plan.steps:
        click.echo("nothing to change")
    for text in plan.notes:
        click.echo(f"note: {text}", err=True)
    for command in plan.commands:
        click.echo(f"{'then' if dry_run else 'now'} run: {command}")


_Answer = TypeVar("_Answer")


def _or_fail(call: Callable[[], _Answer]) -> _Answer:
    try:
        return call()
    except InstallError as error:
        raise Failed(str(error)) from error
    except PermissionError as error:
        reason = "this takes root, and this is uid" if os.geteuid() else "refused, as uid"
        raise Failed(f"{error.filename}: {reason} {os.geteuid()}") from error
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}") from error
