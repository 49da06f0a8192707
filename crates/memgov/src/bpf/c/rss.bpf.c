// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * Every change of a process's resident memory (before 6.2: once in 64 pages of a thread).
 */
#include "send.h"

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("tp_btf/rss_stat")
int BPF_PROG(rss_changes, struct mm_struct *mm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_limit *limit;

	/* Reclaim and exec change other address spaces than the running one. */
	if (!control.tasks || task->mm != mm || (task->flags & PF_KTHREAD) || in_interrupt())
		return 0;
	limit = limit_of(task->group_leader);
	if (limit)
		meet(task, memory_of(owner_of(task)), limit, HOOK_RSS);
	return 0;
}
