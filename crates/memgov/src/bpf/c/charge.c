// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * Usage of a group grows where its page counter is charged, 64 pages at a time for each processor, and nowhere else: memory that is taken from a
 * processor's stock is part of usage already. Looked at when it has been charged, so that the charge that crosses a line is seen: after it the kernel may put
 * the process to sleep for seconds (mem_cgroup_handle_over_high). Here a group is seen to cross its line, and a process with a
 * signal or kill meets it.
 *
 * The kernel charges the group of the running process, or of who owns its address space (vfork). What it charges to another group (as a
 * debugger writing to a process) is seen with the next charge of that group's own.
 */
#include "send.h"

static __always_inline bool counts_usage_of(struct page_counter *counter, struct cgroup_subsys_state *css)
{
	/* The state is the first member of its mem_cgroup. Other counters are those of swap, huge pages and, on v1, kernel memory. */
	return (void *)counter == (void *)css + bpf_core_field_offset(struct mem_cgroup, memory);
}

static __always_inline int charged(struct page_counter *counter)
{
	struct task_struct *task = bpf_get_current_task_btf(), *owner;
	struct cgroup_subsys_state *css;
	struct task_limit *limit;
	struct seen seen = {};
	struct self self;

	if (!control.levels && !control.tasks)
		return 0;
	if ((task->flags & PF_KTHREAD) || in_interrupt())
		return 0;
	self = self_of(task);
	css = memory_of(task);
	if (!self.mm)
		return 0;
	if (!counts_usage_of(counter, css)) {
		owner = owner_of(&self);
		if (!owner || owner == task)
			return 0;
		css = memory_of(owner);
		if (!counts_usage_of(counter, css))
			return 0;
	}
	group_over(css, &self, HOOK_CHARGE, true, &seen);
	if (seen.looked)
		count(HOOK_CHARGE, false);
	limit = limit_of(self.leader);
	if (limit)
		meet(&self, css, limit, HOOK_CHARGE);
	return 0;
}

/* Of a bool the ABI defines a byte. */
SEC("fexit/page_counter_try_charge")
int BPF_PROG(charge, struct page_counter *counter, unsigned long pages, struct page_counter **fail, __u8 done)
{
	return done ? charged(counter) : 0;
}

/* Where it may not fail. */
SEC("fexit/page_counter_charge")
int BPF_PROG(charge_all_the_same, struct page_counter *counter, unsigned long pages)
{
	return charged(counter);
}
