/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The programs that keep lineage: what they have in common whatever the predicates are. agent/policy/lineage.py writes
 * the rest before it calls these:
 *
 *	pg_image_bits(draft, binary)  which predicates a binary meets
 *	pg_pid_bits(draft)            which predicates the current process's pids meet
 *	pg_inner_bits(word)           those that stand for pids of the process's own namespace
 *	pg_valid_bits(word, time)     of the bits of a word that were written then, those that still mean the same
 *	PG_SNAPSHOTS                  1: policies compare with what a process was at its execve
 *
 * While the agent scans processes that ran before, those have no record. A fork then looks at what would have been in
 * it: the image that runs, and the ancestors that live. So there is no process that both the scan and the fork miss.
 */
#ifndef PG_LIB_LINEAGE_H
#define PG_LIB_LINEAGE_H

#include "lib/kernel.h"
#include "lib/path.h"
#include "lib/process.h"
#include "lib/sets.h"
#include "maps/counters.h"
#include "maps/process.h"
#include "maps/strings.h"

#define PG_ANCESTORS 32 /* how far up a fork looks during a scan; those above it are the next pass's */

PG_INLINE void pg_image_bits(struct pg_lineage *draft, struct pg_string *binary);
PG_INLINE void pg_pid_bits(struct pg_lineage *draft);
PG_INLINE __u64 pg_valid_bits(int word, __u64 time);
PG_INLINE __u64 pg_inner_bits(int word);

PG_INLINE struct pg_lineage *pg_new_draft(void)
{
	__u32 zero = 0;
	struct pg_lineage *draft = pg_lookup(lineage_draft, &zero);

	if (!draft)
		return NULL;
	__builtin_memset(draft, 0, sizeof(*draft));
	draft->written = bpf_ktime_get_boot_ns();
	return draft;
}

PG_INLINE void pg_take_snapshot(struct pg_lineage *draft)
{
	int type;

#pragma unroll
	for (type = 0; type < PG_NS_TYPES; type++)
		draft->ns[type] = pg_ns_inum(type);
#pragma unroll
	for (type = 0; type < PG_CAP_TYPES; type++)
		draft->caps[type] = pg_own_caps(type);
	draft->snapshot = pg_in_host_user_ns() ? PG_SNAPSHOT_HOST_USER : PG_SNAPSHOT_OTHER_USER;
}

PG_INLINE void pg_copy_snapshot(struct pg_lineage *to, const struct pg_lineage *from)
{
	__builtin_memcpy(to->ns, from->ns, sizeof(to->ns));
	__builtin_memcpy(to->caps, from->caps, sizeof(to->caps));
	pg_once(to->snapshot) = pg_once(from->snapshot);
}

PG_INLINE void pg_draft_image(struct pg_lineage *draft)
{
	struct pg_string *binary = pg_string_of(PG_CONTEXT_BASE, PG_SLOT_BINARY);

	if (!binary)
		return;
	pg_read_binary(binary);
	pg_image_bits(draft, binary);
}

PG_INLINE int pg_says_something(const struct pg_lineage *draft)
{
	__u64 any = draft->snapshot | draft->unknown;
	int word;

#pragma unroll
	for (word = 0; word < PG_LINEAGE_WORDS; word++)
		any |= draft->bits[word];
	return any != 0;
}

PG_INLINE void pg_keep_draft(__u32 tgid, __u64 start, struct pg_lineage *draft)
{
	if (!pg_says_something(draft))
		return;
	draft->start = start;
	if (pg_update(lineage, &tgid, draft, BPF_ANY))
		pg_lose(tgid);
}

/* The process has a record: what it met before stays. The words of the agent's scan are not touched. */
PG_INLINE void pg_add_draft(struct pg_lineage *record, const struct pg_lineage *draft)
{
	int word;

#pragma unroll
	for (word = 0; word < PG_LINEAGE_WORDS; word++) {
		__u64 valid = pg_valid_bits(word, pg_once(record->written));

		pg_once(record->bits[word]) = (pg_once(record->bits[word]) & valid) | draft->bits[word];
		pg_once(record->parent_bits[word]) = pg_once(record->parent_bits[word]) & valid;
	}
	pg_once(record->written) = draft->written;
	if (draft->snapshot)
		pg_copy_snapshot(record, draft);
}

/* A new image is in place, with its credentials, and has run nothing yet. Its process has no other thread. */
PG_INLINE int pg_lineage_on_exec(void)
{
	__u64 start = pg_start_of(pg_current());
	struct pg_lineage *record = pg_record_of(pg_tgid(), start), *draft = pg_new_draft();

	if (!draft)
		return 0;
	pg_draft_image(draft);
	if (PG_SNAPSHOTS)
		pg_take_snapshot(draft);
	if (record) {
		pg_add_draft(record, draft);
		return 0;
	}
	draft->unknown = pg_is_lost(pg_tgid());
	pg_keep_draft(pg_tgid(), start, draft);
	return 0;
}

PG_INLINE unsigned int pg_pid_level(const struct task_struct *task)
{
	struct pid *pid = NULL;
	unsigned int level = 0;

	pg_read(pid, &task->thread_pid);
	if (pid)
		pg_read(level, &pid->level);
	return level;
}

/* inner: whether `from` is of a process in the same pid namespace. */
PG_INLINE void pg_inherit_bits(struct pg_lineage *draft, const struct pg_lineage *from, int inner)
{
	int word;

#pragma unroll
	for (word = 0; word < PG_LINEAGE_WORDS; word++) {
		__u64 bits = pg_once(from->bits[word]) & pg_valid_bits(word, pg_once(from->written));

		bits |= pg_once(from->before[word]) & pg_valid_bits(word, pg_once(from->scanned));
		draft->bits[word] |= inner ? bits : bits & ~pg_inner_bits(word);
	}
}

