/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0 */
/*
 * Who is over, who is exempt, and telling user space. Every comparison is strict: at the line is not over it.
 */
#ifndef MEMGOV_JUDGE_H
#define MEMGOV_JUDGE_H

#include "meters.h"

/* What was compared, for the event. */
struct seen {
	__u64 group;
	__u64 usage;
	__u64 limit;
	__u64 rss;
	__u64 tag;
	bool looked; /* at a group with a line */
	bool own; /* the line is the process's own */
};

static __always_inline void count(__u32 hook, bool acted)
{
	struct hook_stats *stat = bpf_map_lookup_elem(&stats, &hook);

	if (!stat)
		return;
	if (acted)
		stat->acted++;
	else
		stat->calls++;
}

static __always_inline bool leased(__u64 now)
{
	return now < control.lease_until_ns;
}

/*
 * In an interrupt the running task is not who caused it. x86 keeps the count with the processor, others with the thread (arm64 in
 * preempt.count, riscv and powerpc in preempt_count). A kernel that keeps it elsewhere is taken to be interrupted: nothing is done then,
 * and the loader does not let it come to that (`hopeless` in load.rs).
 */
static __always_inline bool in_interrupt(void)
{
#ifdef __TARGET_ARCH_x86
	if (&pcpu_hot) {
		const struct pcpu_hot *hot = bpf_this_cpu_ptr(&pcpu_hot);

		return hot->preempt_count & IN_INTERRUPT;
	}
	if (&__preempt_count)
		return *(const int *)bpf_this_cpu_ptr(&__preempt_count) & IN_INTERRUPT;
#else
	struct task_struct___with_thread_info *task = (void *)bpf_get_current_task_btf();

	if (bpf_core_field_exists(task->thread_info.preempt))
		return BPF_CORE_READ(task, thread_info.preempt.count) & IN_INTERRUPT;
	if (bpf_core_field_exists(task->thread_info.preempt_count))
		return BPF_CORE_READ(task, thread_info.preempt_count) & IN_INTERRUPT;
#endif
	return true;
}

/* The thread that sees whether this hook refuses. */
static __always_inline bool selftested(struct task_struct *task, __u32 hook)
{
	return control.selftest_tid && control.selftest_tid == task->pid && control.selftest_hook == hook;
}

/* What a process holds now, whatever its limit counts. */
static __always_inline void tell_rss(struct event *event, const struct self *self)
{
	event->rss_anon = event->rss_file = event->rss_shmem = NO_LINE;
	if (!self->mm)
		return;
	event->rss_anon = rss_of(self, KIND_ANON);
	event->rss_file = rss_of(self, KIND_FILE);
	event->rss_shmem = rss_of(self, KIND_SHMEM);
}

/* Not inlined, so that the record's type is in BTF, where a test finds it. */
static __noinline void fill(struct event *event, struct task_struct *leader, const struct self *self, const struct seen *seen)
{
	event->tgid = leader->tgid;
	event->start_ns = leader->start_boottime;
	event->group = seen->group;
	event->tag = seen->tag;
	event->usage = seen->usage;
	event->limit = seen->limit;
	event->uid = BPF_CORE_READ(leader, real_cred, uid.val);
	bpf_core_read(&event->comm, sizeof(event->comm), &leader->comm);
	tell_rss(event, self);
}

/* Of a process, by a thread that has the memory: one of its own, or one that shares it. */
static __always_inline void tell_of(__u32 kind, __u32 hook, const struct self *self, struct task_struct *leader,
				    const struct seen *seen, __u32 signal, __u64 now)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(HOOK_LOST_EVENTS, false);
		return;
	}
	event->kind = kind;
	event->hook = hook;
	event->signal = signal;
	event->at_ns = now;
	event->own = seen->own;
	fill(event, leader, self, seen);
	bpf_ringbuf_submit(event, 0);
}

/* Of the thread's own process. */
static __always_inline void tell(__u32 kind, __u32 hook, const struct self *self, const struct seen *seen, __u32 signal,
				 __u64 now)
{
	tell_of(kind, hook, self, self->leader, seen, signal, now);
}

/*
 * Whether the running process runs an executable that is exempt. By what the file is, not by its path: in a container anybody
 * may have a file of that path. The uid is that of the first user namespace.
 */
