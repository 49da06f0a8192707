// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * All programs about kernel memory as one object (as in usage.bpf.c), apart from the others because they are many, and an object keeps a copy of each.
 */
#include "counter.c"
#include "ceiling.c"
#include "forks.c"

char _license[] SEC("license") = "Dual MIT/GPL";
