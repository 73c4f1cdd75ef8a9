# SPDX-License-Identifier: Apache-2.0
"""The agent put together: kernel, gate, policies, event process, socket; started in the order in which each stands on
the one before.

An earlier agent's rules, left by a crash, stay in force beside the new ones until those are, and the containers that
run were announced; then they are taken down.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agent.api import control_pb2
from agent.children import Child
from agent.config import Config, StartError
from agent.control import SERVICE as CONTROL_SERVICE
from agent.control import ControlEndpoint
from agent.cri.client import CriClient, find_socket
from agent.events.feed import Feed, Ring, policy_message
from agent.events.messages import workload_message
from agent.events.ring import RingBuffer
from agent.file_keeper import FileKeeper
from agent.hooks.announced import AnnouncedStarts
from agent.hooks.calls import Service
from agent.hooks.doorkeeper import Doorkeeper
from agent.hooks.endpoint import SERVICE as HOOK_SERVICE
from agent.hooks.endpoint import HookEndpoint
from agent.hooks.gate import ARMED_LATE, Gate
from agent.hooks.identify import Identifier, find_place
from agent.hooks.oci import OciStarts
from agent.hooks.peer import Callers
from agent.hooks.reconcile import Reconciler
from agent.hooks.server import Server, listen
from agent.hooks.spool import Spool
from agent.kernel.base import QUARANTINE_PIN, BasePrograms
from agent.kernel.cgroup import CgroupFinder
from agent.kernel.cgroup_path import find_announced
from agent.kernel.doors import Doors, Treatment
from agent.kernel.errors import CgroupError
from agent.kernel.headers import HeaderError, ensure_tree
from agent.kernel.hookpoints import open_hookpoints
from agent.kernel.kernel_btf import BtfSources, KernelBtf
from agent.kernel.layout import NOTICE_RING, map_specs
from agent.kernel.lineage import Lineage
from agent.kernel.loader import Loader
from agent.kernel.maps import Bindings, Maps, drop_dead_calls, possible_cpus, read_counters, read_errors
from agent.kernel.mounts import cgroup2_root, ensure_bpffs, ensure_tracefs, release_bpffs, unmount
from agent.kernel.node_facts import NodeFacts
from agent.kernel.pins import Pins
from agent.kernel.previous import calm_doors, find_left, generations, take_over
from agent.kernel.process_scan import read_host_namespaces
from agent.kernel.rule_state import RuleState
from agent.kernel.user_files import UserFiles
from agent.logs import fields
from agent.machine import check_machine, find_notes, take_lock
from agent.placing import Placer
from agent.policies import PolicyStore, StoreParts
from agent.policy.codegen_text import text_condition
from agent.policy_directory import load_directory
from agent.policy_entry import Entry
from agent.releases import Releases
from agent.status import coverage, hook_status, own_stages, read_rss, reported_stages
from agent.workload.registry import Record
from rthook.held import release_all, release_stale

SWEEP_S = 1.0
DEAD_CALLS_EVERY = 10  # sweeps
PREVIOUS_GRACE_S = 10.0  # for a hook to announce the containers that run; the NRI plugin needs less than one second
CRI_DEADLINE_S = 1.0  # of one look-up: an OCI hook waits 2 s; what a held process waits is the doorkeeper's
LEAVE_S = 2.0  # at an orderly stop, for starts that were answered to reach their execve: some 0.2 s
LEAVE_POLL_S = 0.02
MAX_TOLD = 100  # cgroups in one line of the log

# What has to be ended, in this order: nobody calls any more, nobody is held, nothing is enforced, nothing is told.
PARTS = (
    ("_grpc", "stop"),
    ("_doorkeeper", "stop"),
    ("_reconciler", "stop"),
    ("_files", "stop"),
    ("_hookpoints", "close"),
    ("_lineage", "close"),
    ("_base", "close"),
    ("_feed", "close"),
    ("_cri", "close"),
)

log = logging.getLogger("podgate.agent")


class Agent:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._btf = KernelBtf(BtfSources(configured=config.btf))
        self._mounted_tracefs = False
        self._found_previous = False
        self._releases = Releases()
        self._lost = self._missed = self._sweeps = self._lists = self._unrecorded = 0
        self._grpc: Child | None = None
        self._lock_file = -1

    def run(self, stop: threading.Event) -> None:
        """Until stop is set. Raises StartError or KernelError when it cannot start; what was set up is taken down then.

        Only a stop that was asked for ends enforcement: whatever else ends the agent leaves the rules in force.
        """
        try:
            self._start()
        except BaseException:
            self._shut_down()
            raise
        self._started = time.monotonic()
        log.info("ready", extra=fields(socket=str(self._config.run_dir / "agent.sock"), pid=os.getpid()))
        while not stop.wait(SWEEP_S):
            self._sweep()
        log.warning("stopping: no policy is enforced any more")
        if self._found_previous:
            self._end_previous(synchronized=self._gate.synchronized)
        self._shut_down()

    def _start(self) -> None:
        check_machine()
        self._lock_file = take_lock(self._config.run_dir)
        self._start_kernel()
        self._start_events()
        self._start_doors()
        self._store = PolicyStore(
            StoreParts(
                self._hookpoints,
                self._gate,
                self._feed,
                RuleState(self._maps),
                self._lineage,
                Placer(read_host_namespaces()),
                partial(NodeFacts, self._tracefs, self._btf),
                self._loader.starting,
            )
        )
        if self._config.policy_dir is not None:
            load_directory(self._store, self._config.policy_dir)
        self._offer_quarantine()
        self._start_server()
        self._doorkeeper.start()
        self._reconciler.start()
        self._files = FileKeeper(self._store, UserFiles().identity)
        self._files.start()
        self._start_grpc()

    def _start_kernel(self) -> None:
        config = self._config
        self._bpffs_mark = config.run_dir / "bpffs-mounted"
        if ensure_bpffs():
            self._bpffs_mark.touch()
        tracefs, self._mounted_tracefs = ensure_tracefs(config.run_dir / "tracing")
        self._tracefs = tracefs
        root = cgroup2_root()
        pins = Pins(config.pin_dir)
        self._found_previous = pins.prepare()
        self._pins = pins
        for fault in calm_doors(pins.previous):
            log.error("an earlier agent's doors stay as they are", extra=fields(error=fault))
        self._pin_lock = pins.lock()
        self._maps = Maps.create(map_specs(config.ring_bytes, config.max_bindings), self._pins.maps)
        self._bindings = Bindings(self._maps)
        self._bindings.set_quarantine(0)  # what quarantined containers' records name has to be there before they are
        try:
            headers = ensure_tree(config.cache_dir, self._btf)
        except HeaderError as error:
            raise StartError(str(error)) from error
        self._loader = Loader(headers, self._maps.descriptors(), config.loader)
        self._base = BasePrograms.attach(self._loader, self._pins)
        self._finder = CgroupFinder(root)
        self._base.check_identity(self._maps, self._finder)
        self._root = root
        self._hookpoints = open_hookpoints(self._loader, self._maps, tracefs, self._pins, self._btf)
        self._lineage = Lineage(self._loader, self._maps, text_condition)

    def _start_events(self) -> None:
        self._cpus = possible_cpus()
        listener = listen(self._config.run_dir / "events.sock")
        ring = Ring(self._maps.fileno("events"), self._config.ring_bytes)
        holds = self._config.doors.treatment is Treatment.HOLD
        guarded = self._config.pin_dir if holds else None
        self._feed = Feed(ring, listener, self._snapshot, guarded, self._config.allow_lookups)
        self._gate = Gate(self._bindings, self._finder, self._root, self._feed)
        self._feed.start()

    def _offer_quarantine(self) -> None:
        """Once the policies are in force. What hooks put into an earlier agent's quarantine until now is taken over
        after that: who comes later is in ours as well.
        """
        self._base.offer_quarantine(self._pins)
        taken, faults = take_over(self._pins.previous, self._bindings)
        if taken or faults:
            log.warning("quarantine taken over", extra=fields(containers=taken, faults=faults))

    def _start_doors(self) -> None:
        config = self._config
        self._cri_socket = self._find_cri()
        self._cri = CriClient(self._cri_socket, CRI_DEADLINE_S) if self._cri_socket else None
        self._identifier = Identifier(self._gate.pod_at, self._cri)
        self._doors = Doors(self._maps, config.doors)
        self._doors.exempt_hook(config.hook_binary)
        ring = RingBuffer(self._maps.fileno("notices"), NOTICE_RING)
        self._doorkeeper = Doorkeeper(
            self._doors, ring, self._gate, self._identifier, self._finder, self._feed, urgent=config.realtime
        )
        self._reconciler = Reconciler(self._gate, self._identifier, self._finder, self._doors, config.doors, self._root)
        self._spool = Spool(config.run_dir / "hook.log")

    def _find_cri(self) -> Path | None:
        """Where the container runtime can be asked who a container is."""
        wanted = self._config.cri_socket
        found = None if wanted == "none" else find_socket() if wanted == "auto" else Path(wanted)
        if found is None and self._config.doors.treatment is not Treatment.REPORT:
            log.warning(
                "no container runtime to ask: only pods that the NRI plugin announced are known",
                extra=fields(cri_socket=wanted),
            )
        return found

    def _start_grpc(self) -> None:
        if not self._config.grpc_addresses:
            return
        command = [sys.executable, "-I", "-m", "agent.grpc_api.main", "--parent", str(os.getpid())]
        command += ["--agent-socket", str(self._config.run_dir / "agent.sock")]
        for address in self._config.grpc_addresses:
            command += ["--address", address]
        self._grpc = Child("grpc", command)
        self._grpc.start()

    def _snapshot(self) -> Iterator[dict[str, Any]]:
        """What a new event process must hear."""
        store: PolicyStore | None = getattr(self, "_store", None)
        for placed in store.placed() if store else ():
            yield policy_message(placed)
        for record in self._gate.containers():
            yield workload_message(record)

    def _release_previous(self) -> None:
        """Ends an earlier agent's rules once the running containers were announced, or no hook did."""
        late = time.monotonic() - self._started > PREVIOUS_GRACE_S
        if self._found_previous and self._reconciler.runs and (self._gate.synchronized or late):
            self._found_previous = False
            self._end_previous(synchronized=not late)

    def _end_previous(self, *, synchronized: bool) -> None:
        """Who was guarded by the earlier rules alone is told: nobody has announced or found it since."""
        previous = self._pins.previous
        if left := find_left(previous, self._bindings):
            self._gate.outcomes["left_unguarded"] += len(left)
            log.error("containers that nobody has announced lose their rules", extra=fields(cgroups=left[:MAX_TOLD]))
        self._releases.tell(*map(release_all, generations(previous)))
        links = self._pins.release_previous()
        log.warning("an earlier agent's rules end here", extra=fields(links=links, synchronized=synchronized))

    def _start_server(self) -> None:
        announced = AnnouncedStarts(partial(find_announced, self._root), self._identifier)
        self._hooks = HookEndpoint(self._gate, OciStarts(self._finder, self._identifier), announced)
        services: dict[str, Service] = {
            HOOK_SERVICE: self._hooks,
            CONTROL_SERVICE: ControlEndpoint(self._store, self._selected, find_notes(), self._status),
        }
        urgent = frozenset({HOOK_SERVICE}) if self._config.realtime else frozenset()
        callers = Callers(
            self._namespace_of,
            self._gate.outcomes,
            self._config.own_namespace,
            running_in=self._gate.running_in,
        )
        self._server = Server(listen(self._config.run_dir / "agent.sock"), services, callers.admit, urgent)
        self._server.start()

    def _namespace_of(self, pid: int) -> str | None:
        """Of a caller. One in a container that is not bound (yet) may be anybody's, but for the agent's own pod."""
        if (namespace := self._gate.namespace_of(pid)) is not None:
            return namespace
        path = self._finder.of_any(pid).path
        place = find_place(path)
        if place is None or path.rpartition("/")[0] == self._finder.own().path.rpartition("/")[0]:
            return None
        found = self._identifier.identify(place[0], self._finder.id_of(place[1].rpartition("/")[0] or "/"))
        if found is None:
            raise CgroupError(f"process {pid} is in a container that nobody has identified")
        return found.identity.namespace

    def _selected(self, entry: Entry) -> int:
        return self._gate.count(entry.placed.bit) if entry.placed else 0

    def _sweep(self) -> None:
        """Once a second; nothing of it is on the hook path. What fails is told and tried again, and ends nothing."""
        self._sweeps += 1
        steps = [self._release_previous, self._sweep_gate, self._feed.check, self._report_losses]
        steps += [self._look_at_doors, self._collect_spool]
        if self._sweeps % DEAD_CALLS_EVERY == 0:
            steps.append(self._drop_dead_calls)
        for step in steps:
            try:
                step()
            except Exception:
                log.exception("housekeeping failed", extra=fields(step=step.__name__))

    def _sweep_gate(self) -> None:
        self._gate.sweep(_report, self._config.arming_deadline_s)

    def _look_at_doors(self) -> None:
        """A new list of the plugin's is compared with what runs; what an earlier agent held is released."""
        self._doors.exempt_hook(self._config.hook_binary)
        if self._hooks.lists != self._lists:
            self._lists = self._hooks.lists
            self._reconciler.hurry()
        if self._found_previous:
            self._releases.tell(release_stale(self._config.pin_dir))
        if self._grpc:
            self._grpc.check()

    def _collect_spool(self) -> None:
        self._spool.collect()

    def _drop_dead_calls(self) -> None:
        drop_dead_calls(self._maps, lambda thread: Path(f"/proc/{thread}").exists())
        self._store.settle()

    def _report_losses(self) -> None:
        counters = read_counters(self._maps, self._cpus)
        lost, unrecorded = counters["events_lost"], counters["lineage_full"]
        if unrecorded > self._unrecorded:
            settled = self._store.settle_lineage()
            if settled is not None:
                self._unrecorded = unrecorded
                log.warning("processes whose ancestors nobody knows: the map was full", extra=fields(processes=settled))
        if lost > self._lost:
            log.warning("events lost: the ring was full", extra=fields(count=lost - self._lost))
            self._feed.events_lost(lost - self._lost)
            self._lost = lost
        missed = self._hookpoints.missed()
        if missed > self._missed:
            log.error("calls were not checked: the processor was in another BPF program", extra=fields(count=missed))
            self._missed = missed

    def _status(self) -> control_pb2.GetStatusResponse:
        failures = [
            control_pb2.Failure(site=site, error=code, count=count) for site, code, count in read_errors(self._maps)
        ]
        containers, sandboxes = self._gate.numbers()
        stages = own_stages({**self._hooks.stages, "hold": self._doorkeeper.stage})
        return control_pb2.GetStatusResponse(
            pid=os.getpid(),
            version=version("podgate"),
            containers=containers,
            sandboxes=sandboxes,
            bindings=len(self._bindings.cgroups()),
            policies=len(self._store.placed()),
            policy_states=Counter(entry.state.value for entry in self._store.entries()),
            outcomes=self._gate.outcomes,
            counters=read_counters(self._maps, self._cpus) | self._feed.counters,
            failed_helpers=failures,
            hooks=map(hook_status, self._hookpoints.describe()),
            events_pid=self._feed.pid,
            missed_calls=self._hookpoints.missed(),
            events_restarts=self._feed.restarts,
            rss_bytes=read_rss(os.getpid()) + read_rss(self._feed.pid),
            starts={door.value: number for door, number in self._gate.starts.items()},
            unannounced=self._doorkeeper.outcomes,
            hook_coverage_ratio=coverage(self._gate, self._doorkeeper),
            stages=[*stages, *reported_stages(self._hooks.reports.values())],
            reconciled=self._reconciler.outcomes,
            quarantined=len(self._gate.quarantined()),
            unannounced_treatment=self._config.doors.treatment.name.lower(),
            cri_socket=str(self._cri_socket or ""),
            decided_without_agent=self._spool.outcomes,
        )

    def _release_bpffs(self, mark: Path) -> None:
        """The mark outlives a crash: whoever stops in order next takes the mount down."""
        if not mark.exists():
            return
        if not release_bpffs():
            log.info("bpffs stays mounted: others have pins there")
        mark.unlink()

    def _leave_gate(self) -> None:
        """Nobody new comes in, and who is bound but has not started is let through while the rules are in force."""
        if hasattr(self, "_pins"):
            (self._pins.directory / QUARANTINE_PIN).unlink(missing_ok=True)
        server: Server | None = getattr(self, "_server", None)
        if server is None:
            return
        server.stop()
        end = time.monotonic() + LEAVE_S
        while self._gate.pending() and time.monotonic() < end:
            time.sleep(LEAVE_POLL_S)

    def _shut_down(self) -> None:
        """Takes down what was set up, the last first. Enforcement ends here, and the log says so."""
        self._leave_gate()
        for name, end in PARTS:
            part = getattr(self, name, None)
            if part is not None:
                getattr(part, end)()
        if hasattr(self, "_pins"):
            self._pins.release()
            os.close(self._pin_lock)
        if hasattr(self, "_maps"):
            self._maps.close()
        if self._mounted_tracefs:
            unmount(self._tracefs)
            self._tracefs.rmdir()
        if mark := getattr(self, "_bpffs_mark", None):
            self._release_bpffs(mark)
        if self._lock_file >= 0:  # else the sockets there are another agent's
            for name in ("agent.sock", "events.sock"):
                (self._config.run_dir / name).unlink(missing_ok=True)
            os.close(self._lock_file)


def _report(event: str, record: Record) -> None:
    """A container that ended is no news for a warning; one that was armed by the clock is."""
    identity = record.identity
    who = fields(container_id=identity.container_id, namespace=identity.namespace, pod=identity.pod_name)
    log.log(logging.WARNING if event == ARMED_LATE else logging.INFO, event, extra=who)
