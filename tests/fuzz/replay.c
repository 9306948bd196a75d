/* replay.c - runs a fuzz target over its corpus, as a TAP program that any compiler can build.
 *
 * fuzz_X plays tests/fuzz/corpus/X, or the files named on its command line: a crash of libFuzzer's
 * is told again by `fuzz_X crash-…`. Of a small file it plays every beginning too, and each of its
 * bytes altered, so that a parser's every branch sees a wrong length. One thread.
 */
#include "config.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REPLAY_ALTERED_MAX = 512 }; /* above that, altering each byte would take too long */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));

/* Prints why and ends the program: the harness counts that as an error. */
static _Noreturn void replay_die(const char *what) {
    perror(what);
    exit(EXIT_FAILURE);
}

/* Plays a copy that ends where its memory ends, so that a sanitizer sees one byte too far. */
static void replay_bytes(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);

    if (!copy)
        replay_die("malloc");
    if (size)
        memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

/* Plays every beginning of the data, then the data with each byte altered in four ways. */
static void replay_altered(uint8_t *data, size_t size) {
    static const uint8_t masks[] = {0x01, 0x10, 0x80, 0xff};

    for (size_t i = 0; i < size; i++)
        replay_bytes(data, i);
    for (size_t i = 0; i < size; i++) {
        for (size_t m = 0; m < sizeof masks; m++) {
            data[i] ^= masks[m];
            replay_bytes(data, size);
            data[i] ^= masks[m];
        }
    }
}

/* Plays one file: as it is, and altered if it is small. */
static void replay_file(const char *path) {
    FILE *f = fopen(path, "rb");
    uint8_t *data;
    long size;

    if (!f || fseek(f, 0, SEEK_END) < 0 || (size = ftell(f)) < 0)
        replay_die(path);
    rewind(f);
    data = malloc((size_t)size + 1);
    if (!data || fread(data, 1, (size_t)size, f) != (size_t)size)
        replay_die(path);
    fclose(f);
    replay_bytes(data, (size_t)size);
    if (size <= REPLAY_ALTERED_MAX)
        replay_altered(data, (size_t)size);
    free(data);
}

/* Leaves out "." and "..", and what an editor may have left. */
static int replay_is_input(const struct dirent *entry) {
    return entry->d_name[0] != '.';
}

/* The corpus of the program named fuzz_X is the directory X; the caller owns the answer. */
static char *replay_corpus(const char *program) {
    const char *top = getenv("abs_top_srcdir");
    const char *name = strrchr(program, '/');
    char *path;

    name = name ? name + 1 : program;
    if (!top || strncmp(name, "fuzz_", 5) != 0) {
        fprintf(stderr, "usage: %s FILE..., or abs_top_srcdir in the environment\n", name);
        exit(EXIT_FAILURE);
    }
    path = malloc(strlen(top) + strlen(name) + sizeof "/tests/fuzz/corpus/");
    if (!path)
        replay_die("malloc");
    sprintf(path, "%s/tests/fuzz/corpus/%s", top, name + strlen("fuzz_"));
    return path;
}

/* Plays all files of a directory, in the order of their names. */
static void replay_directory(const char *directory) {
    struct dirent **entries;
    int n = scandir(directory, &entries, replay_is_input, alphasort);

    if (n < 0)
        replay_die(directory);
    printf("1..%d\n", n);
    for (int i = 0; i < n; i++) {
        char *path = malloc(strlen(directory) + strlen(entries[i]->d_name) + 2);

        if (!path)
            replay_die("malloc");
        sprintf(path, "%s/%s", directory, entries[i]->d_name);
        printf("# %s\n", entries[i]->d_name);
        fflush(stdout); /* so that a crash is seen to be this file's */
        replay_file(path);
        printf("ok %d - %s\n", i + 1, entries[i]->d_name);
        free(path);
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv) {
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    if (argc > 1) {
        printf("1..%d\n", argc - 1);
        for (int i = 1; i < argc; i++) {
            replay_file(argv[i]);
            printf("ok %d - %s\n", i, argv[i]);
        }
    } else {
        char *corpus = replay_corpus(argv[0]);

        replay_directory(corpus);
        free(corpus);
    }
    return EXIT_SUCCESS;
}
