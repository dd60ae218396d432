/* The PROXY parsers under libFuzzer: verdicts that no way of splitting the bytes changes, and no look beyond them.
 *
 * Includes the C that Cython makes of meshlb/_proxy_header.pyx, whose functions are static and need no interpreter.
 * The input is parsed as what a client sent; its first bytes also serve as addresses of a header to be written.
 */
#include "_proxy_header.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define parse __pyx_f_6meshlb_13_proxy_header_proxy_parse
#define begins __pyx_f_6meshlb_13_proxy_header_proxy_begins
#define format __pyx_f_6meshlb_13_proxy_header_proxy_format

typedef struct __pyx_t_6meshlb_13_proxy_header_proxy_header_t header_t;

enum { ROOM = 108, LONGEST_V1 = 107, LONGEST = 2064, CUTS = 48 }; /* the first two and LONGEST: _proxy_header.pxd */

static void must(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "property broken: %s\n", what);
        abort();
    }
}

/* Nobody waits for the rest of what can be seen to be wrong: a line is text, up to its CR. */
static int may_go_on(const uint8_t *data, size_t size) {
    if (size == 0 || data[0] != 'P')
        return 1;
    if (data[size - 1] == '\r')
        size--;
    for (size_t i = 0; i < size; i++)
        if (data[i] < 32 || data[i] > 126)
            return 0;
    return size < 7 || data[6] == 'T' || data[6] == 'U';
}

/* A copy of its own for every length: the sanitizer sees any look beyond it. */
static ssize_t parse_exactly(const uint8_t *data, size_t size, header_t *header) {
    char *copy = malloc(size ? size : 1);
    memcpy(copy, data, size);
    ssize_t used = parse(copy, size, header);
    int start = begins(copy, size);
    free(copy);
    must(used >= -1 && used <= (ssize_t)size, "a header is not longer than what was sent");
    must(start >= -1 && start <= 1, "begins() answers -1, 0 or 1");
    must(used <= 0 || start == 1, "a header begins as one");
    must(start >= 0 || used == -1, "what does not begin as a header is none");
    must(size == 0 || start != 0 || used == 0, "what may become a header needs more");
    must(used != 0 || may_go_on(data, size), "what cannot become a header needs no more");
    must(used != 0 || size < LONGEST, "needing more has an end");
    must(used != 0 || size < LONGEST_V1 || data[0] == '\r', "a line has an end");
    return used;
}

static void check_cut(const uint8_t *data, size_t cut, ssize_t used, const header_t *header) {
    header_t early;
    ssize_t verdict = parse_exactly(data, cut, &early);
    if (used > 0 && cut < (size_t)used)
        must(verdict == 0, "the beginning of a header only needs more");
    else if (verdict == 0)
        must(used <= 0, "a whole header needs no more");
    else
        must(verdict == used, "more bytes do not change a verdict");
    if (verdict > 0)
        must(memcmp(&early, header, sizeof early) == 0, "more bytes do not change a header");
}

/* Every cut of a short input; of a long one those at its beginning, its end and around the header's end. */
static void check_cuts(const uint8_t *data, size_t size, ssize_t used, const header_t *header) {
    for (size_t cut = 0; cut < size; cut++)
        if (cut < CUTS || size - cut < CUTS || (used > 0 && cut + 4 > (size_t)used && cut < (size_t)used + 4)
            || cut % 61 == size % 61 || (cut > 100 && cut < 110))
            check_cut(data, cut, used, header);
}

static size_t write_header(
    char *out, int version, const uint8_t *source, uint16_t source_port, const uint8_t *destination, uint16_t port
) {
    char *exact = malloc(ROOM);
    size_t size = format(exact, version, source, source_port, destination, port);
    must(size > 0 && size <= ROOM, "a header fits into its room");
    memcpy(out, exact, size);
    free(exact);
    return size;
}

/* What is written says what it was made of, in both versions; the text form only needs what version 1 may say. */
static void check_round_trip(const uint8_t *source, uint16_t source_port, const uint8_t *destination, uint16_t port) {
    char out[ROOM], again[ROOM];
    for (int version = 1; version <= 2; version++) {
        header_t header;
        size_t size = write_header(out, version, source, source_port, destination, port);
        must(parse_exactly((uint8_t *)out, size, &header) == (ssize_t)size, "what was written is a header");
        must(header.version == version && !header.local, "it names addresses");
        must(memcmp(header.source, source, 16) == 0 && header.source_port == source_port, "it names the source");
        must(memcmp(header.destination, destination, 16) == 0 && header.destination_port == port,
             "it names the destination");
        must(write_header(again, version, header.source, header.source_port, header.destination,
                          header.destination_port) == size && memcmp(out, again, size) == 0, "writing is stable");
    }
}

/* TCP4 has one spelling: a line that was taken is the line that would have been written. */
static void check_spelling(const uint8_t *data, ssize_t used, const header_t *header) {
    char out[ROOM];
    if (used < 11 || memcmp(data, "PROXY TCP4 ", 11) != 0)
        return;
    size_t size = write_header(out, 1, header->source, header->source_port, header->destination,
                               header->destination_port);
    must(size == (size_t)used && memcmp(out, data, size) == 0, "no second spelling of a line is taken");
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    /* Importing the module would set these. */
    __pyx_v_6meshlb_13_proxy_header_V1_SIGNATURE = "PROXY ";
    __pyx_v_6meshlb_13_proxy_header_V2_SIGNATURE = "\r\n\r\n\0\r\nQUIT\n";
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    header_t header;
    ssize_t used = parse_exactly(data, size, &header);
    check_cuts(data, size, used, &header);
    if (used > 0 && !header.local) {
        check_round_trip(header.source, header.source_port, header.destination, header.destination_port);
        check_spelling(data, used, &header);
    }
    if (size >= 36)
        check_round_trip(data, data[32] << 8 | data[33], data + 16, data[34] << 8 | data[35]);
    return 0;
}
