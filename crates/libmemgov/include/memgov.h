/* libmemgov: for a program that wants to be told before it is killed, and to say what is to happen to it.
 *
 * It talks to a running memgov over its socket. Link with -lmemgov (pkg-config memgov). Functions that return int give 0, or a number that the function says,
 * or a negative errno(3); memgov_error() then has the sentence for a person. What every call may return:
 *
 *   -ENOTCONN   memgov does not run
 *   -EACCES     it does not permit this
 *   -EAGAIN     it is busy, or has too many clients: try again
 *   -ETIMEDOUT  it did not answer in 10 s
 *   -EPROTO     what answers is not a memgov of this version
 *   -EINVAL     an argument is NULL that must not be, is not UTF-8, or makes no sense
 *   -ENOMEM     there is no memory for the answer; of a watch and a handler nothing is lost by that
 *
 * Where malloc(3) has no more, as under MEMGOV_DENY, a call takes what it needs from 1 MiB that the library has for that, static and for the whole process: enough for any call there is, of one thread at a
 * time, and given back at its end but for a new handle and for what a watch has received of a page so far. A program that goes on to make handles and watches without memory, hundreds of them, uses that up, too; then a call ends it by abort(3). The pages come when they are used:
 * mlockall(2) has them there before.
 *
 * No call raises SIGPIPE, sets a signal handler, starts a thread or, but for that, ends the program. One handle is for one thread at a time. Nothing is held between calls but by a
 * memgov_watch: handles outlive fork, and a memgov that is started anew.
 * Structs that a call fills begin with their size, which the caller sets before it: they may grow behind, and an older program is given as much as it knows. What a library does not know yet stays as it was.
 */
#ifndef MEMGOV_H
#define MEMGOV_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A memgov, known by its socket. It need not run. */
typedef struct memgov memgov;

/* socket: where it listens; NULL: /run/memgov/control.sock. NULL: a path that is not UTF-8. */
memgov *memgov_new(const char *socket);
void memgov_free(memgov *m);

/* What the last call with this handle came to nothing for; "" if it did not. Valid until the next call with it. */
const char *memgov_error(const memgov *m);

/* ------ What is to happen to this process: the memory control of the over-high series (LKML, 17 Aug 2020) ------
 * word: bits 0-7 action, 8-15 signal (1 to 63), 16-31 flags. climit: how far the process's group may be over memory.high, plimit: how much of the kinds in the
 * flags the process may have, both in bytes and rounded up to pages. It is of the whole process, inherited by children and kept over exec. */
enum memgov_action {
	MEMGOV_NONE = 0,
	MEMGOV_DENY = 1,   /* further memory is refused with ENOMEM */
	MEMGOV_SLOW = 2,   /* it is slowed down */
	MEMGOV_SIGNAL = 3, /* it is sent the signal: once, or again and again with MEMGOV_SIGCONT */
	MEMGOV_KILL = 4
};
#define MEMGOV_SIGCONT 0x1u
#define MEMGOV_DIRECT 0x2u /* only the process counts, not its group; needs a kind and a plimit */
#define MEMGOV_LOG 0x4u
#define MEMGOV_RSS_ANON 0x100u
#define MEMGOV_RSS_FILE 0x200u
#define MEMGOV_RSS_SHMEM 0x400u
#define MEMGOV_WORD(action, signal, flags) \
	((uint32_t)(action) | (uint32_t)(signal) << 8 | (uint32_t)(flags) << 16)

/* -EINVAL: what the series refuses. Nothing is half set. */
int memgov_set_control(memgov *m, uint32_t word, uint64_t climit, uint64_t plimit);
/* Each of the three may be NULL. All 0: there is none. */
int memgov_get_control(memgov *m, uint32_t *word, uint64_t *climit, uint64_t *plimit);
int memgov_clear_control(memgov *m);

/* ------ What happens to this process and to the groups it is in ------ */
typedef struct memgov_watch memgov_watch;

enum memgov_kind {
	MEMGOV_WARNING = 1,       /* a line was crossed, or a further step reached, and nothing was done but recording it: a step that records, is rehearsed (dry run),
	                           * was decided against or failed */
	MEMGOV_OVER = 2,          /* a line was crossed, or a further step reached, and something was done: action */
	MEMGOV_RELIEVED = 3,      /* under it again, and undone */
	MEMGOV_OUT_OF_MEMORY = 4, /* the kernel ran out of memory in a group of this process, or killed for it */
	MEMGOV_MISSED = 5,        /* so many notices were left out: not taken in time */
	MEMGOV_OTHER = 6          /* of a kind that this library does not know yet */
};

#define MEMGOV_UNKNOWN UINT64_MAX

struct memgov_notice {
	uint64_t size;        /* set by the caller: sizeof(struct memgov_notice) */
	uint64_t kind;        /* enum memgov_kind */
	uint64_t id;          /* for `memgov explain` */
	uint64_t usage_bytes; /* what was compared, or MEMGOV_UNKNOWN */
	uint64_t line_bytes;  /* the line, or MEMGOV_UNKNOWN */
	uint64_t missed;      /* of MEMGOV_MISSED: how many */
	char action[24];      /* what was done: "record", "deny-begin", "signal"...; docs/cli.md has all */
	char group[256];      /* the group it is about, cut to fit; "": this process */
};

