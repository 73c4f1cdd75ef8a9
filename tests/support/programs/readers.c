/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs that read one argument each, for tests. Those named t_* run on request, in the context of whoever asks, with
 * args[] of his choice; those named on_* are attached to raw tracepoints, and keep what concerns the process or port in
 * the map `wanted`. What was read is in the map `result`: struct t_result.
 */
#include "lib/types.h"
#include "lib/load_info.h"

struct t_result {
	__s64 error;
	__u64 number;
	struct pg_string string;
};

#define T_KEPT 2 /* elements of `result`: of those on request, of those on tracepoints */
#define T_ON_REQUEST 0
#define T_ON_EVENT 1
#define T_ROOM 5 /* a slot for structures that tests make up */

PG_INLINE int t_keep(__u32 where, const struct pg_string *string, long error, __u64 number)
{
	struct t_result *to = pg_lookup(result, &where);

	if (!to)
		return 0;
	to->error = error;
	to->number = number;
	bpf_probe_read_kernel(&to->string, sizeof(to->string), string);
	return 0;
}

PG_INLINE __u64 t_wanted(__u32 index)
{
	__u64 *value = pg_lookup(wanted, &index);

	return value ? *value : 0;
}

/* private_data of a descriptor: struct socket, bpf_map, bpf_prog, perf_event. */
PG_INLINE __u64 own_private(__u64 fd)
{
	const struct file *file = pg_file_of_fd((__s32)fd);
	void *found = NULL;

	pg_read(found, &file->private_data);
	return (__u64)found;
}

PG_INLINE __u64 own_sock(__u64 fd)
{
	const struct socket *socket = (const struct socket *)own_private(fd);
	void *found = NULL;

	pg_read(found, &socket->sk);
	return (__u64)found;
}

PG_INLINE __u64 own_dentry(__u64 fd)
{
	const struct file *file = pg_file_of_fd((__s32)fd);
	void *found = NULL;

	pg_read(found, &file->f_path.dentry);
	return (__u64)found;
}

PG_INLINE __u64 own_cred(void)
{
	const struct task_struct *task = (const struct task_struct *)bpf_get_current_task();
	void *found = NULL;

	pg_read(found, &task->cred);
	return (__u64)found;
}

PG_INLINE __u64 own_user_namespace(void)
{
	const struct cred *cred = (const struct cred *)own_cred();
	void *found = NULL;

	pg_read(found, &cred->user_ns);
	return (__u64)found;
}

PG_INLINE __u64 own_working_directory(void)
{
	const struct task_struct *task = (const struct task_struct *)bpf_get_current_task();
	const struct fs_struct *fs = NULL;

	pg_read(fs, &task->fs);
	return (__u64)&fs->pwd;
}

#define T(name, call)                                                                                                  \
	int t_##name(struct bpf_raw_tracepoint_args *ctx)                                                              \
	{                                                                                                              \
		__u64 a = ctx->args[0], b = ctx->args[1], c = ctx->args[2];                                            \
		struct pg_string *out = pg_string_of(0, 0);                                                            \
                                                                                                                       \
		return out ? t_keep(T_ON_REQUEST, out, call, 0) : 0;                                                   \
	}

T(fd, pg_read_fd_path(out, (__s32)a))
T(dentry, pg_read_dentry(out, own_dentry(a)))
T(working_directory, pg_read_path_struct(out, own_working_directory()))
T(binary, pg_read_binary(out))
T(parent_binary, pg_read_parent_binary(out))
T(file_at, pg_read_file(out, a))
T(dentry_at, pg_read_dentry(out, a))

T(user_iovec, pg_read_user_iovec(out, a, b))
T(user_array, pg_read_user_array(out, a, b))
T(kernel_string, pg_read_kernel_string(out, a))
T(kernel_bytes, pg_read_kernel_bytes(out, a, b))

T(socket, pg_read_socket(out, own_private(a)))
T(sock, pg_read_sock(out, own_sock(a)))
T(sock_at, pg_read_sock(out, a))
T(skb_at, pg_read_skb(out, a))
T(user_sockaddr, pg_read_user_sockaddr(out, a, b))
T(user_sockaddr_un, pg_read_user_sockaddr_un(out, a, b))

