"""The PROXY protocol, versions 1 and 2: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt

Whoever speaks it is untrusted: every length is checked before it is used, and the first wrong byte ends it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memchr, memcmp, memcpy, memset
from libc.stdlib cimport free, malloc

from meshlb cimport _linux as sys

cdef enum:
    V1_LONGEST = 107  # the CRLF included
    V2_START = 16

cdef const char *V1_SIGNATURE = b"PROXY "
cdef const char *V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


cdef bint _starts(const char *data, size_t size, const char *signature, size_t length) noexcept nogil:
    """Whether the bytes so far are those of the signature."""
    return memcmp(data, signature, size if size < length else length) == 0


cdef int proxy_begins(const char *data, size_t size) noexcept nogil:
    """1: begins as a header does; 0: may become one; -1: does not."""
    if _starts(data, size, V1_SIGNATURE, 6):
        return size >= 6
    if _starts(data, size, V2_SIGNATURE, 12):
        return size >= 12
    return -1


cdef ssize_t proxy_parse(const char *data, size_t size, proxy_header_t *header) noexcept nogil:
    """The header's length; 0 when more is needed; -1 when it is malformed."""
    memset(header, 0, sizeof(proxy_header_t))
    if size == 0:
        return 0
    if _starts(data, size, V1_SIGNATURE, 6):
        return _parse_v1(data, size, header)
    if _starts(data, size, V2_SIGNATURE, 12):
        return _parse_v2(<const uint8_t *>data, size, header)
    return -1


# -- Version 1: one line of text

cdef ssize_t _parse_v1(const char *data, size_t size, proxy_header_t *header) noexcept nogil:
    cdef size_t look = size if size < V1_LONGEST else V1_LONGEST
    cdef const char *end = <const char *>memchr(data, 13, look)
    cdef size_t length
    if end == NULL:
        return -1 if size >= V1_LONGEST or not _v1_text(data, size) else 0
    length = end - data
    if not _v1_text(data, length):
        return -1
    if length + 1 == size:
        return 0 if length + 2 <= V1_LONGEST else -1
    if length + 2 > V1_LONGEST or end[1] != 10:
        return -1
    header.version = 1
    return length + 2 if _v1_fields(data + 6, length - 6, header) else -1


cdef bint _v1_text(const char *data, size_t size) noexcept nogil:
    """Whether it is printable ASCII, and names a protocol that there is."""
    cdef size_t i
    for i in range(size):
        if not 32 <= data[i] < 127:
            return False
    if size <= 6:
        return True
    data, size = data + 6, size - 6
    return _starts(data, size, b"TCP4 ", 5) or _starts(data, size, b"TCP6 ", 5) or _starts(data, size, b"UNKNOWN", 7)


cdef bint _v1_fields(const char *data, size_t size, proxy_header_t *header) noexcept nogil:
    """`TCP4 source destination sport dport`, or UNKNOWN and anything."""
    cdef const char *at = data + 5
    cdef const char *end = data + size
    cdef int family
    if size >= 7 and memcmp(data, b"UNKNOWN", 7) == 0:
        header.local = True
        return size == 7 or data[7] == 32
    if size < 5 or data[4] != 32:
        return False
    family = sys.AF_INET if data[3] == 52 else sys.AF_INET6
    at = _v1_address(at, end, family, header.source)
    if at != NULL:
        at = _v1_address(at, end, family, header.destination)
    if at != NULL:
        at = _v1_port(at, end, 32, &header.source_port)
    return at != NULL and _v1_port(at, end, 0, &header.destination_port) != NULL


cdef const char *_v1_address(const char *at, const char *end, int family, uint8_t *out) noexcept nogil:
    """Where the next field begins; NULL when this is no address of the family."""
    cdef char text[40]
    cdef size_t size = 0
    while at + size < end and at[size] != 32 and size < sizeof(text) - 1:
        text[size] = at[size]
        size += 1
    if at + size == end or at[size] != 32:
        return NULL
    text[size] = 0
    if family == sys.AF_INET:
        memset(out, 0, 10)
        out[10] = out[11] = 0xff
        out += 12
    return at + size + 1 if sys.inet_pton(family, text, out) == 1 else NULL


cdef const char *_v1_port(const char *at, const char *end, char stop, uint16_t *out) noexcept nogil:
    """A number without leading zeros, followed by `stop`, or by the end where that is 0."""
    cdef uint32_t number = 0
    cdef int digits = 0
    while at < end and 48 <= at[0] <= 57 and digits < 5:
        if digits == 1 and number == 0:
            return NULL
        number = number * 10 + <uint32_t>(at[0] - 48)
        digits += 1
        at += 1
    if digits == 0 or number > 65535:
        return NULL
    out[0] = <uint16_t>number
    if stop == 0:
        return at if at == end else NULL
    return at + 1 if at < end and at[0] == stop else NULL


# -- Version 2: binary

