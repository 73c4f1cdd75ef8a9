/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PODGATE_HOOK_TREATMENT_H
#define PODGATE_HOOK_TREATMENT_H

/* What happens to a container that the agent did not bind; the stricter, the larger. */
enum treatment {
	TREATMENT_OPEN,
	TREATMENT_QUARANTINE,
	TREATMENT_CLOSED,
};

#endif
