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

#define NEEDED_BY_ALL 8 /* pages: a stack of 16 KiB, struct task_struct and what goes with it */
#define NEEDED_BY_MAPPING 256 /* bytes: struct vm_area_struct and its place in the tree */

/*
 * Pages that a fork of this process needs: what the child does not share. With CLONE_VM (threads, vfork, posix_spawn) that is its stack. Else above all
 * page tables, but not those of files and of shared memory, which the child fills by itself (vma_needs_copy in mm/memory.c): of all tables as much as
 * of what is resident is anonymous. Asked twice in a call, when it begins and when it ends; a process whose other threads change it
 * meanwhile leaves a difference (kernel_pending_least).
 */
static __always_inline __u64 needed_by_fork(const struct self *self, __u64 flags)
{
	__u64 tables, mappings, all;
	struct resident resident;

	if ((flags & CLONE_VM) || !self->mm)
		return NEEDED_BY_ALL;
	tables = self->mm->pgtables_bytes.counter;
	mappings = self->mm->map_count;
	resident = resident_of(self);
	all = resident.anon + resident.file + resident.shmem;
	if (all)
		tables = tables * resident.anon / all;
	return NEEDED_BY_ALL + (tables + mappings * NEEDED_BY_MAPPING) / control.page_size;
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
	held = kernel_of(slot);
	/* A fork: with what all that are under way are going to need, this one among them. */
	if (walk->all && slot->kernel_pending > 0)
		held += slot->kernel_pending;
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

/* The nearest group that is over its line, or the first limited one above it that is; with what forks under way need, if this is one. */
static __always_inline struct group_slot *kernel_over(struct cgroup_subsys_state *css, bool fork, struct seen *seen)
{
	struct walk walk = { .seen = seen, .levels = control.kernel_levels, .all = fork };

	climb_from(css, &walk, look_at_kernel);
	return walk.found;
}

#endif