cdef ssize_t _parse_v2(const uint8_t *data, size_t size, proxy_header_t *header) noexcept nogil:
    cdef size_t length
    if size > 12 and (data[12] >> 4 != 2 or data[12] & 15 > 1):
        return -1
    if size > 13 and (data[13] >> 4 > 3 or data[13] & 15 > 2):
        return -1
    if size < V2_START:
        return 0
    length = <size_t>data[14] << 8 | data[15]
    if V2_START + length > PROXY_HEADER_MAX or not _v2_room(data[13], length):
        return -1
    if size < V2_START + length:
        return 0
    header.version = 2
    header.local = data[12] & 15 == 0 or not _v2_addresses(data[13], data + V2_START, header)
    return V2_START + length if _v2_extras(data, length) else -1


cdef size_t _v2_size(uint8_t kind) noexcept nogil:
    """Bytes of the addresses of a family."""
    if kind >> 4 == 1:
        return 12
    if kind >> 4 == 2:
        return 36
    return 216 if kind >> 4 == 3 else 0


cdef bint _v2_room(uint8_t kind, size_t length) noexcept nogil:
    return length >= _v2_size(kind)


cdef bint _v2_addresses(uint8_t kind, const uint8_t *data, proxy_header_t *header) noexcept nogil:
    """False when it names none that a TCP or UDP connection can have."""
    if kind & 15 == 0:
        return False
    if kind >> 4 == 1:
        header.source[10] = header.source[11] = header.destination[10] = header.destination[11] = 0xff
        memcpy(header.source + 12, data, 4)
        memcpy(header.destination + 12, data + 4, 4)
        data += 8
    elif kind >> 4 == 2:
        memcpy(header.source, data, 16)
        memcpy(header.destination, data + 16, 16)
        data += 32
    else:
        return False
    header.source_port = <uint16_t>(data[0] << 8 | data[1])
    header.destination_port = <uint16_t>(data[2] << 8 | data[3])
    return True


cdef bint _v2_extras(const uint8_t *data, size_t length) noexcept nogil:
    """Whether the TLVs fill what is left exactly. What a family without addresses carries is opaque."""
    cdef size_t at = _v2_size(data[13])
    cdef size_t size
    if at == 0 or data[12] & 15 == 0:
        return True
    data += V2_START
    while at < length:
        if length - at < 3:
            return False
        size = 3 + (<size_t>data[at + 1] << 8 | data[at + 2])
        if size > length - at:
            return False
        at += size
    return True


# -- Writing

cdef bint _is_v4(const uint8_t *address) noexcept nogil:
    return memcmp(address, b"\0\0\0\0\0\0\0\0\0\0\xff\xff", 12) == 0


cdef size_t proxy_format(
    char *out, int version, const uint8_t *source, uint16_t source_port, const uint8_t *destination,
    uint16_t destination_port
) noexcept nogil:
    """Writes a header and returns its length."""
    cdef bint v4 = _is_v4(source) and _is_v4(destination)
    if version == 1:
        return _format_v1(out, v4, source, source_port, destination, destination_port)
    memcpy(out, V2_SIGNATURE, 12)
    out[12], out[13], out[14], out[15] = 0x21, 0x11 if v4 else 0x21, 0, 12 if v4 else 36
    out += V2_START
    memcpy(out, source + 12 if v4 else source, 4 if v4 else 16)
    out += 4 if v4 else 16
    memcpy(out, destination + 12 if v4 else destination, 4 if v4 else 16)
    out += 4 if v4 else 16
    out[0], out[1] = <char>(source_port >> 8), <char>(source_port & 255)
    out[2], out[3] = <char>(destination_port >> 8), <char>(destination_port & 255)
    return V2_START + 12 if v4 else V2_START + 36


cdef size_t _format_v1(
    char *out, bint v4, const uint8_t *source, uint16_t source_port, const uint8_t *destination,
    uint16_t destination_port
) noexcept nogil:
    cdef char of_source[46]
    cdef char of_destination[46]
    cdef int family = sys.AF_INET if v4 else sys.AF_INET6
    sys.inet_ntop(family, source + 12 if v4 else source, of_source, sizeof(of_source))
    sys.inet_ntop(family, destination + 12 if v4 else destination, of_destination, sizeof(of_destination))
    return sys.snprintf(
        out, PROXY_HEADER_ROOM, b"PROXY TCP%d %s %s %u %u\r\n", <int>(4 if v4 else 6), of_source, of_destination,
        <unsigned int>source_port, <unsigned int>destination_port
    )


# -- What Python may ask

def parse(bytes data):
    cdef proxy_header_t header
    cdef ssize_t used
    cdef size_t size = len(data)
    # Exactly as large as what was read, so that a sanitizer sees a look beyond it.
    cdef char *copy = <char *>malloc(size if size else 1)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, <const char *>data, size)
    used = proxy_parse(copy, size, &header)
    free(copy)
    if used < 0:
        raise ValueError("not a PROXY header")
    if used == 0:
        return None
    if header.local:
        return used, None, 0, None, 0
    return used, header.source[:16], header.source_port, header.destination[:16], header.destination_port


def begins(bytes data):
    return proxy_begins(data, len(data))


def format_header(int version, bytes source, int source_port, bytes destination, int destination_port):
    cdef char out[PROXY_HEADER_ROOM]
    cdef size_t size
    if len(source) != 16 or len(destination) != 16:
        raise ValueError("an address has 16 bytes here")
    size = proxy_format(out, version, source, <uint16_t>source_port, destination, <uint16_t>destination_port)
    return out[:size]
