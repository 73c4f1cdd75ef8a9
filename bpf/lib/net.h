/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sockets, packets and socket addresses: one structure for all, so that conditions on them look at constant places.
 * The conditions themselves are in bpf/lib/net_match.h. mode: the family.
 */
#ifndef PG_LIB_NET_H
#define PG_LIB_NET_H

#include "lib/buffers.h"
#include "lib/kernel.h"
#include "maps/strings.h"

/* include/linux/socket.h, include/uapi/linux/in.h, if_ether.h, include/net/tcp_states.h */
#define PG_AF_UNIX 1
#define PG_AF_INET 2
#define PG_AF_INET6 10
#define PG_SOCK_STREAM 1
#define PG_IPPROTO_HOPOPTS 0
#define PG_IPPROTO_TCP 6
#define PG_IPPROTO_UDP 17
#define PG_IPPROTO_ROUTING 43
#define PG_IPPROTO_FRAGMENT 44
#define PG_IPPROTO_AH 51
#define PG_IPPROTO_DSTOPTS 60
#define PG_IPPROTO_SCTP 132
#define PG_IPPROTO_UDPLITE 136
#define PG_ETH_P_IP 0x0800
#define PG_ETH_P_IPV6 0x86dd
#define PG_TCP_TIME_WAIT 6
#define PG_TCP_NEW_SYN_RECV 12

#define PG_IPV6_EXTENSIONS 6 /* headers that are looked behind: RFC 8200 names five, one of them twice */

/* What is known of a structure. */
#define PG_NET_SADDR 1
#define PG_NET_DADDR 2
#define PG_NET_SPORT 4
#define PG_NET_DPORT 8
#define PG_NET_TYPE 16	   /* type, protocol, mark, priority */
#define PG_NET_PROTOCOL 32 /* protocol, of a packet */

/* Addresses as in a packet, in 16 bytes; of IPv4 with ::ffff: in front. Ports and all else are numbers. */
struct pg_net {
	__u8 saddr[16];
	__u8 daddr[16];
	__u16 sport;
	__u16 dport;
	__u16 family;
	__u16 type;
	__u16 protocol;
	__u8 state; /* of a socket: enum tcp_state of include/net/tcp_states.h; 0: none */
	__u8 known;
	__u32 mark;
	__u32 priority;
	__u32 hash;
	__u32 len; /* of a packet */
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_net) == 64, "pg_net");

PG_INLINE struct pg_net *pg_net_of(struct pg_string *string)
{
	return (struct pg_net *)string->data;
}

/* An empty structure in the slot. */
PG_INLINE struct pg_net *pg_net_begin(struct pg_string *out)
{
	__builtin_memset(out->data, 0, sizeof(struct pg_net));
	out->len = sizeof(struct pg_net);
	out->flags = 0;
	out->mode = 0;
	return pg_net_of(out);
}

PG_INLINE void pg_net_family_is(struct pg_string *out, __u16 family)
{
	pg_net_of(out)->family = family;
	out->mode = family;
}

/* Each puts an address or a port of kernel memory where it belongs, if it can be read. */
PG_INLINE void pg_net_ipv4(struct pg_net *net, __u8 *to, __u8 known, const void *from)
{
	*(__u16 *)(to + 10) = 0xffff;
	if (!bpf_probe_read_kernel(to + 12, 4, from))
		net->known |= known;
}

PG_INLINE void pg_net_ipv6(struct pg_net *net, __u8 *to, __u8 known, const void *from)
{
	if (!bpf_probe_read_kernel(to, 16, from))
		net->known |= known;
}

PG_INLINE void pg_net_ports(struct pg_net *net, const void *from)
{
	__be16 ports[2] = {};

	if (bpf_probe_read_kernel(ports, sizeof(ports), from))
		return;
	net->sport = __builtin_bswap16(ports[0]);
	net->dport = __builtin_bswap16(ports[1]);
	net->known |= PG_NET_SPORT | PG_NET_DPORT;
}

PG_INLINE void pg_sock_addresses(struct pg_net *net, const struct sock_common *common)
{
	__be16 dport = 0;

	if (net->family == PG_AF_INET) {
		pg_net_ipv4(net, net->saddr, PG_NET_SADDR, &common->skc_rcv_saddr);
		pg_net_ipv4(net, net->daddr, PG_NET_DADDR, &common->skc_daddr);
#ifndef PODGATE_LACKS_sock_common_skc_v6_daddr
	} else if (net->family == PG_AF_INET6) {
		pg_net_ipv6(net, net->saddr, PG_NET_SADDR, &common->skc_v6_rcv_saddr);
		pg_net_ipv6(net, net->daddr, PG_NET_DADDR, &common->skc_v6_daddr);
#endif
	} else {
		return;
	}
	pg_read(net->sport, &common->skc_num);
	pg_read(dport, &common->skc_dport);
	net->dport = __builtin_bswap16(dport);
	net->known |= PG_NET_SPORT | PG_NET_DPORT;
}

