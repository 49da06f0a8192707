// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * Sockets of groups that are squeezed. A connection that comes to be is told of, so that it is squeezed now and not when somebody looks for it: nothing is set here, for what is set has to
 * be written down before, and undone. And what the kernel does not give to sockets of a group is counted.
 */
#include "judge.h"

/* Births in one group are told no more often: user space looks a little later than it is told, and so sees those in between. */
#define BIRTH_GAP_NS 1000000ULL
/* include/uapi/linux/bpf.h */
#define BPF_RB_AVAIL_DATA 0

/* From here up to the first group that is squeezed. */
static __attribute__((unused)) long look_for_squeezed(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	__u64 id;

	if (!css)
		return 1;
	id = id_of(css);
	if (!bpf_map_lookup_elem(&squeezed, &id))
		return climb(walk, css);
	walk->group = id;
	walk->over = true;
	return 1;
}

static __always_inline void born(struct cgroup_subsys_state *css, __u32 hook)
{
	struct walk walk = { .css = css };
	__u64 now = bpf_ktime_get_ns(), *told;
	struct event *event;

	count(hook, false);
	bpf_loop(MOST_STEPS, look_for_squeezed, &walk, 0);
	if (!walk.over)
		return;
	told = bpf_map_lookup_elem(&squeezed, &walk.group);
	if (!told || now - *told < BIRTH_GAP_NS)
		return;
	/* Who opens connections does not push out what is told of memory. */
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > RING_BYTES / 2)
		return;
	*told = now;
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count(HOOK_LOST_EVENTS, false);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = EVENT_BIRTH;
	event->hook = hook;
	event->group = walk.group;
	event->at_ns = now;
	bpf_ringbuf_submit(event, 0);
	count(hook, true);
}

static __always_inline bool is_internet(const struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return family == AF_INET || family == AF_INET6;
}

/* accept(2): the running process has it now, though not yet a descriptor of it. */
SEC("fentry/security_sock_graft")
int BPF_PROG(accepted, struct sock *sk, struct socket *parent)
{
	if (control.squeezed && is_internet(sk))
		born(memory_of(bpf_get_current_task_btf()), HOOK_ACCEPT);
	return 0;
}

/* connect(2) has come to its end: in an interrupt, as often as not, so the group is the one that is charged for the socket. v1 charges none that has no limit for TCP. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(connected, const struct sock *sk, const int from, const int to)
{
	struct mem_cgroup *memcg;

	if (!control.squeezed || from != TCP_SYN_SENT || to != TCP_ESTABLISHED)
		return 0;
	memcg = sk->sk_memcg;
	if (memcg)
		born(&memcg->css, HOOK_CONNECT);
	return 0;
}

static __attribute__((unused)) long count_refused(__u32 index, struct walk *walk)
{
	struct cgroup_subsys_state *css = walk->css;
	__u64 id, first = 1, *refused;

	if (!css)
		return 1;
	id = id_of(css);
	refused = bpf_map_lookup_elem(&socket_refusals, &id);
	if (refused)
		__sync_fetch_and_add(refused, 1);
	else
		bpf_map_update_elem(&socket_refusals, &id, &first, 0);
	return climb(walk, css);
}

static __always_inline void refused(struct mem_cgroup *memcg)
{
	struct walk walk = {};

	if (!memcg)
		return;
	walk.css = &memcg->css;
	count(HOOK_SOCKET_CHARGE, true);
	bpf_loop(MOST_STEPS, count_refused, &walk, 0);
}

/* Of a bool the ABI defines a byte. */
SEC("fexit/mem_cgroup_charge_skmem")
int BPF_PROG(charge_sockets, struct mem_cgroup *memcg, unsigned int pages, unsigned int gfp, __u8 done)
{
	if (!done)
		refused(memcg);
	return 0;
}

/* Since 6.18. */
SEC("fexit/mem_cgroup_sk_charge")
int BPF_PROG(charge_sockets_6_18, const struct sock *sk, unsigned int pages, unsigned int gfp, __u8 done)
{
	if (!done)
		refused(sk->sk_memcg);
	return 0;
}
