/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0 */
/*
 * What the system call under way asks for: how much memory, and of which mapping. The hooks are not told; the registers that the thread came into the kernel with say it.
 * Whoever asks by a call that is not known here is taken to ask for everything.
 */
#ifndef MEMGOV_CALL_H
#define MEMGOV_CALL_H

#include "meters.h"

/* Bytes. */
struct asked {
	__u64 space; /* of address space */
	__u64 data; /* of it what can be written to */
};

#define EVERYTHING (~0ULL)

#ifdef __TARGET_ARCH_x86
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct pt_regs___of_call {
	unsigned long r10;
	unsigned long dx;
	unsigned long si;
	unsigned long di;
	unsigned long orig_ax;
	unsigned long cs;
};
#pragma clang attribute pop

/* arch/x86/entry/syscalls/syscall_64.tbl */
#define CALL_MMAP 9
#define CALL_MPROTECT 10
#define CALL_BRK 12
#define CALL_MREMAP 25
#define CALL_PKEY_MPROTECT 329
/* __USER_CS of arch/x86/include/asm/segment.h: another code segment is that of a 32-bit program, whose calls have other numbers. */
#define CS_OF_64_BITS 0x33

/* Each register is read once, before anything depends on it: see KEEP_APART. */
static __always_inline struct asked asked_by(const struct self *self)
{
	struct pt_regs___of_call *regs = (void *)bpf_task_pt_regs(self->task);
	struct asked asked = { .space = EVERYTHING, .data = EVERYTHING };
	__u64 first = regs->di, second, third, flags, call, brk;

	KEEP_APART(first);
	second = regs->si;
	KEEP_APART(second);
	third = regs->dx;
	KEEP_APART(third);
	flags = regs->r10;
	KEEP_APART(flags);
	call = regs->orig_ax;
	KEEP_APART(call);
	if (regs->cs != CS_OF_64_BITS)
		return asked;
	if (call == CALL_MMAP) {
		/* What is written to counts, shared or not: a starting program maps its libraries to be read first. */
		asked.space = second;
		asked.data = third & PROT_WRITE ? second : 0;
	} else if (call == CALL_MREMAP) {
		asked.space = asked.data = third;
	} else if (call == CALL_BRK) {
		brk = self->mm->brk;
		asked.space = asked.data = first > brk ? first - brk : 0;
	} else if (call == CALL_MPROTECT || call == CALL_PKEY_MPROTECT) {
		asked.space = 0;
		asked.data = second;
	}
	return asked;
}

/* Whether it may give pages another protection key: a call with the same protection splits mappings then. */
static __always_inline bool changes_key(void)
{
	struct pt_regs___of_call *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

	return regs->cs != CS_OF_64_BITS || regs->orig_ax == CALL_PKEY_MPROTECT;
}

/* Whether it is an mprotect of all of a mapping. Of a call that is not known: no. */
static __always_inline bool covers(struct vm_area_struct *vma)
{
	struct pt_regs___of_call *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	__u64 from = regs->di, length = regs->si;

	if (regs->cs != CS_OF_64_BITS || (regs->orig_ax != CALL_MPROTECT && regs->orig_ax != CALL_PKEY_MPROTECT))
		return false;
	return from <= vma->vm_start && length >= vma->vm_end - from;
}
#else
/* Not known of other processors: what a program has already is all that is looked at. */
static __always_inline struct asked asked_by(const struct self *self)
{
	struct asked asked = {};

	return asked;
}

static __always_inline bool changes_key(void)
{
	return false;
}

static __always_inline bool covers(struct vm_area_struct *vma)
{
	return false;
}
#endif

#endif
