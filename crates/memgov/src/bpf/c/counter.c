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
 * What can be missed: a call in the middle of this program on the same processor. Up to 6.17 interrupts are off here, and only an NMI could
 * be that; user space compares with the kernel's files now and then.
 */
#include "ceiling.h"

/* The group went over its line: told once, until it is seen at or under it. In an interrupt or a kernel thread it is left to the next call. */
static __always_inline void kernel_crossing(struct group_slot *slot)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 held = kernel_of(slot);
	struct seen seen = {};
	struct self self;
	__u64 now;

	if (held <= slot->kernel_tell_line) {
		if (slot->kernel_crossed)
			slot->kernel_crossed = 0;
		return;
	}
	if (slot->kernel_crossed || !slot->kernel_seeded || (task->flags & PF_KTHREAD) || in_interrupt())
		return;
	self = self_of(task);
	if (!self.mm)
		return;
	now = bpf_ktime_get_ns();
	if (!may_tell_crossing(slot->kernel_crossed_ns, now) || __sync_val_compare_and_swap(&slot->kernel_crossed, 0, 1))
		return;
	slot->kernel_crossed_ns = now;
	seen.group = slot->id;
	seen.tag = slot->tag;
	seen.usage = held;
	seen.limit = slot->kernel_tell_line;
	tell(EVENT_KERNEL_CROSSED, HOOK_KERNEL_MEMORY, &self, &seen, 0, now);
}

static __always_inline long count_in(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	struct group_slot *slot;

	if (!css || !governed_above(walk->levels, level_of(css)))
		return 1;
	if (!governed(walk->levels, level_of(css)))
		return climb(walk, css);
	slot = slot_of(id_of(css));
	if (!slot || (slot->kernel_line == NO_LINE && slot->kernel_tell_line == NO_LINE))
		return climb(walk, css);
	__sync_fetch_and_add(&slot->kernel_pages, (__s64)walk->line);
	kernel_crossing(slot);
	walk->over = true;
	return climb(walk, css);
}

static __always_inline int add(struct mem_cgroup *memcg, int item, int pages)
{
	struct walk walk = { .levels = control.kernel_levels, .line = (__s64)pages };

	if (!walk.levels || item != bpf_core_enum_value(enum memcg_stat_item, MEMCG_KMEM))
		return 0;
	climb_from(&memcg->css, &walk, count_in);
	if (walk.over)
		count(HOOK_KERNEL_MEMORY, false);
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
