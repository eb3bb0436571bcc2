/* Copyright 2026 The mod_nanomdm authors
 * SPDX-License-Identifier: Apache-2.0
 */
/* Runs a fuzz target over the files of the directories that are its arguments, with any compiler:
 * what a fuzzer found once stays found. Knows no target.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"

/** @return the file's bytes, in a block of exactly their size, so that sanitizers see its end */
static uint8_t *read_whole(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    long end;

    if (!file)
        return NULL;
    if (!fseek(file, 0, SEEK_END) && (end = ftell(file)) >= 0 && !fseek(file, 0, SEEK_SET)) {
        *size = (size_t)end;
        data = malloc(*size ? *size : 1);
        if (data && fread(data, 1, *size, file) != *size) {
            free(data);
            data = NULL;
        }
    }
    fclose(file);
    return data;
}

/** @return 0 if the file was there to run */
static int run_file(const char *path)
{
    size_t size = 0;
    uint8_t *data = read_whole(path, &size);

    if (!data) {
        fprintf(stderr, "%s: cannot be read\n", path);
        return 1;
    }
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 0;
}

/** @return how many files were run, or -1 */
static int run_directory(const char *name)
{
    DIR *dir = opendir(name);
    const struct dirent *entry;
    int count = 0;

    if (!dir) {
        fprintf(stderr, "%s: cannot be opened\n", name);
        return -1;
    }
    while (count >= 0 && (entry = readdir(dir))) {
        char path[4096];
        int len;

        if (entry->d_name[0] == '.')
            continue;
        len = snprintf(path, sizeof(path), "%s/%s", name, entry->d_name);
        count = len < 0 || (size_t)len >= sizeof(path) || run_file(path) ? -1 : count + 1;
    }
    closedir(dir);
    return count;
}

int main(int argc, char **argv)
{
    int i;

    if (argc < 2) {
        fprintf(stderr, "usage: %s directory...\n", argv[0]);
        return 2;
    }
    for (i = 1; i < argc; i++) {
        int count = run_directory(argv[i]);
        if (count <= 0) {
            fprintf(stderr, "%s: no input was run\n", argv[i]);
            return 1;
        }
        printf("%s: %d inputs\n", argv[i], count);
    }
    return 0;
}
