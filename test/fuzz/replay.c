/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Stands in for libFuzzer where there is none: runs a target once with every file of the directories named, so that what the
 * fuzzer once found stays fixed. A failure is a crash, as in the fuzzer.
 */
#include <dirent.h>
#include <sys/stat.h>
#include "fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

static unsigned int run_file(const char *path)
{
	struct stat st;
	uint8_t *data;
	FILE *f;
	size_t n;

	if (stat(path, &st) || !S_ISREG(st.st_mode))
		return 0;
	f = fopen(path, "rb");
	if (!f)
		return 0;
	/* Of exactly the input's size, so that a sanitizer sees a read behind its end. */
	data = malloc(st.st_size ? (size_t)st.st_size : 1);
	n = data ? fread(data, 1, (size_t)st.st_size, f) : 0;
	fclose(f);
	if (data && n == (size_t)st.st_size) {
		fprintf(stderr, "%s\n", path); /* the last line names the input that crashed */
		LLVMFuzzerTestOneInput(data, n);
		free(data);
		return 1;
	}
	free(data);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned int runs = 0;

	if (LLVMFuzzerInitialize)
		LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++) {
		DIR *dir = opendir(argv[i]);
		struct dirent *e;

		if (!dir) {
			runs += run_file(argv[i]);
			continue;
		}
		while ((e = readdir(dir)) != NULL) {
			char path[4096];

			snprintf(path, sizeof(path), "%s/%s", argv[i], e->d_name);
			runs += run_file(path);
		}
		closedir(dir);
	}
	LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
	printf("%u inputs\n", runs);
	return runs ? 0 : 1;
}
