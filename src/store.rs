//! Sessions in Redis: the link, the keys, the envelope and the scripts.