/* During a scan: what the record that is still to come would say. */
PG_INLINE void pg_inherit_unscanned(struct pg_lineage *draft)
{
	struct task_struct *task = pg_current(), *parent;
	unsigned int level = pg_pid_level(task);
	struct pg_lineage *record;
	pid_t tgid;
	int i;

	pg_draft_image(draft);
	for (i = 0; i < PG_ANCESTORS; i++) {
		parent = NULL;
		tgid = 0;
		pg_read(parent, &task->real_parent);
		if (!parent || parent == task)
			break;
		task = parent;
		pg_read(tgid, &task->tgid);
		record = pg_record_of(tgid, pg_start_of(task));
		if (record)
			pg_inherit_bits(draft, record, pg_pid_level(task) == level);
	}
}

PG_INLINE void pg_inherit(struct pg_lineage *draft, const struct pg_lineage *record)
{
	struct pg_lineage_state *state = pg_lineage_state();

	if (record)
		pg_inherit_bits(draft, record, 1);
	if (state && pg_once(state->scanning))
		pg_inherit_unscanned(draft);
	draft->unknown = record ? pg_once(record->unknown) : pg_is_lost(pg_tgid());
	__builtin_memcpy(draft->parent_bits, draft->bits, sizeof(draft->bits));
	pg_pid_bits(draft);
	if (!PG_SNAPSHOTS)
		return;
	if (record && pg_once(record->snapshot))
		pg_copy_snapshot(draft, record);
	else
		pg_take_snapshot(draft);
}

/*
 * Numbers of a pid namespace mean something only in there: what a process met by one does not go on to a child in
 * another namespace, which is always one below its own.
 */
PG_INLINE void pg_leave_namespace(struct pg_lineage *draft, const struct task_struct *child)
{
	int word;

	if (pg_pid_level(child) == pg_pid_level(pg_current()))
		return;
#pragma unroll
	for (word = 0; word < PG_LINEAGE_WORDS; word++) {
		draft->bits[word] &= ~pg_inner_bits(word);
		draft->parent_bits[word] &= ~pg_inner_bits(word);
	}
}

/*
 * A process makes another one, which does not run yet. The one that calls fork is the ancestor, whoever the new one's
 * parent is (CLONE_PARENT).
 */
PG_INLINE int pg_lineage_on_fork(const struct task_struct *child)
{
	struct pg_lineage *draft;
	pid_t tgid = 0;

	pg_read(tgid, &child->tgid);
	if (tgid == pg_tgid())
		return 0;
	draft = pg_new_draft();
	if (!draft)
		return 0;
	pg_inherit(draft, pg_own_lineage());
	pg_leave_namespace(draft, child);
	pg_keep_draft(tgid, pg_start_of(child), draft);
	return 0;
}

/* The last thread of a process ends. */
PG_INLINE int pg_lineage_on_exit(void)
{
	__u32 tgid = pg_tgid();

	pg_delete(lineage, &tgid);
	pg_unmark(0, tgid);
	pg_unmark(1, tgid);
	return 0;
}

PG_INLINE int pg_note_new(struct pg_note *note)
{
	__u32 tgid = note->tgid;
	long error = pg_update(lineage, &tgid, &note->record, BPF_NOEXIST);

	note->error = error;
	if (error && error != -PG_EEXIST)
		pg_lose(tgid);
	return 0;
}

PG_INLINE void pg_note_in(struct pg_lineage *record, const struct pg_lineage *from)
{
	int word;

#pragma unroll
	for (word = 0; word < PG_LINEAGE_WORDS; word++) {
		pg_once(record->before[word]) = from->before[word];
		pg_once(record->parent_before[word]) = from->parent_before[word];
	}
	pg_once(record->scanned) = from->scanned;
	if (from->snapshot && !pg_once(record->snapshot))
		pg_copy_snapshot(record, from);
	if (from->unknown)
		pg_once(record->unknown) = 1;
}

/* The agent knows when a process started to a clock tick. */
PG_INLINE int pg_is_noted(const struct pg_lineage *record, const struct pg_lineage *note)
{
	return pg_once(record->start) - note->start <= note->slack;
}

/*
 * Run by the agent through BPF_PROG_TEST_RUN. An older record is of a process that is gone and had the same pid; a
 * newer one says that the agent's process is gone. One that comes into being at the same moment is the kernel's own,
 * and is written into when the agent asks again.
 */
PG_INLINE int pg_lineage_on_note(void)
{
	__u32 zero = 0, tgid;
	struct pg_note *note = pg_lookup(lineage_note, &zero);
	struct pg_lineage *record;

	if (!note)
		return 0;
	tgid = note->tgid;
	record = pg_lookup(lineage, &tgid);
	note->error = 0;
	note->present = 0;
	if (record && !pg_is_noted(record, &note->record)) {
		if (note->kind == PG_NOTE_FORGET || pg_once(record->start) > note->record.start)
			return 0;
		pg_delete(lineage, &tgid);
		record = NULL;
	}
	note->present = record != NULL;
	if (note->kind == PG_NOTE_FORGET)
		pg_delete(lineage, &tgid);
	else if (record)
		pg_note_in(record, &note->record);
	else
		return pg_note_new(note);
	return 0;
}

#endif
