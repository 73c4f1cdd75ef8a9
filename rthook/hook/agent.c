// SPDX-License-Identifier: Apache-2.0
#include "hook/agent.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "hook/ttrpc.h"

struct exchange {
	const struct deadline *deadline;
	struct text *reason;
	int fd;
};

static bool fail(struct exchange *exchange, const char *operation, int error)
{
	text_add(exchange->reason, operation);
	text_add(exchange->reason, ": ");
	if (error == ETIMEDOUT) {
		text_add(exchange->reason, "not within ");
		text_add_number(exchange->reason, exchange->deadline->ms);
		text_add(exchange->reason, " ms");
	} else {
		text_add_error(exchange->reason, error);
	}
	return false;
}

static bool wait_for(struct exchange *exchange, short events, const char *operation)
{
	int error = deadline_wait(exchange->deadline, exchange->fd, events);

	return error ? fail(exchange, operation, error) : true;
}

/*
 * A non-blocking connect fails at once while the listener's queue is full (unix_stream_connect), so the wait is the
 * kernel's own, which SO_SNDTIMEO bounds. 0, or an errno.
 */
static int connect_bounded(const struct exchange *exchange, const struct sockaddr_un *address)
{
	struct timeval left;

	do {
		if (!deadline_left_ns(exchange->deadline))
			return ETIMEDOUT;
		left = deadline_left_timeval(exchange->deadline);
		if (setsockopt(exchange->fd, SOL_SOCKET, SO_SNDTIMEO, &left, sizeof(left)))
			return errno;
		if (!connect(exchange->fd, (const struct sockaddr *)address, sizeof(*address)))
			return 0;
	} while (errno == EINTR); /* the hook was stopped and goes on: signal(7) */
	return errno == EAGAIN ? ETIMEDOUT : errno;
}

static bool open_socket(struct exchange *exchange, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int error;

	exchange->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (exchange->fd < 0)
		return fail(exchange, "socket", errno);
	/* The options' parser has checked the length. */
	memcpy(address.sun_path, path, strlen(path) + 1);
	error = connect_bounded(exchange, &address);
	return error ? fail(exchange, "connect", error) : true;
}

/* Drops what was sent from the front of two pieces. */
static void consume(struct iovec *pieces, size_t sent)
{
	size_t i, part;

	for (i = 0; i < 2; i++) {
		part = sent < pieces[i].iov_len ? sent : pieces[i].iov_len;
		pieces[i].iov_base = (char *)pieces[i].iov_base + part;
		pieces[i].iov_len -= part;
		sent -= part;
	}
}

static bool send_all(struct exchange *exchange, struct iovec *pieces)
{
	struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 2};
	ssize_t sent;

	while (pieces[0].iov_len || pieces[1].iov_len) {
		if (!wait_for(exchange, POLLOUT, "send"))
			return false;
		sent = sendmsg(exchange->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			return fail(exchange, "send", errno);
		if (sent > 0)
			consume(pieces, (size_t)sent);
	}
	return true;
}

static bool send_request(struct exchange *exchange, const struct agent_call *call)
{
	char bytes[TTRPC_HEADER + TTRPC_MAX_HEAD];
	struct text head = TEXT(bytes);
	struct ttrpc_call request = {
		.stage = call->stage,
		.runtime = call->runtime,
		.state_length = call->state_length,
		.timeout_ns = (uint64_t)deadline_left_ns(exchange->deadline),
	};
	struct iovec pieces[2];

	ttrpc_add_request_head(&head, &request);
	pieces[0] = (struct iovec){head.bytes, head.length};
	pieces[1] = (struct iovec){call->state, call->state_length};
	return send_all(exchange, pieces);
}

static bool receive_all(struct exchange *exchange, unsigned char *bytes, size_t length)
{
	ssize_t got;

	while (length) {
		if (!wait_for(exchange, POLLIN, "answer"))
			return false;
		got = recv(exchange->fd, bytes, length, MSG_DONTWAIT);
		if (!got) {
			text_add(exchange->reason, "answer: the agent hung up");
			return false;
		}
		if (got < 0 && errno != EAGAIN && errno != EINTR)
			return fail(exchange, "answer", errno);
		if (got > 0) {
			bytes += got;
			length -= (size_t)got;
		}
	}
	return true;
}

static bool fail_malformed(struct exchange *exchange, const char *fault)
{
	text_add(exchange->reason, "answer: ");
	text_add(exchange->reason, fault);
	return false;
}

/* As much of the agent's message as a line of a log has room for. */
#define MAX_MESSAGE 300

static bool judge(struct exchange *exchange, const struct ttrpc_status *status)
{
	if (!status->code)
		return true;
	text_add(exchange->reason, "refused: ");
	ttrpc_add_code(exchange->reason, status->code);
	text_add(exchange->reason, ": ");
	text_add_bytes(exchange->reason, status->message,
		       status->message_length < MAX_MESSAGE ? status->message_length : MAX_MESSAGE);
	return false;
}

/* Exactly one frame is read; whatever an agent sends behind it is nobody's. */
static bool receive_answer(struct exchange *exchange)
{
	static unsigned char answer[TTRPC_MAX_ANSWER];
	unsigned char header[TTRPC_HEADER];
	struct ttrpc_status status;
	const char *fault;
	size_t length;

	if (!receive_all(exchange, header, sizeof(header)))
		return false;
	fault = ttrpc_parse_header(header, &length);
	if (fault)
		return fail_malformed(exchange, fault);
	if (!receive_all(exchange, answer, length))
		return false;
	fault = ttrpc_parse_response(answer, length, &status);
	return fault ? fail_malformed(exchange, fault) : judge(exchange, &status);
}

bool agent_call(const struct agent_call *call, const struct deadline *deadline, struct text *reason)
{
	struct exchange exchange = {.deadline = deadline, .reason = reason, .fd = -1};
	bool done;

	text_add(reason, "agent ");
	text_add(reason, call->socket);
	text_add(reason, ": ");
	done = open_socket(&exchange, call->socket) && send_request(&exchange, call) && receive_answer(&exchange);
	if (exchange.fd >= 0)
		close(exchange.fd);
	return done;
}
