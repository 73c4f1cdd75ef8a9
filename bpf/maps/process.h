/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What becomes of processes, for the conditions that a call alone cannot answer.
 *
 * lineage: HASH, tgid -> struct pg_lineage. Each bit stands for one predicate ("runs one of these binaries", "has one
 * of these pids"); it is set when the process, or an ancestor before it forked, met it. A process has a record when it
 * has a bit, or when a policy compares with its execve. Programs write it at fork and execve, when the process itself
 * does nothing else; the agent only asks pg_lineage_note to (bpf/lib/lineage.h), which leaves the programs' words
 * alone. Nobody clears bits: a bit that comes to stand for another predicate counts from that time on (written,
 * scanned).
 *
 * lineage_lost: ARRAY[2] of struct pg_lost: who should have a record and got none, for the map was full. Those neither
 * meet nor miss a predicate, and every condition on their lineage holds. A mark goes with its process; one that several
 * processes share stays until the agent takes it back, which is why there are two arrays: one is marked in while the
 * other is cleared.
 *
 * lineage_state: ARRAY[1] of struct pg_lineage_state. lineage_slots: PROG_ARRAY of raw tracepoint programs, two sets,
 * of which lineage_state names the one in force. lineage_draft: PERCPU_ARRAY[1] of struct pg_lineage, the record under
 * construction; the programs run with preemption disabled. lineage_note: ARRAY[1] of struct pg_note, what the agent
 * asks for.
 */
#ifndef PG_MAPS_PROCESS_H
#define PG_MAPS_PROCESS_H

#include "lib/kernel.h"
#include "maps/counters.h"

#define PG_LINEAGE_WORDS 4
#define PG_LOST_MARKS 65536 /* a power of two */
#define PG_LOST_SEVERAL 255 /* a mark that several processes share */

/* The order of NamespaceType in agent/policy/model.py. */
enum pg_ns_type {
	PG_NS_UTS,
	PG_NS_IPC,
	PG_NS_MNT,
	PG_NS_PID,
	PG_NS_PID_FOR_CHILDREN,
	PG_NS_NET,
	PG_NS_TIME,
	PG_NS_TIME_FOR_CHILDREN,
	PG_NS_CGROUP,
	PG_NS_USER,
	PG_NS_TYPES
};

/* The order of CapabilityType in agent/policy/model.py. */
enum pg_cap_type { PG_CAP_EFFECTIVE, PG_CAP_INHERITABLE, PG_CAP_PERMITTED, PG_CAP_TYPES };

/* Whether there is a snapshot, and in which user namespace it was taken: capabilities mean something only there. */
enum pg_snapshot { PG_SNAPSHOT_NONE, PG_SNAPSHOT_HOST_USER, PG_SNAPSHOT_OTHER_USER };

struct pg_lineage {
	__u64 start;			     /* of the process, ns since boot: a reused pid gives itself away */
	__u64 written;			     /* ns since boot: when a program wrote bits and parent_bits */
	__u64 scanned;			     /* ns since boot: the agent's scan that wrote before and parent_before */
	__u64 bits[PG_LINEAGE_WORDS];	     /* by a program, at fork or execve */
	__u64 parent_bits[PG_LINEAGE_WORDS]; /* of who forked it, at that time */
	__u64 before[PG_LINEAGE_WORDS];	     /* by the agent: it ran before the predicate was in force */
	__u64 parent_before[PG_LINEAGE_WORDS];
	__u64 caps[PG_CAP_TYPES]; /* at its execve, all of the snapshot */
	__u32 ns[PG_NS_TYPES];
	__u32 snapshot; /* enum pg_snapshot */
	__u32 unknown;	/* 1: it, or an ancestor, was lost */
	__u32 slack;	/* how much later than start it may have started: what the agent writes is in clock ticks */
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_lineage) == 232, "lineage value");

struct pg_lineage_state {
	__u32 set;	/* the first slot of the programs in force; 0: nobody asks */
	__u32 scanning; /* 1: processes that ran before have no record yet */
	__u32 side;	/* of lineage_lost, where marks are made */
	__u32 reserved;
};
_Static_assert(sizeof(struct pg_lineage_state) == 16, "lineage_state value");

/* The order of the programs in a set. */
enum pg_lineage_event { PG_LINEAGE_EXEC, PG_LINEAGE_FORK, PG_LINEAGE_EXIT, PG_LINEAGE_EVENTS };

struct pg_lost {
	__u8 mark[PG_LOST_MARKS];
};
_Static_assert(sizeof(struct pg_lost) == PG_LOST_MARKS, "lineage_lost value");

enum pg_note_kind { PG_NOTE_WRITE, PG_NOTE_FORGET };

struct pg_note {
	__u32 tgid;
	__u32 kind;    /* enum pg_note_kind */
	__s32 error;   /* answer: 0, or a negative errno */
	__u32 present; /* answer: 1: there was a record of this process */
	struct pg_lineage record;
};
_Static_assert(sizeof(struct pg_note) == 16 + sizeof(struct pg_lineage), "lineage_note value");

PG_INLINE struct pg_lineage_state *pg_lineage_state(void)
{
	__u32 zero = 0;

	return pg_lookup(lineage_state, &zero);
}

/* Goes on in the program in force for an event, if there is one: nothing after this runs then. */
PG_INLINE void pg_follow(void *ctx, __u32 event)
{
	struct pg_lineage_state *state = pg_lineage_state();
	__u32 set = state ? pg_once(state->set) : 0;

	if (set)
		((long (*)(void *, void *, __u64))BPF_FUNC_tail_call)(ctx, pg_map(lineage_slots), set + event);
}

PG_INLINE __u8 *pg_lost_mark(__u32 side, __u32 tgid)
{
	struct pg_lost *lost = pg_lookup(lineage_lost, &side);

	if (!lost)
		return NULL;
	pg_opaque(tgid);
	return &lost->mark[tgid & (PG_LOST_MARKS - 1)];
}

/* The rest of a tgid: there are PG_LOST_MARKS * 64 at most (PID_MAX_LIMIT of include/linux/threads.h). */
PG_INLINE __u8 pg_mark_of(__u32 tgid)
{
	return 1 + (tgid / PG_LOST_MARKS & 63);
}

PG_INLINE int pg_is_marked(__u32 side, __u32 tgid)
{
	__u8 *mark = pg_lost_mark(side, tgid), value = mark ? pg_once(*mark) : 0;

	return value && (value == pg_mark_of(tgid) || value == PG_LOST_SEVERAL);
}

PG_INLINE int pg_is_lost(__u32 tgid)
{
	return pg_is_marked(0, tgid) || pg_is_marked(1, tgid);
}

PG_INLINE void pg_lose(__u32 tgid)
{
	struct pg_lineage_state *state = pg_lineage_state();
	__u8 *mark = state ? pg_lost_mark(pg_once(state->side), tgid) : NULL;

	if (mark)
		pg_once(*mark) = !*mark || *mark == pg_mark_of(tgid) ? pg_mark_of(tgid) : PG_LOST_SEVERAL;
	pg_count(PG_COUNT_LINEAGE_FULL);
}

/* The process is gone: the mark may stand for nobody else. */
PG_INLINE void pg_unmark(__u32 side, __u32 tgid)
{
	__u8 *mark = pg_lost_mark(side, tgid);

	if (mark && pg_once(*mark) == pg_mark_of(tgid))
		pg_once(*mark) = 0;
}

/* Whether a record is that of the process which started then. */
PG_INLINE int pg_is_of(const struct pg_lineage *record, __u64 start)
{
	return start - pg_once(record->start) <= pg_once(record->slack);
}

#endif
