/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0 */
/*
 * Signals and kills in the moment of the allocation, to the process that allocates and to no other.
 */
#ifndef MEMGOV_SEND_H
#define MEMGOV_SEND_H

#include "judge.h"

/* Whether it is this call's turn to send; of several threads at once only one gets it. */
static __always_inline bool takes_turn(struct task_limit *limit)
{
	return !limit->sent && !__sync_val_compare_and_swap(&limit->sent, 0, 1);
}

/* Takes one of the kills that are left. */
static __always_inline bool may_kill(void)
{
	__s64 left = *(volatile __s64 *)&control.kills_left;

	/* Beaten to it: somebody else is being killed in this very moment, and this one is left to the loop. */
	return left > 0 && __sync_val_compare_and_swap(&control.kills_left, left, left - 1) == left;
}

/* It is over its line and nothing is done about it here: told, but not at each allocation. */
static __always_inline void leave_it(struct task_limit *limit, const struct self *self, const struct seen *seen, __u32 hook,
				     __u64 now)
{
	if (!may_tell_crossing(limit->crossed_ns, now))
		return;
	limit->crossed_ns = now;
	tell(EVENT_CROSSED_OWN, hook, self, seen, 0, now);
}

static __always_inline void act_on(const struct self *self, struct cgroup_subsys_state *css, struct task_limit *limit,
				   __u32 hook)
{
	struct seen seen = {};
	bool kill = limit->action == ACTION_KILL;
	__u32 signal = kill ? SIGKILL : limit->signal;
	__u64 now;

	count(hook, false);
	/* A limit that has done its work costs no more looks. */
	if (limit->sent)
		return;
	if (!task_over(self, limit, css, &seen))
		return;
	if (is_exempt(self->leader))
		return;
	/* Whom the kernel's own OOM killer may not take is not killed here either. */
	if (kill && self->leader->signal->oom_score_adj == OOM_SCORE_ADJ_MIN)
		return;
	now = bpf_ktime_get_ns();
	if (!leased(now) || !takes_turn(limit))
		return;
	if (kill && !may_kill()) {
		limit->sent = 0;
		leave_it(limit, self, &seen, hook, now);
		return;
	}
	if (bpf_send_signal(signal)) {
		/* Busy or refused; the next allocation tries again. */
		limit->sent = 0;
		if (kill)
			__sync_fetch_and_add(&control.kills_left, 1);
		return;
	}
	count(hook, true);
	tell(kill ? EVENT_KILLED : EVENT_SIGNALLED, hook, self, &seen, signal, now);
}

/* Over its own line: told once, until it is seen at or under it. */
static __always_inline void tell_own(const struct self *self, struct cgroup_subsys_state *css, struct task_limit *limit,
				     __u32 hook)
{
	struct seen seen = {};
	__u64 now;

	count(hook, false);
	if (!task_over(self, limit, css, &seen)) {
		if (limit->sent)
			limit->sent = 0;
		return;
	}
	if (limit->sent)
		return;
	now = bpf_ktime_get_ns();
	if (!leased(now) || !may_tell_crossing(limit->crossed_ns, now) || __sync_val_compare_and_swap(&limit->sent, 0, 1))
		return;
	limit->crossed_ns = now;
	tell(EVENT_CROSSED_OWN, hook, self, &seen, 0, now);
}

/* What the running process meets of its own, where it cannot be refused. */
static __always_inline void meet(const struct self *self, struct cgroup_subsys_state *css, struct task_limit *limit, __u32 hook)
{
	if (!stands(limit))
		return;
	if (limit->action == ACTION_SIGNAL || limit->action == ACTION_KILL)
		act_on(self, css, limit, hook);
	else if (limit->action == ACTION_TELL || limit->action == ACTION_DENY)
		tell_own(self, css, limit, hook);
}

#endif
