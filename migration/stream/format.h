/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The migration stream: numbers on the wire. All integers are big-endian; `pstr` is one length byte
 * and that many bytes. This is QEMU's format, file version 3, in the dialect of 7.2, which 7.2
 * to 10.x read.
 *
 *   source                                              destination
 *   QEVM 3 | CONFIGURATION | OPEN_RETURN_PATH, PING 1 ->
 *                             PING FERRY_PING_MAGIC ->  <- PONG 1, FERRY_HELLO, PONG
 * FERRY_PING_MAGIC FERRY_FEATURES  ->      (a QEMU only echoes the PING, and Ferry adds nothing)
 *   FERRY_CHECK ...                                 ->  compares with what it is
 *                                                   <-  FERRY_CHECK ... (what stands in the way)
 *   ram START | ram PART ... (guest runs)           ->
 *   --- guest stops ---
 *   ram END | FERRY_ADDRESSES                       ->
 *   device FULL ... | EOF | VMDESC                  ->  reads and checks all, devices last
 *                                                   <-  FERRY_READY
 *   FERRY_GO (commit point)                         ->  runs the guest
 *                                                   <-  SHUT 0
 *
 * A connection that only checks has no CONFIGURATION and ends after the answer to its FERRY_CHECK.
 *
 * Version rule: what only Ferry knows is used only between a HELLO and the end of the same
 * connection; a bit of FERRY_FEATURE_* that one side does not know is ignored by it and therefore
 * not in the intersection that FERRY_FEATURES names.
 */
#ifndef MIGRATION_STREAM_FORMAT_H
#define MIGRATION_STREAM_FORMAT_H

#define STREAM_MAGIC   0x5145564du /* "QEVM" */
#define STREAM_VERSION 3

enum stream_record {
    STREAM_EOF = 0x00,
    STREAM_SECTION_START =
        0x01, /* be32 id, pstr idstr, be32 instance, be32 version, payload, footer */
    STREAM_SECTION_PART = 0x02, /* be32 id, payload, footer */
    STREAM_SECTION_END = 0x03,
    STREAM_SECTION_FULL = 0x04,
    STREAM_SUBSECTION = 0x05,    /* inside a payload: pstr name, be32 version, fields */
    STREAM_VMDESCRIPTION = 0x06, /* be32 length, JSON */
    STREAM_CONFIGURATION = 0x07, /* be32 length, machine name, subsections */
    STREAM_COMMAND = 0x08,       /* be16 command, be16 length, payload */
    STREAM_FOOTER = 0x7e,        /* be32 id */
};

enum stream_command {
    STREAM_CMD_OPEN_RETURN_PATH = 1,
    STREAM_CMD_PING = 2, /* be32 */
    STREAM_CMD_POSTCOPY_ADVISE = 3,
    STREAM_CMD_POSTCOPY_LISTEN = 4,
    STREAM_CMD_POSTCOPY_RUN = 5,
    STREAM_CMD_POSTCOPY_RAM_DISCARD = 6,
    STREAM_CMD_PACKAGED = 7,
    STREAM_CMD_ENABLE_COLO = 8,
    STREAM_CMD_POSTCOPY_RESUME = 9,
    STREAM_CMD_RECV_BITMAP = 10,
    STREAM_CMD_SWITCHOVER_START = 11,    /* QEMU 10.0 */
    STREAM_CMD_FERRY_FEATURES = 0x4652,  /* be64 features in use */
    STREAM_CMD_FERRY_GO = 0x4653,        /* be64 ns since the guest's clocks stopped */
    STREAM_CMD_FERRY_BYE = 0x4655,       /* empty, behind the EOF of a post-copy */
    STREAM_CMD_FERRY_ADDRESSES = 0x4656, /* of the guest's networks: migration/announce-wire.c */
    STREAM_CMD_FERRY_CHECK = 0x4654, /* u8 1 in the last chunk, else 0; chunk of a MigrationSide */
};

