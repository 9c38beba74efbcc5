//! What travels: bytes, the offsets found once at the door, and the offloads that ride along.
