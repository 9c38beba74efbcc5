//! What of the sockets API rustix has not: options by number, and messages with control data of any kind.
//!
//! The control data itself is written and read in safe code ([`crate::io::sockets`]): it is bytes, as the kernel has
//! them (`struct cmsghdr` of its UAPI: length, level and type, native order).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::ioctl::{self, Opcode};

/// Sets an option of the type `int`.
pub fn set_option(fd: impl AsFd, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    set_option_bytes(fd, level, name, &value.to_ne_bytes())
}

/// Sets an option whose value is these bytes.
pub fn set_option_bytes(fd: impl AsFd, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    let len = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the kernel reads `len` bytes at the pointer, which are `value`'s, and keeps none of them.
    let done = unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

/// `SIOCATMARK` of Linux's `asm-generic/sockios.h`; not in libc.
const SIOCATMARK: Opcode = 0x8905;

/// Is the next byte of a TCP socket that keeps urgent data in line (SO_OOBINLINE) the urgent one?
pub fn at_mark(fd: impl AsFd) -> Result<bool, Errno> {
    // SAFETY: the kernel writes an `int` for this number (`tcp_ioctl`).
    let call = unsafe { ioctl::Getter::<SIOCATMARK, i32>::new() };
    // SAFETY: it does nothing but answer, for whatever kind of descriptor.
    Ok(unsafe { ioctl::ioctl(fd, call) }? != 0)
}

/// Sends one message to the socket address `to` (bytes of a `struct sockaddr_in` or `sockaddr_in6`) with control data,
/// never waiting and never raising SIGPIPE. `control` is whole cmsgs, 8-byte aligned in length.
pub fn send_message(fd: impl AsFd, to: &[u8], payload: &[u8], control: &[u8]) -> Result<usize, Errno> {
    let mut piece = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    let mut header = blank();
    header.msg_name = to.as_ptr().cast_mut().cast();
    header.msg_namelen = to.len() as libc::socklen_t; // 28 at most
    header.msg_iov = &mut piece;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len() as _; // some hundred at most
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer in `header` is to a slice that lives through the call, with its length; sendmsg only reads.
    let sent = unsafe { libc::sendmsg(fd.as_fd().as_raw_fd(), &header, flags) };
    usize::try_from(sent).map_err(|_| last_error())
}

/// What one recvmsg brought, by length in the caller's buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub len: usize,
    pub name_len: usize,
    pub control_len: usize,
    /// MSG_TRUNC, MSG_CTRUNC, MSG_ERRQUEUE.
    pub flags: i32,
}

/// Receives one message, or with `errors` one entry of the error queue, without waiting.
pub fn receive_message(
    fd: impl AsFd,
    name: &mut [u8],
    payload: &mut [u8],
    control: &mut [u8],
    errors: bool,
) -> Result<Message, Errno> {
    let mut piece = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    let mut header = blank();
    header.msg_name = name.as_mut_ptr().cast();
    header.msg_namelen = name.len() as libc::socklen_t; // 28 at most
    header.msg_iov = &mut piece;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len() as _; // some hundred at most
    let flags = libc::MSG_DONTWAIT | if errors { libc::MSG_ERRQUEUE } else { 0 };
    // SAFETY: every pointer in `header` is to a mutable slice that lives through the call and is borrowed by nobody else,
    // with its length. No descriptor can come: these are IP sockets.
    let received = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &mut header, flags) };
    let len = usize::try_from(received).map_err(|_| last_error())?;
    Ok(Message {
        len,
        name_len: (header.msg_namelen as usize).min(name.len()),
        control_len: control.len().min(header.msg_controllen as _),
        flags: header.msg_flags,
    })
}

fn blank() -> libc::msghdr {
    // SAFETY: `struct msghdr` is pointers and integers: all zero is a value of it.
    unsafe { std::mem::zeroed() }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