T(cred, pg_read_cred(out, own_cred()))
T(user_namespace, pg_read_user_namespace(out, own_user_namespace()))
T(bpf_map, pg_read_bpf_map(out, own_private(a)))
T(bpf_prog, pg_read_bpf_prog(out, own_private(a)))
T(bpf_attr, pg_read_user_bpf_attr_of(out, a, b, c))
T(perf_event, pg_read_perf_event(out, own_private(a)))

/* Whether a socket's address is in a network of IPv4: a, b: address and mask. c: the side. */
int t_in_ipv4(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0);
	__u64 a = ctx->args[1], b = ctx->args[2], found;

	if (!out)
		return 0;
	pg_read_socket(out, own_private(ctx->args[0]));
	found = pg_net_addr_in(out, PG_NET_SOURCE, PG_AF_INET, a, 0, b, 0);
	found |= pg_net_addr_in(out, PG_NET_DESTINATION, PG_AF_INET, a, 0, b, 0) << 1;
	return t_keep(T_ON_REQUEST, out, 0, found);
}

int t_in_ipv6(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0);
	__u64 first = ctx->args[1], second = ctx->args[2], found;
	__u64 first_mask = ctx->args[3], second_mask = ctx->args[4];

	if (!out)
		return 0;
	pg_read_socket(out, own_private(ctx->args[0]));
	found = pg_net_addr_in(out, PG_NET_SOURCE, PG_AF_INET6, first, second, first_mask, second_mask);
	found |= pg_net_addr_in(out, PG_NET_DESTINATION, PG_AF_INET6, first, second, first_mask, second_mask) << 1;
	return t_keep(T_ON_REQUEST, out, 0, found);
}

/* Ports of both sides in a range, the protocol, the family and the state, a byte each. */
int t_net_numbers(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0);
	__u64 first = ctx->args[1], last = ctx->args[2], found;

	if (!out)
		return 0;
	pg_read_socket(out, own_private(ctx->args[0]));
	found = pg_net_port_in(out, PG_NET_SOURCE, first, last);
	found |= pg_net_port_in(out, PG_NET_DESTINATION, first, last) << 1;
	found |= (pg_net_protocol(out) & 0xff) << 8 | (pg_net_family(out) & 0xff) << 16;
	found |= (pg_net_state(out) & 0xff) << 24;
	return t_keep(T_ON_REQUEST, out, 0, found);
}

/* The sets of the caller's credentials in turn. */
int t_capabilities(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0);
	__u64 set = 0;
	long error;

	if (!out)
		return 0;
	if (ctx->args[0] == 0)
		error = pg_cap_inheritable(&set, own_cred());
	else if (ctx->args[0] == 1)
		error = pg_cap_permitted(&set, own_cred());
	else
		error = pg_cap_effective(&set, own_cred());
	return t_keep(T_ON_REQUEST, out, error, set);
}

/* Structures that are made up: a descriptor's file, or text in the caller's memory, is in them. */
int t_kiocb(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0);
	struct kiocb made = {.ki_filp = (struct file *)pg_file_of_fd((__s32)ctx->args[0])};

	return out ? t_keep(T_ON_REQUEST, out, pg_read_kiocb(out, (__u64)&made), 0) : 0;
}

int t_filename(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0), *room = pg_string_of(0, T_ROOM);
	struct filename made = {};

	if (!out || !room)
		return 0;
	bpf_probe_read_user_str(room->data, 256, (const void *)ctx->args[0]);
	made.name = room->data;
	return t_keep(T_ON_REQUEST, out, pg_read_filename(out, (__u64)&made), 0);
}

int t_kernel_iovec(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0);
	struct iovec made[2] = {};

	bpf_probe_read_user(made, sizeof(made), (const void *)ctx->args[0]);
	return out ? t_keep(T_ON_REQUEST, out, pg_read_kernel_iovec(out, (__u64)made, 2), 0) : 0;
}

/* args: kind, address and bytes of the first segment, where in it, bytes of all. */
int t_iov_iter(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0);
	struct iovec segment = {.iov_base = (void *)ctx->args[1], .iov_len = ctx->args[2]};
	struct iov_iter made = {.iov_offset = ctx->args[3], .count = ctx->args[4]};

	made.iter_type = ctx->args[0] == 0 ? ITER_UBUF : ctx->args[0] == 1 ? ITER_IOVEC : ITER_BVEC;
	if (ctx->args[0] == 0)
		made.ubuf = (void *)ctx->args[1];
	else
		made.kvec = (void *)&segment;
	return out ? t_keep(T_ON_REQUEST, out, pg_read_iov_iter(out, (__u64)&made), 0) : 0;
}

