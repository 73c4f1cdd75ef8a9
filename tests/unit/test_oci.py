# SPDX-License-Identifier: Apache-2.0
"""From one call of the OCI hook to a container that starts: bundle, process, cgroup, labels."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.hooks.annotations import Runtime
from agent.hooks.bundle import read_config
from agent.hooks.errors import HookError, LookupFailed, Reason, SpecError
from agent.hooks.gate import Start
from agent.hooks.limits import MAX_CONFIG, MAX_LABELS_BYTES, MAX_PATH
from agent.hooks.oci import OciStarts, Stage
from agent.hooks.peer import Peer
from agent.hooks.spec import State, parse_state
from agent.kernel.cgroup import ProcessCgroup
from agent.workload.identity import ContainerIdentity, Door
from tests.support.procfs import FakeNode

_ID = "c1" * 32
_INIT, _HOOK, _RUNC = 70, 71, 60
_ANNOTATIONS = {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.sandbox-namespace": "shop",
    "io.kubernetes.cri.sandbox-name": "web-0",
    "io.kubernetes.cri.sandbox-uid": "u1",
    "io.kubernetes.cri.sandbox-id": "s1",
    "io.kubernetes.cri.container-name": "main",
    "io.kubernetes.cri.image-name": "web:1",
}
_SANDBOX = _ANNOTATIONS | {"io.kubernetes.cri.container-type": "sandbox"}


@dataclass
class _Labels:
    """Stands for the runtime. found: what it says of any pod."""

    found: Mapping[str, str] | None
    asked: tuple[str, str, str] | None = None
    fails: bool = False

    def labels_of(self, sandbox_id: str, namespace: str, name: str) -> Mapping[str, str] | None:
        self.asked = sandbox_id, namespace, name
        if self.fails:
            raise LookupFailed("no answer within 0.5 s")
        return self.found


class _Stage:
    """A container of a pod, created by a runtime in a cgroup of its own; its init process and a hook wait."""

    def __init__(self, folder: Path) -> None:
        self.node = FakeNode(folder)
        self.path = f"/kubepods/pod1/{_ID}"
        self.cgroups_path = self.path
        self.annotations: dict[str, Any] = dict(_ANNOTATIONS)
        self.labels = _Labels({"b": "2", "a": "1"})
        self.bundle = self.node.host / "run/b"
        self.bundle.mkdir(parents=True)
        self.node.process(_RUNC, "/system.slice/runtime")
        self.node.process(_INIT, self.path, parent=_RUNC)
        self.node.process(_HOOK, self.path, parent=_INIT)
        self.starts = OciStarts(self.node.finder, self.labels, self.node.procfs)

    @property
    def file(self) -> Path:
        return self.bundle / "config.json"

    def write_config(self) -> None:
        document = {"annotations": self.annotations, "linux": {"cgroupsPath": self.cgroups_path}, "root": {"path": "r"}}
        self.file.write_text(json.dumps(document))

    def at_create_runtime(self) -> None:
        """The hook is the runtime's child."""
        self.node.process(_HOOK, "/system.slice/runtime", parent=_RUNC)

    def start(
        self, stage: Stage = Stage.CREATE_CONTAINER, runtime: Runtime = Runtime.CONTAINERD, /, **members: object
    ) -> Start:
        state = {"id": _ID, "pid": 1, "bundle": "/run/b", "annotations": {"k": "v"}} | members
        return self.resolve(stage, runtime, parse_state(json.dumps(state).encode()))

    def resolve(self, stage: Stage, runtime: Runtime, state: State) -> Start:
        peer = Peer(_HOOK, 0, 0)
        return self.starts.start(stage, self.starts.describe(runtime, state, peer), peer)

    def refused(self, *args: Any, **members: object) -> HookError:
        with pytest.raises(HookError) as caught:
            self.start(*args, **members)
        return caught.value


@pytest.fixture
def stage(tmp_path: Path) -> _Stage:
    made = _Stage(tmp_path)
    made.write_config()
    return made


def test_at_create_container_the_caller_is_in_the_cgroup_and_its_parent_is_the_init_process(stage: _Stage) -> None:
    start = stage.start()
    cgroup = ProcessCgroup(stage.node.cgroup(stage.path), stage.path)  # type: ignore[arg-type]
    identity = ContainerIdentity(_ID, "main", "shop", "web-0", "u1", (("a", "1"), ("b", "2")), "web:1")  # type: ignore[arg-type]
    assert start == Start(identity, _INIT, stage.path, True, door=Door.OCI, cgroup=cgroup)
    assert stage.labels.asked == ("s1", "shop", "web-0")


