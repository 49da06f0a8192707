// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * Every charge passes try_charge_memcg, also those that the processor's stock satisfies. Looked at when it has been made, so that the one that
 * crosses a line is seen: after it the kernel may put the process to sleep for seconds (mem_cgroup_handle_over_high). Here a group is seen to cross its line, and
 * a process with a signal or kill meets it. Usage counts what processors hold in stock: up to 64 pages each.
 */
#include "send.h"

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("fexit/try_charge_memcg")
int BPF_PROG(charge, struct mem_cgroup *memcg)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_limit *limit;
	struct seen seen = {};

	if (!control.levels && !control.tasks)
		return 0;
	if ((task->flags & PF_KTHREAD) || !task->mm || in_interrupt())
		return 0;
	group_over(&memcg->css, task->group_leader, HOOK_CHARGE, true, &seen);
	if (seen.looked)
		count(HOOK_CHARGE, false);
	limit = limit_of(task->group_leader);
	if (limit)
		meet(task, memory_of(task), limit, HOOK_CHARGE);
	return 0;
}