/* Return path: be16 type, be16 length, payload. */
enum return_message {
    RETURN_SHUT = 1, /* be32 0: the guest runs here; else: failed */
    RETURN_PONG = 2, /* be32 */
    RETURN_REQ_PAGES_ID = 3,
    RETURN_REQ_PAGES = 4,
    RETURN_RECV_BITMAP = 5,
    RETURN_RESUME_ACK = 6,
    RETURN_SWITCHOVER_ACK = 7,
    RETURN_FERRY_HELLO = 0x4652, /* be32 version, be64 features, pstr program version */
    RETURN_FERRY_READY = 0x4653, /* empty: everything is loaded and checked */
    RETURN_FERRY_ERROR = 0x4654, /* UTF-8 sentence: why the destination gave up; SHUT 1 follows */
    RETURN_FERRY_CHECK =
        0x4655, /* u8 1 in the last chunk, else 0; chunk of a MigrationCheckAnswer */
    RETURN_FERRY_RUNS = 0x4656, /* be64 ns from GO until the guest ran; SHUT 0 follows */
};

/* Post-copy, as a QEMU numbers them: before the package, in it before RUN, behind it. */
#define STREAM_PING_START          1u
#define STREAM_PING_BEFORE_PACKAGE 2u
#define STREAM_PING_LOADED         3u
#define STREAM_PING_AFTER_PACKAGE  4u
#define PACKAGE_MAX_LENGTH         (UINT32_C(16) << 20)
#define RETURN_RESUME_OK           1u
#define RETURN_BITMAP_END          UINT64_C(0x0123456789abcdef)
/* At the end of each round, rising: the answer says that the destination has read it all. */
#define STREAM_PING_ROUND 0x10000u
#define FERRY_PING_MAGIC  0x46525259u /* "FRRY" */
#define FERRY_VERSION_1   1u

/* All memory that no record names is zero on the destination: never-touched pages need no record.
 */
#define FERRY_FEATURE_ZEROED 0x1u
/* The destination says READY and waits for GO. */
#define FERRY_FEATURE_COMMIT 0x2u
/* The destination says whether a guest can come, before anything of it is sent (FERRY_CHECK). */
#define FERRY_FEATURE_CHECK 0x4u
/* With COMMIT: the destination says how long it took from GO until the guest ran. */
#define FERRY_FEATURE_RUNS 0x8u
/* At the end of a post-copy the source says that it has heard SHUT 0 (FERRY_BYE): without that the
 * destination lets itself be found once more. */
#define FERRY_FEATURE_BYE 0x10u
/* The source says which IP addresses the guest has, as part of its state (FERRY_ADDRESSES). */
#define FERRY_FEATURE_ADDRESSES 0x20u
#define FERRY_FEATURES_ALL                                                                         \
    (FERRY_FEATURE_ZEROED | FERRY_FEATURE_COMMIT | FERRY_FEATURE_CHECK | FERRY_FEATURE_RUNS |      \
     FERRY_FEATURE_BYE | FERRY_FEATURE_ADDRESSES)

/* RAM records: be64 (offset | flags). */
#define RAM_VERSION       4
#define RAM_FLAG_ZERO     0x002u
#define RAM_FLAG_MEM_SIZE 0x004u
#define RAM_FLAG_PAGE     0x008u
#define RAM_FLAG_EOS      0x010u
#define RAM_FLAG_CONTINUE 0x020u
#define RAM_FLAG_XBZRLE   0x040u
#define RAM_FLAG_HOOK     0x080u
#define RAM_FLAG_COMPRESS 0x100u
#define RAM_FLAG_MULTIFD  0x200u

/* Longest return-path payload that we take, and longest vmdescription. */
#define RETURN_MAX_PAYLOAD 1024
#define VMDESC_MAX_LENGTH  (UINT32_C(16) << 20)

#endif
