# SPDX-License-Identifier: Apache-2.0
"""What the CRI client makes by itself: pods and names as a kubelet gives them, and the log's format."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import cri_pb2 as pb
from tests.support.cri import Container, ContainerSpec, InitError, Pod, PodSpec, log_name, parse_cri_log, static_pod

TIME = "2025-11-21T18:42:54.000000001Z"


def test_lines_of_both_streams_come_in_order() -> None:
    assert parse_cri_log(f"{TIME} stdout F one\n{TIME} stderr F two\n") == "one\ntwo\n"


def test_partial_lines_are_joined() -> None:
    assert parse_cri_log(f"{TIME} stdout P Bad file \n{TIME} stdout F descriptor\n") == "Bad file descriptor\n"


def test_output_without_a_newline_at_the_end_gets_none() -> None:
    assert parse_cri_log(f"{TIME} stdout P prompt\n") == "prompt"


def test_empty_line_and_empty_log() -> None:
    assert parse_cri_log(f"{TIME} stdout F \n") == "\n"
    assert parse_cri_log("") == ""


@pytest.mark.parametrize("line", ["plain output", f"{TIME} stdin F x", f"{TIME} stdout Q x"])
def test_other_text_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a CRI log line"):
        parse_cri_log(line)


def test_each_attempt_has_a_log_of_its_own() -> None:
    pod = Pod("p1", PodSpec("web"), pb.PodSandboxConfig(), Path("/logs/web"))
    assert Container("c1", "main", pod).log == Path("/logs/web/main/0.log")
    assert Container("c2", "main", pod, 1).log == Path("/logs/web") / log_name("main", 1)


def test_static_pod_says_where_it_comes_from() -> None:
    spec = static_pod("apiserver", labels={"tier": "control-plane"})
    assert spec.namespace == "kube-system"
    assert spec.annotations["kubernetes.io/config.source"] == "file"
    assert spec.annotations["kubernetes.io/config.hash"] == spec.uid
    assert static_pod("other").uid != spec.uid


def test_failed_init_container_says_what_it_left() -> None:
    pod = Pod("p1", PodSpec("web"), pb.PodSandboxConfig(), Path("/logs"))
    error = InitError(Container("c1", "first", pod), 3, "why")
    assert str(error) == "init container first ended with 3: why"
    assert ContainerSpec().attempt == 0
