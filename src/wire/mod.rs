//! Bytes and their meaning: stateless formats, addresses and checksums.
