// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * All programs about usage, resident memory and sockets as one object: whoever loads one has libbpf read all the kernel's types (5 MB) first, and so what is wanted
 * together is loaded in one go (attach.rs). Each concern is a file of its own.
 */
#include "deny.c"
#include "charge.c"
#include "rss.c"
#include "oom.c"
#include "sockets.c"

char _license[] SEC("license") = "Dual MIT/GPL";