PG_INLINE struct module *t_made_module(struct pg_string *room, __u64 text, __u64 taints)
{
	struct module *made = (struct module *)room->data;

	bpf_probe_read_user_str(made->name, sizeof(made->name), (const void *)text);
	made->taints = taints;
	return made;
}

int t_module(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0), *room = pg_string_of(0, T_ROOM);
	struct module *made;

	if (!out || !room)
		return 0;
	made = t_made_module(room, ctx->args[0], ctx->args[1]);
	return t_keep(T_ON_REQUEST, out, pg_read_module(out, (__u64)made), 0);
}

int t_load_info(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 0), *room = pg_string_of(0, T_ROOM);
	struct load_info made = {.sig_ok = ctx->args[2]};

	if (!out || !room)
		return 0;
	made.mod = t_made_module(room, ctx->args[0], ctx->args[1]);
	return t_keep(T_ON_REQUEST, out, pg_read_load_info(out, (__u64)&made), 0);
}

/* sched_process_exec(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm), of a child of wanted[0]. */
int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	const struct task_struct *task = (const struct task_struct *)ctx->args[0], *parent = NULL;
	struct pg_string *out = pg_string_of(0, 1);
	pid_t tgid = 0;

	pg_read(parent, &task->real_parent);
	pg_read(tgid, &parent->tgid);
	if (!out || !tgid || tgid != t_wanted(0))
		return 0;
	return t_keep(T_ON_EVENT, out, pg_read_binprm(out, ctx->args[2]), 0);
}

#define T_GETPPID 110

/* sys_enter(struct pt_regs *regs, long id): getppid of the process wanted[0]. wanted[1]: what is read: a descriptor's
 * path, the credentials, the user namespace; wanted[2]: the descriptor. */
int on_enter(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 2);
	long error;

	if (!out || ctx->args[1] != T_GETPPID || bpf_get_current_pid_tgid() >> 32 != t_wanted(0))
		return 0;
	if (t_wanted(1) == 0)
		error = pg_read_fd_path(out, (__s32)t_wanted(2));
	else if (t_wanted(1) == 1)
		error = pg_read_cred(out, own_cred());
	else
		error = pg_read_user_namespace(out, own_user_namespace());
	return t_keep(T_ON_EVENT, out, error, 0);
}

/* net_dev_queue(struct sk_buff *skb): a packet to port wanted[3]. */
int on_packet(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 3);
	long error;

	if (!out)
		return 0;
	error = pg_read_skb(out, ctx->args[0]);
	if (!t_wanted(3) || pg_net_of(out)->dport != t_wanted(3))
		return 0;
	return t_keep(T_ON_EVENT, out, error, 0);
}

/* net_dev_queue: the device of such a packet. */
int on_device(struct bpf_raw_tracepoint_args *ctx)
{
	const struct sk_buff *skb = (const struct sk_buff *)ctx->args[0];
	struct pg_string *out = pg_string_of(0, 4);
	const struct net_device *device = NULL;

	if (!out)
		return 0;
	pg_read_skb(out, ctx->args[0]);
	if (!t_wanted(4) || pg_net_of(out)->dport != t_wanted(4))
		return 0;
	pg_read(device, &skb->dev);
	return t_keep(T_ON_EVENT, out, pg_read_net_device(out, (__u64)device), 0);
}

/* inet_sock_set_state(const struct sock *sk, int old, int new): the closing of the connection to port wanted[5]. */
int on_state(struct bpf_raw_tracepoint_args *ctx)
{
	struct pg_string *out = pg_string_of(0, 6);
	long error;

	if (!out)
		return 0;
	error = pg_read_sock(out, ctx->args[0]);
	if (!t_wanted(5) || pg_net_of(out)->dport != t_wanted(5))
		return 0;
	return t_keep(T_ON_EVENT, out, error, ctx->args[1] << 8 | ctx->args[2]);
}
