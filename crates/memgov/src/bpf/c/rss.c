// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * Every change of a process's resident memory (before 6.2: once in 64 pages of a thread).
 */
#include "send.h"

SEC("tp_btf/rss_stat")
int BPF_PROG(rss_changes, struct mm_struct *mm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *owner;
	struct task_limit *limit;
	struct self self;

	/* Reclaim and exec change other address spaces than the running one. */
	if (!control.tasks)
		return 0;
	self = self_of(task);
	if (self.mm != mm || (task->flags & PF_KTHREAD) || in_interrupt())
		return 0;
	limit = limit_of(self.leader);
	if (!limit)
		return 0;
	owner = owner_of(&self);
	if (owner)
		meet(&self, memory_of(owner), limit, HOOK_RSS);
	return 0;
}
