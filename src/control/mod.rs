//! The API socket.
