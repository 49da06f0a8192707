/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0 */
/*
 * Reading what is compared: usage of memory control groups and resident memory of a process.
 *
 * Groups are walked by the parents of the subsystem state, with typed loads that cost next to nothing: the same on v1 and v2, a
 * group without the memory controller is passed over as the kernel does, and no array of ancestors is needed.
 */
#ifndef MEMGOV_METERS_H
#define MEMGOV_METERS_H

#include "maps.h"

/* More levels than this are not walked; user space sets no limit below it either. */
#define MAX_DEPTH 64

static __always_inline struct cgroup_subsys_state *memory_of(struct task_struct *task)
{
	return task->cgroups->subsys[bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)];
}

static __always_inline __u64 id_of(struct cgroup_subsys_state *css)
{
	return css->cgroup->kn->id;
}

/* The state is the first member of its mem_cgroup, but the verifier does not know what it is a member of: hence a read by helper. */
static __always_inline __u64 usage_of(struct cgroup_subsys_state *css)
{
	struct mem_cgroup *memcg = (void *)css;
	__s64 pages = 0;

	bpf_core_read(&pages, sizeof(pages), &memcg->memory.usage);
	return pages < 0 ? 0 : pages;
}

static __always_inline __u64 high_of(struct cgroup_subsys_state *css)
{
	struct mem_cgroup *memcg = (void *)css;
	unsigned long pages = ~0UL;

	bpf_core_read(&pages, sizeof(pages), &memcg->memory.high);
	/* PAGE_COUNTER_MAX is LONG_MAX pages' worth of bytes; nothing that large is meant as a line. */
	return pages >= (1ULL << 48) ? HIGH_MAX : pages;
}

static __always_inline struct group_slot *slot_of(__u64 id)
{
	__u32 *index = bpf_map_lookup_elem(&groups, &id);
	struct group_slot *slot;

	if (!index)
		return NULL;
	slot = bpf_map_lookup_elem(&slots, index);
	/* Between the two looks the slot may have become another's. */
	return slot && slot->id == id ? slot : NULL;
}

/* Whether a group with a slot can be at this depth; and whether one can be at it or above. */
static __always_inline bool governed(__u64 levels, __u32 level)
{
	return levels & (1ULL << (level & 63));
}

static __always_inline bool governed_above(__u64 levels, __u32 level)
{
	return levels & (~0ULL >> (63 - (level & 63)));
}

/* One kind of resident memory in pages. Since 6.2 without what processors have not added yet: less than 32 pages each. */
static __always_inline __s64 rss_of_kind(struct task_struct *task, struct mm_struct *mm, int kind)
{
	__s64 pages;

	if (bpf_core_type_exists(struct mm_rss_stat)) {
		struct mm_struct___before_6_2 *before = (void *)mm;
		struct task_struct___before_6_2 *thread = (void *)task;

		pages = before->rss_stat.count[kind].counter + thread->rss_stat.count[kind];
	} else {
		struct mm_struct___since_6_2 *since = (void *)mm;

		pages = since->rss_stat[kind].count;
	}
	return pages < 0 ? 0 : pages;
}

/* The sum of the kinds, of the process that is running. */
static __always_inline __u64 rss_of(struct task_struct *task, __u8 kinds)
{
	struct mm_struct *mm = task->mm;
	__s64 pages = 0;

	if (kinds & KIND_ANON)
		pages += rss_of_kind(task, mm, MM_ANONPAGES);
	if (kinds & KIND_FILE)
		pages += rss_of_kind(task, mm, MM_FILEPAGES);
	if (kinds & KIND_SHMEM)
		pages += rss_of_kind(task, mm, MM_SHMEMPAGES);
	return pages;
}

#endif