def test_at_create_runtime_the_state_names_the_init_process(stage: _Stage) -> None:
    stage.at_create_runtime()
    start = stage.start(Stage.CREATE_RUNTIME, pid=_INIT)
    assert (start.pid, start.held, start.door) == (_INIT, True, Door.OCI)
    assert start.cgroup == ProcessCgroup(stage.node.cgroup(stage.path), stage.path)  # type: ignore[arg-type]


def test_an_extra_cgroup_below_the_containers_is_the_containers(stage: _Stage) -> None:
    for pid, parent in ((_INIT, _RUNC), (_HOOK, _INIT)):
        stage.node.process(pid, f"{stage.path}/container", parent=parent)
    cgroup = stage.start().cgroup
    assert cgroup == ProcessCgroup(stage.node.cgroup(stage.path), stage.path, nested=True)  # type: ignore[arg-type]


def test_a_systemd_path_leads_to_its_scope(stage: _Stage) -> None:
    stage.path = f"/kubepods.slice/cri-containerd-{_ID}.scope"
    stage.cgroups_path = f"kubepods.slice:cri-containerd:{_ID}"
    stage.write_config()
    stage.node.process(_INIT, stage.path)
    stage.node.process(_HOOK, stage.path, parent=_INIT)
    cgroup = stage.start().cgroup
    assert cgroup is not None
    assert cgroup.path == stage.path


@pytest.mark.parametrize("path", [f"/{_ID}", f"/{_ID}/container", f"/system.slice/runc-{_ID}.scope"])
def test_without_a_path_the_cgroup_is_named_after_the_container(stage: _Stage, path: str) -> None:
    stage.cgroups_path = ""
    stage.write_config()
    stage.node.process(_INIT, path)
    stage.node.process(_HOOK, path, parent=_INIT)
    cgroup = stage.start().cgroup
    assert cgroup is not None
    assert cgroup.path == path.removesuffix("/container")


@pytest.mark.parametrize("path", ["/", "/user.slice/session-1.scope", f"/x{_ID}"])
def test_without_a_path_another_cgroup_is_somebody_elses(stage: _Stage, path: str) -> None:
    """With cgroups disabled the container stays where its runtime is."""
    stage.cgroups_path = ""
    stage.write_config()
    stage.node.process(_INIT, path)
    stage.node.process(_HOOK, path, parent=_INIT)
    error = stage.refused()
    assert (error.reason, "is not named after the container" in str(error)) == (Reason.NO_CGROUP, True)


@pytest.mark.parametrize(("stage_of", "pid"), [(Stage.CREATE_CONTAINER, 1), (Stage.CREATE_RUNTIME, _INIT)])
def test_a_process_that_is_not_where_the_runtime_says_is_refused(stage: _Stage, stage_of: Stage, pid: int) -> None:
    stage.cgroups_path = "/kubepods/pod1/other"
    stage.write_config()
    error = stage.refused(stage_of, pid=pid)
    assert error.reason is Reason.NO_CGROUP
    assert f"is in cgroup {stage.path}, not in the container's /kubepods/pod1/other" in str(error)


@pytest.mark.parametrize("parent", [_RUNC, 1, 0, 999])
def test_a_hook_whose_parent_is_not_in_the_container_is_refused(stage: _Stage, parent: int) -> None:
    """The init process has ended, and somebody adopted the hook."""
    stage.node.process(_HOOK, stage.path, parent=parent)
    error = stage.refused()
    assert (error.reason, "is not the init process" in str(error)) == (Reason.NO_CGROUP, True)


def test_a_dead_init_process_is_none(stage: _Stage) -> None:
    stage.node.process(_INIT, stage.path, state="Z")
    assert stage.refused().reason is Reason.NO_CGROUP
    stage.at_create_runtime()
    assert "has exited" in str(stage.refused(Stage.CREATE_RUNTIME, pid=_INIT))


