// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// What is read of a request of HTTP.

#define METHOD_BYTES 8
#define PATH_BYTES 96
// More than a method, a space and a path need.
#define LINE_BYTES 128
// "HTTP/1.1 100 Continue\r\n\r\n": the body follows, and no request. Werkzeug's server with HTTP/1.1 says it twice.
#define CONTINUE_BYTES 25
