# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.container.upstream_hook SOCKET`: a createRuntime hook as other projects have it.

It reads the state on its standard input and the bundle's config.json, and calls RuntimeHook of the public interface.
Status 1, and the reason on standard error, when the answer is an error. The annotation tests.say-namespace is the
namespace to say in the place of the true one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from agent.grpc_api.tetragon import tetragon_pb2

METHOD = "/tetragon.FineGuidanceSensors/RuntimeHook"
POD = "io.kubernetes.pod."


def describe(state: Mapping[str, Any]) -> tetragon_pb2.RuntimeHookRequest:
    spec = json.loads((Path(state["bundle"]) / "config.json").read_text())
    annotations = {key: text for key, text in spec["annotations"].items() if key.startswith(POD)}
    created = tetragon_pb2.CreateContainer(
        cgroupsPath=spec["linux"]["cgroupsPath"],
        rootDir=spec["root"]["path"],
        annotations=annotations,
        containerID=state["id"],
        containerName=spec["annotations"].get("io.kubernetes.container.name", ""),
        podNamespace=spec["annotations"].get("tests.say-namespace", annotations.get(POD + "namespace", "")),
        podName=annotations.get(POD + "name", ""),
        podUID=annotations.get(POD + "uid", ""),
    )
    return tetragon_pb2.RuntimeHookRequest(createContainer=created)


def main() -> int:
    request = describe(json.load(sys.stdin))
    with grpc.insecure_channel(f"unix://{sys.argv[1]}", options=[("grpc.default_authority", "localhost")]) as channel:
        call: grpc.UnaryUnaryMultiCallable[tetragon_pb2.RuntimeHookRequest, tetragon_pb2.RuntimeHookResponse]
        call = channel.unary_unary(
            METHOD,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=tetragon_pb2.RuntimeHookResponse.FromString,
        )
        try:
            call(request, timeout=10.0)
        except grpc.RpcError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