def test_a_hook_that_has_exited_is_refused(stage: _Stage) -> None:
    stage.node.process(_HOOK, stage.path, parent=_INIT, state="Z")
    assert stage.refused().reason is Reason.NO_CGROUP
    (stage.node.procfs / f"{_HOOK}/root").unlink()
    error = stage.refused()
    assert (error.reason, "No such file" in str(error)) == (Reason.NO_SPEC, True)


@pytest.mark.parametrize("junk", ["", "70", "70 (a) S", "70 (a) S x"])
def test_a_parent_that_cannot_be_read_is_told(stage: _Stage, junk: str) -> None:
    (stage.node.procfs / f"{_HOOK}/stat").write_text(junk)
    assert str(stage.refused()) == f"container {_ID}: process {_HOOK} is gone"


@pytest.mark.parametrize("pid", [0, 1])
def test_create_runtime_without_a_pid_is_refused(stage: _Stage, pid: int) -> None:
    stage.at_create_runtime()
    error = stage.refused(Stage.CREATE_RUNTIME, pid=pid)
    assert isinstance(error, SpecError)
    assert (error.reason, error.pointer) == (Reason.INVALID, "/pid")


def test_a_pid_of_another_pid_namespace_is_not_ours_to_read(stage: _Stage) -> None:
    stage.at_create_runtime()
    stage.node.namespace(str(_HOOK), "pid:[4026532999]")
    assert "is in another pid namespace" in str(stage.refused(Stage.CREATE_RUNTIME, pid=_INIT))
    (stage.node.procfs / f"{_HOOK}/ns/pid").unlink()
    assert f"process {_HOOK} is gone" in str(stage.refused(Stage.CREATE_RUNTIME, pid=_INIT))


@pytest.mark.parametrize("below", ["", "/conmon"])
def test_the_runtimes_own_cgroup_is_not_bound(stage: _Stage, below: str) -> None:
    stage.node.process(_HOOK, f"{stage.path}{below}", parent=_RUNC)
    error = stage.refused(Stage.CREATE_RUNTIME, pid=_INIT)
    assert (error.reason, "so is its runtime's hook" in str(error)) == (Reason.NO_CGROUP, True)


def test_labels_that_the_runtime_does_not_give_are_a_refusal(stage: _Stage) -> None:
    stage.labels.fails = True
    error = stage.refused()
    assert (error.reason, str(error)) == (Reason.NO_LABELS, "no answer within 0.5 s")
    stage.labels.fails, stage.labels.found = False, None
    error = stage.refused()
    assert (error.reason, str(error)) == (
        Reason.NO_LABELS,
        "pod shop/web-0, sandbox s1: the runtime does not know it",
    )


def test_labels_larger_than_a_pods_are_a_refusal(stage: _Stage) -> None:
    stage.labels.found = {"k": "x" * MAX_LABELS_BYTES}
    assert stage.refused().reason is Reason.NO_LABELS


def test_a_sandbox_is_not_asked_after_while_it_is_made(stage: _Stage) -> None:
    stage.annotations = dict(_SANDBOX)
    stage.write_config()
    start = stage.start()
    assert (start.identity.labels, stage.labels.asked, start.sandbox) == ((), None, False)


def test_a_container_without_a_pod_starts_without_labels(stage: _Stage) -> None:
    stage.annotations = {}
    stage.write_config()
    identity = stage.start(Stage.CREATE_CONTAINER, Runtime.PODMAN).identity
    assert (identity.namespace, identity.pod_name, identity.labels, stage.labels.asked) == ("", "", (), None)


def test_the_states_annotations_count_when_the_bundle_has_none(stage: _Stage) -> None:
    stage.annotations = {}
    stage.write_config()
    assert stage.start(annotations=_ANNOTATIONS).identity.namespace == "shop"
    stage.annotations = {"k": "v"}
    stage.write_config()
    assert stage.start(annotations=_ANNOTATIONS).identity.namespace == ""


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({"k": 5}, Reason.NO_SPEC),
        ({"io.kubernetes.cri.container-type": "x"}, Reason.INVALID),
        (_ANNOTATIONS | {"io.kubernetes.cri.sandbox-name": "x" * (1 << 20)}, Reason.INVALID),
        (_ANNOTATIONS | {"io.kubernetes.cri.sandbox-name": "\ud800"}, Reason.INVALID),
        (_ANNOTATIONS | {"io.kubernetes.cri.sandbox-name": ""}, Reason.UNIDENTIFIED),
    ],
)
def test_annotations_that_identify_nobody_are_a_refusal(
    stage: _Stage, annotations: dict[str, Any], reason: Reason
) -> None:
    stage.annotations = annotations
    stage.write_config()
    assert stage.refused().reason is reason


