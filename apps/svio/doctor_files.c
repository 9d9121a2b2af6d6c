/* SPDX-License-Identifier: BSD-3-Clause */
/* Files and modules, as the checks look at them. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#include "doctor.h"

extern char **environ;

bool doctor_read_line(const char *path, char *buf, size_t len)
{
	FILE *f = fopen(path, "re");
	bool read;

	buf[0] = '\0';
	if (!f)
		return false;
	read = fgets(buf, (int)len, f) != NULL;
	fclose(f);
	buf[strcspn(buf, "\n")] = '\0';
	return read;
}

bool doctor_read_u64(const char *path, uint64_t *value)
{
	char text[32];

	return doctor_read_line(path, text, sizeof(text)) && svio_parse_u64(text, UINT64_MAX, value) == 0;
}

bool doctor_file_has(const char *path, const char *word)
{
	FILE *f = fopen(path, "re");
	char *line = NULL;
	size_t capacity = 0;
	bool found = false;

	if (!f)
		return false;
	while (!found && getline(&line, &capacity, f) > 0)
		found = strstr(line, word) != NULL;
	free(line);
	fclose(f);
	return found;
}

size_t doctor_count_entries(const char *dir)
{
	struct dirent *entry;
	DIR *d = opendir(dir);
	size_t n = 0;

	if (!d)
		return 0;
	while ((entry = readdir(d)) != NULL)
		n += entry->d_name[0] != '.';
	closedir(d);
	return n;
}

/* Find "/<name>.ko" in one of depmod's lists, with '-' and '_' alike. */
static bool listed(const char *list, const char *name)
{
	char path[512], *line = NULL;
	struct utsname uts;
	size_t capacity = 0, len = strlen(name);
	bool found = false;
	FILE *f;

	uname(&uts);
	snprintf(path, sizeof(path), "/lib/modules/%s/%s", uts.release, list);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!found && getline(&line, &capacity, f) > 0) {
		char *colon = strchr(line, ':'), *base;
		size_t i;

		if (colon)
			*colon = '\0'; /* modules.dep: what follows are dependencies */
		base = strrchr(line, '/');
		base = base ? base + 1 : line;
		for (i = 0; i < len; i++)
			if ((base[i] == '-' ? '_' : base[i]) != name[i])
				break;
		found = i == len && strncmp(base + len, ".ko", 3) == 0;
	}
	free(line);
	fclose(f);
	return found;
}

bool doctor_module_present(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	return access(path, F_OK) == 0 || listed("modules.builtin", name);
}

bool doctor_module_loadable(const char *name)
{
	return listed("modules.dep", name);
}

bool doctor_modprobe(const char *name)
{
	char program[] = "/sbin/modprobe", quiet[] = "-q", module[64];
	char *argv[] = { program, quiet, module, NULL };
	int status;
	pid_t pid;

	snprintf(module, sizeof(module), "%s", name);
	if (posix_spawn(&pid, program, NULL, NULL, argv, environ))
		return false;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
