// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Which request a thread of Odoo serves: of interest to the session directory, or of a browser tab that nobody looks at.
//
// The program runs when a thread has received bytes from a TCP connection. On Odoo's HTTP ports it reads the path of the
// request line from the thread's own buffer, finds the rule that it matches, and leaves the class of the request in an
// array under the thread's id. It copies the first bytes of a request, at most 128, and wipes them before it ends. Only a
// line of which the path goes on is kept, until the rest of it has arrived.
//
// The structures of the kernel are declared with the members that are used. Where these are is found out at load time
// (CO-RE), so no header of a kernel is needed.

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include <bpf/bpf_core_read.h>
#include "request_line.h"

// Programs that read kernel structures must be under the GPL, too.
char LICENSE[] SEC("license") = "Dual MIT/GPL";

#define KERNEL __attribute__((preserve_access_index))

struct sock_common {
	__u16 skc_num;
} KERNEL;

struct sock {
	struct sock_common __sk_common;
} KERNEL;

struct tcp_sock {
	__u32 write_seq;
	__u32 copied_seq;
	__u32 rcv_nxt;
	__u64 bytes_received;
} KERNEL;

struct task_struct;

#define TCP_ESTABLISHED 1 // include/net/tcp_states.h

// Numbers of system calls, and where the saved registers have the number and the second argument.
#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long si;
	unsigned long orig_ax;
} KERNEL;
#define CALL(regs) ((regs)->orig_ax)
#define SECOND_ARGUMENT(regs) ((regs)->si)
enum { CALL_READ = 0, CALL_READV = 19, CALL_RECVFROM = 45, CALL_RECVMSG = 47 };
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	unsigned long regs[31];
	int syscallno;
} KERNEL;
#define CALL(regs) ((unsigned long)(regs)->syscallno)
#define SECOND_ARGUMENT(regs) ((regs)->regs[1])
enum { CALL_READ = 63, CALL_READV = 65, CALL_RECVFROM = 207, CALL_RECVMSG = 212 };
#else
#error "no such architecture"
#endif

// What is in the array for each thread; src/request/word.rs reads it.
#define SLOTS 65536
#define TID_SHIFT 42
#define CLASS_SHIFT 34
#define TICKS_MASK ((1ULL << CLASS_SHIFT) - 1)
#define NS_PER_TICK 10000000

enum class {
	UNKNOWN = 0,
	ACTIVE = 1,
	// As a mark: until it is too old.
	PASSIVE = 2,
	// As a rule: the request becomes a websocket. As a mark: until another one takes its place.
	HELD = 3,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} marks SEC(".maps");

// One bit a port.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536 / 64);
	__type(key, __u32);
	__type(value, __u64);
} ports SEC(".maps");

struct rule {
	__u32 prefix_bits;
	// Behind the path come zeros. So a rule that ends in a zero matches one path, and another one what begins like it.
	char path[PATH_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct rule);
	__type(value, __u32);
} rules SEC(".maps");

// The bytes of a request line are collected until it is known.
enum state { LINE = 0, REST = 1 };

struct connection {
	// How much was received when this was last looked at; of the older hook.
	__u64 received_bytes;
	// The number of the next byte to be sent. If it has changed, something was sent.
	__u32 write_seq;
	// Who received the request line.
	__u32 tid;
	__u32 length;
	__u8 state;
	__u8 class;
	// Nothing but a line of which the path goes on. Room behind the bytes: the verifier adds the largest offset and the
	// largest length. Aligned, so that it is wiped by few instructions.
	char line[2 * LINE_BYTES] __attribute__((aligned(8)));
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct connection);
} connections SEC(".maps");

// Only one program uses it at a time on a CPU, and leaves no path in it.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rule);
} sought SEC(".maps");

// Set before the program is loaded. The PID namespace in which threads are numbered, unless it is the first one.
const volatile __u64 pid_namespace_device = 0;
const volatile __u64 pid_namespace_inode = 0;
// Whether `sent` runs, which ends what is said of a request.
const volatile __u64 sees_sending = 0;

static __always_inline __u32 own_tid(void)
{
	struct bpf_pidns_info own = {};

	if (!pid_namespace_inode)
		return (__u32)bpf_get_current_pid_tgid();
	if (bpf_get_ns_current_pid_tgid(pid_namespace_device, pid_namespace_inode, &own, sizeof(own)))
		return 0;
	return own.pid;
}

