// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * Refusing memory in the call that asks for it: ENOMEM from mmap, brk and mremap (security_mmap_addr) and from mprotect that makes a
 * private mapping writable (security_file_mprotect). fork is not refused here: no hook of it is used.
 *
 * Each check exists twice, for lsm and for fmod_ret; the loader takes the first that is proven to refuse.
 */
#include "judge.h"
#include "call.h"

static __always_inline void tell_denial(struct group_slot *slot, struct task_limit *limit, const struct self *self,
					struct task_struct *leader, const struct seen *seen, __u32 hook, __u64 now)
{
	__u64 *told;

	if (slot) {
		__sync_fetch_and_add(&slot->denials, 1);
		told = &slot->told_ns;
	} else {
		__sync_fetch_and_add(&limit->denials, 1);
		told = &limit->told_ns;
	}
	if (now - *told < control.event_gap_ns)
		return;
	*told = now;
	tell_of(EVENT_DENIED, hook, self, leader, seen, 0, now);
}

/* What a program may have while it starts, as from outside: bytes of data, and of address space. */
#define ROOM_OF_DATA (4ULL << 20)
#define ROOM_OF_SPACE (64ULL << 20)

static __always_inline bool fits(__u64 pages, __u64 asked, __u64 room)
{
	return asked <= room && pages * control.page_size + asked <= room;
}

/* It has just been started, has mapped little, and does not ask for much. */
static __always_inline bool has_room(const struct self *self, struct task_limit *limit, __u64 now)
{
	struct asked asked;

	if (!limit || now >= limit->room_until_ns)
		return false;
	asked = asked_by(self);
	return fits(self->mm->data_vm, asked.data, ROOM_OF_DATA) && fits(self->mm->total_vm, asked.space, ROOM_OF_SPACE);
}

/*
 * Past its point of no return an exec that is refused memory dies of it: so none is, except one that comes with so much data (.bss) that it
 * would get around the line by that. From outside the kernel's own limit ends it likewise. What is asked for is not known here; after the
 * data the kernel always maps something more (the vDSO), and that is refused.
 */
static __always_inline bool is_let_start(const struct self *self)
{
	return BPF_CORE_READ_BITFIELD(self->task, in_execve) && fits(self->mm->data_vm, 0, ROOM_OF_SPACE);
}

static __always_inline int refuse(__u32 hook)
{
	struct task_struct *task = bpf_get_current_task_btf(), *owner;
	struct cgroup_subsys_state *css;
	struct task_limit *limit;
	struct group_slot *slot;
	struct seen seen = {};
	struct self self;
	__u64 now;

	if (selftested(task, hook))
		return -ENOMEM;
	if (!control.levels && !control.tasks)
		return 0;
	if (task->flags & PF_KTHREAD)
		return 0;
	self = self_of(task);
	if (!self.mm)
		return 0;
	owner = owner_of(&self);
	if (!owner)
		return 0;
	css = memory_of(owner);
	slot = group_over(css, &self, hook, false, &seen);
	limit = limit_of(owner->group_leader);
	if (limit || seen.looked)
		count(hook, false);
	if (!slot) {
		bool held = limit && (limit->flags & TASK_HELD);

		if (!held && (!limit || limit->action != ACTION_DENY || !stands(limit) || !task_over(&self, limit, css, &seen)))
			return 0;
	}
	if (is_let_start(&self))
		return 0;
	if (is_exempt(self.leader))
		return 0;
	now = bpf_ktime_get_ns();
	if (!leased(now) || has_room(&self, bpf_task_storage_get(&tasks, self.leader, 0, 0), now))
		return 0;
	count(hook, true);
	if (slot)
		tell_denial(slot, NULL, &self, self.leader, &seen, hook, now);
	else if (limit) {
		seen.own = true;
		tell_denial(NULL, limit, &self, owner->group_leader, &seen, hook, now);
	}
	return -ENOMEM;
}

static __always_inline bool becomes_writable(struct vm_area_struct *vma, unsigned long prot)
{
	return (prot & PROT_WRITE) && !(vma->vm_flags & (VM_WRITE | VM_SHARED));
}

SEC("fmod_ret/security_mmap_addr")
int BPF_PROG(mmap_addr_fmod, unsigned long addr, int ret)
{
	return ret ? ret : refuse(HOOK_MMAP_ADDR);
}

SEC("lsm/mmap_addr")
int BPF_PROG(mmap_addr_lsm, unsigned long addr, int ret)
{
	return ret ? ret : refuse(HOOK_MMAP_ADDR);
}

SEC("fmod_ret/security_file_mprotect")
int BPF_PROG(file_mprotect_fmod, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot, int ret)
{
	return ret || !becomes_writable(vma, prot) ? ret : refuse(HOOK_FILE_MPROTECT);
}

SEC("lsm/file_mprotect")
int BPF_PROG(file_mprotect_lsm, struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot, int ret)
{
	return ret || !becomes_writable(vma, prot) ? ret : refuse(HOOK_FILE_MPROTECT);
}
