//! Messages with file descriptors over Unix sockets (SCM_RIGHTS, unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// The most file descriptors in one message that we send or take.
pub const MAX_FDS: usize = 8;

const CONTROL_LEN: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// Two connected sockets that keep message boundaries (SOCK_SEQPACKET), blocking.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends `bytes` and copies of `fds` with them; returns how many bytes went, on a stream socket perhaps not all (the
/// descriptors go with the first). `bytes` must not be empty: an empty message carries nothing.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if bytes.is_empty() || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match rustix::net::sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// What one `recvmsg` brought.
#[derive(Debug)]
pub struct Received {
    /// Bytes at the start of the caller's buffer; 0: the other end is closed.
    pub len: usize,
    /// Close-on-exec, in the order in which they were sent.
    pub fds: Vec<OwnedFd>,
}

/// Receives one message (or, on a stream socket, what is there). A message or a set of descriptors that does not fit is
/// an error, and what came of it is closed; EMFILE: it is this process that may not have so many.
pub fn recv(socket: impl AsFd, buf: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); CONTROL_LEN];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(buf)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            done => break done?,
        }
    };
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    // The kernel says the same of a buffer too small and of a process that has no number free.
    if message.flags.contains(ReturnFlags::CTRUNC) && fds.len() < MAX_FDS {
        return Err(rustix::io::Errno::MFILE.into());
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Received { len: message.bytes, fds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn several_descriptors_arrive_in_order_and_close_on_exec() {
        let (a, b) = pair().expect("a socket pair");
        let pipes: Vec<_> = (0..3).map(|_| rustix::pipe::pipe().expect("a pipe")).collect();
        let ends: Vec<_> = pipes.iter().map(|(_, write)| write.as_fd()).collect();
        assert_eq!(send(&a, b"three", &ends).expect("sent"), 5);
        let mut buf = [0; 16];
        let got = recv(&b, &mut buf).expect("received");
        assert_eq!((&buf[..got.len], got.fds.len()), (&b"three"[..], 3));
        for (number, (fd, (read, write))) in got.fds.into_iter().zip(pipes).enumerate() {
            assert!(rustix::io::fcntl_getfd(&fd).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
            drop(write);
            std::fs::File::from(fd).write_all(&[number as u8]).expect("written");
            let mut all = Vec::new();
            std::fs::File::from(read).read_to_end(&mut all).expect("the last writer is closed");
            assert_eq!(all, [number as u8]);
        }
    }

    #[test]
    fn a_message_too_long_for_the_buffer_is_an_error_and_leaks_no_descriptor() {
        let (a, b) = pair().expect("a socket pair");
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        send(&a, b"longer than four", &[write.as_fd()]).expect("sent");
        let error = recv(&b, &mut [0; 4]).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(write);
        let mut all = Vec::new();
        std::fs::File::from(read).read_to_end(&mut all).expect("no writer is left");
    }

    #[test]
    fn a_closed_end_reads_as_length_zero() {
        let (a, b) = pair().expect("a socket pair");
        drop(a);
        assert_eq!(recv(&b, &mut [0; 4]).expect("end of file").len, 0);
    }
}
