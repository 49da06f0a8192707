// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * The kernel runs out of memory, and whom it takes. Only told: nothing is done about it here.
 *
 * A group that runs out of memory again and again must not push everything else out of the ring: of each group so many are
 * told in a second, and the next one that is told says how many were not.
 */
#include "judge.h"

#define OOM_WINDOW_NS 1000000000ULL
#define OOMS_A_WINDOW 4

struct told {
	__u64 since_ns;
	__u32 told;
	__u32 left_out;
};

/* By group, 0 for the machine; of each program, or one would take the other's turns. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 512);
	__type(key, __u64);
	__type(value, struct told);
} ooms SEC(".maps"), victims SEC(".maps");

/* Whether this one is told; then with how many before it that were not. */
static __always_inline bool may_tell(void *ooms, __u64 group, __u64 now, struct seen *seen)
{
	struct told *told = bpf_map_lookup_elem(ooms, &group);
	struct told first = { .since_ns = now, .told = 1 };

	if (!told) {
		bpf_map_update_elem(ooms, &group, &first, 0);
		return true;
	}
	if (now - told->since_ns < OOM_WINDOW_NS && told->told >= OOMS_A_WINDOW) {
		__sync_fetch_and_add(&told->left_out, 1);
		return false;
	}
	if (now - told->since_ns >= OOM_WINDOW_NS) {
		told->since_ns = now;
		told->told = 0;
	}
	told->told++;
	seen->tag = told->left_out;
	told->left_out = 0;
	return true;
}

static __always_inline __u64 max_of(struct mem_cgroup *memcg)
{
	unsigned long pages = 0;

	bpf_core_read(&pages, sizeof(pages), &memcg->memory.max);
	return pages >= (1ULL << 48) ? NO_LINE : pages;
}

SEC("fentry/out_of_memory")
int BPF_PROG(oom_enters, struct oom_control *oc)
{
	struct self self = self_of(bpf_get_current_task_btf());
	struct mem_cgroup *memcg = oc->memcg;
	struct seen seen = { .limit = NO_LINE };
	__u64 now = bpf_ktime_get_ns();

	count(HOOK_OOM, false);
	if (memcg) {
		seen.group = id_of(&memcg->css);
		seen.usage = usage_of(&memcg->css);
		seen.limit = max_of(memcg);
	}
	if (!may_tell(&ooms, seen.group, now, &seen))
		return 0;
	count(HOOK_OOM, true);
	tell(EVENT_OOM_ENTER, HOOK_OOM, &self, &seen, 0, now);
	return 0;
}

SEC("tp_btf/mark_victim")
int BPF_PROG(oom_takes, struct task_struct *victim)
{
	struct self self = self_of(victim);
	struct seen seen = { .limit = NO_LINE };
	__u64 now = bpf_ktime_get_ns();

	count(HOOK_VICTIM, false);
	seen.group = id_of(memory_of(victim));
	if (!may_tell(&victims, seen.group, now, &seen))
		return 0;
	count(HOOK_VICTIM, true);
	tell(EVENT_OOM_VICTIM, HOOK_VICTIM, &self, &seen, SIGKILL, now);
	return 0;
}
