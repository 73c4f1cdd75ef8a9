/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Socket addresses as processes give them, in user memory or in the kernel's copy. `length`: in bytes, as the call
 * says; what is not within is not there. The address itself is the source of a struct pg_net.
 */
#ifndef PG_LIB_SOCKADDR_H
#define PG_LIB_SOCKADDR_H

#include "lib/buffers.h"
#include "lib/net.h"

#define PG_UNIX_PATH_MAX 108 /* include/uapi/linux/un.h */
#define PG_SOCKADDR_ANY 128  /* a length for where there is none: struct sockaddr_storage */

/* mode of a sockaddr_un: its family, and whether its name is not one of the file system. */
#define PG_UNIX_ABSTRACT 0x10000

/* struct sockaddr_in6, of which the one of IPv4 has the first two members, and its address in the third. */
struct pg_sockaddr {
	__u16 family;
	__be16 port;
	__u32 flow; /* of IPv4: the address */
	__u8 address[16];
};
_Static_assert(sizeof(struct pg_sockaddr) == 24, "sockaddr");

PG_INLINE long pg_read_bytes_of(void *to, __u32 n, __u64 address, int in_user)
{
	return in_user ? bpf_probe_read_user(to, n, (const void *)address)
		       : bpf_probe_read_kernel(to, n, (const void *)address);
}

/* in_user: a constant. */
PG_INLINE long pg_read_sockaddr(struct pg_string *out, __u64 address, __u64 length, int in_user)
{
	struct pg_net *net = pg_net_begin(out);
	struct pg_sockaddr from = {};
	long error = -PG_EFAULT;

	if (length >= sizeof(from.family))
		error = pg_read_bytes_of(&from.family, sizeof(from.family), address, in_user);
	if (error)
		return pg_no_value(out, error);
	pg_net_family_is(out, from.family);
	if (from.family == PG_AF_INET && length >= offsetof(struct pg_sockaddr, address)) {
		error = pg_read_bytes_of(&from, offsetof(struct pg_sockaddr, address), address, in_user);
		pg_net_ipv4(net, net->saddr, PG_NET_SADDR | PG_NET_SPORT, &from.flow);
	} else if (from.family == PG_AF_INET6 && length >= sizeof(from)) {
		error = pg_read_bytes_of(&from, sizeof(from), address, in_user);
		pg_net_ipv6(net, net->saddr, PG_NET_SADDR | PG_NET_SPORT, from.address);
	}
	if (error)
		return pg_no_value(out, error);
	net->sport = __builtin_bswap16(from.port);
	return 0;
}

PG_INLINE long pg_read_user_sockaddr(struct pg_string *out, __u64 address, __u64 length)
{
	return pg_read_sockaddr(out, address, length, 1);
}

PG_INLINE long pg_read_kernel_sockaddr(struct pg_string *out, __u64 address, __u64 length)
{
	return pg_read_sockaddr(out, address, length, 0);
}

/* Text of `size` bytes at most, which need not end with a NUL. Gives its bytes with a NUL, or a negative errno. */
PG_INLINE long pg_read_text_of(char *to, __u32 size, __u64 address, int in_user)
{
	return in_user ? bpf_probe_read_user_str(to, size + 1, (const void *)address)
		       : bpf_probe_read_kernel_str(to, size + 1, (const void *)address);
}

/*
 * A name that is not in the file system is all of its bytes, for which its first one, a NUL, is shown as '@'. Where the
 * length is not known it ends at the next NUL.
 */
PG_INLINE long pg_read_unix_abstract(struct pg_string *out, __u64 address, __u32 size, int ends, int in_user)
{
	long n = size;
	long error = pg_read_bytes_of(out->data, size, address, in_user);

	if (!error && ends)
		n = pg_read_text_of(out->data + 1, PG_UNIX_PATH_MAX - 1, address + 1, in_user);
	if (error || n < 1)
		return pg_no_value(out, error ?: n ?: -PG_EFAULT);
	out->data[0] = '@';
	out->len = n;
	out->mode |= PG_UNIX_ABSTRACT;
	return 0;
}

PG_INLINE long pg_read_unix_name(struct pg_string *out, __u64 address, __u32 size, int ends, int in_user)
{
	char first = 0;
	long n = pg_read_bytes_of(&first, sizeof(first), address, in_user);

	if (n)
		return pg_no_value(out, n);
	if (!first && size > 1)
		return pg_read_unix_abstract(out, address, size, ends, in_user);
	n = pg_read_text_of(out->data, size, address, in_user);
	if (n < 1)
		return pg_no_value(out, n ?: -PG_EFAULT);
	out->len = n - 1;
	return 0;
}

/* struct sockaddr_un: the name, none when the socket has none. Of another family: no name. */
PG_INLINE long pg_read_sockaddr_un(struct pg_string *out, __u64 address, __u64 length, int in_user)
{
	__u64 size = length - sizeof(__u16);
	__u16 family = 0;
	long error = -PG_EFAULT;

	if (length >= sizeof(family))
		error = pg_read_bytes_of(&family, sizeof(family), address, in_user);
	if (error)
		return pg_no_value(out, error);
	out->len = 0;
	out->flags = 0;
	out->mode = family;
	if (family != PG_AF_UNIX || !size)
		return 0;
	if (size > PG_UNIX_PATH_MAX)
		size = PG_UNIX_PATH_MAX;
	pg_opaque(size);
	size &= 0x7f;
	return pg_read_unix_name(out, address + sizeof(family), size, length == PG_SOCKADDR_ANY, in_user);
}

PG_INLINE long pg_read_user_sockaddr_un(struct pg_string *out, __u64 address, __u64 length)
{
	return pg_read_sockaddr_un(out, address, length, 1);
}

PG_INLINE long pg_read_kernel_sockaddr_un(struct pg_string *out, __u64 address, __u64 length)
{
	return pg_read_sockaddr_un(out, address, length, 0);
}

#endif
