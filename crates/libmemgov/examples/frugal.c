/* A program that has memgov look after it: it is to be refused memory when its group is 8 MiB over its memory.high, and is told when a line of its group is crossed.
 * Ends when it is relieved.
 *
 *     cc frugal.c $(pkg-config --cflags --libs memgov) -o frugal && ./frugal [SOCKET]
 */
#include <memgov.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

static int failed(const memgov *m, const char *what, int error)
{
	fprintf(stderr, "frugal: %s: %s (%s)\n", what, memgov_error(m), strerror(-error));
	return 1;
}

/* Gives 1 at the relief, 0 before, a negative errno when memgov is gone. */
static int tell(memgov_watch *w)
{
	struct memgov_notice n = { .size = sizeof n };
	int got;

	while ((got = memgov_watch_take(w, &n)) == 1) {
		const char *group = n.group[0] ? n.group : "-";

		if (n.kind == MEMGOV_WARNING) /* here a program empties its caches */
			printf("warning %s %s\n", n.action, group);
		else if (n.kind == MEMGOV_OVER)
			printf("over %s %s\n", n.action, group);
		else if (n.kind == MEMGOV_RELIEVED)
			return printf("relieved %s %s\n", n.action, group), 1;
	}
	return got;
}

int main(int argc, char **argv)
{
	memgov *m = memgov_new(argc > 1 ? argv[1] : NULL);
	memgov_watch *w;
	uint32_t word;
	uint64_t climit, plimit;
	int error, done;

	setvbuf(stdout, NULL, _IOLBF, 0);
	error = memgov_set_control(m, MEMGOV_WORD(MEMGOV_DENY, 0, 0), 8 << 20, 0);
	if (!error)
		error = memgov_get_control(m, &word, &climit, &plimit);
	if (error)
		return failed(m, "control", error);
	printf("control 0x%" PRIx32 " %" PRIu64 " %" PRIu64 "\n", word, climit, plimit);
	error = memgov_watch_new(m, &w);
	if (error)
		return failed(m, "watch", error);
	printf("ready\n");
	do {
		struct pollfd pollfd = { .fd = memgov_watch_fd(w), .events = POLLIN };

		poll(&pollfd, 1, -1);
		done = tell(w);
	} while (done == 0);
	memgov_watch_free(w);
	error = memgov_clear_control(m);
	if (error)
		return failed(m, "clear", error);
	memgov_free(m);
	return done < 0;
}
