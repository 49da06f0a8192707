// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * How many calls of fork, vfork and clone are under way below each group with a line for kernel memory. A fork is looked at before most of what it needs is
 * charged (security_task_alloc in copy_process), and a hundred processes that all fork may have passed there before the first of
 * them is charged for its page tables. So each fork under way is taken to need what the next one needs (ceiling.bpf.c).
 *
 * Counted from the beginning of the call until the child is made or the call has failed. One that was counted for a group which its process has left
 * meanwhile stays counted there, until the counter is seeded anew: it makes the line a little lower, never higher.
 */
#include "ceiling.h"

char _license[] SEC("license") = "Dual MIT/GPL";

static __always_inline long count_fork(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	struct group_slot *slot;

	if (!css || !governed_above(walk->levels, level_of(css)))
		return 1;
	if (!governed(walk->levels, level_of(css)))
		return climb(walk, css);
	slot = slot_of(id_of(css));
	if (!slot || slot->kernel_line == NO_LINE)
		return climb(walk, css);
	/* A call that began before anybody counted ends uncounted. */
	if (walk->all)
		__sync_fetch_and_add(&slot->kernel_forks, 1);
	else if (slot->kernel_forks > 0)
		__sync_fetch_and_add(&slot->kernel_forks, -1);
	walk->over = true;
	return climb(walk, css);
}

static __always_inline void forking(bool begins)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct walk walk = { .levels = control.kernel_levels, .all = begins };

	if (!walk.levels || (task->flags & PF_KTHREAD))
		return;
	climb_from(memory_of(task), &walk, count_fork);
	if (walk.over && begins)
		count(HOOK_KERNEL_FORKS, false);
}

SEC("fentry/kernel_clone")
int BPF_PROG(fork_begins, struct kernel_clone_args *args)
{
	forking(true);
	return 0;
}

/* The child is complete; vfork goes on waiting for it. */
SEC("tp_btf/task_newtask")
int BPF_PROG(fork_succeeds, struct task_struct *child, unsigned long clone_flags)
{
	forking(false);
	return 0;
}

SEC("fexit/kernel_clone")
int BPF_PROG(fork_fails, struct kernel_clone_args *args, int pid)
{
	if (pid < 0)
		forking(false);
	return 0;
}
