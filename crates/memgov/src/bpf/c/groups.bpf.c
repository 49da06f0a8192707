// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * All memory groups below one, read in one pass, with what their control files would say: an iterator, which runs when somebody
 * reads from it and at no other time. It has its own maps and looks at nobody's limits.
 *
 * Records go to a mapped array and not into the iterator's own stream: that is cut at 32 KiB, and an iterator over groups cannot be
 * resumed (kernel/bpf/cgroup_iter.c). The kernel holds cgroup_mutex from the first group to the last, so there is one pass at a time.
 */
#include "kernel.h"
#include "record.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* include/linux/cgroup-defs.h: being taken away, its files are gone already */
#define CSS_DYING (1 << 4)

struct group_pass pass SEC(".data.pass");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct group_record);
} records SEC(".maps");

/* As the kernel lays the context of this iterator out; the verifier goes by offsets. */
struct bpf_iter__cgroup {
	void *meta;
	struct cgroup *cgroup;
};

static __always_inline void fill(struct group_record *record, struct mem_cgroup *memcg)
{
	__s64 events[MEMCG_OOM_KILL + 1] = {};
	bool oom_group = false;

	/* Left from another pass, should a read below fail. */
	__builtin_memset(record, 0, sizeof(*record));
	bpf_core_read(&record->usage, sizeof(record->usage), &memcg->memory.usage);
	bpf_core_read(&record->high, sizeof(record->high), &memcg->memory.high);
	bpf_core_read(&record->max, sizeof(record->max), &memcg->memory.max);
	bpf_core_read(&record->swap, sizeof(record->swap), &memcg->swap.usage);
	if (bpf_core_field_exists(memcg->memory.failcnt))
		bpf_core_read(&record->failcnt, sizeof(record->failcnt), &memcg->memory.failcnt);
	bpf_core_read(&events, sizeof(events), &memcg->memory_events);
	record->high_events = events[MEMCG_HIGH];
	record->max_events = events[MEMCG_MAX];
	record->oom_events = events[MEMCG_OOM];
	record->oom_kills = events[MEMCG_OOM_KILL];
	bpf_core_read(&oom_group, sizeof(oom_group), &memcg->oom_group);
	record->oom_group = oom_group;
}

SEC("iter/cgroup")
int read_groups(struct bpf_iter__cgroup *ctx)
{
	struct cgroup *cgroup = ctx->cgroup;
	struct cgroup_subsys_state *css;
	struct group_record *record;
	__u32 index = pass.seen;

	if (!cgroup) {
		/* Not called so when the walk was broken off. */
		pass.complete = 1;
		return 0;
	}
	css = cgroup->subsys[bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id)];
	/* The root has a counter too, but it is not what a file would say: v2 has none, v1 adds up statistics. */
	if (!css || !css->parent || (css->flags & CSS_DYING))
		return 0;
	pass.seen = index + 1;
	record = bpf_map_lookup_elem(&records, &index);
	if (!record)
		return 0;
	/* The state is the first member of its mem_cgroup. */
	fill(record, (struct mem_cgroup *)css);
	record->id = cgroup->kn->id;
	return 0;
}