static __always_inline bool runs_exempt_file(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct inode *inode;
	struct exempt_file file = {};
	__u32 *uids_under;

	if (!control.exempt_files)
		return false;
	inode = BPF_CORE_READ(task, mm, exe_file, f_inode);
	if (!inode)
		return false;
	file.inode = BPF_CORE_READ(inode, i_ino);
	file.device = BPF_CORE_READ(inode, i_sb, s_dev);
	uids_under = bpf_map_lookup_elem(&exempt_files, &file);
	return uids_under && BPF_CORE_READ(task, real_cred, uid.val) < *uids_under;
}

/* Only asked about the running process, when it is over: it is the slow part. */
static __noinline __attribute__((unused)) bool is_exempt(struct task_struct *leader)
{
	struct exempt_key key = { .tgid = leader->tgid };
	__u64 name[2] = {}, *wanted;
	__u64 ticks = control.ns_per_tick;
	int i;

	if (leader->tgid == 1)
		return true;
	key.start_ticks = ticks ? leader->start_boottime / ticks : 0;
	if (bpf_map_lookup_elem(&exempt, &key) || runs_exempt_file())
		return true;
	bpf_core_read(&name, sizeof(name), &leader->comm);
	for (i = 0; i < PROTECTED_NAMES; i++) {
		if (i >= control.protected_count)
			break;
		wanted = (__u64 *)control.protected_names[i];
		if (name[0] == wanted[0] && name[1] == wanted[1])
			return true;
	}
	return false;
}

/*
 * Whether a crossing may be told. Whoever swings around his line crosses it as often as he likes, and anybody can have such a line: what crosses
 * too soon after the last that was told is told of when it is seen over its line after the gap, or found by the loop's own look.
 */
static __always_inline bool may_tell_crossing(__u64 last_ns, __u64 now)
{
	return !last_ns || now - last_ns >= control.event_gap_ns;
}

/* A group went over its line: told once, until it is seen at or under it. */
static __always_inline void crossing(struct group_slot *slot, __u64 usage, __u32 hook, const struct self *self)
{
	struct seen seen = {};
	__u64 now;

	if (usage <= slot->tell_line) {
		if (slot->crossed)
			slot->crossed = 0;
		return;
	}
	if (slot->crossed)
		return;
	now = bpf_ktime_get_ns();
	if (!may_tell_crossing(slot->crossed_ns, now) || __sync_val_compare_and_swap(&slot->crossed, 0, 1))
		return;
	slot->crossed_ns = now;
	seen.group = slot->id;
	seen.tag = slot->tag;
	seen.usage = usage;
	seen.limit = slot->tell_line;
	tell(EVENT_CROSSED, hook, self, &seen, 0, now);
}

/*
 * From a group to the root, a step a level, after the first ones by bpf_loop: the verifier looks at a step once, not once for each of 64 levels, which
 * took it seconds. A step gives 1 to end the walk.
 */
struct counting;

struct walk {
	struct cgroup_subsys_state *css;
	const struct self *self;
	struct group_slot *found;
	struct seen *seen;
	__u64 levels;
	__u64 line; /* climit, amount, what to add, or what this fork needs */
	__u64 group; /* the one that is meant */
	struct counting *counting; /* where it is remembered which slots were counted in */
	__u32 hook;
	bool all; /* of kernel memory: this is a fork, or its beginning */
	bool over; /* or: something was found */
};

static __always_inline long climb(struct walk *walk, struct cgroup_subsys_state *css)
{
	walk->css = css->parent;
	return 0;
}

typedef long (*step_fn)(__u32 index, struct walk *walk);

/* Makes the step at each group from here up that can have a slot. The first is called as it is, and most walks end with it. */
static __always_inline void climb_from(struct cgroup_subsys_state *css, struct walk *walk, step_fn step)
{
	walk->css = nearest(css, walk->levels);
	if (!walk->css || step(0, walk))
		return;
	walk->css = nearest(walk->css, walk->levels);
	if (walk->css)
		bpf_loop(MOST_STEPS, step, walk, 0);
}

