// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * A limit follows its process: to children when it forks, over exec, and to its end.
 */
#include "judge.h"

char _license[] SEC("license") = "Dual MIT/GPL";

/* The child is complete and has not run yet. */
SEC("tp_btf/task_newtask")
int BPF_PROG(fork_inherits, struct task_struct *child, unsigned long clone_flags)
{
	struct task_struct *parent = bpf_get_current_task_btf();
	struct task_limit *from, *to;

	if (clone_flags & CLONE_THREAD)
		return 0;
	from = limit_of(parent->group_leader);
	/* That the parent is held is its own affair. */
	if (!from || from->action == ACTION_NONE || !stands(from))
		return 0;
	count(HOOK_FORK, false);
	to = bpf_task_storage_get(&tasks, child, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!to) {
		count(HOOK_LOST_CHILDREN, false);
		return 0;
	}
	__builtin_memcpy(to, from, sizeof(*to));
	to->flags &= ~TASK_HELD;
	to->sent = 0;
	to->denials = 0;
	to->told_ns = 0;
	to->crossed_ns = 0;
	to->room_until_ns = 0;
	/* A child of vfork is its parent's memory until it calls exec: not its own to be signalled for. */
	if ((clone_flags & CLONE_VM) && (to->action == ACTION_SIGNAL || to->action == ACTION_KILL))
		to->action = ACTION_TELL;
	return 0;
}

/* A started program may map so much in so long, whatever its group holds: without it, it dies before it can be told ENOMEM. */
#define ROOM_NS 1000000000ULL

static __always_inline bool may_be_refused(struct task_struct *task)
{
	__u64 levels = control.levels;

	return levels && governed_above(levels, memory_of(task)->cgroup->level);
}

/*
 * Of a process that calls exec, only the calling thread is left, and it becomes the first one. If it was not, the storage of the
 * first goes with it: so the caller gets a copy in time. Where exec then fails, the copy is never looked at.
 *
 * Whether a rule is for the new program too, and whether a user's own wish still counts (a setuid program), is not known here: it is told of, and
 * the loop decides. Only what the process has asked for itself goes on refusing.
 */
SEC("fentry/begin_new_exec")
int BPF_PROG(exec_keeps, struct linux_binprm *bprm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_limit *from, *to;

	if (!control.tasks && !control.levels)
		return 0;
	from = limit_of(task->group_leader);
	if (!from && !may_be_refused(task)) {
		if (task->pid != task->tgid && control.tasks)
			bpf_task_storage_delete(&tasks, task);
		return 0;
	}
	to = bpf_task_storage_get(&tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!to) {
		count(HOOK_LOST_CHILDREN, false);
		return 0;
	}
	if (from) {
		count(HOOK_EXEC, false);
		if (to != from)
			__builtin_memcpy(to, from, sizeof(*to));
		if (to->action == ACTION_SIGNAL || to->action == ACTION_KILL || (to->flags & TASK_RULE && to->action == ACTION_DENY)) {
			to->action = ACTION_TELL;
			to->sent = 0;
		}
	} else {
		to->group_line = to->rss_line = NO_LINE;
		to->action = ACTION_NONE;
		to->flags = 0;
	}
	to->room_until_ns = bpf_ktime_get_ns() + ROOM_NS;
	return 0;
}

/* The last thread of a process that had a limit. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(exit_tells, struct task_struct *task)
{
	struct self self = self_of(task);
	struct task_limit *limit;
	struct seen seen = {};

	if (!control.tasks || task->signal->live.counter > 0)
		return 0;
	limit = limit_of(self.leader);
	if (!limit || (limit->action == ACTION_NONE && !(limit->flags & TASK_HELD)))
		return 0;
	count(HOOK_EXIT, false);
	seen.tag = limit->tag;
	seen.group = id_of(memory_of(task));
	tell(EVENT_EXIT, HOOK_EXIT, &self, &seen, 0, bpf_ktime_get_ns());
	return 0;
}
