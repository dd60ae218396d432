# The PROXY protocol: the client's address in front of its bytes, versions 1 and 2.

from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    PROXY_HEADER_ROOM = 108  # bytes that proxy_format may write
    PROXY_HEADER_MAX = 2064  # bytes of a version 2 header, TLVs included; longer ones are refused

cdef struct proxy_header_t:  # IPv4 as ::ffff:a.b.c.d, ports in the host's order
    uint8_t version
    bint local  # it names no addresses: those of the connection itself hold
    uint8_t source[16]
    uint8_t destination[16]
    uint16_t source_port
    uint16_t destination_port

cdef ssize_t proxy_parse(const char *data, size_t size, proxy_header_t *header) noexcept nogil
cdef int proxy_begins(const char *data, size_t size) noexcept nogil
cdef size_t proxy_format(
    char *out, int version, const uint8_t *source, uint16_t source_port, const uint8_t *destination,
    uint16_t destination_port
) noexcept nogil