static __always_inline long look_at_lines(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	struct group_slot *slot;
	struct seen *seen = walk->seen;
	__u64 usage, line;

	if (!css || !governed_above(walk->levels, level_of(css)))
		return 1;
	if (!governed(walk->levels, level_of(css)))
		return climb(walk, css);
	slot = slot_of(id_of(css));
	if (!slot || (slot->deny_line == NO_LINE && slot->tell_line == NO_LINE))
		return climb(walk, css);
	usage = usage_of(css);
	line = slot->deny_line;
	/* It may have become another's since it was found: then the line is not this group's. */
	if (slot->id != id_of(css))
		return climb(walk, css);
	seen->looked = true;
	crossing(slot, usage, walk->hook, walk->self);
	if (!walk->found && usage > line) {
		seen->group = slot->id;
		seen->usage = usage;
		seen->limit = line;
		seen->tag = slot->tag;
		walk->found = slot;
		if (!walk->all)
			return 1;
	}
	return climb(walk, css);
}

/*
 * Looks at every group with a line from here to the root. Gives the first one that is over and refuses; with `all`, looks
 * at those above it too, so that each crossing is told.
 */
static __always_inline struct group_slot *group_over(struct cgroup_subsys_state *css, const struct self *self, __u32 hook,
						     bool all, struct seen *seen)
{
	struct walk walk = {
		.self = self,
		.seen = seen,
		.levels = control.levels,
		.hook = hook,
		.all = all,
	};

	climb_from(css, &walk, look_at_lines);
	return walk.found;
}

static __attribute__((unused)) long look_at_high(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	struct seen *seen = walk->seen;
	__u64 high = HIGH_OF_KERNEL, usage, id;

	if (!css)
		return 1;
	id = id_of(css);
	if (governed(walk->levels, level_of(css))) {
		struct group_slot *slot = slot_of(id);

		if (slot)
			high = slot->high;
	}
	if (high == HIGH_OF_KERNEL)
		high = high_of(css);
	usage = usage_of(css);
	if (high == HIGH_MAX || usage <= high + walk->line) {
		climb(walk, css);
		return walk->group == id;
	}
	seen->group = id;
	seen->usage = usage;
	seen->limit = high + walk->line;
	walk->over = true;
	return 1;
}

/* Over memory.high plus climit, in its own group or one above, up to the one that is named. */
static __always_inline bool over_high(struct cgroup_subsys_state *css, __u64 upto, __u64 plus, struct seen *seen)
{
	struct walk walk = {
		.css = css, .seen = seen, .levels = control.levels, .line = plus, .group = upto,
	};

	bpf_loop(MOST_STEPS, look_at_high, &walk, 0);
	return walk.over;
}

static __attribute__((unused)) long look_for_group(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	struct seen *seen = walk->seen;

	if (!css)
		return 1;
	if (walk->group && id_of(css) != walk->group)
		return climb(walk, css);
	seen->group = id_of(css);
	seen->usage = usage_of(css);
	seen->limit = walk->line;
	walk->over = seen->usage > walk->line;
	return 1;
}

/* Over a plain amount: the nearest group, or the one that is named. */
static __always_inline bool over_amount(struct cgroup_subsys_state *css, __u64 group, __u64 line, struct seen *seen)
{
	struct walk walk = { .css = css, .seen = seen, .line = line, .group = group };

	bpf_loop(MOST_STEPS, look_for_group, &walk, 0);
	return walk.over;
}

/* Both parts of a process's condition must hold if both are given. The cheaper one is asked first. */
static __always_inline bool task_over(const struct self *self, struct task_limit *limit, struct cgroup_subsys_state *css,
				      struct seen *seen)
{
	seen->tag = limit->tag;
	if (limit->rss_line != NO_LINE) {
		seen->rss = rss_of(self, limit->kinds);
		if (seen->rss <= limit->rss_line)
			return false;
	}
	if (limit->group_line == NO_LINE) {
		seen->group = id_of(css);
		seen->limit = limit->rss_line;
		return limit->rss_line != NO_LINE;
	}
	if (limit->flags & TASK_HIGH)
		return over_high(css, limit->group, limit->group_line, seen);
	return over_amount(css, limit->group, limit->group_line, seen);
}

/* Threads share what their first one has. */
static __always_inline struct task_limit *limit_of(struct task_struct *leader)
{
	return control.tasks ? bpf_task_storage_get(&tasks, leader, 0, 0) : NULL;
}

/*
 * Whether it still stands. A child that user space knows nothing of has what its parent had when it was born, and nobody takes that from it when
 * the rules become others; what a process has asked for itself does not depend on them. One that is told ahead of its time counts.
 */
static __always_inline bool stands(struct task_limit *limit)
{
	return !(limit->flags & TASK_RULE) || (__s32)(limit->generation - control.generation) >= 0;
}

#endif
