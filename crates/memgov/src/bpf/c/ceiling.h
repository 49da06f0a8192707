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

/* The nearest group that is over its line, or the first limited one above it that is. */
static __always_inline struct group_slot *kernel_over(struct cgroup_subsys_state *css, struct seen *seen)
{
	__u64 levels = control.kernel_levels;
	__u32 level = css->cgroup->level;
	int i;

	for (i = 0; i < MAX_DEPTH; i++) {
		if (!css || level >= MAX_DEPTH || !governed_above(levels, level))
			break;
		if (governed(levels, level)) {
			struct group_slot *slot = slot_of(id_of(css));

			if (slot && slot->kernel_seeded && slot->kernel_line != NO_LINE) {
				__u64 held = kernel_of(slot);

				seen->looked = true;
				if (held > slot->kernel_line) {
					seen->group = slot->id;
					seen->usage = held;
					seen->limit = slot->kernel_line;
					seen->tag = slot->tag;
					return slot;
				}
			}
		}
		css = css->parent;
		level--;
	}
	return NULL;
}

#endif
