//! System calls, one family per file; the only place with `unsafe`.
