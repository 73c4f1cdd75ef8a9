# SPDX-License-Identifier: Apache-2.0
"""Many containers at once whose first instruction violates the policy: half of them in the namespace it selects."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc

from bench._common import Say
from bench.parts.figures import Ended
from tests.support.cri import Container, ContainerSpec, Cri, PodSpec
from tests.support.image import FIRST
from tests.support.wait import DeadlineError

SELECTED = "default"  # the namespace of demo/policies/lseek-namespaced.yaml
OTHER = "test"
PODS = 8  # in each namespace; a pod's start costs as much as three containers'
END_S = 30.0


class Crowd:
    """Pods in both namespaces; `run` once, then `remove`."""

    def __init__(self, cri: Cri, name: str, parallel: int, say: Say) -> None:
        self._cri = cri
        self._say = say
        self._threads = ThreadPoolExecutor(parallel)
        specs = [PodSpec(f"{name}-{n}", namespace) for n in range(PODS) for namespace in (SELECTED, OTHER)]
        self._pods = list(self._threads.map(cri.run_pod, specs))

    def run(self, count: int) -> tuple[Ended, ...]:
        """Starts `count` containers, `parallel` at a time, and waits for the end of each."""
        ended: list[Ended] = []
        for one in self._threads.map(self._run_one, range(count)):
            ended.append(one)
            if len(ended) % 50 == 0:
                self._say(f"  {len(ended)} of {count} containers")
        return tuple(ended)

    def _run_one(self, number: int) -> Ended:
        # Pods of both namespaces take turns in the list: so do selected and other containers.
        pod = self._pods[number % len(self._pods)]
        selected = pod.spec.namespace == SELECTED
        container: Container | None = None
        try:
            container = self._cri.create(pod, ContainerSpec(f"c{number}", FIRST.reference))
            self._cri.start(container)
            code = self._cri.wait_exit(container, END_S)
        except (grpc.RpcError, DeadlineError) as error:
            return Ended(container.id if container else "", selected, None, "", str(error))
        return Ended(container.id, selected, code, self._cri.log_text(container))

    def remove(self) -> None:
        """Removes all pods with their containers, as a node does that is drained."""
        list(self._threads.map(self._cri.remove_pod, self._pods))
        self._threads.shutdown()
