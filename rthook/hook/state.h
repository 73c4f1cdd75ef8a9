/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the failure rule needs of the state JSON (OCI runtime specification, "State"): the container's namespace, its
 * id and its pid. Anything that cannot be right makes the namespace "not known".
 */
#ifndef PODGATE_HOOK_STATE_H
#define PODGATE_HOOK_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Kubernetes lets a pod have 256 KiB of annotations. A runtime may write each byte as six (\u003c), and cri-o has them
 * twice in a sandbox's: whoever writes a pod must not be able to make its state too long. With the request around it,
 * this fits the agent's limit of 4 MiB for a message.
 */
#define MAX_STATE ((4 << 20) - (64 << 10))
/* The runtimes' own ids have 64 characters; the file systems that they name directories on allow this. */
#define MAX_ID 255
/* DNS-1123, a subdomain: what Kubernetes allows at most for any name. */
#define MAX_NAMESPACE 253
/* Linux's PID_MAX_LIMIT on 64 bits. */
#define MAX_PID (1 << 22)

enum runtime {
	RUNTIME_AUTO,
	RUNTIME_CONTAINERD,
	RUNTIME_CRIO,
	RUNTIME_PODMAN,
};

struct state {
	const char *fault; /* why the namespace is not known, else NULL */
	uint32_t pid;	   /* 0: not told */
	bool has_id;
	bool has_namespace; /* false without a fault: the container has none */
	char id[MAX_ID];
	size_t id_length;
	char namespace[MAX_NAMESPACE];
	size_t namespace_length;
};

void state_parse(struct state *state, const char *bytes, size_t length, enum runtime runtime);

#endif
