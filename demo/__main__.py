# SPDX-License-Identifier: Apache-2.0
"""`make demo`: tells the story as it goes; the last line is `demo: ok` only if every outcome was right and nothing
was left behind.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.agent import AgentProcess, EventReader, PluginProcess
from tests.support.cri import Container, ContainerSpec, PodSpec
from tests.support.leftovers import collect_leftovers
from tests.support.node import Node
from tests.support.wait import DeadlineError, wait_until

POLICIES = Path(__file__).parent / "policies"
FIRST = "localhost/first:1"
KILLED = 137  # 128 + SIGKILL
ENFORCED_WITHIN_S = 1.5
LABEL = {"app": "lseek-test"}


@dataclass(slots=True)
class Stage:
    """What the scenes play on; wrong collects what did not go as promised."""

    node: Node
    agent: AgentProcess
    events: EventReader
    wrong: list[str] = field(default_factory=list)
    pods: int = 0

    def say(self, text: str) -> None:
        print(text, flush=True)

    def check(self, right: bool, text: str) -> None:
        self.say(f"    {'ok' if right else 'WRONG'}: {text}")
        if not right:
            self.wrong.append(text)

    def policy(self, verb: str, name: str) -> None:
        target = str(POLICIES / f"{name}.yaml") if verb == "add" else name
        self.say(f"  $ podgate policy {verb} {target if verb == 'delete' else f'{name}.yaml'}")
        done = self.agent.cli("policy", verb, target)
        self.check(done.returncode == 0, (done.stdout or done.stderr).strip().splitlines()[0])

    def start(self, namespace: str, labels: Mapping[str, str], *args: str) -> Container:
        self.pods += 1
        pod = self.node.cri.run_pod(PodSpec(f"demo-{self.pods}", namespace=namespace, labels=dict(labels)))
        return self.node.cri.run(pod, ContainerSpec(name="main", image=FIRST, args=args))

    def first_instruction(self, namespace: str, labels: Mapping[str, str], *, killed: bool) -> None:
        container = self.start(namespace, labels)
        code = self.node.cri.wait_exit(container)
        output = self.node.cri.log_text(container).strip()
        who = f"pod in {namespace}" + (f" with {','.join(f'{k}={v}' for k, v in labels.items())}" if labels else "")
        if killed:
            self.check(code == KILLED and not output, f"{who}: exit code {code}, killed at its first instruction")
            self.show_event(container)
        else:
            self.check(
                code == 0 and output == "Bad file descriptor", f"{who}: exit code {code}, {output!r}: not selected"
            )

    def show_event(self, container: Container) -> None:
        event = self.events.find(lambda e: (e.get("container") or {}).get("id") == container.id)
        pod, process = event["pod"], event["process"]
        call = f"{event['function']}({event['args'][0]['value']}, …)"
        where = f"{pod['namespace']}/{pod['name']}"
        text = f"event: {call} by {process['binary']} in {where}: {event['action']}, policy {event['policy']['name']}"
        self.check(bool(event["enforced"]), text)


def before_pods(stage: Stage) -> None:
    stage.say("\n1. A namespaced policy, added before the pods: lseek(-1, …) in namespace default is killed")
    stage.policy("add", "lseek-namespaced")
    stage.first_instruction("default", {}, killed=True)
    stage.first_instruction("test", {}, killed=False)
    stage.policy("delete", "default/lseek-namespaced")
    stage.first_instruction("default", {}, killed=False)


def pod_selector(stage: Stage) -> None:
    stage.say("\n2. A cluster-wide policy with podSelector app=lseek-test, added before the pods")
    stage.policy("add", "lseek-podselector")
    stage.first_instruction("test", LABEL, killed=True)
    stage.first_instruction("default", LABEL, killed=True)
    stage.first_instruction("test", {}, killed=False)
    stage.first_instruction("test", {"app": "other"}, killed=False)
    stage.policy("delete", "lseek-podselector")


def after_pods(
    stage: Stage, name: str, selected: tuple[str, dict[str, str]], other: tuple[str, dict[str, str]]
) -> None:
    victim, bystander = stage.start(*selected, "storm", "1000000000"), stage.start(*other, "storm", "1000000000")
    stage.say("  two pods violate it in a loop; nothing stops them yet")
    stage.policy("add", name)
    began = time.monotonic()
    code = wait_exit_within(stage, victim, ENFORCED_WITHIN_S)
    stage.check(
        code == KILLED,
        f"the selected pod: exit code {code}, {1000 * (time.monotonic() - began):.0f} ms after the answer",
    )
    running = stage.node.cri.status(bystander).exit_code == 0 and stage.node.cri.pid(bystander) > 0
    stage.check(running, "the other pod runs on")
    stage.policy("delete", f"default/{name}" if name == "lseek-namespaced" else name)
    stage.node.cri.stop(bystander)


def wait_exit_within(stage: Stage, container: Container, seconds: float) -> int | None:
    try:
        return stage.node.cri.wait_exit(container, deadline_s=seconds)
    except DeadlineError:
        return None


def added_later(stage: Stage) -> None:
    stage.say("\n3. The same policies, added after the pods")
    after_pods(stage, "lseek-namespaced", ("default", {}), ("test", {}))
    after_pods(stage, "lseek-podselector", ("test", LABEL), ("test", {}))


def play(stage: Stage) -> None:
    for scene in (before_pods, pod_selector, added_later):
        scene(stage)
    stage.say("\n4. Every container goes; so does its record in the kernel")
    stage.node.cri.remove_all_pods()
    left: Any = wait_until(lambda: stage.agent.control.status().bindings == 0, 60, "no bindings")
    stage.check(bool(left), "bindings left: 0")


def main() -> int:
    before = collect_leftovers()
    print("podgate demo: a private containerd with NRI, the agent, the NRI plugin", flush=True)
    with (
        Node() as node,
        AgentProcess() as agent,
        PluginProcess(agent, node.nri_socket),
        EventReader(agent.run_dir) as events,
    ):
        print(f"  containerd {node.version}, agent pid {agent.pid}", flush=True)
        stage = Stage(node, agent, events)
        play(stage)
    left = sorted(collect_leftovers() - before)
    stage.check(not left, f"left behind: {', '.join(left) or 'nothing'}")
    if stage.wrong:
        print(f"\ndemo: {len(stage.wrong)} wrong", flush=True)
        return 1
    print("\ndemo: ok", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
