// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * The kernel runs out of memory, and whom it takes. Only told: nothing is done about it here.
 */
#include "judge.h"

char _license[] SEC("license") = "Dual MIT/GPL";

SEC("fentry/out_of_memory")
int BPF_PROG(oom_enters, struct oom_control *oc)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct mem_cgroup *memcg = oc->memcg;
	struct seen seen = {};

	count(HOOK_OOM, false);
	if (memcg) {
		seen.group = id_of(&memcg->css);
		seen.usage = usage_of(&memcg->css);
	}
	tell(EVENT_OOM_ENTER, HOOK_OOM, task->group_leader, &seen, 0, bpf_ktime_get_ns());
	return 0;
}

SEC("tp_btf/mark_victim")
int BPF_PROG(oom_takes, struct task_struct *victim)
{
	struct task_struct *leader = victim->group_leader;
	struct task_limit *limit = limit_of(leader);
	struct seen seen = {};

	count(HOOK_VICTIM, false);
	seen.group = id_of(memory_of(victim));
	if (limit)
		seen.tag = limit->tag;
	tell(EVENT_OOM_VICTIM, HOOK_VICTIM, leader, &seen, SIGKILL, bpf_ktime_get_ns());
	return 0;
}