/*
 * Whether only the part that all sockets have in common is there (sk_fullsock of include/net/sock.h): TCP keeps no more
 * of a connection that is not accepted yet, or is over.
 */
PG_INLINE int pg_is_mini_sock(const struct pg_net *net)
{
	return (net->family == PG_AF_INET || net->family == PG_AF_INET6) &&
	       (net->state == PG_TCP_TIME_WAIT || net->state == PG_TCP_NEW_SYN_RECV);
}

/* struct sock. */
PG_INLINE long pg_read_sock(struct pg_string *out, __u64 address)
{
	const struct sock *sock = (const struct sock *)address;
	const struct sock_common *common = &sock->__sk_common;
	struct pg_net *net = pg_net_begin(out);
	__u16 family = 0;
	long error = pg_read(family, &common->skc_family);

	if (error)
		return pg_no_value(out, error);
	pg_net_family_is(out, family);
	bpf_probe_read_kernel(&net->state, sizeof(net->state), (const __u8 *)&common->skc_state);
	pg_sock_addresses(net, common);
	net->known |= PG_NET_TYPE;
	if (pg_is_mini_sock(net)) {
		net->type = PG_SOCK_STREAM;
		net->protocol = PG_IPPROTO_TCP;
		return 0;
	}
	pg_read(net->type, &sock->sk_type);
	pg_read(net->protocol, &sock->sk_protocol);
	pg_read(net->mark, &sock->sk_mark);
	pg_read(net->priority, &sock->sk_priority);
	return 0;
}

/* struct socket. */
PG_INLINE long pg_read_socket(struct pg_string *out, __u64 address)
{
	const struct socket *socket = (const struct socket *)address;
	const struct sock *sock = NULL;

	pg_read(sock, &socket->sk);
	return pg_read_sock(out, (__u64)sock);
}

/* RFC 791 and RFC 8200: as they are in a packet, on kernels without IP too. */
struct pg_ipv4 {
	__u8 version;
	__u8 service;
	__be16 size;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 protocol;
	__be16 checksum;
	__u8 saddr[4];
	__u8 daddr[4];
};
_Static_assert(sizeof(struct pg_ipv4) == 20, "ipv4");

struct pg_ipv6 {
	__u32 version;
	__be16 size;
	__u8 next;
	__u8 hops;
	__u8 saddr[16];
	__u8 daddr[16];
};
_Static_assert(sizeof(struct pg_ipv6) == 40, "ipv6");

/* The linear part of a packet. */
struct pg_packet {
	const char *head;
	__u32 end; /* bytes from head that are there */
	__u32 at;  /* of the header that is read next */
};

/* Copies n bytes at a place of the packet. Gives 0 when they are not there. */
PG_INLINE int pg_packet_read(const struct pg_packet *packet, __u32 at, void *to, __u32 n)
{
	return at + n <= packet->end && !bpf_probe_read_kernel(to, n, packet->head + at);
}

PG_INLINE void pg_packet_ports(struct pg_net *net, const struct pg_packet *packet)
{
	__u16 protocol = net->protocol;

	if (protocol != PG_IPPROTO_TCP && protocol != PG_IPPROTO_UDP && protocol != PG_IPPROTO_SCTP &&
	    protocol != PG_IPPROTO_UDPLITE)
		return;
	if (packet->at + 4 <= packet->end)
		pg_net_ports(net, packet->head + packet->at);
}

/* A fragment that is not the first one has no ports. */
PG_INLINE void pg_packet_ipv4(struct pg_string *out, struct pg_packet *packet)
{
	struct pg_net *net = pg_net_of(out);
	__u32 at = packet->at;
	__be16 fragment = 0;
	__u8 first = 0, protocol = 0;

	if (at + sizeof(struct pg_ipv4) > packet->end)
		return;
	pg_net_family_is(out, PG_AF_INET);
	pg_packet_read(packet, at, &first, sizeof(first));
	pg_packet_read(packet, at + offsetof(struct pg_ipv4, protocol), &protocol, sizeof(protocol));
	pg_packet_read(packet, at + offsetof(struct pg_ipv4, fragment), &fragment, sizeof(fragment));
	pg_net_ipv4(net, net->saddr, PG_NET_SADDR, packet->head + at + offsetof(struct pg_ipv4, saddr));
	pg_net_ipv4(net, net->daddr, PG_NET_DADDR, packet->head + at + offsetof(struct pg_ipv4, daddr));
	net->protocol = protocol;
	net->known |= PG_NET_PROTOCOL;
	packet->at = at + (first & 0xf) * 4;
	if (!(__builtin_bswap16(fragment) & 0x1fff))
		pg_packet_ports(net, packet);
}

