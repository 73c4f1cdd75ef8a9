# SPDX-License-Identifier: Apache-2.0
"""Carrying out what the runtime asks for, and the chores between its calls."""

import logging
import time

from nri_plugin.agent_link import AgentLink
from nri_plugin.api import nri_pb2
from nri_plugin.chores import Chore, HeldWatch, Reporter, Resync, RuleWatch
from nri_plugin.config import PluginConfig, Settings, parse_settings
from nri_plugin.connection import Call, RuntimeConnection
from nri_plugin.containers import Subject
from nri_plugin.decision import Decision, Outcome
from nri_plugin.handlers import (
    Answer,
    Bind,
    BindSandbox,
    Configure,
    Refuse,
    Synchronize,
    Unbind,
    Unreadable,
    handle,
)
from nri_plugin.logfmt import switch_handler
from nri_plugin.rules import RuleFile, list_treatments
from nri_plugin.runtime_info import RuntimeInfo
from nri_plugin.starts import Starts
from nri_plugin.stats import Statistics
from rthook.failure import FailureRule, Treatment

log = logging.getLogger("podgate.nri")

START = "StartContainer"
RUN_SANDBOX = "RunPodSandbox"
SYNCHRONIZE = "Synchronize"
# The name of a log line for each stage.
_LINES = {START: "start_container", RUN_SANDBOX: "run_pod_sandbox"}
_LEVELS = {
    Outcome.BOUND: logging.INFO,
    Outcome.OPEN: logging.ERROR,
    Outcome.CLOSED: logging.ERROR,
    Outcome.QUARANTINED: logging.WARNING,
}


