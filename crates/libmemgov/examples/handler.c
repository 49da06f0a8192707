/* The handler of a group: when memgov finds the group short of memory and a rule has the step `handler`, a command is run that frees some, before anybody is killed for it.
 * Start it in a group beside the one it is for; with memory.min (v2) it keeps what it needs.
 *
 *     cc handler.c $(pkg-config --cflags --libs memgov) -o handler && ./handler SOCKET GROUP COMMAND
 */
#include <memgov.h>

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
	memgov_handler *h;
	memgov *m;
	int error;

	if (argc != 4)
		return fprintf(stderr, "usage: handler SOCKET GROUP COMMAND\n"), 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	m = memgov_new(argv[1]);
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
			printf("short %s %s\n", s.meter, s.group);
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
