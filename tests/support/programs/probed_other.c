/* SPDX-License-Identifier: Apache-2.0 */
/* The second half of `probed`: a function of the same name as one in the first. */

#define NOINLINE __attribute__((noinline, noclone, noipa))

int podgate_other(int count);

static NOINLINE int podgate_twin(int value)
{
	return value + 2;
}

NOINLINE int podgate_other(int count)
{
	return podgate_twin(count);
}