@pytest.mark.parametrize(
    ("bundle", "words"),
    [
        ("", "is missing, so there is no config.json"),
        ("run/b", "not an absolute path"),
        ("/run/none", "No such file or directory"),
        ("/run/b/config.json", "Not a directory"),
        (f"/{'x' * 300}", "File name too long"),
        ("/" + "ü" * (MAX_PATH - 2), "File name too long"),
    ],
)
def test_a_bundle_that_is_not_there_is_no_spec(stage: _Stage, bundle: str, words: str) -> None:
    """Though the cgroup is certain at this stage, nothing of the runtime's says that it is the container's."""
    error = stage.refused(bundle=bundle)
    assert error.reason is Reason.NO_SPEC
    assert words in str(error)


def test_a_config_that_is_no_file_is_no_spec(stage: _Stage) -> None:
    stage.file.unlink()
    os.mkfifo(stage.file)
    assert "is not a regular file" in str(stage.refused())
    stage.file.unlink()
    stage.file.mkdir()
    assert "is not a regular file" in str(stage.refused())
    stage.file.rmdir()
    stage.file.symlink_to("real.json")
    (stage.bundle / "real.json").write_text("{}")
    error = stage.refused()
    assert (error.reason, "symbolic links" in str(error)) == (Reason.NO_SPEC, True)


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b"[]", b'{"linux": 5}', b"[" * 100_000])
def test_a_broken_config_is_no_spec(stage: _Stage, raw: bytes) -> None:
    stage.file.write_bytes(raw)
    error = stage.refused()
    assert (error.reason, str(error).startswith("config.json")) == (Reason.NO_SPEC, True)


def test_a_huge_config_is_not_read(stage: _Stage) -> None:
    with stage.file.open("wb") as file:
        file.truncate(1 << 40)
    error = stage.refused()
    assert str(error) == f"config.json: /run/b/config.json has {1 << 40} bytes, at most {MAX_CONFIG}"


def test_a_config_is_read_to_its_limit(stage: _Stage) -> None:
    stage.file.write_bytes(b"x" * MAX_CONFIG)
    assert len(read_config("/run/b/", _HOOK, stage.node.procfs)) == MAX_CONFIG


def test_a_bundle_is_looked_up_below_the_callers_root(stage: _Stage) -> None:
    """Links and `..` do not lead to the agent's own files."""
    (stage.node.host / "var").mkdir()
    (stage.node.host / "var/run").symlink_to("/run")
    (stage.node.host / "up").symlink_to("../../../../run")
    for bundle in ("/var/run/b", "/up/b", "/../../../run/b"):
        assert stage.start(bundle=bundle).identity.namespace == "shop"


def test_descriptors_are_closed(stage: _Stage) -> None:
    before = len(os.listdir("/proc/self/fd"))
    stage.start()
    stage.file.unlink()
    os.mkfifo(stage.file)
    stage.refused()
    stage.refused(bundle="/none")
    assert len(os.listdir("/proc/self/fd")) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.binary(max_size=80)
    | st.dictionaries(st.text(max_size=5), st.text(max_size=5)).map(lambda d: json.dumps(d).encode()),
    st.sampled_from((Stage.CREATE_CONTAINER, Stage.CREATE_RUNTIME)),
    st.sampled_from(Runtime),
    st.integers(0, 1 << 22),
    st.text(max_size=20),
)
def test_any_bundle_and_state_are_a_start_or_a_refusal(
    stage: _Stage, raw: bytes, stage_of: Stage, runtime: Runtime, pid: int, bundle: str
) -> None:
    stage.file.write_bytes(raw)
    for path in ("/run/b", bundle):
        try:
            start = stage.resolve(stage_of, runtime, State(_ID, pid, path, {}))
        except HookError as error:
            error.detail.encode()
        else:
            assert start.identity.container_id == _ID


def test_a_path_is_not_cut_at_a_nul(stage: _Stage) -> None:
    with pytest.raises(SpecError, match="Invalid argument"):
        read_config("/run/b/config.json\0", _HOOK, stage.node.procfs)
