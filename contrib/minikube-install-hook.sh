#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs podgate's hooks into the node of a minikube profile, or takes them out.
#
# The node has no Python: what matters of its file system is fetched into a staging tree here, `podgate hooks` works on
# that tree, and each of its steps is repeated on the node, in the same order, by `minikube cp` and `minikube ssh`.
set -euo pipefail

usage() {
	cat <<'TEXT'
usage: minikube-install-hook.sh [--profile NAME] [--node NAME] [--uninstall] [--dry-run] [-- OPTION...]

  --profile NAME  the minikube profile; default minikube
  --node NAME     a node of the profile; default the control plane
  --uninstall     take the hooks out again
  --dry-run       print what would change on the node, and change nothing
  --help          this text
  OPTION...       for `podgate hooks install` or `podgate hooks uninstall`, such as --default closed

The runtime is the one that the node's crictl is set to: containerd or cri-o. A runtime that has to be restarted is
restarted; containers go on meanwhile. PODGATE in the environment names the command, default podgate.

A virtual machine of minikube's keeps only parts of its file system over `minikube stop`: run this again after it.
TEXT
}

fail() {
	printf 'minikube-install-hook: %s\n' "$1" >&2
	exit "${2:-1}"
}

profile=minikube
node=()
verb=install
dry_run=()
while [ $# -gt 0 ]; do
	case $1 in
	--profile)
		[ $# -gt 1 ] || fail '--profile takes a name' 2
		profile=$2
		shift
		;;
	--node)
		[ $# -gt 1 ] || fail '--node takes a name' 2
		node=("$2")
		shift
		;;
	--uninstall) verb=uninstall ;;
	--dry-run) dry_run=(--dry-run) ;;
	--help | -h)
		usage
		exit 0
		;;
	--)
		shift
		break
		;;
	*) fail "unknown argument $1; see --help" 2 ;;
	esac
	shift
done

podgate=${PODGATE:-podgate}
for program in minikube python3 "$podgate"; do
	command -v "$program" >/dev/null || fail "$program is not there"
done

# Standard input is not the node's: the loop below reads its list from there.
on_node() {
	minikube -p "$profile" ssh "${node[@]/#/--node=}" -- "$1" </dev/null
}

find_runtime() {
	local endpoint
	endpoint=$(on_node 'cat /etc/crictl.yaml') || fail "profile $profile: the node cannot be asked for its runtime"
	case $endpoint in
	*cri-dockerd*) fail "profile $profile runs docker, which calls no hooks: start it with --container-runtime=containerd" ;;
	*containerd.sock*) echo containerd ;;
	*crio.sock*) echo cri-o ;;
	*) fail "profile $profile: /etc/crictl.yaml of the node names no runtime that is known here" ;;
	esac
}

# Whole directories, and those above what may be written, so that it is known which ones are new.
WHOLE=(etc/containerd etc/crio etc/podgate etc/nri opt/nri usr/libexec/podgate var/lib/podgate
	usr/share/containers/oci/hooks.d etc/containers/oci/hooks.d)
ABOVE=(etc etc/containers etc/containers/oci opt usr usr/libexec usr/share usr/share/containers usr/share/containers/oci
	var var/lib)

fetch() {
	local list
	list="cd / && set -- && for path in ${WHOLE[*]}; do [ ! -e \$path ] || set -- \"\$@\" \$path; done"
	list+=" && { [ \$# -eq 0 ] || sudo tar -cf - \"\$@\" | base64; }"
	on_node "$list" | tr -d '\r' | base64 -d >"$work/node.tar"
	[ ! -s "$work/node.tar" ] || tar --no-same-owner -p -C "$staging" -xf "$work/node.tar"
	on_node "cd / && for path in ${ABOVE[*]}; do [ ! -d \$path ] || echo \$path; done" | tr -d '\r' | while read -r path; do mkdir -p "$staging/$path"; done
}

# Lines of the plan: action, a tab, path; then the commands.
read_plan() {
	python3 -c '
import json, sys
plan = json.load(open(sys.argv[1]))
for note in plan["notes"]:
    print("note:", note, file=sys.stderr)
for step in plan["steps"]:
    print(step["action"], step["path"], sep="\t")
for command in plan["commands"]:
    print("run", command, sep="\t")
' "$work/plan.json"
}

repeat_on_node() {
	local action=$1 path=$2 new mode
	case $action in
	make-directory) on_node "sudo mkdir -p -m 755 ${path@Q}" ;;
	write)
		new=$(dirname "$path")/.$(basename "$path").podgate-new
		minikube -p "$profile" cp "$staging$path" "${node[*]/%/:}$new" </dev/null
		mode=$(stat -c %a "$staging$path")
		on_node "sudo chown 0:0 ${new@Q} && sudo chmod $mode ${new@Q} && sync && sudo mv -f ${new@Q} ${path@Q}"
		;;
	remove) on_node "sudo rm -f ${path@Q}" ;;
	remove-directory)
		on_node "if [ -d ${path@Q} ] && [ -z \"\$(sudo ls -A ${path@Q})\" ]; then sudo rmdir ${path@Q}; fi"
		;;
	run) on_node "sudo $path" ;;
	*) fail "the plan has a step that is not known here: $action" ;;
	esac
	printf '%s %s\n' "$action" "$path"
}

runtime=$(find_runtime)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
staging=$work/node
mkdir "$staging"
fetch

hooks=("$podgate" hooks "$verb" --root "$staging" --runtime "$runtime" "$@")
if [ ${#dry_run[@]} -gt 0 ]; then
	"${hooks[@]}" "${dry_run[@]}"
	exit
fi
# A step repeats what the staging tree has at the end: of two writes to one file, both write the last.
"${hooks[@]}" -o json >"$work/plan.json"
read_plan >"$work/steps"
while IFS=$'\t' read -r action path; do
	repeat_on_node "$action" "$path"
done <"$work/steps"
printf 'profile %s, %s: %s done, %s steps\n' "$profile" "$runtime" "$verb" "$(wc -l <"$work/steps")"