static __always_inline void mark(__u32 tid, __u64 class)
{
	__u32 slot = tid & (SLOTS - 1);
	__u64 *word = bpf_map_lookup_elem(&marks, &slot);

	// Where another thread's word is, nothing is known of this one already.
	if (!word || (class == UNKNOWN && *word >> TID_SHIFT != tid))
		return;
	*(volatile __u64 *)word = (__u64)tid << TID_SHIFT | class << CLASS_SHIFT |
				  (bpf_ktime_get_boot_ns() / NS_PER_TICK & TICKS_MASK);
}

static __always_inline int is_odoo(struct sock *sk)
{
	__u16 port = sk->__sk_common.skc_num;
	__u32 at = port >> 6;
	__u64 *bits = bpf_map_lookup_elem(&ports, &at);

	return bits && (*bits >> (port & 63) & 1);
}

// Where the bytes of the call that this thread makes go to, and how many there may be.
static __always_inline const void *own_buffer(__u64 *room)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct {
		const void *base;
		__u64 length;
	} first = {};
	unsigned long buffer = SECOND_ARGUMENT(regs);
	const void *vector;

	*room = LINE_BYTES;
	switch (CALL(regs)) {
	case CALL_READ:
	case CALL_RECVFROM:
		return (const void *)buffer;
	case CALL_RECVMSG:
		// The member `msg_iov` of a `struct msghdr`, of 64 bits.
		if (bpf_probe_read_user(&vector, sizeof(vector), (const void *)(buffer + 16)))
			return NULL;
		break;
	case CALL_READV:
		vector = (const void *)buffer;
		break;
	default:
		return NULL;
	}
	if (bpf_probe_read_user(&first, sizeof(first), vector))
		return NULL;
	*room = first.length;
	return first.base;
}

// What is beyond PATH_BYTES decides nothing: no rule is so long.
#define LINE_OWNER connection
#define PATH_OWNER rule
#define IS_NO_PATH(byte) ((byte) >= 0 && (byte) < ' ')
#include "find_path.h"

static __always_inline __u32 class_of(struct rule *found)
{
	__u32 *class;

	found->prefix_bits = 8 * PATH_BYTES;
	class = bpf_map_lookup_elem(&rules, found);
	return class ? *class : ACTIVE;
}

// Wipes what was copied of a request.
static __always_inline void forget(struct connection *connection, struct rule *found)
{
	connection->length = 0;
	__builtin_memset(connection->line, 0, sizeof(connection->line));
	__builtin_memset(found->path, 0, PATH_BYTES);
}

// `count` bytes more were received. `is_whole`: a line that goes on in the next bytes can be put together.
static __always_inline void received_more(struct connection *connection, struct tcp_sock *tcp, __u32 tid,
					  __u64 count, int is_whole)
{
	__u32 sent = tcp->write_seq - connection->write_seq, zero = 0, length;
	struct rule *found = bpf_map_lookup_elem(&sought, &zero);
	const void *buffer;
	__u64 room;

	if (!found)
		return;
	connection->write_seq = tcp->write_seq;
	// After so few bytes the body may follow, or a request.
	if ((sent == CONTINUE_BYTES || sent == 2 * CONTINUE_BYTES) && connection->class != HELD)
		goto unknown;
	if (sent) {
		connection->state = LINE;
		// A line that was answered before all of it was there.
		if (connection->length)
			forget(connection, found);
	}
	if (connection->state == REST) {
		if (connection->tid != tid)
			mark(tid, UNKNOWN);
		return;
	}
	length = connection->length & (LINE_BYTES - 1);
	buffer = own_buffer(&room);
	if (count > LINE_BYTES)
		count = LINE_BYTES;
	// More would be in another buffer.
	if (count > room) {
		count = room;
		is_whole = 0;
	}
	// clang knows the largest count by now, and would leave out the comparison that the verifier wants to see.
	barrier_var(count);
	if (!buffer || count == 0 || count > LINE_BYTES ||
	    bpf_probe_read_user(&connection->line[length], count, buffer))
		goto unknown;
	// What follows may be a frame of a websocket. These do not begin with a letter: its bits are reserved.
	if (connection->class == HELD && length == 0 &&
	    (connection->line[0] < 'A' || connection->line[0] > 'Z')) {
		forget(connection, found);
		connection->state = REST;
		if (connection->tid != tid)
			mark(tid, UNKNOWN);
		return;
	}
	connection->length = length + count;
	switch (find_path(connection, found)) {
	case COMPLETE:
		connection->state = REST;
		connection->tid = tid;
		connection->class = class_of(found);
		forget(connection, found);
		mark(tid, connection->class == PASSIVE && sees_sending ? HELD : connection->class);
		return;
	case PARTIAL:
		if (!is_whole)
			goto unknown;
		// Until all of it is there.
		__builtin_memset(found->path, 0, PATH_BYTES);
		mark(tid, UNKNOWN);
		return;
	case MALFORMED:
		break;
	}
unknown:
	forget(connection, found);
	connection->state = REST;
	connection->class = UNKNOWN;
	connection->tid = tid;
	mark(tid, UNKNOWN);
}

