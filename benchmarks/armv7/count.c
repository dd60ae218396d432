/* A plugin of qemu-user: counts the instructions and the system calls of every thread that it emulates.

   Its file is an array of rows, one for each thread, that whoever measures maps too: row[0] is the number of
   instructions, row[1 + n] that of system call n. Only a row's own thread writes it. Instructions are counted by
   translation blocks, so one that a signal leaves half-way counts whole.

   qemu-plugin.h is in no package of Debian 12; what we need of it is declared here (version 1 of the interface). */

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ROWS 64
#define COLUMNS 512

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t,
                                          uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t (*rows)[COLUMNS];

static void executed(unsigned thread, void *instructions)
{
    rows[thread % ROWS][0] += (uintptr_t)instructions;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(block, executed, 0, (void *)qemu_plugin_tb_n_insns(block));
}

static void called(plugin_id id, unsigned thread, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    (void)id, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
    if (number >= 0 && number < COLUMNS - 1)
        rows[thread % ROWS][1 + number]++;
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info;
    const char *path = argc == 1 && !strncmp(argv[0], "into=", 5) ? argv[0] + 5 : NULL;
    int file = path ? open(path, O_RDWR) : -1;
    if (file < 0 || ftruncate(file, sizeof(*rows) * ROWS)) {
        fprintf(stderr, "count: wants into=PATH of a file that it may write\n");
        return 1;
    }
    rows = mmap(NULL, sizeof(*rows) * ROWS, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (rows == MAP_FAILED)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
