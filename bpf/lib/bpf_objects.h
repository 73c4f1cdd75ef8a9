/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the system call bpf() is about: its attributes, maps and programs. The text is the object's name; the facts
 * behind it are struct pg_bpf_facts.
 */
#ifndef PG_LIB_BPF_OBJECTS_H
#define PG_LIB_BPF_OBJECTS_H

#include "lib/buffers.h"
#include "lib/kernel.h"
#include "maps/strings.h"

/* include/uapi/linux/bpf.h: BPF_OBJ_NAME_LEN, enum bpf_cmd */
#define PG_BPF_NAME 16
#define PG_BPF_MAP_CREATE 0
#define PG_BPF_PROG_LOAD 5

/* pg_bpf_facts.kind */
#define PG_BPF_NONE 0
#define PG_BPF_MAP 1
#define PG_BPF_PROG 2

struct pg_bpf_facts {
	__u32 kind;
	__u32 type; /* enum bpf_map_type, enum bpf_prog_type */
	__u32 id;   /* 0: not known yet */
	__u32 flags;
	__u32 instructions; /* of a program */
	__u32 attach_type;  /* enum bpf_attach_type */
	__u32 key_size;	    /* of a map, bytes */
	__u32 value_size;
	__u32 max_entries;
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_bpf_facts) == 40, "pg_bpf_facts");

/* The part of union bpf_attr that BPF_PROG_LOAD and BPF_MAP_CREATE have used since Linux 4.15; its layout is fixed. */
union pg_bpf_attr {
	struct {
		__u32 prog_type;
		__u32 insn_cnt;
		__u64 insns;
		__u64 license;
		__u32 log_level;
		__u32 log_size;
		__u64 log_buf;
		__u32 kern_version;
		__u32 prog_flags;
		char prog_name[PG_BPF_NAME];
		__u32 prog_ifindex;
		__u32 expected_attach_type;
	};
	struct {
		__u32 map_type;
		__u32 key_size;
		__u32 value_size;
		__u32 max_entries;
		__u32 map_flags;
		__u32 inner_map_fd;
		__u32 numa_node;
		char map_name[PG_BPF_NAME];
	};
};
_Static_assert(sizeof(union pg_bpf_attr) == 72, "pg_bpf_attr");
_Static_assert(offsetof(union pg_bpf_attr, expected_attach_type) == offsetof(union bpf_attr, expected_attach_type), "");
_Static_assert(offsetof(union pg_bpf_attr, map_name) == offsetof(union bpf_attr, map_name), "");

/* Puts the name of an object in kernel memory, and the facts behind it. */
PG_INLINE long pg_put_object(struct pg_string *out, const void *name, const struct pg_bpf_facts *facts)
{
	long error = pg_read_kernel_array(out, (__u64)name, PG_BPF_NAME);

	pg_put_facts(out, facts, sizeof(*facts));
	return error;
}

PG_INLINE long pg_no_object(struct pg_string *out, long error)
{
	struct pg_bpf_facts facts = {};

	pg_no_value(out, error);
	pg_put_facts(out, &facts, sizeof(facts));
	return error;
}

/* What the copy of the attributes in a work area says. command: of the call; another than these two has no object. */
PG_INLINE long pg_put_attr(struct pg_string *out, const union pg_bpf_attr *attr, __u32 command)
{
	struct pg_bpf_facts facts = {};

	if (command == PG_BPF_PROG_LOAD) {
		facts.kind = PG_BPF_PROG;
		facts.type = attr->prog_type;
		facts.flags = attr->prog_flags;
		facts.instructions = attr->insn_cnt;
		facts.attach_type = attr->expected_attach_type;
		return pg_put_object(out, attr->prog_name, &facts);
	}
	if (command == PG_BPF_MAP_CREATE) {
		facts.kind = PG_BPF_MAP;
		facts.type = attr->map_type;
		facts.flags = attr->map_flags;
		facts.key_size = attr->key_size;
		facts.value_size = attr->value_size;
		facts.max_entries = attr->max_entries;
		return pg_put_object(out, attr->map_name, &facts);
	}
	out->len = 0;
	out->flags = 0;
	out->mode = 0;
	pg_put_facts(out, &facts, sizeof(facts));
	return 0;
}

/*
 * union bpf_attr of a call. size: bytes that there are; those that are missing are zero, as for the kernel. command:
 * the call's first argument.
 */
PG_INLINE long pg_read_bpf_attr(struct pg_string *out, __u64 address, __u64 size, __u32 command, int in_user)
{
	struct pg_string *work = pg_beside(out, PG_SLOT_WORK);
	__u64 n = size > sizeof(union pg_bpf_attr) ? sizeof(union pg_bpf_attr) : size;
	long error;

	if (!work)
		return pg_no_object(out, -PG_EFAULT);
	__builtin_memset(work->data, 0, sizeof(union pg_bpf_attr));
	pg_opaque(n);
	n &= 0x7f;
	if (in_user)
		error = bpf_probe_read_user(work->data, n, (const void *)address);
	else
		error = bpf_probe_read_kernel(work->data, n, (const void *)address);
	return error ? pg_no_object(out, error) : pg_put_attr(out, (const union pg_bpf_attr *)work->data, command);
}

PG_INLINE long pg_read_user_bpf_attr_of(struct pg_string *out, __u64 address, __u64 size, __u32 command)
{
	return pg_read_bpf_attr(out, address, size, command, 1);
}

PG_INLINE long pg_read_kernel_bpf_attr_of(struct pg_string *out, __u64 address, __u64 size, __u32 command)
{
	return pg_read_bpf_attr(out, address, size, command, 0);
}

/* Where the command is not known: of the loading of a program. */
PG_INLINE long pg_read_user_bpf_attr(struct pg_string *out, __u64 address, __u64 size)
{
	return pg_read_bpf_attr(out, address, size, PG_BPF_PROG_LOAD, 1);
}

PG_INLINE long pg_read_kernel_bpf_attr(struct pg_string *out, __u64 address, __u64 size)
{
	return pg_read_bpf_attr(out, address, size, PG_BPF_PROG_LOAD, 0);
}

/* struct bpf_map. */
PG_INLINE long pg_read_bpf_map(struct pg_string *out, __u64 address)
{
	const struct bpf_map *map = (const struct bpf_map *)address;
	struct pg_bpf_facts facts = {.kind = PG_BPF_MAP};
	long error = pg_read(facts.type, &map->map_type);

	if (error)
		return pg_no_object(out, error);
	pg_read(facts.id, &map->id);
	pg_read(facts.flags, &map->map_flags);
	pg_read(facts.key_size, &map->key_size);
	pg_read(facts.value_size, &map->value_size);
	pg_read(facts.max_entries, &map->max_entries);
	return pg_put_object(out, &map->name, &facts);
}

/* struct bpf_prog. */
PG_INLINE long pg_read_bpf_prog(struct pg_string *out, __u64 address)
{
	const struct bpf_prog *prog = (const struct bpf_prog *)address;
	const struct bpf_prog_aux *more = NULL;
	struct pg_bpf_facts facts = {.kind = PG_BPF_PROG};
	long error = pg_read(facts.type, &prog->type);

	if (error)
		return pg_no_object(out, error);
	pg_read(facts.instructions, &prog->len);
	pg_read(facts.attach_type, &prog->expected_attach_type);
	pg_read(more, &prog->aux);
	pg_read(facts.id, &more->id);
	return pg_put_object(out, &more->name, &facts);
}

#endif
