// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * Refusing kernel memory in the call that asks for it, with ENOMEM, to everything in a group that is over its line. None of these calls
 * frees memory: closing, unlinking, exiting and unmapping pass no hook of this file, a smaller pipe and an mprotect that cannot split are let
 * through.
 *
 * Each check exists twice, for fmod_ret and for lsm; the loader takes the first that is proven to refuse.
 */
#include "call.h"
#include "ceiling.h"

/*
 * A process may have so many mappings before one more is refused, so that the C library's heaps go on growing: what a group may
 * have beside its kernel memory is not the business of this line. Each is some 250 bytes of it.
 */
#define MAPPINGS_LET_BE 128

static __always_inline void tell_refusal(struct group_slot *slot, const struct self *self, const struct seen *seen, __u32 hook,
					 __u64 now)
{
	__sync_fetch_and_add(&slot->kernel_denials, 1);
	if (now - slot->kernel_told_ns < control.event_gap_ns)
		return;
	slot->kernel_told_ns = now;
	tell(EVENT_KERNEL_DENIED, hook, self, seen, 0, now);
}

static __noinline int refuse_kernel_memory(__u32 hook)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct cgroup_subsys_state *css;
	struct group_slot *slot;
	struct seen seen = {};
	struct self self;
	__u64 now;

	if (selftested(task, hook))
		return -ENOMEM;
	/* Who is on the way out only gives back. */
	if ((task->flags & (PF_KTHREAD | PF_EXITING)) || in_interrupt())
		return 0;
	self = self_of(task);
	css = memory_of(task);
	if (!self.mm)
		return 0;
	slot = kernel_over(css, hook == HOOK_TASK_ALLOC, &seen);
	if (seen.looked)
		count(hook, false);
	if (!slot)
		return 0;
	/* Past its point of no return an exec that is refused memory dies of it. */
	if (BPF_CORE_READ_BITFIELD(task, in_execve))
		return 0;
	if (is_exempt(self.leader))
		return 0;
	now = bpf_ktime_get_ns();
	if (!leased(now))
		return 0;
	count(hook, true);
	tell_refusal(slot, &self, &seen, hook, now);
	return -ENOMEM;
}

static __always_inline bool tested(__u32 hook)
{
	return selftested(bpf_get_current_task_btf(), hook);
}

/* Where nobody has a line nothing is looked at. */
static __always_inline bool asked(__u32 hook)
{
	return control.kernel_levels || tested(hook);
}

static __always_inline bool grows_pipe(struct file *file, unsigned int cmd, unsigned long size)
{
	struct pipe_inode_info *pipe;
	unsigned int pages = 0;

	if (cmd != F_SETPIPE_SZ || (file->f_inode->i_mode & S_IFMT) != S_IFIFO)
		return false;
	pipe = file->private_data;
	bpf_core_read(&pages, sizeof(pages), &pipe->ring_size);
	return size > (__u64)pages * control.page_size;
}

/* Other families' buffers are not kernel memory of the group: TCP counts as sockets, the rest as nobody's. */
static __always_inline bool fills_buffers(struct socket *sock)
{
	struct sock *sk = sock->sk;

	return sk && sk->__sk_common.skc_family == AF_UNIX;
}

/* Changing a part of a mapping makes two or three of it; changing the whole of it can only make fewer. */
static __always_inline bool splits(struct vm_area_struct *vma, unsigned long prot)
{
	bool same = (vma->vm_flags & VM_ACCESS) == (prot & VM_ACCESS) && !changes_key();

	return !same && vma->vm_mm->map_count > MAPPINGS_LET_BE && !covers(vma);
}

/* The arguments are those of the hook; `condition` may use them. */
#define TWICE(name, function, lsm, hook, condition, ...)                           \
	SEC("fmod_ret/" function)                                                  \
	int BPF_PROG(name##_fmod, __VA_ARGS__, int ret)                            \
	{                                                                          \
		return ret || !asked(hook) || !(condition) ? ret : refuse_kernel_memory(hook);   \
	}                                                                          \
	SEC("lsm/" lsm)                                                            \
	int BPF_PROG(name##_lsm, __VA_ARGS__, int ret)                             \
	{                                                                          \
		return ret || !asked(hook) || !(condition) ? ret : refuse_kernel_memory(hook);   \
	}

/* fork, vfork and clone, of processes and threads */
TWICE(task_alloc, "security_task_alloc", "task_alloc", HOOK_TASK_ALLOC, true, struct task_struct *child, unsigned long flags)
TWICE(inode_create, "security_inode_create", "inode_create", HOOK_INODE_CREATE, true, struct inode *dir, struct dentry *dentry,
      unsigned short mode)
TWICE(inode_mkdir, "security_inode_mkdir", "inode_mkdir", HOOK_INODE_MKDIR, true, struct inode *dir, struct dentry *dentry,
      unsigned short mode)
TWICE(inode_mknod, "security_inode_mknod", "inode_mknod", HOOK_INODE_MKNOD, true, struct inode *dir, struct dentry *dentry,
      unsigned short mode, unsigned int device)
TWICE(inode_symlink, "security_inode_symlink", "inode_symlink", HOOK_INODE_SYMLINK, true, struct inode *dir,
      struct dentry *dentry, const char *target)
TWICE(inode_link, "security_inode_link", "inode_link", HOOK_INODE_LINK, true, struct dentry *old, struct inode *dir,
      struct dentry *new)
TWICE(inode_setxattr, "security_inode_setxattr", "inode_setxattr", HOOK_INODE_SETXATTR, true, void *idmap,
      struct dentry *dentry, const char *key, const void *value, unsigned long size, int flags)
/* open, pipe, socket, memfd: whatever is behind a descriptor */
TWICE(file_alloc, "security_file_alloc", "file_alloc_security", HOOK_FILE_ALLOC, true, struct file *file)
TWICE(sk_alloc, "security_sk_alloc", "sk_alloc_security", HOOK_SK_ALLOC, true, struct sock *sk, int family, unsigned int gfp)
TWICE(socket_sendmsg, "security_socket_sendmsg", "socket_sendmsg", HOOK_SOCKET_SENDMSG, fills_buffers(sock),
      struct socket *sock, struct msghdr *message, int size)
/* System V: queues and sets of semaphores; and messages, those of POSIX queues too (load_msg in ipc/msgutil.c) */
TWICE(msg_queue_alloc, "security_msg_queue_alloc", "msg_queue_alloc_security", HOOK_MSG_QUEUE_ALLOC, true,
      struct kern_ipc_perm *queue)
TWICE(msg_msg_alloc, "security_msg_msg_alloc", "msg_msg_alloc_security", HOOK_MSG_MSG_ALLOC, true, struct msg_msg *message)
TWICE(sem_alloc, "security_sem_alloc", "sem_alloc_security", HOOK_SEM_ALLOC, true, struct kern_ipc_perm *set)
TWICE(file_fcntl, "security_file_fcntl", "file_fcntl", HOOK_FILE_FCNTL, grows_pipe(file, cmd, size), struct file *file,
      unsigned int cmd, unsigned long size)
TWICE(kernel_mprotect, "security_file_mprotect", "file_mprotect", HOOK_KERNEL_MPROTECT,
      tested(HOOK_KERNEL_MPROTECT) || splits(vma, prot), struct vm_area_struct *vma, unsigned long reqprot, unsigned long prot)