class Service:
    """What the plugin does, without the loop that waits. Errors of the runtime's connection are the caller's."""

    def __init__(self, config: PluginConfig) -> None:
        self._statistics = Statistics()
        self._assemble(config)

    @property
    def agent(self) -> AgentLink:
        """The connection to the agent; another object after `carry_out` of a Configure."""
        return self._agent

    def find_chore(self, now: float) -> Chore | None:
        """The first chore that is due."""
        return next((chore for chore in self._chores if chore.left(now) == 0), None)

    def chore_left(self, now: float) -> float:
        """Seconds until a chore is due."""
        return min(left for chore in self._chores if (left := chore.left(now)) is not None)

    def carry_out(self, connection: RuntimeConnection, call: Call) -> None:
        """Do what a call asks for, and answer it."""
        match handle(call.request, connection.parts):
            case Answer(payload):
                connection.answer(call.request, payload)
            case Refuse(code, reason):
                fields = {"method": call.request.method[:64], "reason": reason}
                log.warning("request_refused", extra={"fields": fields})
                connection.answer_error(call.request, code, reason)
            case Configure(runtime, events):
                self._configure(connection, call, runtime, events)
            case Bind(container, subject):
                deadline_s = call.budget.bind_left(call.spent_s)
                self._settle(connection, call, START, self._starts.decide(subject, container, deadline_s))
            case Unreadable(rejection):
                self._settle(connection, call, START, self._starts.decide_unreadable(rejection))
            case BindSandbox() as sandbox:
                self._bind_sandbox(connection, call, sandbox)
            case Unbind(container_id):
                connection.answer(call.request)
                self._agent.remove(container_id, call.budget.housekeeping_s)
            case Synchronize() as synchronize:
                self._synchronize(connection, call, synchronize)

    def _assemble(self, config: PluginConfig) -> None:
        self._config = config
        self._agent = AgentLink(config)
        self._rules = RuleFile(config.failure_rule)
        self._starts = Starts(self._agent, self._rules, config.pin_dir)
        self._chores: tuple[Chore, ...] = (
            Resync(self._agent),
            Reporter(self._agent, self._statistics, config.watch_s),
            HeldWatch(config.pin_dir, config.watch_s),
            RuleWatch(self._rules, config.watch_s),
        )

    def _configure(self, connection: RuntimeConnection, call: Call, runtime: RuntimeInfo, events: int) -> None:
        connection.configure(runtime, events, call.request, self._config.registration_s)
        self._take_settings(runtime.config)
        if connection.budget.is_short:
            fields = {"request_timeout_ms": connection.timeout_ms, "reckoned_s": connection.budget.timeout_s}
            log.warning("request_timeout_short", extra={"fields": fields})
        rule = self._rules.refresh()
        if runtime.is_crio:
            _warn_of_crio(rule)
        connection.answer(call.request, nri_pb2.ConfigureResponse(events=events).SerializeToString())

    def _take_settings(self, text: str) -> None:
        """Of a plugin that the runtime started: nobody else can tell it anything."""
        if self._config.preconnected is None:
            if text:
                log.info("config_ignored", extra={"fields": {"reason": "the command line configures this plugin"}})
            return
        settings = parse_settings(text)
        _take_log_file(settings)
        for fault in settings.faults:
            log.error("config_fault", extra={"fields": {"fault": fault}})
        config = settings.apply(self._config)
        if config != self._config:
            self._agent.close()
            self._assemble(config)

    def _bind_sandbox(self, connection: RuntimeConnection, call: Call, bind: BindSandbox) -> None:
        if bind.sandbox is None:
            connection.answer(call.request)
            self._observe(connection, call, RUN_SANDBOX, "no_process")
            _say_no_process(connection, bind.subject)
            return
        deadline_s = call.budget.bind_left(call.spent_s)
        self._settle(connection, call, RUN_SANDBOX, self._starts.decide_sandbox(bind.subject, bind.sandbox, deadline_s))

    def _synchronize(self, connection: RuntimeConnection, call: Call, synchronize: Synchronize) -> None:
        failure = self._agent.replace(synchronize.inventory, call.budget.synchronize_left(call.spent_s))
        connection.answer(call.request)
        self._observe(connection, call, SYNCHRONIZE, "not_told" if failure else "told", succeeded=not failure)
        connection.synchronized = connection.in_service = True

    def _settle(self, connection: RuntimeConnection, call: Call, stage: str, decision: Decision) -> None:
        """Answer, then log the decision, also when the runtime has given up waiting for it."""
        try:
            if decision.starts:
                connection.answer(call.request)
            else:
                connection.answer_error(call.request, decision.code, decision.reason)
        finally:
            bound = decision.outcome is Outcome.BOUND
            hook_us = self._observe(connection, call, stage, decision.outcome.value, succeeded=bound)
            fields = decision.fields(hook_us, connection.timeout_ms * 1000)
            log.log(_LEVELS[decision.outcome], _LINES[stage], extra={"fields": fields})

    def _observe(
        self, connection: RuntimeConnection, call: Call, stage: str, outcome: str, *, succeeded: bool = False
    ) -> int:
        """The microseconds from the request's last byte to now."""
        spent_us = int((time.monotonic() - call.arrived) * 1e6)
        self._statistics.observe(
            stage,
            spent_us,
            outcome,
            timeout_us=connection.timeout_ms * 1000,
            succeeded_at_us=time.time_ns() // 1000 if succeeded else 0,
        )
        return spent_us


def _warn_of_crio(rule: FailureRule) -> None:
    """An error answer at StartContainer is only logged there."""
    treatments = list_treatments(rule)
    if Treatment.CLOSED in treatments:
        reason = "cri-o starts a container whatever a plugin answers: `closed` needs the OCI hook there"
        log.warning("closed_not_enforced", extra={"fields": {"reason": reason}})
    if Treatment.QUARANTINE in treatments:
        reason = "quarantine works with cri-o, but where it cannot be done the container starts unguarded"
        log.warning("closed_not_enforced", extra={"fields": {"reason": reason}})


def _take_log_file(settings: Settings) -> None:
    if settings.log_file is None:
        return
    try:
        switch_handler(log, settings.log_file)
    except OSError as error:
        log.error("config_fault", extra={"fields": {"fault": f"log-file {settings.log_file}: {error.strerror}"}})


def _say_no_process(connection: RuntimeConnection, subject: Subject) -> None:
    """Once a connection: either the runtime never tells, or it has pods without a pause process."""
    if not connection.said_no_process:
        connection.said_no_process = True
        fields = {"sandbox_id": subject.container_id, "pod": subject.pod, "namespace": subject.namespace}
        log.info("sandbox_without_process", extra={"fields": fields})
