/* A group made smaller on purpose, as a supervisor does with one that idles: to so many bytes, or as far as it goes.
 *
 *     cc shrink.c $(pkg-config --cflags --libs memgov) -o shrink && ./shrink SOCKET GROUP BYTES
 */
#include <memgov.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	uint64_t usage = 0;
	memgov *m;
	int error;

	if (argc != 4)
		return fprintf(stderr, "usage: shrink SOCKET GROUP BYTES\n"), 2;
	m = memgov_new(argv[1]);
	error = memgov_shrink(m, argv[2], strtoull(argv[3], NULL, 10), &usage);
	if (error && error != -EBUSY) {
		fprintf(stderr, "shrink: %s (%s)\n", memgov_error(m), strerror(-error));
		return 1;
	}
	/* Busy: what is left is in use, locked, or has nowhere to go. */
	printf("%s %" PRIu64 "\n", error ? "busy" : "usage", usage);
	memgov_free(m);
	return 0;
}
