/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0 */
/*
 * Kernel memory of groups: where it is counted, and which group is over its line. A group whose counter is not seeded yet is over
 * nothing: what was counted so far is less than what there is, or nothing to do with it.
 */
#ifndef MEMGOV_CEILING_H
#define MEMGOV_CEILING_H

#include "judge.h"

/* Of kernel memory. Below 0 is a moment between two processors' counting. */
static __always_inline __u64 kernel_of(struct group_slot *slot)
{
	__s64 pages = slot->kernel_pages;

	return pages < 0 ? 0 : pages;
}

static __always_inline long look_at_kernel(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	struct group_slot *slot;
	struct seen *seen = walk->seen;
	__u64 held;

	if (!css || !governed_above(walk->levels, level_of(css)))
		return 1;
	if (!governed(walk->levels, level_of(css)))
		return climb(walk, css);
	slot = slot_of(id_of(css));
	if (!slot || !slot->kernel_seeded || slot->kernel_line == NO_LINE)
		return climb(walk, css);
	/* With what the calls under way are going to need, this one among them. */
	held = kernel_of(slot);
	if (walk->line && slot->kernel_forks > 0)
		held += walk->line * slot->kernel_forks;
	seen->looked = true;
	if (held <= slot->kernel_line)
		return climb(walk, css);
	seen->group = slot->id;
	seen->usage = held;
	seen->limit = slot->kernel_line;
	seen->tag = slot->tag;
	walk->found = slot;
	return 1;
}

/* The nearest group that is over its line, or the first limited one above it that is; `each`: pages that each fork under way needs, if it is one. */
static __always_inline struct group_slot *kernel_over(struct cgroup_subsys_state *css, __u64 each, struct seen *seen)
{
	struct walk walk = { .seen = seen, .levels = control.kernel_levels, .line = each };

	climb_from(css, &walk, look_at_kernel);
	return walk.found;
}

#endif
