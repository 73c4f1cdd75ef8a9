/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The readers of all argument types but load_info: that one's structure is not on every kernel, and has a header of its
 * own (lib/load_info.h). Each is `long pg_read_<type>(struct pg_string *out, __u64 address, ...)`; what all of them
 * promise is in lib/buffers.h.
 */
#ifndef PG_LIB_TYPES_H
#define PG_LIB_TYPES_H

#include "lib/bpf_objects.h"
#include "lib/buffers.h"
#include "lib/cred.h"
#include "lib/module.h"
#include "lib/net.h"
#include "lib/net_match.h"
#include "lib/path.h"
#include "lib/perf_event.h"
#include "lib/sockaddr.h"

#endif