// A receiving call has ended. Since Linux 6.3.
SEC("tp_btf/sock_recv_length")
int BPF_PROG(received, struct sock *sk, int count)
{
	struct connection *connection;
	struct tcp_sock *tcp;
	__u32 tid;

	if (count <= 0 || !is_odoo(sk))
		return 0;
	tid = own_tid();
	if (!tid)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	connection = tcp ? bpf_sk_storage_get(&connections, sk, NULL, 0) : NULL;
	if (tcp && !connection) {
		__u64 all = tcp->bytes_received - (tcp->rcv_nxt - tcp->copied_seq);

		connection = bpf_sk_storage_get(&connections, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (connection) {
			connection->write_seq = tcp->write_seq;
			// A connection that is older than this program may be in the middle of a body.
			if (all != count)
				connection->state = REST;
		}
	}
	if (connection)
		received_more(connection, tcp, tid, count, 1);
	else
		mark(tid, UNKNOWN);
	return 0;
}

// A sending call has ended: a thread that has answered goes on to another request. Since Linux 6.3.
SEC("tp_btf/sock_send_length")
int BPF_PROG(sent, struct sock *sk, int count)
{
	struct connection *connection;
	__u32 tid;

	if (count <= 0 || !is_odoo(sk))
		return 0;
	connection = bpf_sk_storage_get(&connections, sk, NULL, 0);
	tid = own_tid();
	if (!tid || (connection && connection->class == HELD))
		return 0;
	mark(tid, UNKNOWN);
	return 0;
}

// Bytes of a segment were copied to the receiver. Since Linux 4.16; used where `received` cannot be.
SEC("tp_btf/tcp_rcv_space_adjust")
int BPF_PROG(copied, struct sock *sk)
{
	struct connection *connection;
	struct tcp_sock *tcp;
	__u64 all, count;
	__u32 tid;

	if (!is_odoo(sk))
		return 0;
	tid = own_tid();
	if (!tid)
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	connection = tcp ? bpf_sk_storage_get(&connections, sk, NULL, 0) : NULL;
	if (tcp && !connection) {
		connection = bpf_sk_storage_get(&connections, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
		if (connection) {
			connection->write_seq = tcp->write_seq;
			// It is older than `connected`, and may be in the middle of a body.
			connection->state = REST;
		}
	}
	if (!tcp || !connection) {
		mark(tid, UNKNOWN);
		return 0;
	}
	all = tcp->bytes_received - (tcp->rcv_nxt - tcp->copied_seq);
	count = all - connection->received_bytes;
	connection->received_bytes = all;
	// Nothing was received if it was only looked at (MSG_PEEK).
	if (count)
		received_more(connection, tcp, tid, count, 0);
	return 0;
}

// A connection begins: only of those is it known to `copied` where the first request is.
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(connected, struct sock *sk, int from, int to)
{
	struct connection *connection;
	struct tcp_sock *tcp;

	if (to != TCP_ESTABLISHED || !is_odoo(sk))
		return 0;
	tcp = bpf_skc_to_tcp_sock(sk);
	connection = tcp ? bpf_sk_storage_get(&connections, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE) : NULL;
	if (connection)
		connection->write_seq = tcp->write_seq;
	return 0;
}
