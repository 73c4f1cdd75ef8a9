// SPDX-License-Identifier: Apache-2.0
#include "hook/deadline.h"

#include <errno.h>
#include <poll.h>
#include <time.h>

#define NS_PER_MS 1000000LL
#define NS_PER_S 1000000000LL

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NS_PER_S + now.tv_nsec;
}

struct deadline deadline_in(unsigned int ms)
{
	return (struct deadline){.at_ns = now_ns() + ms * NS_PER_MS, .ms = ms};
}

long long deadline_left_ns(const struct deadline *deadline)
{
	long long left = deadline->at_ns - now_ns();

	return left > 0 ? left : 0;
}

struct timeval deadline_left_timeval(const struct deadline *deadline)
{
	long long us = deadline_left_ns(deadline) / 1000 + 1;

	return (struct timeval){.tv_sec = us / 1000000, .tv_usec = us % 1000000};
}

int deadline_wait(const struct deadline *deadline, int fd, short events)
{
	struct pollfd wanted = {.fd = fd, .events = events};
	long long left;
	int ready;

	while ((left = deadline_left_ns(deadline)) > 0) {
		ready = poll(&wanted, 1, (int)((left + NS_PER_MS - 1) / NS_PER_MS));
		if (ready > 0)
			return 0;
		if (ready < 0 && errno != EINTR)
			return errno;
	}
	return ETIMEDOUT;
}
