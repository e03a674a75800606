// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// Finds the path of a request line. Who includes this has defined
//   LINE_OWNER        the structure that has what there is of the line: `length` and `line`
//   PATH_OWNER        the structure that gets the path: `path`
//   IS_NO_PATH(byte)  which bytes no path has, besides the blank

enum outcome { COMPLETE, PARTIAL, MALFORMED };

// A function that is not static is verified by itself, and not once more for each way that leads to it.
__attribute__((noinline)) int find_path(struct LINE_OWNER *owner, struct PATH_OWNER *found)
{
	__u32 at, i, length;

	if (!owner || !found)
		return MALFORMED;
	length = owner->length;
	for (at = 0; at < METHOD_BYTES; at++) {
		if (at >= length)
			return PARTIAL;
		if (owner->line[at] == ' ')
			break;
		if (owner->line[at] < 'A' || owner->line[at] > 'Z')
			return MALFORMED;
	}
	if (at == 0 || at == METHOD_BYTES)
		return MALFORMED;
	at++;
	__builtin_memset(found->path, 0, PATH_BYTES);
	for (i = 0; i < PATH_BYTES; i++) {
		__u32 next = (at + i) & (LINE_BYTES - 1);
		char byte;

		if (next >= length)
			return PARTIAL;
		byte = owner->line[next];
		if (i == 0 && byte != '/')
			return MALFORMED;
		if (byte == ' ' || byte == '?')
			return COMPLETE;
		if (IS_NO_PATH(byte))
			return MALFORMED;
		found->path[i] = byte;
	}
	// It is cut off here.
	return COMPLETE;
}
