/* The handler of a group: when memgov finds the group short of memory and a rule has the step `handler`, a command is run that frees some, before anybody is killed for it.
 * Start it in a group beside the one it is for; with memory.min (v2) it keeps what it needs. RESERVE: so many bytes under the group's limit are kept for what the command has the group do.
 *
 *     cc handler.c $(pkg-config --cflags --libs memgov) -o handler && ./handler SOCKET GROUP COMMAND [RESERVE]
 */
#include <memgov.h>

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const memgov *m, const char *what, int error)
{
	fprintf(stderr, "handler: %s: %s (%s)\n", what, memgov_error(m), strerror(-error));
	return 1;
}

int main(int argc, char **argv)
{
	struct memgov_job job = { .size = sizeof job };
	memgov_handler *h;
	memgov *m;
	int error;

	if (argc != 4 && argc != 5)
		return fprintf(stderr, "usage: handler SOCKET GROUP COMMAND [RESERVE]\n"), 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	m = memgov_new(argv[1]);
	error = argc == 5 ? memgov_set_oom_reserve(m, argv[2], strtoull(argv[4], NULL, 10)) : 0;
	if (!error)
		error = memgov_get_job(m, argv[2], &job);
	if (error)
		return failed(m, "reserve", error);
	printf("reserve %" PRIu64 "\n", job.oom_reserve_bytes);
	error = memgov_handler_new(m, argv[2], &h);
	if (error)
		return failed(m, argv[2], error);
	printf("ready\n");
	for (;;) {
		struct pollfd pollfd = { .fd = memgov_handler_fd(h), .events = POLLIN };
		struct memgov_shortage s = { .size = sizeof s };
		int got;

		poll(&pollfd, 1, -1);
		while ((got = memgov_handler_take(h, &s)) == 1) {
			printf("short %s %s reserve %" PRIu64 "\n", s.meter, s.group, s.oom_reserve_bytes);
			if (system(argv[3]) != 0)
				fprintf(stderr, "handler: `%s` failed\n", argv[3]);
			error = memgov_handled(m, s.number);
			/* Too late is no reason to go: there will be another time. */
			printf(error ? "late\n" : "handled\n");
		}
		if (got < 0) {
			fprintf(stderr, "handler: the place is lost: %s\n", strerror(-got));
			return 1;
		}
	}
}