/* Tells from now on: when this returns 0, nothing that happens later is left out. -ESRCH: memgov cannot see this process. */
int memgov_watch_new(memgov *m, memgov_watch **out);
/* A descriptor to poll for POLLIN. It is the watch's: do not read from it, do not close it. */
int memgov_watch_fd(const memgov_watch *w);
/* 1: *out was filled. 0: there is none now. -EAGAIN: memgov has ended, free this and make a new one; the descriptor is readable then, too. */
int memgov_watch_take(memgov_watch *w, struct memgov_notice *out);
void memgov_watch_free(memgov_watch *w);

/* ------ The handler of a group ------
 * A rule may have the step `handler` before it kills: the process that has registered as the group's handler is told that the group is short of memory, and waited for. It frees what it
 * can (of the group's: it tells its workers to drop their caches, ends the job that can wait), then says memgov_handled; where that was not enough, or its time is up, the rule goes on.
 * One for a group; it must not be in the group itself, where it would be out of memory, too. */
typedef struct memgov_handler memgov_handler;

struct memgov_shortage {
	uint64_t size;        /* set by the caller: sizeof(struct memgov_shortage) */
	uint64_t number;      /* for memgov_handled, and for `memgov explain` */
	uint64_t meter_bytes; /* what was compared */
	uint64_t line_bytes;  /* the line */
	uint64_t usage_bytes; /* what the group used, or MEMGOV_UNKNOWN */
	uint64_t limit_bytes; /* its hard limit, or MEMGOV_UNKNOWN */
	uint64_t left_ns;     /* so long memgov waits, from when it said this */
	char meter[24];       /* "usage", "available", "kernel", "sockets" or "usage+sockets" */
	char group[256];      /* the group, cut to fit */
	uint64_t oom_reserve_bytes; /* so much under its hard limit is kept for what helps it (memgov_set_oom_reserve), or MEMGOV_UNKNOWN */
};

/* From when this returns 0 it is told, until memgov_handler_free or its end. -EBUSY: the group has a handler. -EINVAL: this process is in the group or below.
 * -ENOENT: no such group. -ESRCH: memgov cannot see this process. -EACCES: neither root nor the group's owner asks. A fork shares the place, but only this process is
 * believed: register after daemonising. */
int memgov_handler_new(memgov *m, const char *group, memgov_handler **out);
/* A descriptor to poll for POLLIN. It is the handler's: do not read from it, do not close it. */
int memgov_handler_fd(const memgov_handler *h);
/* 1: *out was filled. 0: there is none now. -EAGAIN: the place is no more (memgov has ended, the group is gone or was made anew, or root has put another handler in), free this and
 * register anew; the descriptor is readable then, too. */
int memgov_handler_take(memgov_handler *h, struct memgov_shortage *out);
/* What could be done has been done. -ENOENT: nobody waits for that any more, or another process was told. */
int memgov_handled(memgov *m, uint64_t number);
void memgov_handler_free(memgov_handler *h);

/* ------ What a group is worth, and what is kept for what helps it ------
 * Said while memgov runs, over what its configuration says ([[group]]), until the group or memgov ends. Root may for every group, a user for groups whose directory and the one above are his. */
enum memgov_job_word {
	MEMGOV_PRIORITY = 1,
	MEMGOV_RESERVATION = 2,
	MEMGOV_OOM_RESERVE = 4
};

#define MEMGOV_NO_JOB INT64_MIN

struct memgov_job {
	uint64_t size;              /* set by the caller: sizeof(struct memgov_job) */
	int64_t priority;           /* the lowest is given up first; MEMGOV_NO_JOB: nobody makes a job of it */
	uint64_t reservation_bytes; /* within it the group does not give way for others, or MEMGOV_UNKNOWN: it is no job */
	uint64_t oom_reserve_bytes; /* the last part under the hard limit; 0: none */
	uint64_t set;               /* enum memgov_job_word: what was said since memgov started, the rest is the configuration's */
};

/* -ENOENT: no such group. -EACCES: neither root nor the group's owner asks. */
int memgov_get_job(memgov *m, const char *group, struct memgov_job *out);
/* -ENOENT: no such group. -EACCES: not yours to say, or another has said something of this group. -ENOSPC: it was said of too many groups. */
int memgov_set_priority(memgov *m, const char *group, int32_t priority);
int memgov_set_reservation(memgov *m, const char *group, uint64_t bytes);
/* The group's rules by what is available act as if its hard limit were so much lower: the rest is there for the processes in it that its handler asks to write out, close or end something. The handler itself is
 * beside the group, with memory of its own. As those above, and -EBUSY: more than bytes of the reserve there was is in use. */
int memgov_set_oom_reserve(memgov *m, const char *group, uint64_t bytes);
/* What was said is as the configuration has it: of these (enum memgov_job_word), or with 0 of all. -ENOENT: nothing of that was said, or no such group. -EBUSY, -EACCES: as above. */
int memgov_clear_job(memgov *m, const char *group, uint32_t words);

/* ------ A group made smaller ------
 * Has the kernel reclaim memory of the group (named from the root of the memory hierarchy) and of those below until it uses no more than to bytes (0: as empty as
 * possible), and waits for it. Nothing is killed, no limit stays changed. *usage, if not NULL: what it uses then, also with -EBUSY.
 * -EBUSY: what is left cannot be reclaimed. -ENOENT: no such group. -ECANCELED: somebody called it off. */
int memgov_shrink(memgov *m, const char *group, uint64_t to, uint64_t *usage);

#ifdef __cplusplus
}
#endif

#endif
