/* SPDX-License-Identifier: Apache-2.0 */
/* One moment of CLOCK_MONOTONIC that nothing waits beyond. */
#ifndef PODGATE_HOOK_DEADLINE_H
#define PODGATE_HOOK_DEADLINE_H

#include <sys/time.h>

struct deadline {
	long long at_ns;
	unsigned int ms; /* how long it was, for messages */
};

struct deadline deadline_in(unsigned int ms);
/* Nanoseconds, 0 once it has passed. */
long long deadline_left_ns(const struct deadline *deadline);
/* The same for SO_SNDTIMEO, where 0 would be for ever: at least a microsecond. */
struct timeval deadline_left_timeval(const struct deadline *deadline);
/* Waits for one of poll(2)'s events, or an end or error of the descriptor: 0, or ETIMEDOUT, or poll's errno. */
int deadline_wait(const struct deadline *deadline, int fd, short events);

#endif