/* Behind an extension header. Gives 1 to look on, 0 when the protocol is found, -1 when there are no ports. */
PG_INLINE int pg_packet_extension(struct pg_net *net, struct pg_packet *packet)
{
	struct {
		__u8 next;
		__u8 len;
		__be16 offset; /* of a fragment */
	} header = {};
	__u16 protocol = net->protocol;

	if (protocol != PG_IPPROTO_HOPOPTS && protocol != PG_IPPROTO_ROUTING && protocol != PG_IPPROTO_FRAGMENT &&
	    protocol != PG_IPPROTO_AH && protocol != PG_IPPROTO_DSTOPTS)
		return 0;
	if (!pg_packet_read(packet, packet->at, &header, sizeof(header)))
		return -1;
	net->protocol = header.next;
	if (protocol == PG_IPPROTO_FRAGMENT)
		packet->at += 8;
	else if (protocol == PG_IPPROTO_AH)
		packet->at += (header.len + 2) * 4;
	else
		packet->at += (header.len + 1) * 8;
	return protocol == PG_IPPROTO_FRAGMENT && __builtin_bswap16(header.offset) & 0xfff8 ? -1 : 1;
}

PG_INLINE void pg_packet_ipv6(struct pg_string *out, struct pg_packet *packet)
{
	struct pg_net *net = pg_net_of(out);
	__u32 at = packet->at;
	__u8 protocol = 0;
	int i, more = 1;

	if (at + sizeof(struct pg_ipv6) > packet->end)
		return;
	pg_net_family_is(out, PG_AF_INET6);
	pg_packet_read(packet, at + offsetof(struct pg_ipv6, next), &protocol, sizeof(protocol));
	pg_net_ipv6(net, net->saddr, PG_NET_SADDR, packet->head + at + offsetof(struct pg_ipv6, saddr));
	pg_net_ipv6(net, net->daddr, PG_NET_DADDR, packet->head + at + offsetof(struct pg_ipv6, daddr));
	net->protocol = protocol;
	net->known |= PG_NET_PROTOCOL;
	packet->at = at + sizeof(struct pg_ipv6);
	for (i = 0; i < PG_IPV6_EXTENSIONS && more == 1; i++)
		more = pg_packet_extension(net, packet);
	if (!more)
		pg_packet_ports(net, packet);
}

/*
 * struct sk_buff: what its headers say, as far as they are written, in its linear part, and IP's. A packet whose
 * network header has another kind, or is not there yet, has no family.
 */
PG_INLINE long pg_read_skb(struct pg_string *out, __u64 address)
{
	const struct sk_buff *skb = (const struct sk_buff *)address;
	struct pg_net *net = pg_net_begin(out);
	struct pg_packet packet = {};
	sk_buff_data_t tail = 0;
	__u16 network = 0;
	__be16 protocol = 0;
	__u8 version = 0;
	long error = pg_read(net->len, &skb->len);

	if (error)
		return pg_no_value(out, error);
	pg_read(net->hash, &skb->hash);
	pg_read(net->mark, &skb->mark);
	pg_read(net->priority, &skb->priority);
	pg_read(packet.head, &skb->head);
	pg_read(tail, &skb->tail);
	pg_read(network, &skb->network_header);
	pg_read(protocol, &skb->protocol);
	packet.end = tail;
	packet.at = network;
	if (!pg_packet_read(&packet, network, &version, sizeof(version)))
		return 0;
	protocol = __builtin_bswap16(protocol);
	if (version >> 4 == 4 && (protocol == PG_ETH_P_IP || !protocol))
		pg_packet_ipv4(out, &packet);
	else if (version >> 4 == 6 && (protocol == PG_ETH_P_IPV6 || !protocol))
		pg_packet_ipv6(out, &packet);
	return 0;
}

/* struct net_device: its name. mode: its index. */
PG_INLINE long pg_read_net_device(struct pg_string *out, __u64 address)
{
	const struct net_device *device = (const struct net_device *)address;
	int index = 0;
	long error = pg_read_kernel_array(out, (__u64)&device->name, sizeof(device->name));

	pg_read(index, &device->ifindex);
	out->mode = error ? 0 : index;
	return error;
}

#endif
