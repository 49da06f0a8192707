// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * What calls of fork, vfork and clone that are under way are going to need, below each group with a line for kernel memory. A fork is looked at before most of
 * it is charged (security_task_alloc in copy_process), and a hundred processes that all fork may have passed there before the first of
 * them is charged for its page tables.
 *
 * Counted from the beginning of the call until the child is made or the call has failed. One that was counted for a group which its process has left
 * meanwhile, or whose end passed no program, stays counted there until the loop takes away what was never less since it looked last (kernel_pending_least).
 */
#include "ceiling.h"

static __always_inline long count_fork(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	struct group_slot *slot;
	__s64 pages = walk->line, left;

	if (!css || !governed_above(walk->levels, level_of(css)))
		return 1;
	if (!governed(walk->levels, level_of(css)))
		return climb(walk, css);
	slot = slot_of(id_of(css));
	if (!slot || slot->kernel_line == NO_LINE)
		return climb(walk, css);
	/* A call that began before anybody counted makes it too little, as one that never ended makes it too much. */
	left = __sync_fetch_and_add(&slot->kernel_pending, walk->all ? pages : -pages);
	left += walk->all ? pages : -pages;
	if (left < slot->kernel_pending_least)
		slot->kernel_pending_least = left;
	walk->over = true;
	return climb(walk, css);
}

static __always_inline void forking(bool begins, __u64 flags)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct walk walk = { .levels = control.kernel_levels, .all = begins };
	struct cgroup_subsys_state *css;
	struct self self;

	if (!walk.levels || (task->flags & PF_KTHREAD))
		return;
	self = self_of(task);
	/* What it needs is found out only where somebody counts it: most forks are of other groups. */
	css = nearest(memory_of(task), walk.levels);
	if (!css)
		return;
	walk.line = needed_by_fork(&self, flags);
	climb_from(css, &walk, count_fork);
	if (walk.over && begins)
		count(HOOK_KERNEL_FORKS, false);
}

SEC("fentry/kernel_clone")
int BPF_PROG(fork_begins, struct kernel_clone_args *args)
{
	forking(true, args->flags);
	return 0;
}

/* The child is complete; vfork goes on waiting for it. */
SEC("tp_btf/task_newtask")
int BPF_PROG(fork_succeeds, struct task_struct *child, unsigned long clone_flags)
{
	forking(false, clone_flags);
	return 0;
}

SEC("fexit/kernel_clone")
int BPF_PROG(fork_fails, struct kernel_clone_args *args, int pid)
{
	if (pid < 0)
		forking(false, args->flags);
	return 0;
}
