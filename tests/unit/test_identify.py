# SPDX-License-Identifier: Apache-2.0
"""Whose a cgroup is: its directory's name, the runtime's answer, the pod above; and what a wrong one comes to."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cri.client import CriClient
from agent.cri.errors import CriProtocolError, CriUnreachable
from agent.cri.model import CriContainer, CriPod, CriProcess, Identified, State
from agent.hooks.errors import LookupFailed
from agent.hooks.gate import Gate
from agent.hooks.identify import Found, Identifier, find_place, from_cri, is_bound_elsewhere, parse_container_name
from agent.kernel.cgroup import CgroupFinder, ProcessCgroup
from agent.kernel.errors import CgroupError
from agent.workload.identity import CgroupId, ContainerId, ContainerIdentity, PodUid, WorkloadId
from agent.workload.registry import Record

ID = ContainerId("0123456789abcdef" * 4)
OTHER = ContainerId("f" * 64)
ABOVE = CgroupId(7)
POD = CriPod(ContainerId("sandbox"), "shop", "web-0", "u1", {"b": "2", "app": "web"}, {})
CONTAINER = CriContainer(ID, POD.sandbox, "main", "image:1", State.RUNNING, {"its": "own"}, {})
IDENTITY = ContainerIdentity(ID, "main", "shop", "web-0", PodUid("u1"), (("app", "web"), ("b", "2")), "image:1")


@pytest.mark.parametrize(
    "name",
    [ID, f"{ID}.scope", f"cri-containerd-{ID}.scope", f"crio-{ID}", f"libpod-payload-{ID}", f"-{ID}", f"a\nb-{ID}"],
)
def test_a_containers_directory_names_it(name: str) -> None:
    assert parse_container_name(name) == ID


@pytest.mark.parametrize(
    "name",
    [
        "", "container", "kubepods.slice", ID[1:], f"{ID}0", f"x{ID}", ID.upper(), f"{ID}.slice", f"{ID}.scope.d",
        f"conmon-{ID}", f"crio-conmon-{ID}.scope", f"libpod-conmon-{ID}.scope", f"{ID}-x",
    ],
)  # fmt: skip
def test_other_directories_name_none(name: str) -> None:
    assert parse_container_name(name) is None


@given(st.text(max_size=140) | st.from_regex(r"[a-z-]*[0-9a-f]{64}(\.scope)?", fullmatch=True))
def test_any_name_gives_64_digits_of_it_or_none(name: str) -> None:
    found = parse_container_name(name)
    assert found is None or (len(found) == 64 and found in name)


@pytest.mark.parametrize("below", ["", "/container"])
def test_the_place_of_a_process_is_its_containers_own_cgroup(below: str) -> None:
    assert find_place(f"/kubepods/pod1/crio-{ID}.scope{below}") == (ID, f"/kubepods/pod1/crio-{ID}.scope")


def test_of_containers_in_containers_the_innermost_counts() -> None:
    assert find_place(f"/docker/{OTHER}/pod/{ID}") == (ID, f"/docker/{OTHER}/pod/{ID}")


@pytest.mark.parametrize("path", ["/", "/container", "", f"/{ID}/nested", f"/{ID}/nested/container", "/a/b.service"])
def test_a_process_elsewhere_has_no_place(path: str) -> None:
    assert find_place(path) is None


class Runtime:
    """Stands for CriClient; what is an exception is raised."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers

    def _answer(self, name: str) -> Any:
        answer = self._answers.get(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def identify(self, container: str) -> Identified | None:
        answer = self._answer("identify")
        return answer if answer is None or answer.container is None or answer.container.id == container else None

    def running(self) -> tuple[CriContainer, ...]:
        return cast("tuple[CriContainer, ...]", self._answer("running"))

    def find_process(self, _container: str) -> CriProcess | None:
        return cast("CriProcess | None", self._answer("process"))

    def find_pod(self, _sandbox: str) -> CriPod | None:
        return cast("CriPod | None", self._answer("pod"))


def identifier(pods: dict[int, Record] | None = None, **answers: Any) -> Identifier:
    return Identifier((pods or {}).get, cast(CriClient, Runtime(**answers)))


def pod_record(*, pod_level: bool = True) -> Record:
    identity = replace(IDENTITY, container_id=ContainerId("pod:sandbox"), container_name="", image="", sandbox=True)
    return Record(identity, ABOVE, WorkloadId(3), True, 0, pod_level)


def test_the_runtime_tells_the_container_and_its_pods_labels() -> None:
    assert identifier(identify=Identified(POD, CONTAINER)).identify(ID, ABOVE) == Found(IDENTITY)


@pytest.mark.parametrize(
    ("state", "created"), [(State.CREATED, True), (State.RUNNING, False), (State.EXITED, False), (State.UNKNOWN, False)]
)
def test_only_one_that_was_not_started_is_created(state: State, created: bool) -> None:
    assert from_cri(Identified(POD, replace(CONTAINER, state=state)), ID).created is created


def test_a_pod_without_a_container_is_its_sandbox() -> None:
    assert identifier(identify=Identified(POD, None)).identify(ID, ABOVE) == Found(
        replace(IDENTITY, container_name="", image="", sandbox=True), sandbox=True
    )


@pytest.mark.parametrize("answer", [None, CriUnreachable("/run/x", "no socket"), CriProtocolError("junk")], ids=str)
def test_without_the_runtimes_answer_the_pod_above_tells_whose_it_is(answer: Exception | None) -> None:
    known = identifier({ABOVE: pod_record()}, identify=answer)
    assert known.identify(ID, ABOVE) == Found(replace(IDENTITY, container_name="", image=""), by_pod=True)
    assert known.identify(ID, CgroupId(8)) is None


def test_another_container_above_is_no_pod() -> None:
    """Whoever makes cgroups below a container's is not of that container's pod by it."""
    assert identifier({ABOVE: pod_record(pod_level=False)}).identify(ID, ABOVE) is None


def test_an_agent_without_a_runtime_knows_the_pods_that_were_announced() -> None:
    alone = Identifier({ABOVE: pod_record()}.get, None)
    found = alone.identify(ID, ABOVE)
    assert found is not None
    assert found.identity.pod_name == "web-0"
    assert (alone.running(), alone.process_of(ID)) == ((), None)
    with pytest.raises(LookupFailed, match="no CRI socket is configured"):
        alone.labels_of("sandbox", "shop", "web-0")


def test_a_container_without_a_name_is_nobodys() -> None:
    """An empty id is no filter for a runtime: it would answer with any."""
    known = identifier({ABOVE: pod_record()}, identify=Identified(POD, None))
    assert known.identify(ContainerId(""), ABOVE) is None


@pytest.mark.parametrize("missing", [{"namespace": ""}, {"name": ""}], ids=str)
def test_a_pod_without_a_name_or_a_namespace_is_not_believed(missing: dict[str, Any]) -> None:
    answer = Identified(replace(POD, **missing), CONTAINER)
    known = identifier(identify=answer, process=CriProcess(5, "/x"))
    assert (known.identify(ID, ABOVE), known.process_of(ID)) == (None, None)


def test_a_runtime_that_speaks_of_another_container_is_not_believed() -> None:
    assert identifier(identify=Identified(POD, CONTAINER)).identify(OTHER, ABOVE) is None


def test_a_running_container_has_its_process_and_cgroup() -> None:
    known = identifier(identify=Identified(POD, CONTAINER), process=CriProcess(5, "/pod/c"))
    assert known.process_of(ID) == (Found(IDENTITY), 5, "/pod/c")


@pytest.mark.parametrize(
    "answers",
    [{"identify": None, "process": CriProcess(5, "")}, {"identify": Identified(POD, CONTAINER), "process": None},
     {"identify": CriProtocolError("junk")}, {"identify": Identified(POD, CONTAINER), "process": CriProtocolError("")}],
    ids=str,
)  # fmt: skip
def test_one_of_which_the_runtime_says_half_has_no_process(answers: dict[str, Any]) -> None:
    assert identifier(**answers).process_of(ID) is None


def test_an_outage_is_told_once_and_again_after_an_answer(caplog: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(logging.getLogger("podgate"), "propagate", True)
    runtime = Runtime(identify=CriUnreachable("/run/x", "gone"), running=CriUnreachable("/run/x", "gone"))
    known = Identifier(lambda _: None, cast(CriClient, runtime))
    for _ in range(3):
        assert known.identify(ID, ABOVE) is None
        assert known.running() == ()
    assert [record.getMessage() for record in caplog.records] == ["the container runtime cannot be asked"]
    runtime._answers["identify"] = Identified(POD, CONTAINER)
    known.identify(ID, ABOVE)
    known.running()
    assert len(caplog.records) == 2


def test_labels_are_those_of_the_pod_that_was_named() -> None:
    known = identifier(pod=POD)
    assert known.labels_of("sandbox", "shop", "web-0") == {"app": "web", "b": "2"}
    with pytest.raises(LookupFailed, match="is pod shop/web-0, not other/web-0"):
        known.labels_of("sandbox", "other", "web-0")


@pytest.mark.parametrize(
    ("pod", "reason"), [(None, "has no sandbox 'sandbox'"), (CriUnreachable("/run/x", "gone"), "/run/x: gone")]
)
def test_labels_that_the_runtime_does_not_tell_are_a_failure_with_its_reason(pod: Any, reason: str) -> None:
    with pytest.raises(LookupFailed, match=reason):
        identifier(pod=pod).labels_of("sandbox", "shop", "web-0")


class Known:
    """Stands for Gate and CgroupFinder: one container, bound in cgroup 50; its init process may have ended, or be in a
    nested cgroup.
    """

    def __init__(self, *, init_pid: int = 5, at: int | None = 50, nested: bool = True) -> None:
        self._at, self._nested = at, nested
        self._record = Record(IDENTITY, CgroupId(50), WorkloadId(3), True, init_pid)

    def record(self, container: ContainerId) -> Record | None:
        return next((one for one in self.containers() if one.identity.container_id == container), None)

    def containers(self) -> tuple[Record, ...]:
        return (replace(self._record, identity=replace(IDENTITY, container_id=OTHER)), self._record)

    def record_of(self, cgroup: CgroupId) -> Record | None:
        return self._record if cgroup == 50 or (cgroup == 51 and self._nested) else None

    def of_any(self, pid: int) -> ProcessCgroup:
        assert pid == 5
        if self._at is None:
            raise CgroupError("process 5 is gone")
        return ProcessCgroup(CgroupId(self._at), "/x")

    def is_elsewhere(self, container: ContainerId, cgroup: int) -> bool:
        return is_bound_elsewhere(cast(Gate, self), cast(CgroupFinder, self), container, CgroupId(cgroup))


@pytest.mark.parametrize(
    ("known", "container", "cgroup", "elsewhere"),
    [
        (Known(), ID, 60, True),
        (Known(), ID, 50, False),
        (Known(), ContainerId("e" * 64), 60, False),
        (Known(at=None), ID, 60, False),  # its process has ended
        (Known(at=51), ID, 60, True),  # its process is in a nested cgroup
        (Known(at=51, nested=False), ID, 60, False),  # another process has its pid
        (Known(init_pid=0), ID, 60, True),
    ],
)
def test_a_container_that_runs_is_not_moved(known: Known, container: ContainerId, cgroup: int, elsewhere: bool) -> None:
    assert known.is_elsewhere(container, cgroup) is elsewhere
