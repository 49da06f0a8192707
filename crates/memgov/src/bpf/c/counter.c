// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * A live counter of kernel memory for each group with a line for it. The kernel's own (`kernel` in memory.stat) lies in pieces on each
 * processor, which are added up when somebody reads it and up to 2 s late.
 *
 * Every page of kernel memory that is charged or given back passes here, for the group that it is charged to, and is counted in
 * that group and all above it, as far as they have a line. When a group is removed, the kernel hands its charges to its parent (memcg_reparent_objcgs): they
 * stay counted where they were counted, and are given back in the parent's name. So the removed group's counter stays too high, which
 * nobody reads any more, and those above it are right before and after.
 *
 * What can be missed: a call in the middle of this program on the same processor, which the kernel leaves out (so a processor's memory has one user at a time). Up to 6.17
 * interrupts are off here, and only an NMI could be that; user space compares with the kernel's files now and then.
 */
#include "ceiling.h"

/*
 * In which slots a group's kernel memory counts: its own and those above it. Each processor remembers that of a few groups, for to find it takes
 * several times as long as to count, and a fork and its exit charge and give back three dozen times.
 */
#define REMEMBERED 8 /* groups */
#define MOST_SLOTS 4

struct counting {
	__u64 group;
	__u32 generation; /* control.kernel_generation before it was found */
	__u32 found; /* so many; more than MOST_SLOTS are not remembered */
	__u32 slots[MOST_SLOTS];
	__u32 calls; /* not in the statistics yet */
	__u32 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REMEMBERED);
	__type(key, __u32);
	__type(value, struct counting);
} remembered SEC(".maps");

/* The group went over its line: told once, until it is seen at or under it. In an interrupt or a kernel thread it is left to the next call. */
static __noinline int kernel_crossing(struct group_slot *slot)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct seen seen = {};
	struct self self;
	__u64 now;

	if (!slot || slot->kernel_crossed || !slot->kernel_seeded || (task->flags & PF_KTHREAD) || in_interrupt())
		return 0;
	self = self_of(task);
	if (!self.mm)
		return 0;
	now = bpf_ktime_get_ns();
	if (!may_tell_crossing(slot->kernel_crossed_ns, now) || __sync_val_compare_and_swap(&slot->kernel_crossed, 0, 1))
		return 0;
	slot->kernel_crossed_ns = now;
	seen.group = slot->id;
	seen.tag = slot->tag;
	seen.usage = kernel_of(slot);
	seen.limit = slot->kernel_tell_line;
	tell(EVENT_KERNEL_CROSSED, HOOK_KERNEL_MEMORY, &self, &seen, 0, now);
	return 0;
}

static __always_inline void count_pages(struct group_slot *slot, __s64 pages)
{
	__sync_fetch_and_add(&slot->kernel_pages, pages);
	if (kernel_of(slot) > slot->kernel_tell_line)
		kernel_crossing(slot);
	else if (slot->kernel_crossed)
		slot->kernel_crossed = 0;
}

static __always_inline long count_in(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	struct counting *counting = walk->counting;
	struct group_slot *slot;
	__u32 *place, at;

	if (!css || !governed_above(walk->levels, level_of(css)))
		return 1;
	if (!governed(walk->levels, level_of(css)))
		return climb(walk, css);
	place = place_of(id_of(css));
	slot = place ? slot_at(place, id_of(css)) : NULL;
	if (!slot || (slot->kernel_line == NO_LINE && slot->kernel_tell_line == NO_LINE))
		return climb(walk, css);
	at = counting->found;
	if (at < MOST_SLOTS)
		counting->slots[at] = *place;
	counting->found = at + 1;
	count_pages(slot, walk->line);
	return climb(walk, css);
}

/* The statistics have a map of their own, and to find a place in it takes as long as to count: so a few calls are not told yet. */
#define CALLS_AT_ONCE 32

static __always_inline void count_call(struct counting *counting)
{
	__u32 hook = HOOK_KERNEL_MEMORY;
	struct hook_stats *stat;

	if (++counting->calls < CALLS_AT_ONCE)
		return;
	stat = bpf_map_lookup_elem(&stats, &hook);
	if (stat)
		stat->calls += counting->calls;
	counting->calls = 0;
}

/* Finds the slots, counts in them, and remembers them. */
static __always_inline void find_and_count(struct counting *counting, struct mem_cgroup *memcg, __u64 group, __s64 pages)
{
	struct walk walk = { .line = pages, .counting = counting };
	/* User space writes everything else first and this last: so it is read first, and once more in the end. */
	__u32 generation = *(volatile __u32 *)&control.kernel_generation;

	walk.levels = *(volatile __u64 *)&control.kernel_levels;
	/* Until the end it is nobody's. */
	counting->group = 0;
	counting->found = 0;
	climb_from(&memcg->css, &walk, count_in);
	if (counting->found > MOST_SLOTS || *(volatile __u32 *)&control.kernel_generation != generation)
		return;
	counting->generation = generation;
	counting->group = group;
}

static __always_inline int add(struct mem_cgroup *memcg, int item, __s64 pages)
{
	struct counting *counting;
	struct group_slot *slot;
	__u64 group;
	__u32 key, i;

	if (!control.kernel_levels || item != bpf_core_enum_value(enum memcg_stat_item, MEMCG_KMEM))
		return 0;
	group = id_of(&memcg->css);
	key = group % REMEMBERED;
	counting = bpf_map_lookup_elem(&remembered, &key);
	if (!counting)
		return 0;
	if (counting->group != group || counting->generation != control.kernel_generation) {
		find_and_count(counting, memcg, group, pages);
	} else {
		for (i = 0; i < MOST_SLOTS && i < counting->found; i++) {
			/* It may be another group's since a moment ago: this call's pages are too many there until the next comparison with the file. */
			slot = bpf_map_lookup_elem(&slots, &counting->slots[i]);
			if (slot)
				count_pages(slot, pages);
		}
	}
	if (counting->found)
		count_call(counting);
	return 0;
}

SEC("fentry/__mod_memcg_state")
int BPF_PROG(kernel_memory, struct mem_cgroup *memcg, int item, int pages)
{
	return add(memcg, item, pages);
}

/* Since 6.18 */
SEC("fentry/mod_memcg_state")
int BPF_PROG(kernel_memory_6_18, struct mem_cgroup *memcg, int item, int pages)
{
	return add(memcg, item, pages);
}
